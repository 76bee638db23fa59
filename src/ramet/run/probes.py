"""What this host can do, found by doing it: each probe is a plan of a few steps, run in a throw-away child.

Reading a setting says what somebody meant to allow; a security module, a container's filter or an old
kernel may refuse it all the same. `ramet.host.doctor` explains the answers.
"""

from __future__ import annotations

import os
import sys

from ramet import _core
from ramet.errors import Error, StepError
from ramet.host.doctor import Refusal
from ramet.plan.encode import encode
from ramet.plan.render import step_text
from ramet.plan.steps import Builder, Stage
from ramet.run.launch import reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ramet.cgroups.place import Fact

CLEAR_SIGHAND = 1 << 32
USER, MOUNT, PID = 0x10000000, 0x20000, 0x20000000
KINDS = {"mnt": MOUNT, "pid": PID, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000}
TIME = 0x80
AUTOREAP, NNP, AUTOKILL, EMPTY_MNTNS = 1 << 34, 1 << 35, 1 << 36, 1 << 37
#: The flags of Linux 7.1, each with what it can't do without.
NEW_FLAGS = {
    "CLONE_AUTOREAP": AUTOREAP,
    "CLONE_NNP": NNP,
    "CLONE_PIDFD_AUTOKILL": AUTOKILL | AUTOREAP | NNP,
    "CLONE_EMPTY_MNTNS": EMPTY_MNTNS | USER,
}
MS_REC_PRIVATE = 0x44000
SET_STRING, CREATE = 1, 6
RET_KILL_PROCESS = 0x80000000
GET_ACTION_AVAIL = 2
LANDLOCK_VERSION = 1
NUMBERS = {  # x86-64, aarch64
    "clone3": (435, 435),
    "landlock_create_ruleset": (444, 444),
    "seccomp": (317, 277),
}


class Host:
    """The running machine, as `ramet.host.doctor.examine` asks it."""

    def __init__(self) -> None:
        uname = os.uname()
        self.release, self.machine = uname.release, uname.machine
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.executable = os.path.realpath(sys.executable or "/proc/self/exe")
        self.environ: Mapping[str, str] = os.environ

    def read(self, path: str) -> str | None:
        """A file's content; None if it can't be read."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        """Is there something at this path?"""
        return os.path.lexists(path)

    def mode(self, path: str) -> int | None:
        """Type and permissions; None if there is nothing."""
        try:
            return os.stat(path).st_mode
        except OSError:
            return None

    def user(self) -> str:
        """The caller's name, or the number where it has none."""
        import pwd

        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def attempt(self, name: str) -> Refusal | None:
        """Do it; None when it worked. Names are those of PROBES."""
        return PROBES[name](self)

    def landlock(self) -> int:
        """The version of Landlock's ABI; 0: none."""
        try:
            return _core.syscall("landlock_create_ruleset", _number("landlock_create_ruleset"), 0, 0, LANDLOCK_VERSION)
        except OSError:
            return 0

    def limits(self) -> Sequence[Fact]:
        """What control groups can limit and count here."""
        from ramet.cgroups import find

        return tuple(find().facts.values())

    def sandbox(self) -> tuple[float, Error | None]:
        """Run /bin/true in the default sandbox: how long the second time took, and why it failed."""
        from time import perf_counter

        from ramet.run.process import run

        try:
            run(["/bin/true"], timeout=30, check=True)
            started = perf_counter()
            run(["/bin/true"], timeout=30, check=True)
            return perf_counter() - started, None
        except Error as error:
            return 0, error


def _number(call: str) -> int:
    return NUMBERS[call][os.uname().machine == "aarch64"]


def _try(flags: int, build: Callable[[Builder], None] | None = None) -> Refusal | None:
    """Clone with these flags and make these steps; who refuses, and how."""
    b = Builder()
    b.call("getpid")
    if build is not None:
        build(b)
    stage = Stage("child", tuple(b.steps))
    blob = encode(stage, os.uname().machine).blob
    _, pidfd, failed, step, errno = _core.spawn(blob, [], flags | CLEAR_SIGHAND)
    if not failed:
        try:
            reap(pidfd)
        finally:
            os.close(pidfd)
        return None
    call = step_text(stage.steps[step]) if failed == CHILD else "clone3"
    return Refusal(call, errno)


CHILD = 3  # csrc/child.h: the stage of the steps; 2 is the clone


