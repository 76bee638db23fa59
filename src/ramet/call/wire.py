"""Values as bytes, and back: how what a function returns leaves its sandbox. Nothing is unpickled.

msgpack carries plain data; what it has no word for (tuples, sets, dates, dataclasses, arrays) goes as an extension. Large buffers
go beside it: by a pipe, or each in a sealed memfd that the caller maps (ramet.call.channel).

What comes back is built by this module and by libraries that were there before. No code of the classes named in a value is
run: a dataclass is made without its __init__, and its fields are put in place one by one. A class is looked up by name among
what the caller has imported already, and nothing is imported for it.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import os
import pathlib
import struct
import sys
import uuid

from ramet import _core
from ramet.call import arrays
from ramet.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Buffer = bytes | bytearray | memoryview

#: Extension codes.
TUPLE, SET, FROZENSET, INT, COMPLEX, DECIMAL, UUID, DATETIME, DATE, TIME, TIMEDELTA = range(1, 12)
BYTEARRAY, PATH, ENUM, DATACLASS, NAMEDTUPLE, ARRAY, SCALAR, MEMORY, TABLE, BYTES, DICT, TEXT, PART = range(12, 25)

DEPTH_MAX = 100
#: Buffers from this size on go beside the message, as many as can go with it as descriptors.
LARGE, LARGE_MOST = 64 << 10, 250
#: Keys of one set or dictionary that may share their hash with others, as -1 and -2 do.
ALIKE_MOST = 100
SCALARS = frozenset({type(None), bool, float, str})
KEYS = (*SCALARS, int, bytes, complex, tuple, frozenset, decimal.Decimal, uuid.UUID, enum.Enum, pathlib.PurePath)
TIMES = (datetime.date, datetime.time, datetime.timedelta)
#: What a container costs in the caller's memory, and a byte of anything else, at most, roughly.
CONTAINER_COST, BYTE_COST = 80, 12
_NO_CONTAINER = bytes(b for b in range(256) if not (0x80 <= b <= 0x9F or 0xC7 <= b <= 0xC9 or b >= 0xD4))


class Unsendable(Exception):
    """A value that has no form on the wire. path: where inside the value, as ``value[3].rows['x']``."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.path = ""

    def inside(self, step: str) -> Unsendable:
        """The same, seen from one level further out."""
        self.path = step + self.path
        return self

    def __str__(self) -> str:
        return f"value{self.path}: {self.args[0]}"


class Malformed(Exception):
    """Bytes that are no value."""


class Part:
    """A value among others that is read by itself: where that fails, why says so, and the others come all the same."""

    __slots__ = ("value", "why")

    def __init__(self, value: object, why: str | None = None) -> None:
        self.value, self.why = value, why


def need_msgspec() -> Any:
    """The library that writes and reads msgpack: loaded where functions need it, since that takes longer than loading ramet."""
    try:
        import msgspec
    except ImportError as error:
        raise UnsupportedError(
            "results of isolated functions travel as msgpack",
            fact=str(error),
            needs="msgspec 0.18 or later",
            hint="pip install 'ramet[functions]'",
        ) from None
    return msgspec


def name_of(cls: type) -> str:
    """``module.Class`` of any type, even of one that lies about it."""
    module = type.__dict__["__module__"].__get__(cls)
    return f"{module}.{type.__dict__['__qualname__'].__get__(cls)}"


def find_named(module: object, qualname: object) -> object:
    """What stands under this name in a module that is imported already, found without running anything of it; None if nothing does."""
    found: Any = sys.modules.get(module) if isinstance(module, str) else None
    if found is None or not isinstance(qualname, str):
        return None
    for name in qualname.split("."):
        space = found.__dict__ if not isinstance(found, type) else type.__dict__["__dict__"].__get__(found)
        found = space.get(name)
        if found is None:
            return None
    return found


def find_class(module: object, qualname: object) -> type | None:
    """The same, where it is a class."""
    found = find_named(module, qualname)
    return found if isinstance(found, type) else None


def _class_name(cls: type, known: frozenset[str] | None) -> tuple[str, str]:
    """By which the caller finds it; Unsendable if it won't, as far as that is known."""
    module, qualname = cls.__module__, cls.__qualname__
    if "<locals>" in qualname:
        raise Unsendable(f"{module}.{qualname} can't be found by its name")
    if known is None:
        return module, qualname
    if find_class(module, qualname) is not cls:
        raise Unsendable(f"{module}.{qualname} can't be found by its name")
    if module not in known:
        raise Unsendable(f"{module}.{qualname} is of a module that the caller had not imported")
    return module, qualname


