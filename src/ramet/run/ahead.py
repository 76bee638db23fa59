"""Namespaces made ahead of need: see `ramet.plan.ahead`.

A caller that waits for its child has nothing to do; it makes a user and a network namespace then, which its next sandbox
of the same kit enters. Not for the first of a kind: there may be no second. What is kept is two descriptors, no process; it
goes with the caller. A pair is used once, and only by the process that made it: a fork forgets them.
"""

from __future__ import annotations

import os
from functools import lru_cache

from ramet import _core
from ramet.plan.ahead import FLAGS, NET_NS, USER_NS, making
from ramet.plan.encode import encode
from ramet.plan.idmap import CONTROL, CONTROL_CALLER_END
from ramet.plan.life import CALLER
from ramet.run import control, image
from ramet.run.hold import Signals
from ramet.run.launch import Launched
from ramet.run.sync import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.ahead import Kit
    from ramet.plan.encode import Encoded
    from ramet.plan.steps import Slot

CLEAR_SIGHAND = 1 << 32
MOST = 8


class Closed:
    """A pair that has been let go: without `__del__`, in which a signal handler's exception would be lost."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[Slot, tuple[int, tuple[int, int]]] = {}

    def take(self, pid: int) -> None:
        """Open what the process is in."""
        for slot, name in ((USER_NS, "user"), (NET_NS, "net")):
            fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            self._held[slot] = fd, image.identity(fd)

    @property
    def inputs(self) -> dict[Slot, int]:
        """The descriptors under their names in a plan."""
        return {slot: fd for slot, (fd, _) in self._held.items()}

    def is_whole(self) -> bool:
        """Are the descriptors still ours? A caller that becomes a daemon closes those it does not know."""
        return all(image.still(*held) for held in self._held.values())

    def close(self) -> None:
        """Let go of the namespaces. What has got one of the numbers meanwhile is not ours to close."""
        while self._held:
            _, (fd, identity) = self._held.popitem()
            if image.still(fd, identity):
                os.close(fd)
        self.__class__ = Closed


class Pair(Closed):
    """A user and a network namespace that nobody has been in but their maker. Owns two descriptors."""

    __slots__ = ()

    def __del__(self) -> None:
        self.close()


#: By kit, the kit used last at the end. Without a lock, which a fork or a signal handler's exception could leave locked:
#: single operations on a list and a dict are atomic.
_kept: dict[Kit, list[Pair]] = {}
_owner = os.getpid()
#: Kits that a sandbox was made of before.
_used: set[Kit] = set()
#: Kits whose namespaces could not be entered, though they could be made: a filter that allows clone and not setns, say.
_refused: set[Kit] = set()


def _after_fork() -> None:
    """The parent's pairs are not ours: two processes must not share a network."""
    global _owner
    _kept.clear()
    _owner = os.getpid()


os.register_at_fork(after_in_child=_after_fork)


def take(kit: Kit) -> Pair | None:
    """A pair of this kit, if there is one; the taker's alone from now on."""
    pairs = _kept.get(kit)
    if not pairs or _owner != os.getpid():  # a function in a CLONE_VM child sees the list, not its descriptors
        return None
    try:
        pair = pairs.pop()
    except IndexError:  # another thread was faster
        return None
    return pair if pair.is_whole() else None


def prepare(kit: Kit) -> None:
    """See to it that the next sandbox of this kit finds a pair, if it is likely that there is a next one."""
    if kit not in _used:
        _used.add(kit)
        return
    if _kept.get(kit) or kit in _refused or _owner != os.getpid():
        return
    pair = _make(kit)
    if pair is None:
        return
    _kept[kit] = [*_kept.pop(kit, ()), pair]  # what another thread keeps in between is let go
    while sum(map(len, list(_kept.values()))) > MOST:
        _kept.pop(list(_kept)[0], None)  # noqa: RUF015  atomic, unlike next(iter())


def refuse(kit: Kit) -> None:
    """Make no more of this kit: entering them has failed."""
    _refused.add(kit)
    _kept.pop(kit, None)


def forget() -> None:
    """Close all that is kept."""
    if _owner == os.getpid():
        _kept.clear()


@lru_cache(maxsize=MOST)
def _program(kit: Kit) -> Encoded:
    return encode(making(kit), kit.machine)


def _make(kit: Kit) -> Pair | None:
    """None where it can't be: the next run makes its own then, and tells what is wrong."""
    maker, pair, signals = Launched(), Pair(), Signals()
    theirs = -1
    try:
        signals.hold()
        maker.control, theirs = control.pair()
        ours = maker.control

        def sync(pid: int, pidfd: int) -> None:
            pair.take(pid)
            serve(kit.sync, ours, pid)

        program = _program(kit)
        inputs = {CONTROL: theirs, CONTROL_CALLER_END: ours, CALLER: image.own_pidfd()}
        values = [(offset, inputs[slot]) for slot, offset in program.offsets.items() if slot in inputs]
        _, _, failed, _, _ = _core.spawn(program.blob, values, FLAGS | CLEAR_SIGHAND, sync=sync, into=maker)
    except OSError:
        return None
    finally:
        if theirs >= 0:
            os.close(theirs)
        maker.close()
        signals.release()
    return None if failed else pair