def _map_ids(b: Builder) -> None:
    b.write_file("/proc/self/setgroups", "deny")
    b.write_file("/proc/self/uid_map", f"1000 {os.geteuid()} 1")
    b.write_file("/proc/self/gid_map", f"1000 {os.getegid()} 1")


def _user(host: Host) -> Refusal | None:
    return _try(USER, _map_ids)


def _rights(host: Host) -> Refusal | None:
    """A user namespace that gives no rights inside is what AppArmor's restriction leaves."""

    def steps(b: Builder) -> None:
        _map_ids(b)
        b.call("mount", 0, "/", 0, MS_REC_PRIVATE, 0)

    return _try(USER | MOUNT, steps)


def _kind(flag: int) -> Callable[[Host], Refusal | None]:
    return lambda host: _try(USER | flag)


def _time(host: Host) -> Refusal | None:
    return _try(USER, lambda b: b.call("unshare", TIME))


def _proc(host: Host) -> Refusal | None:
    def steps(b: Builder) -> None:
        _map_ids(b)
        fs = b.open("fs", "fsopen", "proc", 1)
        b.call("fsconfig", fs, CREATE, 0, 0, 0)
        b.call("fsmount", fs, 1, 0)

    return _try(USER | MOUNT | PID, steps)


def _overlay(host: Host) -> Refusal | None:
    def steps(b: Builder) -> None:
        _map_ids(b)
        b.call("mount", 0, "/", 0, MS_REC_PRIVATE, 0)
        fs = b.open("fs", "fsopen", "tmpfs", 1)
        b.call("fsconfig", fs, CREATE, 0, 0, 0)
        memory = b.open("mnt", "fsmount", fs, 1, 0)
        b.call("move_mount", memory, "", -100, "/", 4)
        for name in ("lower", "upper", "work"):
            b.call("mkdirat", memory, name, 0o755)
        b.call("fchdir", memory)
        overlay = b.open("fs", "fsopen", "overlay", 1)
        for key, value in (("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")):
            b.call("fsconfig", overlay, SET_STRING, key, value, 0)
        b.call("fsconfig", overlay, 0, "userxattr", 0, 0)
        b.call("fsconfig", overlay, CREATE, 0, 0, 0)
        b.call("fsmount", overlay, 1, 0)

    return _try(USER | MOUNT, steps)


def _subordinate(host: Host) -> Refusal | None:
    """The whole way, through the helpers where the caller needs them."""
    from ramet.run.process import run
    from ramet.spec import Namespace

    try:
        run(
            ["/bin/true"],
            namespaces={Namespace.USER},
            uid_mappings="subordinate",
            gid_mappings="subordinate",
            timeout=30,
            check=True,
        )
    except StepError as error:
        return Refusal(error.call, error.errno or 0)
    except Error as error:
        return Refusal(str(error).partition("\n\n")[0], 0)
    return None


def _clone3(host: Host) -> Refusal | None:
    """A structure of no size: EINVAL from a kernel that has the call, and lets us make it."""
    return _expect("clone3", 22, 0, 0)


def _expect(call: str, usual: int, *args: int | bytes) -> Refusal | None:
    try:
        _core.syscall(call, _number(call), *args)
    except OSError as error:
        return None if error.errno == usual else Refusal(call, error.errno or 0)
    return None


def _seccomp(host: Host) -> Refusal | None:
    return _expect("seccomp", 0, GET_ACTION_AVAIL, 0, RET_KILL_PROCESS.to_bytes(4, "little"))


def _memfd(host: Host) -> Refusal | None:
    from ramet.run.image import init_image

    try:
        init_image()
    except Error as error:
        return Refusal(getattr(error, "fact", str(error)), 0)
    except OSError as error:
        return Refusal(f"memfd_create ({error.filename or 'init'})", error.errno or 0)
    return None


def _pidfd(host: Host) -> Refusal | None:
    import signal

    try:
        fd = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        return Refusal("pidfd_open", error.errno or 0)
    return None


def _flags(flags: int) -> Callable[[Host], Refusal | None]:
    return lambda host: _try(flags)


PROBES: Mapping[str, Callable[[Host], Refusal | None]] = {
    "clone3": _clone3,
    "user": _user,
    "rights": _rights,
    **{name: _kind(flag) for name, flag in KINDS.items()},
    "time": _time,
    "proc": _proc,
    "overlay": _overlay,
    "subordinate": _subordinate,
    "seccomp": _seccomp,
    "memfd": _memfd,
    "pidfd": _pidfd,
    **{name: _flags(flags) for name, flags in NEW_FLAGS.items()},
}
