"""Values on the wire: what was sent is what comes, and nothing of what somebody makes up."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import random
import sys
import uuid
import zoneinfo

import numpy
import pyarrow
import pytest

from ramet import CLONE
from ramet.call import wire
from ramet.call.wire import Malformed, Packer, Unpacker, Unsendable

MOST = 1 << 30


@dataclasses.dataclass
class Row:
    number: int
    more: object = None

    def __post_init__(self):
        ran.append(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    number: int
    more: object = None


@dataclasses.dataclass
class Guarded:
    number: int

    def __setattr__(self, name, value):
        ran.append(name)
        object.__setattr__(self, name, value)

    def __hash__(self):
        ran.append("hash")
        return 1


@dataclasses.dataclass
class Destroyed:
    number: int

    def __del__(self):
        ran.append("deleted")


class Colour(enum.Enum):
    RED = 1
    BLUE = (2, "b")


class Text(enum.StrEnum):
    ONE = "one"


Point = collections.namedtuple("Point", "x y")
ran: list[object] = []


def sent(value, known=None):
    """The value as it comes out at the other side."""
    packer = Packer(frozenset(sys.modules) if known is None else known)
    data = packer.pack(value)
    return Unpacker([memoryview(bytearray(one)) for one in packer.attached], MOST).unpack(data)


NOW = datetime.datetime(2026, 11, 21, 12, 0, 0, 5)
PLAIN = [
    *(None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**60, -(10**60)),
    *(1.5, float("inf"), -0.0, "", "ü", "\udc80", b"", b"abc", b"x" * 200_000, 1 + 2j, bytearray(b"ab"), bytearray(200_000)),
    *([], [1, "a", [None]], (), (1, (2,)), set(), {1, "a"}, frozenset({(1, 2)}), {}, {"a": 1}, {1: 2, (1, "x"): {2}}),
    *({"\udc80": ["\udc81"]}, [10**30, 1], list(range(1000)), {"a": {"b": (1,)}}),
    *(decimal.Decimal("1.10"), decimal.Decimal("NaN").copy_abs(), uuid.UUID(int=5)),
    *(NOW, NOW.replace(tzinfo=datetime.UTC), NOW.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)),
    *(NOW.date(), NOW.time(), NOW.timetz().replace(tzinfo=datetime.UTC), datetime.timedelta(-1, 2, 3)),
    *(pathlib.Path("/a/ü"), pathlib.PurePosixPath("b\udcff"), Colour.RED, Colour.BLUE, Text.ONE, CLONE.VM | CLONE.FILES),
    *(Row(1, [Slotted(2, "x")]), Slotted(1, (2,)), Point(1, (2,)), memoryview(b"abc")),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:40])
def test_comes_as_it_went(value):
    """Each kind of value comes back equal, and of the same type."""
    found = sent(value)
    assert type(found) is type(value)
    assert repr(found) == repr(value) if value != value else found == value
    if isinstance(value, datetime.datetime):
        assert (found.tzinfo, found.fold) == (value.tzinfo, value.fold)


ARRAYS = [
    numpy.arange(12).reshape(3, 4),
    numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4)),
    numpy.zeros((0, 3)),
    numpy.array(5),
    numpy.arange(100_000.0)[::2],
    numpy.array([(1, [2.0, 3.0])], dtype=[("a", "i4"), ("b", "f8", (2,))]),
    numpy.zeros(3, numpy.dtype([("a", "i1"), ("b", "i8")], align=True)),
    numpy.array(["a", "bcd"]),
    numpy.array(["2026-01-01"], dtype="M8[D]"),
    numpy.array([True, False]),
    numpy.array([1, 2], ">i4"),
    numpy.array([1 + 2j], "c8"),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{value.dtype.str}{value.shape}")
def test_arrays(value):
    """numpy arrays of every layout and type without Python objects come back, and can be written to."""
    found = sent(value)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert (found == value).all()
    assert found.flags.writeable


def test_scalars_tables_and_buffers():
    """numpy scalars keep their type; Arrow tables are equal; other buffers come as memoryviews of their format."""
    assert type(sent(numpy.float32(1.5))) is numpy.float32
    table = pyarrow.table({"a": [1, 2, None], "s": ["x", "y", "z" * 100_000]})
    assert sent(table).equals(table)
    found = sent(array.array("d", [1, 2]))
    assert (found.tolist(), found.format) == ([1.0, 2.0], "d")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (object(), "value: builtins.object"),
        ([1, {"x": [object()]}], "value[1]['x'][0]: builtins.object"),
        (Row(1, {"k": test_arrays}), "value.more['k']: builtins.function"),
        (Point(1, {2: sys}), "value.y[2]: builtins.module"),
        (numpy.array([object()]), "value: numpy.ndarray of Python objects (dtype object)"),
        ({Slotted(1): 1}, "value<key test_wire.Slotted>: test_wire.Slotted can't be a key"),
        (collections.OrderedDict(), "value: collections.OrderedDict"),
        (Destroyed(1), "value: test_wire.Destroyed has a __del__, which the caller would run"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unknown_type_names_its_place(value, said):
    """What has no form on the wire is refused where it is, by the path inside the value."""
    with pytest.raises(Unsendable) as caught:
        sent(value)
    assert str(caught.value) == said


def test_a_class_must_be_findable():
    """A local class, and one of a module that the reader has not imported, are refused by the sender."""

    @dataclasses.dataclass
    class Local:
        n: int

    with pytest.raises(Unsendable, match="can't be found by its name"):
        sent(Local(1))
    with pytest.raises(Unsendable, match="had not imported"):
        sent(Row(1), known=frozenset({"builtins"}))


def test_endless_nesting_is_refused():
    """A list in itself, and one nested too deeply, are refused; one less deep is not."""
    endless: list[object] = []
    endless.append(endless)
    deep: object = 1
    for _ in range(90):
        deep = [deep]
    assert sent(deep) == deep
    with pytest.raises(Unsendable, match="nested deeper than 100"):
        sent(endless)


def test_no_code_of_a_class_runs():
    """A dataclass is made without __init__, __post_init__ or __setattr__; the sender's own have run, which is the control."""
    ran.clear()
    row, guarded = Row(1), Guarded(2)
    assert ran == [row, "number"]
    ran.clear()
    assert sent([row, guarded]) == [row, guarded]
    assert ran == []


