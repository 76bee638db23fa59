"""Namespaces that a process was made for and left behind: kept by their descriptors, and by nothing else."""

from __future__ import annotations

import errno
import fcntl
import os
import select

from ramet import _core
from ramet.plan.idmap import CONTROL, CONTROL_CALLER_END
from ramet.plan.life import CALLER, DESCRIPTORS_END
from ramet.run import control, image
from ramet.run.hold import Signals
from ramet.run.launch import values_of
from ramet.run.sync import serve
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ramet.plan.encode import Encoded
    from ramet.plan.steps import CallerStep, Slot

CLEAR_SIGHAND = 1 << 32
#: PIDFD_GET_*_NAMESPACE, since Linux 6.11 (linux/pidfd.h): a fifth of the time of a file of a process that nobody has looked at yet.
GET = {Namespace.USER: 0xFF09, Namespace.NET: 0xFF04, Namespace.IPC: 0xFF02, Namespace.MOUNT: 0xFF03}


class Closed:
    """Descriptors that have been let go: no `__del__`, for an exception from a signal handler would be lost in it."""

    __slots__ = ("by_slot",)

    def __init__(self) -> None:
        self.by_slot: dict[Slot, tuple[int, bytes]] = {}

    def hold(self, slot: Slot, fd: int) -> None:
        """Own this one too."""
        self.by_slot[slot] = fd, _core.identity(fd)

    def close(self, *, sure: bool = False) -> None:
        """Close them. What has got one of the numbers meanwhile is not ours to close. sure: there was no meanwhile."""
        while self.by_slot:
            _, held = self.by_slot.popitem()
            if sure or image.still(held):
                os.close(held[0])
        self.__class__ = Closed


class Held(Closed):
    """Descriptors, each with what it was when it was opened."""

    __slots__ = ()

    def __del__(self) -> None:
        self.close()


class Made:
    """Some namespaces that nobody has been in but their maker. Owns a descriptor of each."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: Closed = Held()

    def take(self, pid: int, pidfd: int, wanted: Mapping[Slot, Namespace]) -> None:
        """Open what the process is in."""
        for slot, kind in wanted.items():
            self.hold(slot, _open_namespace(pid, pidfd, kind))

    def hold(self, slot: Slot, fd: int) -> None:
        """Own this descriptor too."""
        self._held.hold(slot, fd)

    @property
    def inputs(self) -> dict[Slot, int]:
        """The descriptors under their names in a plan."""
        return {slot: fd for slot, (fd, _) in self._held.by_slot.items()}

    def is_whole(self) -> bool:
        """Are the descriptors still ours? A caller that becomes a daemon closes those it does not know."""
        return image.still(*self._held.by_slot.values())

    def close(self, *, sure: bool = False) -> None:
        """Let go of the namespaces. sure: it was seen a moment ago that the descriptors are still ours."""
        self._held.close(sure=sure)


def _open_namespace(pid: int, pidfd: int, kind: Namespace) -> int:
    try:
        return fcntl.ioctl(pidfd, GET[kind])
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
    return os.open(f"/proc/{pid}/ns/{kind.value}", os.O_RDONLY | os.O_CLOEXEC)


class Making:
    """Namespaces that are being made, by a child that goes on beside us until it waits for us.

    ready: readable when it does: time for `meet`. Whoever drops this object ends the child.
    """

    __slots__ = ("_begun", "_ends", "_lent", "_made", "_met", "_steps", "_wanted", "ready")

    def __init__(
        self,
        made: Made,
        wanted: Mapping[Slot, Namespace],
        program: Encoded,
        flags: int,
        steps: Sequence[CallerStep],
        *,
        given: Mapping[Slot, int] | None = None,
        lent: Mapping[Slot, int] | None = None,
    ) -> None:
        """Run a program in a child made with these flags; steps: what the caller has to do for it. given: descriptors that it
        finds; lent: more of them, which are closed when it has its own.

        To be called with signals held: a handler's exception could come before somebody knows of a descriptor.
        """
        self._made, self._wanted, self._steps = made, wanted, steps
        self._met: bool | None = None
        self._ends: Closed = Held()
        self._lent: Closed = Held()
        for slot, fd in (lent or {}).items():
            self._lent.hold(slot, fd)
        self.ready, theirs = control.pair()
        self._ends.hold(CONTROL_CALLER_END, self.ready)
        self._lent.hold(CONTROL, theirs := image.above_standard(theirs))
        inputs = {CONTROL: theirs, CALLER: image.own_pidfd(), **(given or {}), **(lent or {})}
        inputs[DESCRIPTORS_END] = max(inputs.values()) + 1
        self._begun = _core.begin(program.blob, values_of(program, inputs), flags | CLEAR_SIGHAND)

    def meet(self) -> bool:
        """Open what the child is in, make the caller's steps, let it end. True, so that it can be what ends a watch."""
        if self._met is not None:
            return True
        signals = Signals()
        try:
            signals.hold()
            self._begun.meet(self._serve)
            self._met = True
        except OSError:
            self._met = False
        finally:
            signals.release()
        return True

    def _serve(self, pid: int, pidfd: int) -> None:
        poller = select.poll()
        poller.register(self.ready, select.POLLIN)
        poller.register(pidfd, select.POLLIN)  # our own copy of its end of the socket would hide that it has ended
        poller.poll()
        self._lent.close(sure=True)  # by now it has its own, or has ended
        os.read(self.ready, 1)
        self._made.take(pid, pidfd, self._wanted)
        serve(self._steps, self.ready, pid)

    def finish(self) -> bool:
        """Wait for its end. False where it has failed."""
        self.meet()
        whole = self._begun.end()
        self._lent.close(sure=True)
        self._ends.close(sure=True)
        return bool(whole and self._met)
