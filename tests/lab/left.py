"""What the lab could leave on the host, and would be ours: as root and as an ordinary user the suite runs at the same time."""

import os
import time
from pathlib import Path

from ramet.lab.cgroups import parents


def cgroups():
    """Where this process makes its own, those whose measurement has ended; another's may be at it just now."""
    named = [(parent, name) for parent in parents() for name in os.listdir(parent) if name.startswith("ramet-lab")]
    return sorted(f"{parent}/{name}" for parent, name in named if not is_there(name.rpartition("-")[2]))


def is_there(group):
    """Has this process group anybody in it?"""
    try:
        os.killpg(int(group), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def semaphores():
    """The sets that this user owns: uid is the fifth column."""
    rows = [line.split() for line in Path("/proc/sysvipc/sem").read_text().splitlines()[1:]]
    return sorted(row[1] for row in rows if row[4] == str(os.geteuid()))


def workers():
    """Pids of processes whose command is the lab's, and whose user is this one."""
    return {
        pid for pid in os.listdir("/proc") if pid.isdigit() and b"ramet.lab.worker" in command_of(pid) and is_ours(pid)
    }


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def is_ours(pid):
    """By its real uid: the owner of the files in /proc is root, where a process may not be looked into."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False  # it has ended
    return status.partition("\nUid:")[2].split()[0] == str(os.geteuid())


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended


def when(look, wanted, seconds=20):
    """What look() finds, as soon as it is the wanted: what was killed may still be on its way out."""
    deadline = time.monotonic() + seconds
    while (found := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
