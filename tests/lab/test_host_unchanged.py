"""The lab leaves the host as it was."""

import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from left import cgroups, parent_of, semaphores, when, workers

from needs import only
from ramet import lab
from ramet.lab.cgroups import own_cgroup

SIGNALS = ("SigBlk", "SigIgn", "SigCgt")


def host():
    """What experiments change in namespaces of their own, seen from outside."""
    umask = os.umask(0o022)
    os.umask(umask)
    return {
        "mounts and propagation": sorted(Path("/proc/self/mountinfo").read_text().splitlines()),
        "directory": os.getcwd(),
        "umask": umask,
        "host name": socket.gethostname(),
        "interfaces": sorted(name for _, name in socket.if_nameindex()),
        "cgroups": cgroups(),
        "queues": ours("/proc/sysvipc/msg", "0x72616d65", "1918987621"),
        "semaphores": semaphores(),
        "processes": processes(),
        "files": sorted(name for name in os.listdir(tempfile.gettempdir()) if name.startswith("ramet-lab")),
        "namespaces": [os.readlink(f"/proc/self/ns/{kind}") for kind in sorted(os.listdir("/proc/self/ns"))],
        "signals": [line for line in Path("/proc/self/status").read_text().splitlines() if line[:6] in SIGNALS],
    }


def ours(path, *keys):
    return sorted(line for line in Path(path).read_text().splitlines() if any(key in line.split() for key in keys))


def processes():
    """Those whose parent is this process or, orphaned, 1; and whose command is the lab's."""
    return sorted(pid for pid in workers() if parent_of(pid) in (1, os.getpid()))


@pytest.mark.parametrize("name", lab.NAMES)
def test_host_unchanged_by_one(name):
    """Mounts, propagation, directory, umask, names, interfaces, cgroups, processes, files: as before."""
    before = host()
    lab.run(name)
    after = when(host, before)
    assert [] == [(what, before[what], after[what]) for what in before if before[what] != after[what]]


def test_a_change_would_be_seen(tmp_path, monkeypatch):
    """The control: what an experiment could have left is seen."""
    before = host()
    monkeypatch.chdir(tmp_path)
    umask = os.umask(0o077)
    descriptor, path = tempfile.mkstemp(prefix="ramet-lab-")
    try:
        after = host()
        assert {"directory", "umask", "files"} == {what for what in before if before[what] != after[what]}
    finally:
        os.umask(umask)
        os.close(descriptor)
        os.unlink(path)


def test_a_cgroup_left_would_be_seen():
    """The control: a cgroup named as the lab names its own, where the lab makes them."""
    parent, _ = own_cgroup()
    only(parent and os.access(parent, os.W_OK), "where this user may make cgroups")
    ended = subprocess.Popen(["true"], process_group=0)
    ended.wait()
    before, path = cgroups(), f"{parent}/ramet-lab-{ended.pid}"
    os.mkdir(path)
    try:
        assert set(cgroups()) - set(before) == {path}
    finally:
        os.rmdir(path)


def test_leaks_of_mounts_and_names_would_be_seen():
    """The control in namespaces of our own: a mount, another propagation and another name are seen."""
    import ramet
    from ramet.flags import CLONE, MS
    from ramet.lab.kernel import mount

    def changes():
        before = host()
        mount(None, "/", None, MS.REC | MS.PRIVATE)
        mount("tmpfs", "/mnt", "tmpfs")  # not where TMPDIR may lie
        socket.sethostname("changed")
        after = host()
        return {what for what in before if before[what] != after[what]}

    flags = CLONE.VM | CLONE.NEWUSER | CLONE.NEWNS | CLONE.NEWUTS
    assert {"mounts and propagation", "host name"} <= ramet.call(changes, flags=flags, map_uid=0)
