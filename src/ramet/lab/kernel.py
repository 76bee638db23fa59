"""System calls that experiments make and Python's os module doesn't have, under the names of their man pages."""

from __future__ import annotations

import errno
import os

from ramet import _core
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ARM = os.uname().machine == "aarch64"


def mount(source: str | None, target: str, kind: str | None, flags: int = 0) -> None:
    """mount(2). Raises OSError."""
    _core.syscall("mount", NR["mount"], _text(source), _text(target), _text(kind), int(flags), 0)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    _core.syscall("umount2", NR["umount2"], _text(target), int(flags))


def _text(given: str | None) -> bytes | int:
    return 0 if given is None else os.fsencode(given) + b"\0"


IPC_CREAT, IPC_EXCL, IPC_RMID = 0o1000, 0o2000, 0


def msgget(key: int, flags: int = 0) -> int:
    """msgget(2): the System V message queue with this key. Raises OSError, ENOENT where there is none."""
    return _core.syscall("msgget", NR["msgget"], key, flags)


def msgctl_rmid(queue: int) -> None:
    """msgctl(IPC_RMID): remove the queue."""
    _core.syscall("msgctl", NR["msgctl"], queue, IPC_RMID, 0)


SEM_UNDO, SETVAL, GETVAL = 0x1000, 16, 12


def new_semaphore(value: int) -> int:
    """semget(IPC_PRIVATE) and semctl(SETVAL): a System V semaphore of this value."""
    made = _core.syscall("semget", NR["semget"], 0, 1, 0o600)
    _core.syscall("semctl", NR["semctl"], made, 0, SETVAL, value)
    return made


def semaphore_value(semaphore: int) -> int:
    """semctl(GETVAL)."""
    return _core.syscall("semctl", NR["semctl"], semaphore, 0, GETVAL)


def take_with_undo(semaphore: int) -> None:
    """semop: subtract 1, and let the kernel add it again when this process ends (SEM_UNDO)."""
    from struct import pack

    _core.syscall("semop", NR["semop"], semaphore, pack("Hhh", 0, -1, SEM_UNDO), 1)


def remove_semaphore(semaphore: int) -> None:
    """semctl(IPC_RMID)."""
    _core.syscall("semctl", NR["semctl"], semaphore, 0, IPC_RMID)


_WHO_PROCESS, _BEST_EFFORT = 1, 2 << 13


def ioprio_set(level: int) -> None:
    """ioprio_set(2): the I/O priority of this process, best-effort, 0 (high) to 7 (low)."""
    _core.syscall("ioprio_set", NR["ioprio_set"], _WHO_PROCESS, 0, _BEST_EFFORT | level)


def ioprio_get() -> int:
    """ioprio_get(2): the level of this process."""
    return _core.syscall("ioprio_get", NR["ioprio_get"], _WHO_PROCESS, 0) & 0x1FFF


def outcome(act: Callable[..., object], *args: object) -> str:
    """``done``, or the name of the errno with which the kernel refused. That it has no such call is no answer."""
    try:
        act(*args)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            raise
        return errno_of(error)
    return "done"


def errno_of(error: OSError) -> str:
    """``EPERM``."""
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def status(field: str, process: int | str = "self") -> str:
    """A line of /proc/PID/status, as ``NSpid``: its value. "" where there is no such line."""
    with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
    return ""


def handles(field: str, signal: int, process: int | str = "self") -> bool:
    """Is the signal in this mask of /proc/PID/status (SigCgt: has a handler, SigIgn: is ignored)?"""
    return bool(int(status(field, process), 16) >> (signal - 1) & 1)


def link(kind: str) -> str:
    """``uts:[4026531838]``: readlink of /proc/self/ns/KIND."""
    return os.readlink(f"/proc/self/ns/{kind}")


def has_capability(number: int) -> bool:
    """Is this capability effective in the caller?"""
    return bool(int(status("CapEff"), 16) >> number & 1)


CAP_SYS_ADMIN = 21
