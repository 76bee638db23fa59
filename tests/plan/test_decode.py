"""What encode writes, read back: for random specs over random hosts, the bytes say what the steps say."""

import struct

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_facts import LAYOUT, for_spec
from plan_specs import commands, sandboxes

from needs import SLOW
from ramet.errors import SpecError, UnsupportedError
from ramet.host.facts import Facts, IdRange
from ramet.plan.calls import numbers
from ramet.plan.check import check
from ramet.plan.compile import compile
from ramet.plan.encode import ADDRESS, EXPECT, HEADER, IMMEDIATE, MASK64, SAVE, SLOT, STEP, encodings
from ramet.plan.render import step_text
from ramet.plan.steps import Block, Ptr, Slot
from ramet.spec.record import FrozenMap

ranges = st.lists(st.builds(IdRange, st.integers(1000, 2**31), st.integers(1, 65536)), max_size=2).map(tuple)
helpers = st.none() | st.just("/usr/bin/newidmap")
layouts = st.sets(st.sampled_from(sorted(LAYOUT))).map(lambda names: FrozenMap({name: LAYOUT[name] for name in names}))
#: Any host at all, likely or not: every fact by itself.
hosts = st.builds(
    Facts,
    kernel=st.tuples(st.integers(5, 7), st.integers(0, 20)).filter(lambda kernel: kernel >= (5, 14)),
    machine=st.sampled_from(["x86_64", "aarch64"]),
    uid=st.sampled_from([0, 1000, 2**32 - 2]),
    gid=st.sampled_from([0, 1000, 2**32 - 2]),
    capabilities=st.just(0) | st.just((1 << 41) - 1) | st.integers(0, (1 << 41) - 1),
    last_cap=st.integers(37, 63),
    subuids=ranges,
    subgids=ranges,
    newuidmap=helpers,
    newgidmap=helpers,
    layout=layouts,
    python=st.just(()) | st.just((("/opt/python", "/opt/python-3.12"),)),
    autokill=st.booleans(),
    maps_others=st.booleans(),
    detached_trees=st.booleans(),
    landlock=st.integers(0, 8),
)


class Decoded:
    """A program taken apart again, by the layout that csrc/steps.h describes."""

    def __init__(self, blob):
        _, count, relocs, size = HEADER.unpack_from(blob)
        at = HEADER.size
        self.steps = [STEP.unpack_from(blob, at + n * STEP.size) for n in range(count)]
        at += count * STEP.size
        self.relocs = set(struct.unpack_from(f"<{relocs}I", blob, at))
        self.data = blob[at + 4 * relocs :]
        assert len(self.data) == size

    def text(self, at):
        return self.data[at : self.data.index(0, at)]

    def holds(self, at, block, offsets):
        """Is this structure laid there, with all that it points to?"""
        for part in block:
            if isinstance(part, Ptr):
                assert at in self.relocs
                (place,) = struct.unpack_from("<Q", self.data, at)
                self.points(place, part.to, offsets)
                at += 8
            elif isinstance(part, Slot):
                assert offsets[part] == at
                at += 4
            else:
                assert self.data[at : at + len(part)] == part
                assert not any(at - 7 <= place < at + len(part) for place in self.relocs - {0})
                at += len(part)

    def points(self, at, thing, offsets):
        if isinstance(thing, Block):
            self.holds(at, thing, offsets)
        else:
            data = thing if isinstance(thing, bytes) else thing.encode("utf-8", "surrogateescape")
            assert self.data[at : at + len(data) + 1] == data + b"\0"

    def says(self, number, step, table, offsets):
        """Is this step that one?"""
        nr, kinds, *allow, save, expect = self.steps[number][:6]
        args = self.steps[number][6:]
        assert nr == table[step.call]
        assert bool(kinds & SAVE) == (step.result is not None) and bool(kinds & EXPECT) == (step.expect is not None)
        assert step.result is None or save == offsets[step.result]
        assert step.expect is None or expect == step.expect
        last = number == len(self.steps) - 1
        wanted = {2, 20} if step.retries and not last else set(step.allow)
        assert set(allow) - {0} == wanted
        for i, (kind, arg) in enumerate(zip([kinds >> 2 * i & 3 for i in range(6)], args, strict=True)):
            said = step.args[i] if i < len(step.args) else 0
            if isinstance(said, int):
                assert (kind, arg) == (IMMEDIATE, said & MASK64)
            elif isinstance(said, Slot):
                assert (kind, arg) == (SLOT, offsets[said])
            else:
                assert kind == ADDRESS
                self.points(arg, said, offsets)


def plan_or_refusal(spec, host, command):
    try:
        return compile(spec, for_spec(host, spec), command)
    except (SpecError, UnsupportedError) as refused:
        assert str(refused)  # noqa: PT017  (most specs are not refused)
        return None


@settings(
    max_examples=2000 if SLOW else 150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(sandboxes(), hosts, commands)
def test_random_specs_over_random_hosts(spec, host, command):
    """Whatever is asked for, of whatever host: a plan that breaks no rule, has a text, and whose programs read back are its
    steps, number by number and byte by byte; or a SpecError or UnsupportedError, and never another exception."""
    plan = plan_or_refusal(spec, host, command)
    if plan is None:
        return
    assert check(plan) == []
    table = numbers(host.machine)
    whole = encodings(plan)
    for name, stage in plan.stages.items():
        encoded = getattr(whole, name)
        decoded = Decoded(encoded.blob)
        assert len(decoded.steps) == len(stage.steps)
        for number, step in enumerate(stage.steps):
            decoded.says(number, step, table, encoded.offsets)
            assert step_text(step).startswith(step.call + "(")


def test_the_control_a_changed_byte():
    """The control: with one argument, one string or one allowed errno other than said, reading back objects."""
    import pytest
    from plan_facts import USER

    from ramet.spec import Command, Sandbox

    plan = compile(Sandbox(), USER, Command(("/bin/true",)))
    encoded, stage = encodings(plan).payload, plan.stages["payload"]
    table = numbers(USER.machine)
    decoded = Decoded(encoded.blob)

    def objects(number, **changed):
        with pytest.raises((AssertionError, KeyError)):
            decoded.says(number, stage.steps[number]._replace(**changed), table, encoded.offsets)

    for number, step in enumerate(stage.steps):
        decoded.says(number, step, table, encoded.offsets)
        objects(number, allow=(77,))
        objects(number, expect=-5)
        for i, arg in enumerate(step.args):
            other = arg + 1 if isinstance(arg, int) else "another" if isinstance(arg, str) else Block(b"no such bytes")
            objects(number, args=(*step.args[:i], other, *step.args[i + 1 :]))
