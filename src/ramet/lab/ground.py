"""A piece of ground of one's own, where a measurement may change whatever it likes.

A process in new user, mount, UTS, IPC, network and time namespaces, with every capability there and none outside:
root and ordinary users stand on the same ground, and the host is out of reach. Only for a process made by
`ramet.lab.apart`, since it gives itself away.

Where there is none to be had, the ground is bare: what only touches the measuring process is measured all the same, and
what could touch the host (`Resource.needs_ground`) is left out.

Two processes: `on_ground` forks the *caller*, from which everything is cloned, and stays its parent, to reap what
CLONE_PARENT makes a sibling of the caller.
"""

from __future__ import annotations

import errno
import os

from ramet import _core, lowlevel
from ramet.errors import UnsupportedError, errno_name
from ramet.flags import CLONE, MS, format_clone
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BOOT_OFFSET = 10_000_000
"""Seconds by which the ground's boot-time clock is ahead, where there are time namespaces."""

_KINDS = CLONE.NEWNS | CLONE.NEWUTS | CLONE.NEWIPC | CLONE.NEWNET


class Ground:
    """What was had. directory: a tmpfs of its own. uid: the user outside. missing: what there is not, and why.

    bare: why there are no namespaces to measure in, and then no directory either; "" where there are.
    """

    __slots__ = ("bare", "directory", "missing", "own_user_namespace", "uid")

    def __init__(
        self, directory: str, uid: int, own_user_namespace: bool, missing: dict[str, str], bare: str = ""
    ) -> None:
        self.directory, self.uid = directory, uid
        self.own_user_namespace, self.missing = own_user_namespace, missing
        self.bare = bare

    def two_directories(self) -> tuple[str, str]:
        """For the caller's current directory, and for its child's: on bare ground such as every host has."""
        return ("/usr", "/") if self.bare else (f"{self.directory}/caller", f"{self.directory}/child")


def on_ground(work: Callable[[Ground], Any]) -> Any:
    """``work(ground)`` in a forked process on a ground of its own; its JSON-able result."""
    import json

    ground = _enter()
    subreaper = 36
    _core.syscall("prctl", NR["prctl"], subreaper, 1, 0, 0, 0)
    read, write = os.pipe()
    caller = os.fork()
    if caller == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "w", encoding="utf-8") as file:
                json.dump(work(ground), file)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    data = _read_and_reap(read, caller)
    if not data:
        raise RuntimeError("the measuring process died; its traceback is above")
    return json.loads(data)


def _read_and_reap(read: int, caller: int) -> bytes:
    """All that the caller writes until it ends, reaping whoever ends meanwhile: CLONE_PARENT's children are ours.

    A child of the caller may hold the pipe open when the caller has died. Those that are left are killed.
    """
    import select

    os.set_blocking(read, False)
    observer = lowlevel.pidfd_open(caller)
    data = b""
    running = True
    while running:
        ready, _, _ = select.select([read, observer], [], [], 0.02)
        running = observer not in ready
        data += _read_all(read)
        _reap(os.WNOHANG)
    os.close(observer)
    os.close(read)
    _kill_children()
    return data


def _read_all(fd: int) -> bytes:
    data = b""
    while True:
        try:
            more = os.read(fd, 1 << 20)
        except BlockingIOError:
            return data
        if not more:
            return data
        data += more


def _kill_children() -> None:
    import signal

    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        for pid in file.read().split():
            os.kill(int(pid), signal.SIGKILL)
    _reap(0)


def _reap(options: int) -> None:
    try:
        while os.waitpid(-1, lowlevel.WALL | options)[0]:
            continue
    except ChildProcessError:
        return


def _enter() -> Ground:
    uid = os.geteuid()
    try:
        return _own_ground(uid, os.getegid())
    except UnsupportedError as error:
        return Ground("", uid, False, {}, bare=error.fact)


def _own_ground(uid: int, gid: int) -> Ground:
    missing: dict[str, str] = {}
    own = own_user_namespace(uid, gid)
    try:
        lowlevel.unshare(_KINDS)
    except OSError as error:
        raise UnsupportedError(
            "cannot measure on a ground of its own",
            fact=f"unshare({format_clone(_KINDS)}) answers {errno_name(error.errno or 0)}",
            needs="namespaces for this user",
            hint="`ramet doctor` says what is missing, and the way round it",
        ) from None
    why = _own_clocks()
    if why:
        missing["clocks"] = why
    mount(None, "/", None, MS.REC | MS.PRIVATE)
    directory = _spare_directory()
    mount("tmpfs", directory, "tmpfs", 0)
    return Ground(directory, uid, own, missing)


def _spare_directory() -> str:
    """One that is there and hides nothing of Python when something is mounted on it."""
    import sys

    needed = [os.path.realpath(path) + "/" for path in (sys.executable, sys.prefix, sys.base_prefix, *sys.path)]
    there = [path for path in ("/mnt", "/media", "/srv", "/opt", "/var/tmp", "/tmp") if os.path.isdir(path)]
    free = [path for path in there if not any(each.startswith(f"{path}/") for each in needed)]
    if not free:
        fact = f"each of {', '.join(there) or '/mnt, /srv, /tmp'} is missing, or holds a part of Python"
        raise UnsupportedError("cannot measure mounts", fact=fact, needs="an empty directory: mkdir /mnt")
    return free[0]


def own_user_namespace(uid: int, gid: int) -> bool:
    """Enter a user namespace in which this uid and gid are 0; False where root is refused one."""
    try:
        lowlevel.unshare(CLONE.NEWUSER)
    except OSError as error:
        if uid == 0 and error.errno in (errno.EPERM, errno.ENOSPC, errno.EINVAL):
            return False
        raise UnsupportedError(
            "cannot measure as an ordinary user",
            fact=f"unshare(CLONE_NEWUSER) answers {errno_name(error.errno or 0)}",
            needs="user namespaces, or root",
            hint="`ramet doctor` says what forbids them here",
        ) from None
    write_file("/proc/self/setgroups", "deny")
    write_file("/proc/self/uid_map", f"0 {uid} 1")
    write_file("/proc/self/gid_map", f"0 {gid} 1")
    return True


def _own_clocks() -> str:
    """Put the caller to come into a time namespace; why not, if not."""
    try:
        lowlevel.unshare(CLONE.NEWTIME)
        write_file("/proc/self/timens_offsets", f"boottime {BOOT_OFFSET} 0\n")
    except OSError as error:
        return f"no time namespace with an offset here: {errno_name(error.errno or 0)}"
    return ""


def write_file(path: str, text: str) -> None:
    """Write it in one go, as the kernel's own files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without data. Raises OSError."""
    first, third = (0 if text is None else os.fsencode(text) + b"\0" for text in (source, kind))
    _core.syscall("mount", NR["mount"], first, os.fsencode(target) + b"\0", third, int(flags), 0)
