"""Descriptors that a process needs once: the sealed copy of init, and a pidfd of the process itself."""

from __future__ import annotations

import errno
import fcntl
import os

from ramet import _core
from ramet.errors import UnsupportedError, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_EXEC = 0x1, 0x2, 0x10
F_ADD_SEALS = 1033
SEALS = 0xF  # SEAL | SHRINK | GROW | WRITE: nobody can change it any more
#: Above every number that a plan hands out by number, so that a dup never hits it.
LOWEST = 64

#: Kept without a lock, which a fork or an exception from a signal handler could leave locked: setdefault and pop are
#: atomic, and whoever comes second closes what it made.
_init: dict[str, tuple[int, bytes]] = {}
_self: dict[int, tuple[int, bytes]] = {}


def still(*known: tuple[int, bytes]) -> bool:
    """Are they what we opened? A caller that becomes a daemon closes descriptors it does not know, and reuses the numbers."""
    return _core.unchanged(known)


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


def above_standard(fd: int) -> int:
    """The same descriptor, moved out of the way where it is one of the standard three: the caller has closed those."""
    if fd > 2:
        return fd
    try:
        return above(fd, LOWEST)
    finally:
        os.close(fd)


def keep(kept: dict[Any, tuple[int, bytes]], key: object, fd: int) -> int:
    """Keep a descriptor that was made for a key, unless another thread was faster; the one that is kept."""
    mine = fd, _core.identity(fd)
    found = kept.setdefault(key, mine)
    if found is not mine:
        os.close(fd)
    return found[0]


def init_image() -> int:
    """A memfd that holds the init program and can't be written: a payload that reaches it through
    /proc/PID/exe changes nothing (CVE-2019-5736)."""
    found = _init.get("init")
    if found is not None and still(found):
        return found[0]
    if found is not None:
        _init.pop("init", None)
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_init")
    with open(path, "rb", buffering=0) as file:
        content = file.readall()
    fd = memfd("ramet-init", executable=True)
    try:
        os.write(fd, content)
        os.fchmod(fd, 0o111)  # who can't read a program can't trace who runs it: would_dump() in the kernel
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
        kept = above(fd, LOWEST)
    finally:
        os.close(fd)
    return keep(_init, "init", kept)


def memfd(name: str, *, executable: bool) -> int:
    """A file in memory that can be sealed, see memfd_create(2)."""
    flags = MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        # Since Linux 6.3 one says which; without it vm.memfd_noexec decides, and warns in the log.
        return os.memfd_create(name, flags | (MFD_EXEC if executable else 0))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        if error.errno != errno.EINVAL or not executable:  # EINVAL: an older kernel, where every memfd is executable
            raise UnsupportedError(
                "ramet's init is run from a memfd",
                fact=f"memfd_create says {errno_name(error.errno or 0)}",
                needs="vm.memfd_noexec below 2",
                hint="sysctl vm.memfd_noexec=1, or as_pid1=True to do without init",
            ) from None
    return os.memfd_create(name, flags)


def own_pidfd() -> int:
    """A pidfd of this process; another one after a fork."""
    pid = os.getpid()
    found = _self.get(pid)
    if found is not None and still(found):
        return found[0]
    for other in list(_self):
        stale = _self.pop(other, None)
        if stale is not None and other != pid and still(stale):
            os.close(stale[0])  # the parent's, inherited by fork
    fd = os.pidfd_open(pid)
    try:
        kept = above(fd, LOWEST)
    finally:
        os.close(fd)
    return keep(_self, pid, kept)
