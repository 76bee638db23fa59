"""Record: an immutable value with named fields, the base of every part of a spec.

Why not dataclasses or msgspec.Struct: importing them costs 12 and 22 ms, more than everything else ramet
loads (docs/benchmarks.md). And a misspelled field should be answered with the nearest name.
"""

from __future__ import annotations

from ramet.errors import SpecError, SpecTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        """Type checkers read it; at run time it does nothing."""
        return lambda cls: cls


REQUIRED: Any = object()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def unknown_field(owner: str, name: str, known: Iterable[str]) -> SpecTypeError:
    """The error for a field that does not exist; names the nearest one."""
    known = list(known)
    meant = nearest(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"the fields are {', '.join(known)}"
    return SpecTypeError(f"{owner} has no field {name!r}", field=f"{owner}.{name}", hint=hint)


def annotations_of(cls: type) -> dict[str, Any]:
    """The class's own annotated names; inspect.get_annotations costs 8 ms to import."""
    found: dict[str, Any] = cls.__dict__.get("__annotations__", {})  # noqa: RUF063
    return found


@dataclass_transform(frozen_default=True)
class Record:
    """Fields are the annotated class attributes, in order; a value is a default. Immutable and hashable.

    A subclass may define ``_settle(self)``: it checks the fields, and normalises one by ``self._put``.
    """

    _fields: tuple[str, ...] = ()
    _defaults: dict[str, Any] = {}  # noqa: RUF012  each subclass gets its own

    def __init_subclass__(cls) -> None:
        own = [name for name in annotations_of(cls) if not name.startswith("_")]
        cls._fields = cls._fields + tuple(own)
        cls._defaults = cls._defaults | {name: cls.__dict__.get(name, REQUIRED) for name in own}

    def __init__(self, *args: Any, **fields: Any) -> None:
        owner = type(self).__name__
        if len(args) > len(self._fields):
            raise SpecTypeError(f"takes {len(self._fields)} values, not {len(args)}", field=owner)
        values = self.__dict__
        values.update(self._defaults)
        values.update(zip(self._fields, args, strict=False))
        for name, value in fields.items():
            if name not in self._defaults:
                raise unknown_field(owner, name, self._fields)
            if self._fields.index(name) < len(args):
                raise SpecTypeError("given twice", field=f"{owner}.{name}")
            values[name] = value
        for name in self._fields:
            if values[name] is REQUIRED:
                raise SpecTypeError("is required", field=f"{owner}.{name}")
        self._settle()

    def _settle(self) -> None:
        """Check and normalise; overridden by subclasses."""

    def _put(self, name: str, value: object) -> None:
        self.__dict__[name] = value

    def _bad(self, name: str, message: str, hint: str | None = None) -> SpecError:
        return SpecError(message, field=f"{type(self).__name__}.{name}", hint=hint)

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed; checked again as a whole."""
        return type(self)(**({name: self.__dict__[name] for name in self._fields} | changes))

    def to_mapping(self) -> Mapping[str, Any]:
        """Fields and values, in order."""
        return {name: self.__dict__[name] for name in self._fields}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use .replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(self.__dict__[name] == other.__dict__[name] for name in self._fields)

    def __hash__(self) -> int:
        known: int | None = self.__dict__.get("_hash_value")
        if known is None:
            known = hash((type(self), *(self.__dict__[name] for name in self._fields)))
            self.__dict__["_hash_value"] = known
        return known

    def __repr__(self) -> str:
        shown = [
            f"{name}={self.__dict__[name]!r}" for name in self._fields if self.__dict__[name] != self._defaults[name]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), dict(self.to_mapping())))


def _rebuild(cls: type[Record], fields: dict[str, Any]) -> Record:
    return cls(**fields)


class FrozenMap(dict):  # type: ignore[type-arg]
    """A dict that can't change, and so can be hashed and be part of a `Record`."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("this mapping is part of an immutable spec")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (FrozenMap, (dict(self),))