# Out


class Packer:
    """Values to bytes. known: modules that the reader has; None: it will see for itself. attached: buffers that go beside the bytes."""

    def __init__(self, known: frozenset[str] | None) -> None:
        msgspec = need_msgspec()
        self._ext, self._encode = msgspec.msgpack.Ext, msgspec.msgpack.Encoder().encode
        self.known = known
        self._every_text = False
        self.attached: list[Buffer] = []

    def pack(self, value: object) -> bytes:
        """Raises Unsendable."""
        self.attached.clear()
        try:
            return bytes(self._encode(self.walk(value, 0)))
        except UnicodeEncodeError:
            # Text with halves of surrogate pairs, as of file names that are no UTF-8: look at every one.
            self._every_text = True
            self.attached.clear()
            return bytes(self._encode(self.walk(value, 0)))

    def why_not(self, value: object, depth: int) -> str | None:
        """Why it can't be sent so deep in another one; None if it can."""
        kept = len(self.attached)
        try:
            self._walk_any(value, depth)
        except Unsendable as error:
            return str(error)
        except (
            Exception
        ) as error:  # a closed mmap, a released memoryview, a class of the user's: looking at it is enough
            return f"value: looking at it raised {type(error).__name__}"
        finally:
            del self.attached[kept:]
        return None

    def _walk_any(self, value: object, depth: int) -> None:
        try:
            self.walk(value, depth)
        except UnicodeEncodeError:
            if self._every_text:
                raise
            self._every_text = True
            self.walk(value, depth)

    def walk(self, value: Any, depth: int) -> Any:
        """The value in what msgpack knows, and extensions."""
        if depth > DEPTH_MAX:
            raise Unsendable(f"is nested deeper than {DEPTH_MAX} levels")
        cls = type(value)
        if cls in SCALARS:
            return self._text(value) if cls is str and self._every_text else value
        found = _PACK.get(cls)
        if found is not None:
            return found(self, value, depth)
        return self._other(cls, value, depth)

    def ext(self, code: int, *parts: Any) -> Any:
        """An extension that holds these, which are walked already."""
        return self._ext(code, self._encode(parts))

    def attach(self, data: Buffer) -> Any:
        """A buffer: beside the bytes if it is large, by its number; else among them."""
        if memoryview(data).nbytes < LARGE or len(self.attached) >= LARGE_MOST:
            return data
        self.attached.append(data)
        return len(self.attached) - 1

    def _text(self, value: str) -> Any:
        try:
            value.encode()
        except UnicodeEncodeError:
            return self.ext(TEXT, value.encode("utf-8", "surrogatepass"))
        return value

    def _int(self, value: int, depth: int) -> Any:
        if -(2**63) <= value < 2**64:
            return value
        return self.ext(INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def _bytes(self, value: bytes, depth: int) -> Any:
        place = self.attach(value)
        return self.ext(BYTES, place) if isinstance(place, int) else value

    def items(self, values: Sequence[Any], depth: int) -> Any:
        """Each one, walked."""
        kinds = set(map(type, values))
        if kinds <= SCALARS and not (self._every_text and str in kinds):
            return values
        if kinds == {int} and -(2**63) <= min(values) and max(values) < 2**64:
            return values
        walked = []
        for number, value in enumerate(values):
            try:
                walked.append(self.walk(value, depth + 1))
            except Unsendable as error:
                raise error.inside(f"[{number}]") from None
        return walked

    def _list(self, value: list[Any], depth: int) -> Any:
        return self.items(value, depth)

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return self.ext(TUPLE, *self.items(value, depth))

    def _set(self, value: set[Any] | frozenset[Any], depth: int) -> Any:
        return self.ext(SET if type(value) is set else FROZENSET, *[self._key(key, depth) for key in value])

    def _key(self, value: Any, depth: int) -> Any:
        """Only what hashes by itself: the reader must run nobody's __hash__."""
        try:
            key: Any = value
            if not isinstance(key, KEYS + TIMES):
                raise Unsendable(f"{name_of(type(value))} can't be a key")
            if type(value) in (tuple, frozenset):
                for one in value:
                    self._key(one, depth + 1)
            return self.walk(value, depth + 1)
        except Unsendable as error:
            raise error.inside(f"<key {_shown(value)}>") from None

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        values = self.items(list(value.values()), depth) if _all_scalars(value) else self._named(value, depth)
        if set(map(type, value)) <= {str} and not self._every_text:
            return dict(zip(value, values, strict=True))
        return self.ext(DICT, [self._key(key, depth) for key in value], values)

    def _named(self, value: dict[Any, Any], depth: int) -> list[Any]:
        walked = []
        for key, one in value.items():
            try:
                walked.append(self.walk(one, depth + 1))
            except Unsendable as error:
                raise error.inside(f"[{_shown(key)}]") from None
        return walked

    def _fields(self, names: Sequence[str], values: Sequence[Any], depth: int) -> list[Any]:
        walked = []
        for name, value in zip(names, values, strict=True):
            try:
                walked.append(self.walk(value, depth + 1))
            except Unsendable as error:
                raise error.inside(f".{name}") from None
        return walked

    def _datetime(self, value: datetime.datetime, depth: int) -> Any:
        zone = value.tzinfo
        key = getattr(zone, "key", None)
        if zone is None or type(zone) is datetime.timezone:
            return self.ext(DATETIME, value.isoformat(), value.fold, None)
        if type(zone).__module__ == "zoneinfo" and isinstance(key, str):
            return self.ext(DATETIME, value.replace(tzinfo=None).isoformat(), value.fold, key)
        raise Unsendable(f"a datetime with tzinfo {name_of(type(zone))}")

    def _time(self, value: datetime.time, depth: int) -> Any:
        if value.tzinfo is not None and type(value.tzinfo) is not datetime.timezone:
            raise Unsendable(f"a time with tzinfo {name_of(type(value.tzinfo))}")
        return self.ext(TIME, value.isoformat(), value.fold)

    def _other(self, cls: Any, value: Any, depth: int) -> Any:
        if issubclass(cls, pathlib.PurePath) and cls.__module__.partition(".")[0] == "pathlib":
            return self.ext(PATH, issubclass(cls, pathlib.Path), os.fsencode(value))
        if issubclass(cls, enum.Enum):
            return self.ext(ENUM, *_class_name(cls, self.known), value._name_, self._flag(value))
        if "__dataclass_fields__" in cls.__dict__:
            return self._dataclass(cls, value, depth)
        if issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
            fields = self._fields(cls._fields, value, depth)
            return self.ext(NAMEDTUPLE, *_class_name(cls, self.known), fields)
        if cls.__module__ in ("numpy", "pyarrow.lib"):
            return self._foreign(cls, value)
        if cls is memoryview or cls.__module__ in ("array", "mmap"):
            return self.ext(MEMORY, *self._memory(memoryview(value)))
        raise Unsendable(name_of(cls))

    @staticmethod
    def _flag(value: enum.Enum) -> int | None:
        return int(value._value_) if isinstance(value, enum.Flag) else None

    def _dataclass(self, cls: type, value: Any, depth: int) -> Any:
        if "__del__" in dir(cls):
            raise Unsendable(f"{name_of(cls)} has a __del__, which the caller would run")
        names = list(cls.__dict__["__dataclass_fields__"])
        try:
            values = [object.__getattribute__(value, name) for name in names]
        except AttributeError as error:
            raise Unsendable(f"{name_of(cls)} lacks a field ({error})") from None
        return self.ext(DATACLASS, *_class_name(cls, self.known), names, self._fields(names, values, depth))

    def _memory(self, view: memoryview) -> tuple[Any, str, list[int]]:
        if view.format == "O" or not view.c_contiguous:
            raise Unsendable("a buffer that is not contiguous")
        return self.attach(view.cast("B") if view.nbytes else b""), view.format, list(view.shape or ())

    def _foreign(self, cls: type, value: Any) -> Any:
        return arrays.pack(self, cls, value)


def _all_scalars(value: dict[Any, Any]) -> bool:
    return set(map(type, value.values())) <= SCALARS


def _shown(key: object) -> str:
    text = repr(key) if isinstance(key, (str, int, float, bytes)) else name_of(type(key))
    return text if len(text) <= 60 else f"{text[:57]}..."


_PACK: dict[type, Callable[[Packer, Any, int], Any]] = {
    int: Packer._int,
    bytes: Packer._bytes,
    list: Packer._list,
    tuple: Packer._tuple,
    set: Packer._set,
    frozenset: Packer._set,
    dict: Packer._dict,
    complex: lambda p, v, _: p._ext(COMPLEX, struct.pack("<dd", v.real, v.imag)),
    decimal.Decimal: lambda p, v, _: p.ext(DECIMAL, str(v)),
    uuid.UUID: lambda p, v, _: p._ext(UUID, v.bytes),
    datetime.datetime: Packer._datetime,
    datetime.date: lambda p, v, _: p.ext(DATE, v.isoformat()),
    datetime.time: Packer._time,
    datetime.timedelta: lambda p, v, _: p.ext(TIMEDELTA, v.days, v.seconds, v.microseconds),
    bytearray: lambda p, v, _: p.ext(BYTEARRAY, p.attach(v)),
    Part: lambda p, v, depth: p.ext(PART, p.walk(v.value, depth + 1)),
}


# Back


class Unpacker:
    """Bytes to values. attached: the buffers that came beside them. most: bytes of memory that the value may take. parts: it may have any."""

    def __init__(self, attached: Sequence[memoryview], most: int, *, parts: bool = False) -> None:
        msgspec = need_msgspec()
        self._attached, self._most, self._depth, self._parts = attached, most, 0, parts
        self._decode = msgspec.msgpack.Decoder(ext_hook=self._ext).decode

    def unpack(self, data: Buffer) -> Any:
        """Raises Malformed, whatever the bytes are."""
        containers = len(bytes(data).translate(None, _NO_CONTAINER))
        if (cost := BYTE_COST * len(data) + CONTAINER_COST * containers) > self._most:
            raise Malformed(
                f"a value of {len(data)} bytes may take {cost} bytes of memory, and results_max is {self._most}"
            )
        try:
            return self._read(data)
        except Malformed:
            raise
        except Exception as error:  # whatever a library makes of bytes that somebody has made up
            raise Malformed(f"no value: {type(error).__name__}: {error}") from None

    def _read(self, data: Buffer) -> Any:
        if not _core.msgpack_check(data):
            raise Malformed("bytes that are no msgpack, or with a key that is no text")
        return self._decode(data)

    def _ext(self, code: int, data: memoryview) -> Any:
        self._depth += 1
        if self._depth > DEPTH_MAX + 1:
            raise Malformed("nested too deeply")
        try:
            if code == COMPLEX:
                return complex(*struct.unpack("<dd", data))
            if code == UUID:
                return uuid.UUID(bytes=bytes(data))
            if code == PART and self._parts:
                return self._part(data)
            make = _UNPACK.get(code)
            if make is None:
                raise Malformed(f"extension {code} is unknown")
            return make(self, *self._read(data))
        finally:
            self._depth -= 1

    def _part(self, data: memoryview) -> Part:
        try:
            (value,) = self._read(data)
        except Exception as error:
            return Part(
                None, str(error) if isinstance(error, Malformed) else f"no value: {type(error).__name__}: {error}"
            )
        return Part(value)

    def buffer(self, place: object) -> memoryview:
        """What `Packer.attach` was given."""
        if isinstance(place, bytes):
            return memoryview(bytearray(place))
        if isinstance(place, int) and 0 <= place < len(self._attached):
            return self._attached[place]
        raise Malformed("no such buffer")

    def _dict(self, keys: list[Any], values: list[Any]) -> dict[Any, Any]:
        return dict(zip(_checked(keys), values, strict=True))

    def _datetime(self, text: str, fold: int, key: str | None) -> datetime.datetime:
        value = datetime.datetime.fromisoformat(text).replace(fold=fold)
        if key is None:
            return value
        import zoneinfo

        return value.replace(tzinfo=zoneinfo.ZoneInfo(key))

    def _enum(self, module: str, qualname: str, name: str | None, flag: int | None) -> Any:
        cls = find_class(module, qualname)
        if cls is None or not issubclass(cls, enum.Enum):
            raise Malformed(f"{module}.{qualname} is no Enum here")
        if name is not None and name in cls._member_map_:
            return cls._member_map_[name]
        if not issubclass(cls, enum.Flag) or not isinstance(flag, int):
            raise Malformed(f"{module}.{qualname} has no {name!r}")
        found = cls._value2member_map_.get(flag)
        return enum.Flag._missing_.__func__(cls, flag) if found is None else found  # type: ignore[attr-defined]

    def _dataclass(self, module: str, qualname: str, names: list[str], values: list[Any]) -> Any:
        cls = find_class(module, qualname)
        fields = cls.__dict__.get("__dataclass_fields__") if cls is not None else None
        if cls is None or fields is None or list(fields) != names or "__del__" in dir(cls):
            raise Malformed(f"{module}.{qualname} is no dataclass of these fields here")
        made: object = object.__new__(cls)
        for name, value in zip(names, values, strict=True):
            _put(made, cls, name, value)
        return made

    def _namedtuple(self, module: str, qualname: str, values: list[Any]) -> Any:
        cls: Any = find_class(module, qualname)
        fields = cls.__dict__.get("_fields") if cls is not None and issubclass(cls, tuple) else None
        if not isinstance(fields, tuple) or len(fields) != len(values):
            raise Malformed(f"{module}.{qualname} is no named tuple of {len(values)} here")
        if "__del__" in dir(cls):
            raise Malformed(f"{module}.{qualname} has a __del__")
        return tuple.__new__(cls, values)

    def _memory(self, place: object, form: str, shape: list[int]) -> memoryview:
        view = self.buffer(place)
        return view.cast(form, shape) if view.nbytes else view  # type: ignore[call-overload]

    def _array(self, *parts: Any) -> Any:
        return arrays.array(self, *parts)

    def _scalar(self, *parts: Any) -> Any:
        return arrays.array(self, *parts)[()]

    def _table(self, place: object) -> Any:
        return arrays.table(self, place)


def _put(made: object, cls: type, name: str, value: object) -> None:
    """Into a slot, or the instance's dictionary; never through a property or a __setattr__ of the class."""
    for base in cls.__mro__:
        slot = base.__dict__.get(name)
        if type(slot).__name__ == "member_descriptor":
            slot.__set__(made, value)  # type: ignore[union-attr]
            return
    object.__getattribute__(made, "__dict__")[name] = value


def _checked(keys: Sequence[Any]) -> Sequence[Any]:
    """Keys that may be hashed, and whose hashes differ: thousands that were made alike would keep us busy for hours."""
    for key in keys:
        _checked_key(key)
    if len(keys) - len(set(map(hash, keys))) > ALIKE_MOST:
        raise Malformed("keys that all have the same hash")
    return keys


def _checked_key(key: Any) -> Any:
    """Whatever was sent: hashing it must run nothing but Python's own code."""
    if not isinstance(key, KEYS + TIMES):
        raise Malformed(f"{name_of(type(key))} as a key")
    if isinstance(key, enum.Enum):
        if type(key).__hash__ not in (enum.Enum.__hash__, int.__hash__, str.__hash__):
            raise Malformed(f"{name_of(type(key))} has a __hash__ of its own")
    elif isinstance(key, (tuple, frozenset)):
        if type(key) not in (tuple, frozenset):
            raise Malformed(f"{name_of(type(key))} as a key")
        for one in key:
            _checked_key(one)
    return key


_UNPACK: dict[int, Callable[..., Any]] = {
    TUPLE: lambda u, *items: items,
    SET: lambda u, *items: set(_checked(items)),
    FROZENSET: lambda u, *items: frozenset(_checked(items)),
    INT: lambda u, data: int.from_bytes(data, "little", signed=True),
    DECIMAL: lambda u, text: decimal.Decimal(text),
    DATETIME: Unpacker._datetime,
    DATE: lambda u, text: datetime.date.fromisoformat(text),
    TIME: lambda u, text, fold: datetime.time.fromisoformat(text).replace(fold=fold),
    TIMEDELTA: lambda u, *parts: datetime.timedelta(*parts),
    BYTEARRAY: lambda u, place: bytearray(u.buffer(place)),
    PATH: lambda u, real, data: (pathlib.PosixPath if real else pathlib.PurePosixPath)(os.fsdecode(data)),
    ENUM: Unpacker._enum,
    DATACLASS: Unpacker._dataclass,
    NAMEDTUPLE: Unpacker._namedtuple,
    ARRAY: Unpacker._array,
    SCALAR: Unpacker._scalar,
    MEMORY: Unpacker._memory,
    TABLE: Unpacker._table,
    BYTES: lambda u, place: bytes(u.buffer(place)),
    DICT: Unpacker._dict,
    TEXT: lambda u, data: data.decode("utf-8", "surrogatepass"),
}
