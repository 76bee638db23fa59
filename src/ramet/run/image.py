"""Descriptors that a process needs once: the sealed copy of init, and a pidfd of the process itself."""

from __future__ import annotations

import errno
import fcntl
import os
from _thread import allocate_lock

from ramet.errors import UnsupportedError, errno_name

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 0x1, 0x2, 0x10
F_ADD_SEALS = 1033
SEALS = 0xF  # SEAL | SHRINK | GROW | WRITE: nobody can change it any more
#: Above every number that a plan hands out by number, so that a dup never hits it.
LOWEST = 64

_Identity = tuple[int, int]
_init: tuple[int, _Identity] | None = None
_self: tuple[int, int, _Identity] | None = None
_lock = allocate_lock()


def _after_fork() -> None:
    """A thread that is not there in the child may have held the lock."""
    global _lock
    _lock = allocate_lock()


os.register_at_fork(after_in_child=_after_fork)


def _identity(fd: int) -> _Identity:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def _still(fd: int, identity: _Identity) -> bool:
    """Is it what we opened? A caller that becomes a daemon closes descriptors it does not know, and reuses the numbers."""
    try:
        return _identity(fd) == identity
    except OSError:
        return False


def above(fd: int, lowest: int) -> int:
    """A copy of the descriptor, close-on-exec, at or above `lowest`."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EMFILE):
            raise
        raise UnsupportedError(
            "ramet needs descriptors of its own above those passed on",
            fact=f"none from {lowest} on is free ({errno_name(error.errno)})",
            needs="a higher RLIMIT_NOFILE, or lower numbers in pass_fds",
        ) from None


def init_image() -> int:
    """A memfd that holds the init program and can't be written: a payload that reaches it through
    /proc/PID/exe changes nothing (CVE-2019-5736)."""
    with _lock:
        return _init_image()


def _init_image() -> int:
    global _init
    if _init is None or not _still(*_init):
        path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_init")
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
        fd = _memfd("ramet-init", executable=True)
        try:
            os.write(fd, content)
            fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
            kept = above(fd, LOWEST)
            _init = kept, _identity(kept)
        finally:
            os.close(fd)
    return _init[0]


def _memfd(name: str, *, executable: bool) -> int:
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        # Since Linux 6.3 one says which; without it vm.memfd_noexec decides, and warns in the log.
        return os.memfd_create(name, flags | (MFD_EXEC if executable else 0))
    except OSError as error:
        if error.errno != 22 or not executable:  # EINVAL: an older kernel, where every memfd is executable
            raise UnsupportedError(
                "ramet's init is run from a memfd",
                fact=f"memfd_create says {errno_name(error.errno or 0)}",
                needs="vm.memfd_noexec below 2",
                hint="sysctl vm.memfd_noexec=1, or as_pid1=True to do without init",
            ) from None
    return os.memfd_create(name, flags)


def plan_memory(content: bytes) -> int:
    """A memfd with the tail of a plan, for init to read."""
    fd = os.memfd_create("ramet-plan", MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def own_pidfd() -> int:
    """A pidfd of this process; another one after a fork."""
    with _lock:
        return _own_pidfd()


def _own_pidfd() -> int:
    global _self
    pid = os.getpid()
    if _self is None or _self[0] != pid or not _still(*_self[1:]):
        if _self is not None and _still(*_self[1:]):
            os.close(_self[1])  # the parent's, inherited by fork
        _self = None
        fd = os.pidfd_open(pid)
        try:
            kept = above(fd, LOWEST)
        finally:
            os.close(fd)
        _self = pid, kept, _identity(kept)
    return _self[1]
