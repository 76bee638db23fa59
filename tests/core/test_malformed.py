"""Blobs that nobody should make: refused, never a crash."""

import struct

import pytest
from core_programs import CHILD, end
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ramet import _core
from ramet.plan.encode import HEADER, MAGIC, NR_INJECT, STEP

WORDS = st.one_of(
    st.integers(0, 300),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 8, 2**32 - 4, 2**32 - 1, 2**63, 2**64 - 8, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
SHORT = WORDS.map(lambda n: n & 0xFFFFFFFF)
#: No call is ever made: only the check and the loading are tried.
STEPS = st.tuples(
    st.just(NR_INJECT), st.integers(0, 2**16 - 1), *[st.integers(0, 255)] * 2, SHORT, st.just(0), *[WORDS] * 6
)


def quickly(examples):
    """So many examples, and no clock: a busy machine is slow with any of them, and with making them up."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def program(steps, relocs, data, header=None):
    counts = {"magic": MAGIC, "steps": len(steps), "relocs": len(relocs), "size": len(data)} | (header or {})
    return (
        HEADER.pack(*counts.values())
        + b"".join(STEP.pack(*step) for step in steps)
        + struct.pack(f"<{len(relocs)}I", *relocs)
        + data
    )


def well_formed(steps, relocs, data):
    """The rules of csrc/steps.h, once more."""

    def fits(offset, width):
        return offset % width == 0 and offset + width <= len(data)

    if len(relocs) % 4 or not all(fits(reloc, 8) for reloc in relocs):
        return False
    for _nr, kinds, _allow0, _allow1, save, _expect, *args in steps:
        if kinds >> 13 & 1 and not fits(save, 4):
            return False
        for i, arg in enumerate(args):
            kind = kinds >> 2 * i & 3
            if kind == 3 or (kind == 1 and not fits(arg, 1)) or (kind == 2 and not fits(arg, 4)):
                return False
    return True


def accepted(blob, inputs=()):
    try:
        found = _core.spawn(blob, inputs, 0)
    except ValueError as refused:
        assert "malformed" in str(refused)  # noqa: PT017  (most programs are not refused)
        return False
    if found[0] > 0:
        end(found[1])
    else:
        assert found[2] == CHILD
    return True


@quickly(400)
@given(st.lists(STEPS, max_size=3), st.lists(SHORT, max_size=8), st.binary(max_size=64))
def test_programs_are_accepted_exactly_when_well_formed(steps, relocs, data):
    """Offsets of slots, addresses and relocations outside the data, or not aligned, are refused; all else
    runs."""
    assert accepted(program(steps, relocs, data)) == well_formed(steps, relocs, data)


@quickly(200)
@given(st.lists(STEPS, max_size=3), st.integers(0, 8), st.data())
def test_sizes_must_add_up(steps, words, data):
    """A header that promises more or less than there is, is refused."""
    field = data.draw(st.sampled_from(["magic", "steps", "relocs", "size"]))
    steps = [(*step[:1], 0, *step[2:]) for step in steps]
    payload = bytes(8 * words)
    true = {"magic": MAGIC, "steps": len(steps), "relocs": 0, "size": len(payload)}[field]
    said = data.draw(SHORT.filter(lambda word: word != true))
    assert accepted(program(steps, [], payload))
    assert not accepted(program(steps, [], payload, {field: said}))


@quickly(100)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(blob):
    """Bytes that are no program are refused, whatever their length."""
    with pytest.raises(ValueError, match="malformed"):
        _core.spawn(blob, [], 0)


@quickly(200)
@given(st.integers(0, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_inputs_outside_the_data_are_refused(offset, value):
    """An input's word must lie in the data, aligned."""
    blob = program([], [], bytes(64))
    if offset % 4 == 0 and offset + 4 <= 64:
        assert accepted(blob, [(offset, value)])
    else:
        with pytest.raises((ValueError, OverflowError)):
            _core.spawn(blob, [(offset, value)], 0)


@pytest.mark.parametrize(
    ("inputs", "raised"),
    [
        (7, TypeError),
        ([7], TypeError),
        ([(1,)], TypeError),
        ([("a", 1)], TypeError),
        ([(8, 2**31)], OverflowError),
        ([(-4, 0)], (ValueError, OverflowError)),
    ],
)
def test_inputs_of_the_wrong_form_are_refused(inputs, raised):
    """Inputs are (offset, value) pairs of ints, and nothing was started for others."""
    with pytest.raises(raised):
        _core.spawn(program([], [], bytes(64)), inputs, 0)


def test_join_program_is_checked_too():
    """The intermediate's program is held to the same rules."""
    with pytest.raises(ValueError, match="malformed"):
        _core.spawn(program([], [], b""), [], 0, join=(b"no program at all", []))


STEP_MADE_TO_FAIL = program([(NR_INJECT, 0, 0, 0, 0, 0, *[2**64 - 99] + [0] * 5)], [], bytes(64))
NOTHING = program([], [], bytes(64))


def with_init(**changed):
    """A spawn whose child fails in its first step, so that nothing else runs; well-formed but for what is changed."""
    given = {"payload": (NOTHING, []), "init": (NOTHING, []), "gate": 0, "pid_text": 0} | changed
    return _core.spawn(STEP_MADE_TO_FAIL, [], 0, **{name: value for name, value in given.items() if value is not None})


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gate": 60},
        {"gate": -1},
        {"gate": -(2**63)},
        {"pid_text": 48},
        {"pid_text": 47},
        {"join": (NOTHING, []), "join_shares": True},
        {"join": (NOTHING, []), "gate": -1},
        {"payload": None, "init": None, "gate": None, "pid_text": None},
    ],
)
def test_programs_with_init_are_taken(changed):
    """What fits is taken, to the last byte of the data; the child runs, and its failure is told."""
    assert with_init(**changed) == (-1, -1, CHILD, 0, 99)


@pytest.mark.parametrize(
    "changed",
    [
        {"gate": 61},
        {"gate": 62},
        {"gate": 64},
        {"gate": 2**32},
        {"gate": 2**63 - 4},
        {"gate": 2**63 - 1},
        {"pid_text": 49},
        {"pid_text": 64},
        {"pid_text": 2**32},
        {"pid_text": 2**63 - 16},
        {"pid_text": 2**63 - 1},
        {"pid_text": -1},
        {"payload": None},
        {"init": None},
        {"payload": None, "gate": -1},
        {"payload": None, "init": None},
        {"payload": None, "init": None, "pid_text": None},
        {"payload": None, "init": None, "gate": None},
        {"join": (NOTHING, [])},
        {"payload": (b"no program at all", [])},
        {"init": (b"no program at all", [])},
        {"payload": (NOTHING, [(64, 1)])},
        {"init": (NOTHING, [(-4, 1)])},
    ],
)
def test_programs_with_init_that_do_not_fit_are_refused(changed):
    """A gate or a place for the pid outside its program's data, or not aligned, or one of the four without the others, or
    a gate where the memory is a copy: ValueError, and nothing runs."""
    with pytest.raises(ValueError, match=r"malformed|do not fit|outside"):
        with_init(**changed)


@pytest.mark.parametrize("name", ["join", "payload", "init"])
@pytest.mark.parametrize("given", [b"bytes", 7, (NOTHING,), (7, []), (NOTHING, 7), (NOTHING, [], 0)])
def test_programs_of_the_wrong_form_are_refused(name, given):
    """A further program is a tuple of bytes and inputs."""
    with pytest.raises(TypeError):
        with_init(**{name: given} | ({"gate": -1} if name == "join" else {}))
