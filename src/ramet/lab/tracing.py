"""A small tracer, for what only a tracer sees: flags about tracing, and answers that the kernel keeps to itself."""

from __future__ import annotations

import os
from struct import unpack_from

from ramet import _core, lowlevel
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 7, 24, 0x4200, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXITKILL = 1, 2, 4, 8, 0x10_0000
FOLLOW = _FORK | _VFORK | _CLONE
_ENTRY, _EXIT = 1, 2
_SIGSTOP, _SIGTRAP, _SIGUSR1 = 19, 5, 10


def _ptrace(request: int, pid: int, address: int = 0, data: int | bytearray = 0) -> None:
    _core.syscall("ptrace", NR["ptrace"], request, pid, address, data)


def traced(work: Callable[[], int], options: int = 0) -> int:
    """What work() returns, a number below 256, in a forked process that this one traces; so are those it is told of."""
    pid = _start(work)
    _ptrace(_SETOPTIONS, pid, 0, _EXITKILL | options)
    _ptrace(_CONT, pid)
    while True:
        stopped, status = os.waitpid(-1, lowlevel.WALL)
        if os.WIFSTOPPED(status):
            signal = os.WSTOPSIG(status)
            try:
                _ptrace(_CONT, stopped, 0, 0 if signal in (_SIGSTOP, _SIGTRAP) else signal)
            except ProcessLookupError:
                continue  # killed meanwhile
        elif stopped == pid:
            return os.waitstatus_to_exitcode(status)


def interrupted(work: Callable[[], int], number: int) -> int:
    """What the kernel returns from work()'s system call of that number, when a signal comes at its entry."""
    pid = _start(work)
    _ptrace(_SETOPTIONS, pid, 0, _EXITKILL | _SYSGOOD)
    info = bytearray(88)
    found = signalled = False
    pass_on = 0
    try:
        while True:
            _ptrace(_SYSCALL, pid, 0, pass_on)
            pass_on = 0
            _, status = os.waitpid(pid, lowlevel.WALL)
            if not os.WIFSTOPPED(status):
                raise ChildProcessError("it never made the call")
            if os.WSTOPSIG(status) != _SIGTRAP | 0x80:
                pass_on = os.WSTOPSIG(status)
                continue
            _ptrace(_SYSCALL_INFO, pid, len(info), info)
            operation, value = info[0], unpack_from("q", info, 24)[0]
            if operation == _ENTRY:
                found = value == number
                if found and not signalled:
                    os.kill(pid, _SIGUSR1)
                    signalled = True
            elif operation == _EXIT and found:
                return int(value)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, lowlevel.WALL)


def _start(work: Callable[[], int]) -> int:
    """A forked process that waits, stopped, to be told to go on."""
    import signal

    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            signal.signal(signal.SIGUSR1, lambda *_: None)
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), _SIGSTOP)
            status = work()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise PermissionError(1, "this process may not be traced", "ptrace")
    return pid
