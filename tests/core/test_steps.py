"""The interpreter: every call of a default plan succeeds once and fails once, with its exact {stage, step,
errno}."""

import errno as E
import os
import struct

import pytest
from core_programs import EPROTO, OWN, failed, spawn, step, succeeded

from ramet.host.facts import facts
from ramet.plan.compile import compile
from ramet.plan.idmap import capability_blocks
from ramet.plan.steps import Block, Ptr, Slot
from ramet.spec import Command, Sandbox

AT_FDCWD, EMPTY = -100, 0x1000
FD, NOTHING = Slot("fd"), Slot("never_filled")
ZERO = Block(bytes(16))
TMPFS = (
    step("fsopen", "tmpfs", 1, result=Slot("fs")),
    step("fsconfig", Slot("fs"), 6, 0, 0, 0),
    step("fsmount", Slot("fs"), 1, 0, result=Slot("mnt")),
)
ROOT = (*TMPFS, step("mount", 0, "/", 0, 0x44000, 0), step("move_mount", Slot("mnt"), "", AT_FDCWD, "/", 4))
ARGV = Block(Ptr("true"), bytes(8))
HOW = Block(struct.pack("<QQQ", os.O_PATH, 0, 0))
POLL = Block(FD, struct.pack("<hh", 1, 0))
STRANGE_POLL = Block(Slot("ready"), struct.pack("<hh", 1, 0))


def map_own_ids():
    """Nothing can be made in a file system by an id that is not mapped (EOVERFLOW)."""
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {os.geteuid()} 1"),
        ("gid_map", f"0 {os.getegid()} 1"),
    ):
        file = Slot(name)
        yield step("openat", AT_FDCWD, f"/proc/self/{name}", os.O_WRONLY, result=file)
        yield step("write", file, line, len(line), expect=len(line))


def open_null():
    return step("openat", AT_FDCWD, "/dev/null", os.O_RDWR, result=FD)


