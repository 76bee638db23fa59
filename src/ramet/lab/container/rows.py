"""The rows of the table: what a process may see and do, in words. inside/probe.py tries each."""

from __future__ import annotations

#: Key, and what it is. In two groups.
SEES = {
    "processes": "the host's processes",
    "files": "a file of the host",
    "private": "your private files",
    "devices": "devices",
    "interfaces": "network interfaces",
    "shared_memory": "SysV shared memory",
    "environment": "the environment",
    "descriptor": "a file you have open",
}
DOES = {
    "signal": "signal processes",
    "memory": "read others' memory",
    "loopback": "reach 127.0.0.1",
    "abstract": "use abstract sockets",
    "chown": "chown files",
    "become": "become another user",
    "hostname": "set the host name",
    "mount": "mount",
    "configure": "configure interfaces",
    "userns": "make user namespaces",
    "gain": "gain rights by exec",
    "keyring": "use key rings",
}
HOW_MUCH = {
    "open_files": "open files",
    "make_processes": "make processes",
    "reserve": "reserve memory",
}
GROUPS = {"What it sees": SEES, "What it can do": DOES, "How much of it": HOW_MUCH}
LABELS = {**SEES, **DOES, **HOW_MUCH}
