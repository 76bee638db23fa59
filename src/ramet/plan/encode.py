"""A stage as the bytes that csrc/steps.c runs. The layout is described in csrc/steps.h."""

from __future__ import annotations

import os
import struct

from ramet.plan.calls import numbers
from ramet.plan.steps import Block, Ptr, Slot, Stage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from ramet.plan.steps import Arg, Plan, Step

MAGIC = 0x31544D52
HEADER = struct.Struct("<4I")
STEP = struct.Struct("<iHBBIi6Q")
IMMEDIATE, ADDRESS, SLOT = 0, 1, 2
EXPECT, SAVE = 1 << 12, 1 << 13
NR_INJECT = -1
RELOC_PAD = 4
NO_FD = struct.pack("<i", -1)
MASK64 = 2**64 - 1


class Encoded:
    """A program, and at which offsets of its data its slots are. inputs: those that no step of it fills, and the caller may."""

    __slots__ = ("blob", "inputs", "offsets")

    def __init__(self, blob: bytes, offsets: Mapping[Slot, int], results: Set[Slot]) -> None:
        self.blob, self.offsets = blob, offsets
        self.inputs = tuple((slot, offset) for slot, offset in offsets.items() if slot not in results)


class _Data:
    """The data that calls point to: strings once each, structures, slots."""

    def __init__(self) -> None:
        self.bytes = bytearray(8)  # the spare word that padding relocations point to
        self.relocs: list[int] = []
        self.slots: dict[Slot, int] = {}
        self.strings: dict[bytes, int] = {}

    def slot(self, slot: Slot) -> int:
        """Where a slot is; new ones hold -1, so that one never filled is no descriptor."""
        found = self.slots.get(slot)
        if found is None:
            self._align(4)
            found = self.slots[slot] = len(self.bytes)
            self.bytes += NO_FD
        return found

    def string(self, text: str | bytes) -> int:
        data = os.fsencode(text)
        found = self.strings.get(data)
        if found is None:
            found = self.strings[data] = len(self.bytes)
            self.bytes += data
            self.bytes.append(0)
        return found

    def block(self, block: Block) -> int:
        # Pointees first: what a block points to must have its place before the block's own bytes are laid.
        places = [self._place(part.to) if isinstance(part, Ptr) else 0 for part in block]
        self._align(8)
        start = len(self.bytes)
        for part, place in zip(block, places, strict=True):
            if isinstance(part, Ptr):
                self.relocs.append(len(self.bytes))
                self.bytes += place.to_bytes(8, "little")
            elif isinstance(part, Slot):
                if part in self.slots:
                    raise ValueError(f"{part!r} already has a place")
                self.slots[part] = len(self.bytes)
                self.bytes += NO_FD
            else:
                self.bytes += part
        return start

    def _place(self, thing: str | bytes | Block) -> int:
        return self.block(thing) if isinstance(thing, Block) else self.string(thing)

    def _align(self, width: int) -> None:
        self.bytes += bytes(-len(self.bytes) % width)


def encode(stage: Stage, machine: str, *, fail: Mapping[int, int] | None = None) -> Encoded:
    """The stage as a program. fail: step number -> errno that it returns instead of being made (for tests)."""
    data = _Data()
    table = numbers(machine)
    # A slot that is part of a structure lives there: lay those structures first.
    blocks: dict[int, int] = {}
    for step in stage.steps:
        for arg in step.args:
            if isinstance(arg, Block) and id(arg) not in blocks:
                blocks[id(arg)] = data.block(arg)
    steps = bytearray()
    last = len(stage.steps) - 1
    for number, step in enumerate(stage.steps):
        steps += _step(step, table, data, blocks, fail or {}, number, number == last)
    relocs = data.relocs + [0] * (-len(data.relocs) % RELOC_PAD)
    blob = b"".join(
        (
            HEADER.pack(MAGIC, len(stage.steps), len(relocs), len(data.bytes)),
            steps,
            struct.pack(f"<{len(relocs)}I", *relocs),
            data.bytes,
        )
    )
    return Encoded(blob, data.slots, {step.result for step in stage.steps if step.result is not None})


def _step(
    step: Step,
    table: Mapping[str, int],
    data: _Data,
    blocks: Mapping[int, int],
    fail: Mapping[int, int],
    number: int,
    last: bool,
) -> bytes:
    kinds, args = 0, [0, 0, 0, 0, 0, 0]
    for i, arg in enumerate(step.args):
        kind, args[i] = _arg(arg, data, blocks)
        kinds |= kind << (2 * i)
    nr, save, expect = table[step.call], 0, 0
    allow = (*step.allow, 0, 0)
    if step.retries and not last:
        allow = (2, 20)  # ENOENT, ENOTDIR: the next candidate
    if step.result is not None:
        kinds |= SAVE
        save = data.slot(step.result)
    if step.expect is not None:
        kinds |= EXPECT
        expect = step.expect
    if number in fail:
        nr, kinds, args[0], allow = NR_INJECT, kinds & ~3, -fail[number] & MASK64, (0, 0)
    return STEP.pack(nr, kinds, allow[0], allow[1], save, expect, *args)


def _arg(arg: Arg, data: _Data, blocks: Mapping[int, int]) -> tuple[int, int]:
    if isinstance(arg, int):
        return IMMEDIATE, arg & MASK64
    if isinstance(arg, Slot):
        return SLOT, data.slot(arg)
    if isinstance(arg, Block):
        return ADDRESS, blocks[id(arg)]
    return ADDRESS, data.string(arg)


class Encodings:
    """Every stage of a plan as a program; None for those it does not have."""

    __slots__ = ("child", "init", "join", "payload", "view")
    child: Encoded
    join: Encoded | None
    payload: Encoded | None
    init: Encoded | None
    view: Encoded | None

    def __init__(self, plan: Plan, fail: Mapping[str, Mapping[int, int]]) -> None:
        for name in self.__slots__:
            stage = plan.stages.get(name)
            found = encode(stage, plan.facts.machine, fail=fail.get(name)) if stage is not None else None
            setattr(self, name, found)


def encodings(plan: Plan) -> Encodings:
    """The plan's encodings, made once."""
    if plan.encoded is None:
        plan.encoded = Encodings(plan, {})
    return plan.encoded


def failing(plan: Plan, stage: str, number: int, errno: int) -> Encodings:
    """The same with one step that is not made but returns an errno. For tests: what does a failure leave behind?"""
    return Encodings(plan, {stage: {number: errno}})