#: call: steps that succeed; then steps of which the last fails, and how.
KINDS = {
    "capset": (
        [step("capset", *capability_blocks(0, 0, 0))],
        [step("capset", Block(bytes(8)), Block(bytes(24)))],
        E.EINVAL,
    ),
    "chdir": ([step("chdir", "/")], [step("chdir", "/nonexistent")], E.ENOENT),
    "close": ([open_null(), step("close", FD)], [open_null(), step("close", FD), step("close", FD)], E.EBADF),
    "close_range": ([step("close_range", 100, 200, 0)], [step("close_range", 200, 100, 0)], E.EINVAL),
    "dup3": ([open_null(), step("dup3", FD, 50, 0)], [step("dup3", NOTHING, 50, 0)], E.EBADF),
    "execve": (
        [step("execve", "/bin/true", ARGV, ARGV)],
        [step("execve", "/nonexistent", ARGV, ARGV)],
        E.ENOENT,
    ),
    "execveat": (
        [
            step("openat", AT_FDCWD, "/bin/true", os.O_PATH, result=FD),
            step("execveat", FD, "", ARGV, ARGV, EMPTY),
        ],
        [open_null(), step("execveat", FD, "", ARGV, ARGV, EMPTY)],
        E.EACCES,
    ),
    "fchdir": (
        [step("openat", AT_FDCWD, "/", os.O_PATH, result=FD), step("fchdir", FD)],
        [open_null(), step("fchdir", FD)],
        E.ENOTDIR,
    ),
    "fsconfig": (
        [step("fsopen", "tmpfs", 1, result=FD), step("fsconfig", FD, 1, "mode", "0700", 0)],
        [step("fsopen", "tmpfs", 1, result=FD), step("fsconfig", FD, 1, "nonsense", "1", 0)],
        E.EINVAL,
    ),
    "fsmount": ([*TMPFS], [step("fsopen", "tmpfs", 1, result=FD), step("fsmount", FD, 1, 0)], E.EINVAL),
    "fsopen": ([step("fsopen", "tmpfs", 1)], [step("fsopen", "nonsensefs", 1)], E.ENODEV),
    "futex": (  # to wake nobody; to wait where the word is another already
        [step("futex", ZERO, 1, 1, 0, 0, 0)],
        [step("futex", ZERO, 0, 1, 0, 0, 0)],
        E.EAGAIN,
    ),
    "ioctl": (
        [
            step("socket", 2, 2, 0, result=FD),
            step("ioctl", FD, 0x8914, Block(struct.pack("<16sH22x", b"lo", 0x41))),
        ],
        [open_null(), step("ioctl", FD, 0x8914, Block(bytes(40)))],
        E.ENOTTY,
    ),
    "mkdirat": (
        [*map_own_ids(), *ROOT, step("mkdirat", Slot("mnt"), "a", 0o755)],
        [step("mkdirat", AT_FDCWD, "/", 0o755)],
        E.EEXIST,
    ),
    "mknodat": (
        [*map_own_ids(), *ROOT, step("mknodat", Slot("mnt"), "a", 0o100644, 0)],
        [step("mknodat", AT_FDCWD, "/", 0o100644, 0)],
        E.EEXIST,
    ),
    "mount": (
        [step("mount", 0, "/", 0, 0x44000, 0)],
        [step("mount", 0, "/nonexistent", 0, 0x44000, 0)],
        E.ENOENT,
    ),
    "mount_setattr": (
        [*TMPFS, step("mount_setattr", Slot("mnt"), "", EMPTY, Block(struct.pack("<4Q", 1, 0, 0, 0)), 32)],
        [step("mount_setattr", NOTHING, "", EMPTY, Block(struct.pack("<4Q", 1, 0, 0, 0)), 32)],
        E.EBADF,
    ),
    "move_mount": ([*ROOT], [step("move_mount", NOTHING, "", AT_FDCWD, "/", 4)], E.EBADF),
    "open_tree": (
        [step("open_tree", AT_FDCWD, "/usr", 1)],
        [step("open_tree", AT_FDCWD, "/nonexistent", 1)],
        E.ENOENT,
    ),
    "openat": ([open_null()], [step("openat", AT_FDCWD, "/nonexistent", 0)], E.ENOENT),
    "openat2": (
        [step("openat2", AT_FDCWD, "/usr", HOW, 24)],
        [step("openat2", AT_FDCWD, "/usr", HOW, 23)],
        E.EINVAL,
    ),
    "pivot_root": (
        [*ROOT, step("fchdir", Slot("mnt")), step("pivot_root", ".", ".")],
        [step("mount", 0, "/", 0, 0x44000, 0), step("chdir", "/usr"), step("pivot_root", ".", ".")],
        E.EINVAL,
    ),
    "ppoll": (
        [open_null(), step("close", FD), step("ppoll", Block(bytes(8)), 0, ZERO, 0, 0, expect=0)],
        [
            step("openat", AT_FDCWD, "/dev/null", os.O_RDONLY, result=Slot("ready")),
            step("ppoll", STRANGE_POLL, 1, ZERO, 0, 0, expect=0),
        ],
        EPROTO,
    ),
    "prctl": ([step("prctl", 1, 9, 0, 0, 0)], [step("prctl", 99999, 0, 0, 0, 0)], E.EINVAL),
    "prlimit64": (
        [step("prlimit64", 0, 4, Block(struct.pack("<QQ", 0, 0)), 0)],
        [step("prlimit64", 0, 99, Block(struct.pack("<QQ", 0, 0)), 0)],
        E.EINVAL,
    ),
    "read": (
        [step("openat", AT_FDCWD, "/dev/zero", 0, result=FD), step("read", FD, ZERO, 1, expect=1)],
        [open_null(), step("read", FD, ZERO, 1, expect=1)],
        EPROTO,
    ),
    "rt_sigprocmask": (
        [step("rt_sigprocmask", 2, ZERO, 0, 8)],
        [step("rt_sigprocmask", 2, ZERO, 0, 7)],
        E.EINVAL,
    ),
    "setgroups": ([], [step("setgroups", 0, ZERO)], E.EPERM),  # succeeds only where ids are mapped: below
    "sethostname": ([step("sethostname", "name", 4)], [step("sethostname", "name", 65)], E.EINVAL),
    "setpgid": ([step("setpgid", 0, 0)], [step("setsid"), step("setpgid", 0, 0)], E.EPERM),
    "setresgid": ([step("setresgid", -1, -1, -1)], [step("setresgid", 5, 5, 5)], E.EINVAL),
    "setresuid": ([step("setresuid", -1, -1, -1)], [step("setresuid", 5, 5, 5)], E.EINVAL),
    "setsid": ([step("setsid")], [step("setsid"), step("setsid")], E.EPERM),
    "signalfd4": (
        [step("signalfd4", -1, Block(b"\xff" * 8), 8, 0)],
        [step("signalfd4", -1, Block(b"\xff" * 8), 7, 0)],
        E.EINVAL,
    ),
    "socket": ([step("socket", 2, 2, 0)], [step("socket", 99, 2, 0)], E.EAFNOSUPPORT),
    "symlinkat": (
        [*map_own_ids(), *ROOT, step("symlinkat", "x", Slot("mnt"), "a")],
        [step("symlinkat", "x", AT_FDCWD, "/")],
        E.EEXIST,
    ),
    "umask": ([step("umask", 0o77)], [step("umask", 0o77), step("umask", 0, expect=0o22)], EPROTO),
    "umount2": (
        [*ROOT, step("fchdir", Slot("mnt")), step("umount2", ".", 2)],
        [step("umount2", "/usr/bin", 2)],
        E.EINVAL,
    ),
    "write": (
        [open_null(), step("write", FD, b"data", 4, expect=4)],
        [step("openat", AT_FDCWD, "/dev/full", os.O_WRONLY, result=FD), step("write", FD, b"data", 4)],
        E.ENOSPC,
    ),
}


