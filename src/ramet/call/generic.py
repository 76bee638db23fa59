"""Generic classes for type checkers alone: typing costs an import of 5 ms, and at run time a class needs none of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Generic as Generic
    from typing import ParamSpec, TypeVar
    from typing import overload as overload

    P = ParamSpec("P")
    R = TypeVar("R", covariant=True)
else:
    P = R = None

    class Generic:
        """What takes names in brackets, and is itself whatever they are."""

        __slots__ = ()

        def __class_getitem__(cls, names):
            return cls

    def overload(fn):
        """What is defined last is what is called."""
        return fn
