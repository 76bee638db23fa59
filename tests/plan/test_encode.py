"""encode: the layout of csrc/steps.h, byte for byte where it matters."""

import struct
from pathlib import Path

import pytest
from plan_facts import ROOT, USER

from ramet.plan.calls import numbers
from ramet.plan.compile import compile
from ramet.plan.encode import (
    ADDRESS,
    EXPECT,
    HEADER,
    MAGIC,
    NR_INJECT,
    SAVE,
    SLOT,
    STEP,
    encode,
    encodings,
    failing,
)
from ramet.plan.finish import INIT_RUNNING, PAYLOAD_PID, PID_TEXT_SIZE
from ramet.plan.steps import Block, Ptr, Slot, Stage, Step
from ramet.spec import Command, Join, Sandbox

CSRC = Path(__file__).parents[2] / "csrc"


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


def test_every_stage_of_a_plan_has_its_program():
    """With init there are three programs, and one more where something is joined; without it there is the child's alone."""
    shapes = {
        ("child", "init", "payload"): Sandbox(),
        ("child", "init", "join", "payload"): Sandbox(namespaces={"pid"}, join=[Join("net", pid=5)]),
        ("child",): Sandbox(as_pid1=True),
    }
    for names, spec in shapes.items():
        plan = compile(spec, ROOT, Command(("/bin/true",)))
        made = {name: getattr(encodings(plan), name) for name in ("child", "init", "join", "payload")}
        assert {name for name, program in made.items() if program is not None} == set(names)
        for name in names:
            assert HEADER.unpack_from(made[name].blob)[1] == len(plan.stages[name].steps)


def test_places_that_init_is_started_with():
    """The word that the payload's process waits for is aligned and holds no 0 that would open it; the pid's digits have
    PID_TEXT_SIZE bytes of their own, which init's second argument points to."""
    plan = compile(Sandbox(), USER, Command(("/bin/true",)))
    whole = encodings(plan)
    gate, text = whole.payload.offsets[INIT_RUNNING], whole.init.offsets[PAYLOAD_PID]
    assert gate % 4 == 0
    _, count, relocs, size = HEADER.unpack_from(whole.init.blob)
    data = whole.init.blob[-size:]
    assert data[text : text + PID_TEXT_SIZE] == b"\xff" * 4 + bytes(PID_TEXT_SIZE - 4)
    argv = STEP.unpack_from(whole.init.blob, HEADER.size + (count - 1) * STEP.size)[8]
    places = struct.unpack_from(f"<{relocs}I", whole.init.blob, HEADER.size + count * STEP.size)
    assert argv + 8 in places and struct.unpack_from("<Q", data, argv + 8)[0] == text
    others = [place for slot, place in whole.init.offsets.items() if slot != PAYLOAD_PID]
    assert not any(text <= place < text + PID_TEXT_SIZE for place in others)
    with open(CSRC / "child.h") as header:
        assert f"#define PID_TEXT_SIZE {PID_TEXT_SIZE}\n" in header.read()