@pytest.mark.parametrize("call", KINDS)
def test_call_succeeds_and_fails(call, nothing_left):
    """This call works where it should, and where it should not its place and errno come back exactly."""
    good, bad, errno = KINDS[call]
    if good:
        assert succeeded(spawn(*good, flags=OWN))
    assert bad[-1].call == call
    assert spawn(*bad, flags=OWN) == failed(len(bad) - 1, errno)


def test_every_call_of_a_default_plan_is_tried():
    """The table above names each call that a default plan makes on this host."""
    used = {step.call for step in compile(Sandbox(), facts(), Command(("/bin/true",)))}
    assert used <= set(KINDS)


def test_setgroups_succeeds_where_ids_are_mapped():
    """With gid 0 mapped by a root caller, setgroups(0) is no failure; where it was denied, it is EPERM."""
    groups = step("setgroups", 0, ZERO)
    denied = list(map_own_ids())
    assert spawn(*denied, groups, flags=OWN) == failed(len(denied), E.EPERM)
    if os.geteuid():
        return  # an ordinary user's gid map is only taken after setgroups is denied (user_namespaces(7))
    ready, go = os.pipe()

    def map_ids(pid, _pidfd):
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write("0 0 1\n")
        os.write(go, b"G")

    wait = step("read", Slot("ready"), ZERO, 1, expect=1)
    assert succeeded(spawn(wait, groups, flags=OWN, sync=map_ids, inputs={Slot("ready"): ready}))
    os.close(ready)
    os.close(go)


# What a step may say


def test_allowed_errno_is_no_failure():
    """Both allowed errnos are passed over; a third one is a failure."""
    missing = ("mkdirat", AT_FDCWD, "/", 0o755)
    assert succeeded(spawn(step(*missing, allow=(E.EEXIST,))))
    assert succeeded(spawn(step(*missing, allow=(E.EROFS, E.EEXIST))))
    assert spawn(step(*missing, allow=(E.EROFS, E.ENOENT))) == failed(0, E.EEXIST)


def test_unexpected_result_is_eproto():
    """A call that succeeds with another result than expected failed: EPROTO."""
    assert succeeded(spawn(open_null(), step("write", FD, b"four", 4, expect=4)))
    assert spawn(open_null(), step("write", FD, b"four", 4, expect=3)) == failed(1, EPROTO)


def test_expectation_does_not_hide_the_errno():
    """A call that fails reports its errno, whatever result was expected."""
    assert spawn(step("write", NOTHING, b"x", 1, expect=1)) == failed(0, E.EBADF)


