"""The records of csrc/trace.h, from bytes. Pure."""

from __future__ import annotations

import struct
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NamedTuple

    class Record(NamedTuple):
        """See below."""

        kind: int
        tid: int
        value: int
        arch: int = 0
        args: tuple[int, ...] = ()
        tail: bytes = b""
        tail_state: int = 0
else:

    class Record(namedtuple("Record", "kind tid value arch args tail tail_state", defaults=(0, (), b"", 0))):
        """One event of a task. value: by kind, as csrc/trace.h has it; tail: the memory an argument points to."""

        __slots__ = ()


ENTER, LEAVE, CHILD, EXEC, INSIDE, END = range(1, 7)
UNREADABLE, CUT = 1, 2
HEAD = struct.Struct("=IHHiIq6QII")
_BEGIN = struct.Struct("=IHHiIq")


def parse(chunks: Iterable[bytes]) -> Iterator[Record]:
    """The records of these chunks; each chunk ends with a whole one."""
    begin, whole = _BEGIN.unpack_from, HEAD.unpack_from  # most have neither arguments nor a tail
    for chunk in chunks:
        at, end = 0, len(chunk)
        while at < end:
            size, kind, _, tid, _, value = begin(chunk, at)
            if kind == ENTER or size > HEAD.size:
                _, _, state, _, arch, _, *args, tail, _ = whole(chunk, at)
                first = at + HEAD.size
                yield Record(kind, tid, value, arch, tuple(args), chunk[first : first + tail], state)
            else:
                yield Record(kind, tid, value)
            at += size


def pack(record: Record) -> bytes:
    """The opposite of parse, for tests."""
    padded = record.tail + bytes(-len(record.tail) % 8)
    args = record.args or (0,) * 6
    head = HEAD.pack(
        HEAD.size + len(padded),
        record.kind,
        record.tail_state,
        record.tid,
        record.arch,
        record.value,
        *args,
        len(record.tail),
        0,
    )
    return head + padded