def forged(code, *parts):
    """A message that no Packer would write."""
    import msgspec

    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(parts)))


class Property:
    """Stands for a class of the caller's that is no dataclass."""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 100_000,
        forged(99, 1),
        forged(wire.DATACLASS, "os", "system", ["x"], [1]),
        forged(wire.DATACLASS, __name__, "Property", [], []),
        forged(wire.DATACLASS, __name__, "Row", ["number"], [1]),
        forged(wire.DATACLASS, __name__, "Row", ["number", "__class__"], [1, 2]),
        forged(wire.DATACLASS, __name__, "Destroyed", ["number"], [1]),
        forged(wire.DATACLASS, "this", "x", [], []),
        forged(wire.ENUM, __name__, "Colour", "GREEN", None),
        forged(wire.ENUM, __name__, "Row", "number", None),
        forged(wire.NAMEDTUPLE, __name__, "Point", [1]),
        forged(wire.NAMEDTUPLE, "builtins", "tuple", []),
        forged(wire.ARRAY, b"12345678", "|O8", [1], False),
        forged(wire.ARRAY, b"12345678", "(2)O", [1], False),
        forged(wire.ARRAY, b"12345678", [[["a", "|O8", [], 0]], 8], [1], False),
        forged(wire.ARRAY, b"12345678", [[["a", "<i8", [], 64]], 8], [1], False),
        forged(wire.ARRAY, b"12345678", "<i8", [1 << 40], False),
        forged(wire.ARRAY, b"12345678", "<i8", [-1], False),
        forged(wire.ARRAY, 7, "<i8", [1], False),
        forged(wire.TABLE, b"not arrow"),
        forged(wire.SET, [1]),
        forged(wire.DATETIME, "2026-01-01", 0, "../../etc/passwd"),
    ],
    ids=lambda data: repr(bytes(data))[:50],
)
def test_made_up_messages(data):
    """Whatever the bytes are, reading them is a Malformed, and imports and runs nothing."""
    ran.clear()
    with pytest.raises(Malformed):
        Unpacker([], MOST).unpack(data)
    assert ran == []
    assert "this" not in sys.modules


def test_no_hash_of_a_class_runs():
    """A dataclass as a key or a member of a set is refused before anything is hashed."""
    import msgspec

    ran.clear()
    guarded = Packer(frozenset(sys.modules)).walk(Guarded(1), 0)
    ran.clear()
    for code, parts in ((wire.SET, [guarded]), (wire.DICT, [[guarded], [1]]), (wire.DICT, [[[guarded]], [1]])):
        data = msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(parts)))
        with pytest.raises(Malformed):
            Unpacker([], MOST).unpack(data)
    assert ran == []


def test_keys_that_are_made_alike():
    """A set or dictionary whose keys all have one hash, and a map with keys that are no text, are refused at once; others come."""
    import msgspec

    encode = msgspec.msgpack.encode
    packer = Packer(frozenset(sys.modules))
    alike = [packer.walk(n * (2**61 - 1), 0) for n in range(2000)]
    for code, parts in ((wire.SET, alike), (wire.DICT, [alike, alike])):
        with pytest.raises(Malformed, match="same hash"):
            Unpacker([], MOST).unpack(encode(msgspec.msgpack.Ext(code, encode(parts))))
    with pytest.raises(Malformed, match="a key that is no text"):
        Unpacker([], MOST).unpack(encode({1: 2}))
    assert sent(dict.fromkeys(range(-5, 5000))) == dict.fromkeys(range(-5, 5000))
    assert Unpacker([], MOST).unpack(encode({"1": {"2": 3}})) == {"1": {"2": 3}}


def test_what_memory_it_may_take():
    """A message whose value would take more memory than allowed is refused before it is read: empty lists are 80 bytes each."""
    import msgspec

    data = msgspec.msgpack.encode([[]] * 100_000)
    assert len(Unpacker([], MOST).unpack(data)) == 100_000
    with pytest.raises(Malformed, match="may take"):
        Unpacker([], 5_000_000).unpack(data)


def test_noise():
    """20,000 messages with a few bytes changed are values or Malformed, and nothing else."""
    rng = random.Random(20261121)
    whole = [
        (packer.pack(value), len(packer.attached))
        for value in PLAIN + ARRAYS
        if (packer := Packer(frozenset(sys.modules)))
    ]
    outcomes = {True: 0, False: 0}
    for _ in range(20_000):
        data, attached = rng.choice(whole)
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            if changed:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            Unpacker([memoryview(bytearray(8))] * attached, 1 << 26).unpack(changed)
            outcomes[True] += 1
        except Malformed:
            outcomes[False] += 1
    assert min(outcomes.values()) > 1000