def test_allowed_failure_is_kept_as_negative_errno():
    """The slot of an allowed failure holds -errno, which is no descriptor (and not AT_FDCWD)."""
    missing = step("openat", AT_FDCWD, "/nonexistent", 0, result=FD, allow=(E.ENOENT,))
    assert spawn(missing, step("close", FD)) == failed(1, E.EBADF)
    relative = step("openat", FD, "dev", os.O_PATH)
    assert spawn(step("chdir", "/"), missing, relative) == failed(2, E.EBADF)
    assert succeeded(spawn(step("chdir", "/"), step("openat", AT_FDCWD, "dev", os.O_PATH)))


def test_slot_is_signed():
    """A slot's word is passed as a signed int: an input of -100 is AT_FDCWD."""
    where = Slot("where")
    steps = (step("chdir", "/"), step("openat", where, "dev", os.O_PATH))
    assert succeeded(spawn(*steps, inputs={where: AT_FDCWD}))
    assert spawn(*steps, inputs={where: -99}) == failed(1, E.EBADF)


def test_result_is_kept_for_later_steps():
    """What a step returns is what a later step gets, through the caller's own pipe."""
    reader, writer = os.pipe()
    out = Slot("out")
    found = spawn(
        step("openat", AT_FDCWD, "/proc/self/comm", os.O_RDONLY, result=FD),
        step("dup3", out, 100, 0),
        step("close", out),
        step("write", 100, b"kept", 4, expect=4),
        inputs={out: writer},
    )
    os.close(writer)
    assert succeeded(found)
    assert os.read(reader, 9) == b"kept"
    os.close(reader)


def test_pointers_in_structures_are_relocated():
    """argv reaches the program as it was written: three words, through an array of pointers."""
    reader, writer = os.pipe()
    argv = Block(
        Ptr("sh"),
        Ptr("-c"),
        Ptr('printf "%s|" "$@"'),
        Ptr("sh"),
        Ptr("one"),
        Ptr("t w\no"),
        Ptr(""),
        bytes(8),
    )
    found = spawn(
        step("dup3", Slot("out"), 1, 0),
        step("execve", "/bin/sh", argv, Block(bytes(8))),
        inputs={Slot("out"): writer},
    )
    os.close(writer)
    assert succeeded(found)
    assert os.read(reader, 99) == b"one|t w\no||"
    os.close(reader)


def test_first_failure_ends_the_program():
    """No step after a failed one is made."""
    reader, writer = os.pipe()
    say = step("write", Slot("out"), b"x", 1)
    assert spawn(say, step("chdir", "/nonexistent"), say, inputs={Slot("out"): writer}) == failed(1, E.ENOENT)
    os.close(writer)
    assert os.read(reader, 9) == b"x"
    os.close(reader)


def test_injected_failure_is_reported_without_the_call():
    """A step made to fail is not made, and its stage, number and errno come back."""
    reader, writer = os.pipe()
    say = step("write", Slot("out"), b"x", 1)
    assert spawn(say, say, inputs={Slot("out"): writer}, fail={1: E.EXDEV}) == failed(1, E.EXDEV)
    os.close(writer)
    assert os.read(reader, 9) == b"x"
    os.close(reader)


def test_failure_in_the_joining_process_has_its_own_stage():
    """A join step that fails is reported as stage 1, and the child is never made."""
    found = spawn(step("chdir", "/"), join=[step("chdir", "/"), step("setns", NOTHING, 0)])
    assert found == failed(1, E.EBADF, stage=1)
    assert succeeded(spawn(step("chdir", "/"), join=[step("chdir", "/")]))


def test_refused_clone_has_its_own_stage():
    """What clone itself refuses is stage 2: CLONE_NEWUSER with CLONE_FS is EINVAL."""
    assert spawn(step("chdir", "/"), flags=NEWUSER_AND_FS) == failed(0, E.EINVAL, stage=2)
    assert spawn(step("chdir", "/"), flags=NEWUSER_AND_FS, join=[step("chdir", "/")]) == failed(0, E.EINVAL, stage=2)


NEWUSER_AND_FS = 0x10000000 | 0x200


def test_program_without_steps_succeeds():
    """No steps: the child ends with 125, and none failed."""
    from ramet import _core
    from ramet.plan.encode import encode
    from ramet.plan.steps import Stage

    pid, pidfd, *where = _core.spawn(encode(Stage("child", ()), os.uname().machine).blob, [], 0)
    assert pid > 0 and where == [0, 0, 0]
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | 0x40000000)
    os.close(pidfd)
    assert found.si_status == 125
