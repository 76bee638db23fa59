"""encode: the layout of csrc/steps.h, byte for byte where it matters."""

import struct

import pytest
from plan_facts import ROOT, USER

from ramet.plan.calls import numbers
from ramet.plan.compile import compile
from ramet.plan.encode import (
    ADDRESS,
    EXPECT,
    HEADER,
    INIT_HEAD,
    MAGIC,
    NR_INJECT,
    SAVE,
    SLOT,
    STEP,
    encode,
    encodings,
    failing,
)
from ramet.plan.steps import Block, Ptr, Slot, Stage, Step
from ramet.spec import Command, Sandbox


def step(call, *args, result=None, allow=(), expect=None, retries=False):
    return Step(call, args, result, "test", "test", allow, expect, retries)


def laid(*steps, machine="x86_64", **more):
    """The program's parts: steps as tuples (nr, kinds, allow0, allow1, save, expect, *args), relocations,
    data, offsets."""
    encoded = encode(Stage("child", steps), machine, **more)
    magic, count, relocs, size = HEADER.unpack_from(encoded.blob)
    assert magic == MAGIC
    at = HEADER.size
    found = [STEP.unpack_from(encoded.blob, at + n * STEP.size) for n in range(count)]
    at += count * STEP.size
    places = struct.unpack_from(f"<{relocs}I", encoded.blob, at)
    data = encoded.blob[at + 4 * relocs :]
    assert len(data) == size
    return found, places, data, encoded.offsets


def test_integers_are_passed_as_64_bits():
    """An int is an immediate, negative ones in two's complement."""
    ((nr, kinds, *_, a, b, c, _d, _e, _f),), *_ = laid(step("openat", -100, 2**63, 7))
    assert (nr, kinds) == (257, 0)
    assert (a, b, c) == (2**64 - 100, 2**63, 7)


def test_numbers_are_the_machines():
    """The same step has another number on another machine."""
    x86, arm = (laid(step("close", 3), machine=machine)[0][0][0] for machine in ("x86_64", "aarch64"))
    assert (x86, arm) == (numbers("x86_64")["close"], numbers("aarch64")["close"]) == (3, 57)


def test_text_is_a_pointer_to_a_terminated_string_kept_once():
    """Equal texts share a place; bytes and text of the same content too; each ends in NUL."""
    steps, _, data, _ = laid(step("chdir", "/a"), step("chdir", b"/a"), step("chdir", "/b"), step("chdir", "\udcff"))
    kinds, places = {s[1] for s in steps}, [s[6] for s in steps]
    assert kinds == {ADDRESS}
    assert places[0] == places[1] != places[2]
    assert data[places[0] :].startswith(b"/a\0")
    assert data[places[3] :].startswith(b"\xff\0")


def test_slot_holds_minus_one_until_filled():
    """A result and the later argument of the same name are one aligned word, -1 at first: no descriptor."""
    steps, _, data, offsets = laid(step("open_tree", 1, result=Slot("a")), step("close", Slot("a")))
    (opened, closed), at = steps, offsets[Slot("a")]
    assert opened[1] & SAVE and opened[4] == at
    assert closed[1] == SLOT and closed[6] == at
    assert at % 4 == 0 and data[at : at + 4] == b"\xff" * 4


def test_structure_is_laid_with_pointers_relocated():
    """A Block's pointers are offsets named by relocations; a Slot in it lives inside the structure."""
    block = Block(Ptr("x"), struct.pack("<I", 7), Slot("fd"), Ptr(Block(b"inner")), text="{}")
    steps, relocs, data, offsets = laid(step("read", Slot("fd"), block, 8))
    start = steps[0][7]
    assert start % 8 == 0
    assert offsets[Slot("fd")] == start + 12 == steps[0][6]
    assert {start, start + 16} <= set(relocs)
    pointed = [struct.unpack_from("<Q", data, place)[0] for place in (start, start + 16)]
    assert data[pointed[0] :].startswith(b"x\0")
    assert data[pointed[1] :].startswith(b"inner")


def test_relocations_are_padded_at_a_spare_word():
    """Their count is a multiple of four, so that the data stays aligned; the rest point at a word nobody
    uses."""
    for count in range(6):
        strings = [Ptr(f"s{n}") for n in range(count)]
        steps, relocs, _data, _ = laid(step("execve", "p", Block(*strings, bytes(8)), Block(bytes(8))))
        assert len(relocs) % 4 == 0
        assert relocs.count(0) == len(relocs) - count
        assert steps[0][7] != 0


def test_expect_and_allow_are_kept():
    """What is expected of a result, and which errnos are none, are part of the step."""
    (first, second), *_ = laid(step("write", 1, b"x", 1, expect=1), step("mkdirat", 1, "a", 0, allow=(17, 30)))
    assert first[1] & EXPECT and first[5] == 1
    assert second[2:4] == (17, 30)


def test_every_attempt_but_the_last_may_not_be_found():
    """execve along PATH: ENOENT and ENOTDIR go to the next candidate, the last one's failure is the
    verdict."""
    tries = [step("execve", name, Block(bytes(8)), Block(bytes(8)), retries=True) for name in ("a", "b")]
    (first, last), *_ = laid(*tries)
    assert first[2:4] == (2, 20)
    assert last[2:4] == (0, 0)


def test_injected_failure_replaces_the_call_and_its_tolerance():
    """A step made to fail is not made, returns -errno, and is a failure even where that errno is allowed."""
    (kept, failed), *_ = laid(step("close", 3), step("close", Slot("x"), allow=(9,), expect=0), fail={1: 9})
    assert kept[0] == 3
    assert failed[0] == NR_INJECT
    assert failed[2:4] == (0, 0)
    assert failed[6] == 2**64 - 9
    assert failed[1] & 3 == 0


def test_one_slot_in_two_structures_is_refused():
    """A slot can live in one place only."""
    with pytest.raises(ValueError, match="already has a place"):
        laid(step("read", 0, Block(Slot("fd"))), step("read", 0, Block(Slot("fd"), b"other")))


def test_encodings_are_made_once_and_failing_ones_apart():
    """A plan keeps its programs; one made to fail leaves them alone."""
    plan = compile(Sandbox(), USER, Command(("/bin/true",)))
    kept = encodings(plan)
    assert failing(plan, "child", 3, 1).child.blob != kept.child.blob
    assert encodings(plan) is kept


def test_tail_is_laid_as_init_reads_it():
    """Head, then two programs, each at a multiple of 16; the sizes add up."""
    plan = compile(Sandbox(), ROOT, Command(("/bin/true",)))
    tail = encodings(plan).tail(quiet=False)
    magic, control, watch, own, payload, quiet = INIT_HEAD.unpack_from(tail)
    assert (magic, control, watch, quiet) == (0x31494D52, plan.control, plan.watch, 0)
    assert INIT_HEAD.unpack_from(encodings(plan).tail(quiet=True))[-1] == 1
    assert INIT_HEAD.size == 32 and own % 16 == 0
    assert len(tail) == INIT_HEAD.size + own + payload
    assert HEADER.unpack_from(tail, INIT_HEAD.size)[1] == 0
    assert HEADER.unpack_from(tail, INIT_HEAD.size + own)[1] == len(plan.stages["payload"].steps)
