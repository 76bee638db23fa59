"""No API leaves a descriptor, a child, a mount, a thread, a signal mask or a temporary file behind."""

import gc
import os
import signal
import subprocess
import threading

import pytest

import ramet
from ramet import PIPE, Bind, File, IdMapping, Join, Namespace, Overlay, Popen, Sandbox, Symlink, TimeOffsets, Tmpfs
from ramet.run import ahead


def state():
    """All that a leak would show up in."""
    ahead.forget()  # kept on purpose: tests/process/test_ahead.py
    gc.collect()
    children = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            children += file.read().split()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = file.read()
    descriptors = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            descriptors[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the one that lists them
    with open("/proc/self/status", encoding="ascii") as file:
        masks = [
            line
            for line in file
            if line.startswith(("Sig", "Shd", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp", "Umask"))
        ]
    pending = [line for line in masks if not line.startswith(("SigQ", "SigPnd", "ShdPnd"))]
    return {
        "children": children,
        "descriptors": descriptors,
        "mounts": mounts,
        "threads": threading.active_count(),
        "signals and rights": pending,
        "cwd": os.getcwd(),
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))},
        "limits": open("/proc/self/limits", encoding="ascii").read(),
        "dumpable": os.stat("/proc/self/environ").st_uid,
    }


def talk():
    with Popen(["cat"], stdin=PIPE, stdout=PIPE) as box:
        box.stdin.write(b"x")
        box.stdin.close()
        box.stdout.read()


def terminal():
    with Popen(["sh", "-c", "tty"], tty=True) as box:
        os.read(box.terminal, 99)
        box.wait()


def joined():
    with Popen(["cat"], stdin=PIPE) as box:
        kinds = (Namespace.USER, Namespace.MOUNT, Namespace.PID, Namespace.NET)
        ramet.run(["true"], namespaces=set(), workdir="/", join=[Join(kind, pidfd=box.pidfd) for kind in kinds])
        ramet.run(["true"], namespaces=set(), workdir="/", join=[Join(kind, pid=box.pid) for kind in kinds])


def refused(error, *args, **fields):
    with pytest.raises(error):
        ramet.run(*args, **fields)


def abandoned():
    Popen(["sleep", "600"], stdin=PIPE, stdout=PIPE, stderr=PIPE)


def mapped():
    if os.geteuid() == 0:
        lines = [IdMapping(0, 300000, 2000)]
        ramet.run(["true"], uid_mappings=lines, gid_mappings=lines, groups=(5,))


APIS = {
    "run": lambda: ramet.run(["true"]),
    "run as pid 1": lambda: ramet.run(["true"], as_pid1=True),
    "input": lambda: ramet.run(["cat"], input=b"x" * 100_000),
    "timeout": lambda: ramet.run(["sleep", "600"], timeout=0.02),
    "signaled": lambda: ramet.run(["sh", "-c", "kill -9 $$"]),
    "daemons": lambda: ramet.run(["sh", "-c", "setsid sleep 600 & setsid sleep 600 &"]),
    "flood": lambda: ramet.run(["head", "-c", "3000000", "/dev/zero"], output=1000),
    "talk": talk,
    "terminal": terminal,
    "joined": joined,
    "abandoned": abandoned,
    "mapped": mapped,
    "every namespace": lambda: ramet.run(["true"], namespaces=set(Namespace), time_offsets=TimeOffsets(boottime=5)),
    "no namespace": lambda: ramet.run(["true"], namespaces=set()),
    "mounts": lambda: ramet.run(
        ["true"],
        mounts=[
            Bind("/etc", "/e"),
            Tmpfs("/t"),
            Overlay("/o", ["/usr/share", "/usr/lib"]),
            File("/f", "x"),
            Symlink("/l", "f"),
        ],
        masked_paths=["/etc/passwd"],
        readonly_paths=["/tmp"],
    ),
    "host root": lambda: ramet.run(["true"], rootfs="host"),
    "spec error": lambda: refused(ramet.SpecError, []),
    "late spec error": lambda: refused(ramet.SpecError, ["true"], mounts=[Bind("/nonexistent")], input=b"x"),
    "command not found": lambda: refused(ramet.CommandError, ["nope"], input=b"x"),
    "step error": lambda: refused(ramet.StepError, ["true"], workdir="/nope"),
    "step error of a terminal": lambda: refused(ramet.StepError, ["true"], workdir="/nope", tty=True),
    "join error": lambda: refused(ramet.StepError, ["true"], namespaces=set(), join=[Join("net", path="/etc/passwd")]),
    "check": lambda: refused(ramet.ExitError, ["false"], check=True),
}


@pytest.mark.parametrize("name", APIS)
def test_nothing_is_left(name):
    """After ten uses everything is as it was after the first."""
    APIS[name]()
    before = state()
    for _ in range(10):
        APIS[name]()
    after = state()
    for part, value in before.items():
        assert after[part] == value, part


def test_the_probe_sees_leaks():
    """The control: a descriptor, a child and a blocked signal left behind are seen."""
    before = state()
    reader, writer = os.pipe()
    child = subprocess.Popen(["sleep", "600"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    after = state()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    child.kill()
    child.wait()
    os.close(reader)
    os.close(writer)
    different = {part for part in before if before[part] != after[part]}
    assert different == {"descriptors", "children", "signals and rights"}


def test_memory_stays(tmp_path):
    """Hundreds of runs leave the caller's memory as it was."""

    def resident():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4

    for _ in range(50):
        ramet.run(["true"])
    before = resident()
    for n in range(200):
        ramet.run(["true"], env={"N": str(n % 5)})
    assert resident() - before < 2048  # KiB


def test_no_temporary_files(tmp_path, monkeypatch):
    """Nothing is written to the host's temporary directories, and none is needed."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    before = sorted(os.listdir("/tmp")), sorted(os.listdir("/dev/shm"))
    assert ramet.run(
        ["sh", "-c", "echo x >/tmp/x; echo x >/dev/shm/x"], Sandbox(mounts=[File("/big", b"x" * 100_000)])
    ).ok
    assert (sorted(os.listdir("/tmp")), sorted(os.listdir("/dev/shm"))) == before
