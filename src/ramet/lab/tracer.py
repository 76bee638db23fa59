"""A tracer for experiments: a process that traces this one, and lets it and its children go on at every stop."""

from __future__ import annotations

import os

from ramet import _core
from ramet.errors import UnsupportedError
from ramet.lab.kernel import status
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_CONT, _SEIZE = 7, 0x4206
FOLLOW = 0x2 | 0x4 | 0x8
"""PTRACE_O_TRACEFORK, TRACEVFORK and TRACECLONE: the tracer wants the children, too."""
_PR_SET_PTRACER = 0x59616D61
_SIGTRAP, _SIGKILL, _WALL = 5, 9, 0x4000_0000


class Traced:
    """A context in which this process is traced, with these options, by a child of its own."""

    def __init__(self, options: int = 0) -> None:
        self._options, self._tracer = options, 0

    def __enter__(self) -> None:
        tracer = int(status("TracerPid"))
        if tracer:
            fact = f"process {tracer} traces this one"
            raise UnsupportedError("cannot be traced", needs="a caller that nobody traces yet", fact=fact)
        here, there = os.pipe(), os.pipe()
        caller = os.getpid()
        self._tracer = os.fork()
        if self._tracer == 0:
            _trace(caller, self._options, here[0], there[1])
        try:
            # Where Yama guards processes, a descendant may trace us only if we say so; elsewhere EINVAL.
            _core.syscall("prctl", NR["prctl"], _PR_SET_PTRACER, self._tracer, 0, 0, 0)
        except OSError:
            pass
        os.write(here[1], b"!")
        os.close(there[1])
        answer = os.read(there[0], 1)
        for fd in (*here, there[0]):
            os.close(fd)
        if not answer:
            os.waitpid(self._tracer, 0)
            raise UnsupportedError("cannot be traced", needs="ptrace", fact="PTRACE_SEIZE of the caller was refused")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(self._tracer, _SIGKILL)
        os.waitpid(self._tracer, 0)


def _trace(caller: int, options: int, go: int, tell: int) -> None:
    """The tracer: seize the caller, and continue whatever stops. Killed when it is not needed any more."""
    try:
        os.read(go, 1)
        _core.syscall("ptrace", NR["ptrace"], _SEIZE, caller, 0, options)
        os.write(tell, b"!")
        while True:
            stopped, how = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(how):
                signal = 0 if how >> 16 or os.WSTOPSIG(how) == _SIGTRAP else os.WSTOPSIG(how)
                _core.syscall("ptrace", NR["ptrace"], _CONT, stopped, 0, signal)
    finally:
        os._exit(1)
