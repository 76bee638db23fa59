"""Two fork hooks of Python's own, threading's and logging's: in a copy of a zygote they would do again what has been done.

They make locks anew that another thread could have held, and forget threads that are gone. A zygote has had one thread since they
were run in it, and holds none of these locks; but going through all of that writes to ninety pages, a sixth of all that a copy writes to
for a call that does nothing. So in the zygote they are run once, and then do next to nothing until a copy has come out of its fork; there
they are what they were, for forks that its own code makes.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FunctionType
    from typing import Any

#: Versions whose hooks are known to do this and no more.
KNOWN = ((3, 11), (3, 12))
_kept: list[tuple[FunctionType, CodeType]] = []
_lock: Any = None  # logging's, where this is run


def _of_threading() -> None:
    """Nothing: there was one thread, and there is."""


def _of_logging() -> None:
    """What the hook before the fork has taken."""
    _lock.release()


def lighten() -> None:
    """In the zygote, when all is loaded."""
    if sys.version_info[:2] not in KNOWN:
        return
    for module, name, light in (
        ("threading", "_after_fork", _of_threading),
        ("logging", "_after_at_fork_child_reinit_locks", _of_logging),
    ):
        hook: Any = getattr(sys.modules.get(module), name, None)
        if hook is not None:
            hook()
            _kept.append((hook, hook.__code__))
            hook.__code__ = light.__code__


def restore() -> None:
    """In a copy, after its fork."""
    while _kept:
        hook, code = _kept.pop()
        hook.__code__ = code
