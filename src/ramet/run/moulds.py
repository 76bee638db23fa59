"""Moulds that this process has made: see `ramet.plan.mould`."""

from __future__ import annotations

import os
import select
from _thread import RLock
from functools import lru_cache

from ramet import _core
from ramet.plan.encode import encode
from ramet.plan.mould import MOULD_MOUNT, MOULD_USER
from ramet.plan.steps import Slot
from ramet.run.made import Made, Making
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.encode import Encoded
    from ramet.plan.mould import Mould

#: Whose mounts are shown: another root is another host, and in another mount namespace it is on another mount.
VIEW = "/"
MOUNTS = Slot("mounts")


class Cast(Made):
    """The namespaces of a mould, as long as what it shows is what the host has.

    A source that was replaced (ldconfig writes a new ld.so.cache and renames it) is another file under its name. What was
    mounted or unmounted anywhere changes the list of mounts, which can be polled for that (proc_pid_mountinfo(5)).
    """

    __slots__ = ("_changed", "_lock", "_mounts", "_sources")

    def __init__(self, mould: Mould) -> None:
        super().__init__()
        self._lock = RLock()
        self._changed = False
        mounts = os.open("/proc/thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.hold(MOUNTS, mounts)
        self._mounts = select.poll()
        self._mounts.register(mounts, select.POLLPRI)
        paths = map(os.fsencode, (VIEW, *mould.sources))
        self._sources = tuple((path, _core.identity(path)) for path in paths)

    def is_current(self) -> bool:
        """Does the host show the same?"""
        with self._lock:  # a change is told once, to whoever asks first
            self._changed = self._changed or not self._looks_the_same()
            return not self._changed

    def _looks_the_same(self) -> bool:
        """While its descriptors are ours, that of the mounts among them."""
        try:
            return self.is_whole() and not self._mounts.poll(0) and _core.unchanged(self._sources)
        except OSError:
            return False


@lru_cache(maxsize=8)
def _program(mould: Mould) -> Encoded:
    return encode(mould.making(), mould.facts.machine)


def cast(mould: Mould) -> Cast | None:
    """Make its namespaces; None where that can't be, or the host has changed meanwhile."""
    wanted = {MOULD_MOUNT: Namespace.MOUNT}
    if mould.own_user:
        wanted[MOULD_USER] = Namespace.USER
    try:
        made = Cast(mould)
        making = Making(made, wanted, _program(mould), mould.flags, mould.sync)
    except OSError:
        return None
    return made if making.finish() and made.is_current() else None
