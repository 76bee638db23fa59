"""Namespaces made ahead of need: see `ramet.plan.ahead`.

A caller that waits for its child has nothing to do; it makes user, network and IPC namespaces then, and a copy of the
root's mould, which its next sandbox of the same kit enters. Not for the first of a kind: there may be no second. What is kept is
a few descriptors, no process; it goes with the caller. Each set is used once, and only by the process that made it: a
fork forgets them.
"""

from __future__ import annotations

import os
from functools import lru_cache

from ramet.plan.ahead import NAMESPACES, making
from ramet.plan.encode import encode
from ramet.plan.mould import PROC
from ramet.run import image
from ramet.run.hold import Signals
from ramet.run.made import Made, Making
from ramet.run.moulds import Cast, cast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.plan.ahead import Kit
    from ramet.plan.encode import Encoded
    from ramet.plan.mould import Mould
    from ramet.plan.steps import Slot
    from ramet.spec import Namespace

MOST = 8


class Ahead(Made):
    """The namespaces of one sandbox to come. mould: what the mount namespace among them is a copy of."""

    __slots__ = ("kit", "mould")

    def __init__(self, kit: Kit, mould: Cast | None) -> None:
        super().__init__()
        self.kit, self.mould = kit, mould


#: By kit, the kit used last at the end. Without a lock, which a fork or a signal handler's exception could leave locked:
#: single operations on a list and a dict are atomic.
_kept: dict[Kit, list[Ahead]] = {}
_moulds: dict[Mould, Cast] = {}
_owner = os.getpid()
#: Kits that a sandbox was made of before.
_used: set[Kit] = set()
#: Kits whose namespaces could not be made or entered: under a filter that allows clone and not setns, say.
_refused: set[Kit] = set()


def _after_fork() -> None:
    """The parent's are not ours: two processes must not share a network."""
    global _owner
    _kept.clear()
    _moulds.clear()
    _owner = os.getpid()


os.register_at_fork(after_in_child=_after_fork)


def take(kit: Kit) -> Ahead | None:
    """Namespaces of this kit, or of its plain form, if there are any; the taker's alone from now on."""
    if _owner != os.getpid():  # a function in a CLONE_VM child sees the list, not its descriptors
        return None
    found = _take(kit)
    if found is None and kit.mould is not None:
        found = _take(kit.plain)
    return found


def _take(kit: Kit) -> Ahead | None:
    kept = _kept.get(kit)
    if not kept:
        return None
    try:
        found = kept.pop()
    except IndexError:  # another thread was faster
        return None
    if kit.mould is not None and (found.mould is None or not found.mould.is_current()):
        # The host has changed, and what was copied from it is of no use any more.
        if _moulds.get(kit.mould) is found.mould:
            _moulds.pop(kit.mould, None)
            _kept.pop(kit, None)
        return None
    return found if found.is_whole() else None


def prepare(kit: Kit) -> Preparing | None:
    """See to it that the next sandbox of this kit finds its namespaces, if it is likely that there is a next one.

    They are being made when this returns; the result is to be met, when it is ready, and finished.
    """
    if kit not in _used:
        _used.add(kit)
        return None
    if kit.mould is not None and kit in _refused:
        kit = kit.plain
    if _kept.get(kit) or kit in _refused or _owner != os.getpid():
        return None
    return begin(kit)


class Preparing:
    """Namespaces that are being made: see `ramet.run.made.Making`."""

    __slots__ = ("_made", "_making", "meet", "ready")

    def __init__(self, made: Ahead, making: Making) -> None:
        self._made, self._making = made, making
        self.ready, self.meet = making.ready, making.meet

    def finish(self) -> None:
        """Keep them for the next sandbox."""
        kit = self._made.kit
        if self._making.finish() and kit not in _refused:
            # The very list: another thread may be about to take one from it, and must not find it in a copy, too. What one keeps in
            # between is let go.
            kept = _kept.pop(kit, [])
            if len(kept) < MOST:
                kept.append(self._made)
            _keep(_kept, kit, kept)


def refuse(kit: Kit) -> None:
    """Make no more of this kit: entering them has failed."""
    _refused.add(kit)
    _kept.pop(kit, None)


def forget() -> None:
    """Close all that is kept."""
    if _owner == os.getpid():
        _kept.clear()
        _moulds.clear()


def begin(kit: Kit) -> Preparing | None:
    """None where it can't be: the next run makes its own then, and tells what is wrong."""
    signals = Signals()
    try:
        signals.hold()  # a handler's exception could come before somebody knows of a descriptor
        return _begin(kit)
    except OSError:
        return None
    finally:
        signals.release()


def _begin(kit: Kit) -> Preparing | None:
    mould = None
    if kit.mould is not None:
        mould = _mould(kit.mould)
        if mould is None:
            _refused.add(kit)  # its plain form will do
            return None
    made = Ahead(kit, mould)
    program, wanted = _making(kit)
    given = mould.inputs if mould is not None else {}
    lent, steps = {}, kit.sync
    if kit.maps_itself:
        lent[PROC] = image.above_standard(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        steps = ()
    return Preparing(made, Making(made, wanted, program, 0, steps, given=given, lent=lent))


def _mould(mould: Mould) -> Cast | None:
    """The one that is kept, or a new one."""
    found = _moulds.get(mould)
    if found is not None and found.is_whole():  # whether it is current is asked by who takes a copy
        return found
    made = cast(mould)
    if made is not None:
        _moulds.pop(mould, None)
        _keep(_moulds, mould, made)
    return made


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    """As the one used last, and no more than so many."""
    kept[key] = value
    while len(kept) > MOST:
        kept.pop(list(kept)[0], None)  # noqa: RUF015  atomic, unlike next(iter())


@lru_cache(maxsize=MOST)
def _making(kit: Kit) -> tuple[Encoded, dict[Slot, Namespace]]:
    """What makes them, and which is to be opened under which name."""
    return encode(making(kit), kit.machine), {NAMESPACES[kind]: kind for kind in kit.kinds}
