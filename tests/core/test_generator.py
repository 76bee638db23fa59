"""numpy's random numbers begun anew by C: only where they are what C believes. Each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("numpy")

BEGIN = """
import numpy
from ramet import _core
own = numpy.random.RandomState(5)._bit_generator
def state(of):
    found = of.state["state"]
    return found["key"].tobytes() + int(found["pos"]).to_bytes(4, "little")
"""


def run(code):
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_known_generator_is_renewed():
    """It has another state each time, and draws from its beginning."""
    code = """
print(_core.note_generator(own.capsule, state(own)))
seen = {state(own)}
for _ in range(3):
    print(_core.renew_generator(), own.state["state"]["pos"])
    seen.add(state(own))
print(len(seen))
"""
    assert run(code) == ["True", *["True", "624"] * 3, "4"]


@pytest.mark.parametrize(
    ("generator", "content"),
    [
        ("own", "state(own)[:-1]"),
        ("own", "state(own)[:-4] + bytes(4)"),
        ("own", "bytes(2500)"),
        ("own", "b''"),
        ("numpy.random.PCG64(1)", "bytes(2500)"),
    ],
)
def test_another_state_is_left_alone(generator, content):
    """Where the state is not what was said, or of another kind, nothing is remembered, and what was remembered before is forgotten."""
    code = f"""
_core.note_generator(own.capsule, state(own))
before = state(own)
print(_core.note_generator(({generator}).capsule, {content}), _core.renew_generator(), state(own) == before)
"""
    assert run(code) == ["False", "False", "True"]


def test_what_is_no_generator():
    """Something else than a capsule of a generator is refused."""
    code = """
import datetime
for other in (None, 5, datetime.datetime_CAPI):
    try:
        _core.note_generator(other, bytes(2500))
    except (ValueError, TypeError) as error:
        print("refused")
print(_core.renew_generator())
"""
    assert run(code) == ["refused"] * 3 + ["False"]
