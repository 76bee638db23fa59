"""No API leaves a descriptor, a child, a mount, a thread, a signal mask or a temporary file behind."""

import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

import ramet
from observed import children
from ramet import PIPE, Bind, File, IdMapping, Join, Namespace, Overlay, Popen, Symlink, TimeOffsets, Tmpfs
from ramet.run import ahead


def state():
    """All that a leak would show up in."""
    ahead.forget()  # kept on purpose: tests/process/test_ahead.py
    gc.collect()
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
        "children": children(),
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
    gc.collect()
    before = resident()
    for n in range(200):
        ramet.run(["true"], env={"N": str(n % 5)})
    gc.collect()
    assert resident() - before < 2048  # KiB


#: A caller in whose mount namespace every place for temporary files is read-only: nobody else's files there are looked at.
WITHOUT_TEMPORARY_FILES = """
import os, struct, sys, tempfile
sys.path[:0] = sys.argv[1:]
import ramet
from ramet import _core, lowlevel
from ramet.flags import CLONE

MOUNT, MOUNT_SETATTR = (40, 442) if os.uname().machine == "aarch64" else (165, 442)
BIND, RECURSIVELY, PRIVATE = 4096, 16384, 1 << 18
AT_RECURSIVE, READ_ONLY = 0x8000, struct.pack("4Q", 1, 0, 0, 0)

def mapped(name, text):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)

uid, gid = os.geteuid(), os.getegid()
lowlevel.unshare(CLONE.NEWNS if uid == 0 else CLONE.NEWNS | CLONE.NEWUSER)
if uid:
    mapped("setgroups", "deny"), mapped("uid_map", f"{uid} {uid} 1"), mapped("gid_map", f"{gid} {gid} 1")
_core.syscall("mount", MOUNT, b"none\\0", b"/\\0", b"none\\0", RECURSIVELY | PRIVATE, 0)
refused = 0
for place in ("/tmp", "/var/tmp", "/dev/shm"):
    name = place.encode() + b"\\0"
    _core.syscall("mount", MOUNT, name, name, b"none\\0", BIND | RECURSIVELY, 0)
    _core.syscall("mount_setattr", MOUNT_SETATTR, -100, name, AT_RECURSIVE, READ_ONLY, len(READ_ONLY))
    try:
        os.close(os.open(place + "/control", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        refused += error.errno == 30  # EROFS
script = "echo x >/tmp/x; echo x >/dev/shm/x; cat /tmp/x /dev/shm/x"
for _ in range(3):  # the third is in namespaces made ahead
    said = ramet.run(["sh", "-c", script], mounts=[ramet.File("/big", b"x" * 100_000)], text=True, check=True).stdout
    print(refused, said.split())
"""


def test_no_temporary_files():
    """Nothing is written to the host's temporary directories, and none is needed: where each is read-only, runs are as ever."""
    package = os.path.dirname(os.path.dirname(ramet.__file__))
    argv = [sys.executable, "-c", WITHOUT_TEMPORARY_FILES, package]
    done = subprocess.run(
        argv, capture_output=True, text=True, env={"TMPDIR": "/nonexistent", "PATH": os.environ["PATH"]}
    )
    assert done.stdout == "3 ['x', 'x']\n" * 3, done.stderr
