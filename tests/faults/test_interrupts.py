"""Ctrl-C, and exceptions from anywhere, in the middle of a launch."""

import os
import subprocess
import sys

import pytest

import ramet
from needs import SLOW

pytestmark = pytest.mark.timeout(300)  # hundreds of launches

HERE = os.path.dirname(__file__)

RANDOM = """
import os, random, signal, sys
from hosts import children, descriptors
import ramet
chance = random.Random(int(sys.argv[1]))
options = {"as_pid1": True} if sys.argv[2] == "as_pid1" else {}
ramet.run(["true"])
before = children(), sorted(descriptors())
interrupted = finished = 0
worst = []
signal.signal(signal.SIGALRM, signal.default_int_handler)
# One that comes in a __del__ is lost, as Python says here: then once more. A second one while the first is being seen to would be
# another test.
sys.unraisablehook = lambda _: signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.004))
while interrupted < int(sys.argv[3]):
    try:
        # A SIGINT by a timer, since a signal from outside would come after the same random time with more
        # noise.
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.004))
        ramet.run(["sh", "-c", "sleep 1000"], **options)
        finished += 1
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        interrupted += 1
    now = children(), sorted(descriptors())
    if now[0] != before[0]:
        print("left children", now[0] - before[0])
        break
    leaked = len(now[1]) - len(before[1])
    if leaked:
        print("left descriptors", set(now[1]) - set(before[1]))
        break
print(interrupted, finished)
"""


@pytest.mark.parametrize("mode", ["default", "as_pid1"])
def test_interrupted_at_random_times_leaves_nothing(mode):
    """KeyboardInterrupt at 200 random moments of run() (1,000 with RAMET_SLOW=1), most of them in its start, leaves no
    process, zombie or descriptor."""
    times = 1000 if SLOW else 200
    seed = str(int.from_bytes(os.urandom(4), "little"))
    done = subprocess.run(
        [sys.executable, "-c", RANDOM, seed, mode, str(times)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{times} 0\n"), f"seed {seed}: {done.stdout}{done.stderr[-2000:]}"


DROPPED = """
import sys
import ramet
from ramet.run.launch import Launched

seen = set()
def look(frame, event, _argument):
    if event == "call" and frame.f_code.co_name == "__del__":
        seen.add(type(frame.f_locals["self"]).__name__)

ramet.run(["true"])
sys.setprofile(look)
for _ in range(3):
    ramet.run(["true"])
    ramet.run(["true"], as_pid1=True)
during, seen = seen, set()
Launched()
sys.setprofile(None)
print(sorted(during), sorted(seen))
"""


def test_nothing_that_is_closed_is_dropped_by_python_code():
    """What a run has closed goes without a `__del__`, in which an interrupt would be lost and the payload go on: the child, the
    maker of namespaces, and a pair of them. Only what ends with the run itself has one; so does a child that is not closed."""
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "['Streams', '_Awaited'] ['Launched']\n", done.stdout + done.stderr


EVERY_LINE = """
import sys
from hosts import children
import ramet

class Interrupt:
    def __init__(self, at):
        self.left = at
    def __call__(self, frame, event, _argument):
        if "/ramet/run/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt  # once: what cleans up is not interrupted again
        return self

options = {"as_pid1": True} if sys.argv[1] == "as_pid1" else {}
sys.unraisablehook = lambda _: None  # the line may be one of a __del__, from which nothing can be raised
ramet.run(["true"], **options)
before, left = children(), []
for at in range(1, 3000):
    tracer = Interrupt(at)
    sys.settrace(tracer)
    try:
        ramet.run(["true"], **options)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    if children() != before:
        left.append((at, children() - before))
        before = children()
    if tracer.left > 0:
        break
print(100 < at < 2999, left)
"""


@pytest.mark.parametrize("mode", ["default", "as_pid1"])
def test_interrupted_at_every_line_leaves_no_process(mode):
    """KeyboardInterrupt raised at each line of run() in turn leaves no process and no zombie."""
    argv = [sys.executable, "-c", EVERY_LINE, mode]
    done = subprocess.run(argv, cwd=HERE, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (0, "True []\n"), done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), KeyboardInterrupt()])
@pytest.mark.parametrize(
    "where",
    [
        "ramet.run.image.init_image",
        "ramet.run.image.own_pidfd",
        "ramet.run.control.pair",
        "ramet.run.control.receive",
        "ramet._core.spawn",
    ],
)
def test_exception_in_the_middle_of_a_launch_leaves_nothing(where, error, monkeypatch, nothing_left):
    """Whatever part of a launch raises whatever, what was opened before is closed, and what was started is
    reaped."""
    import importlib

    module, _, name = where.rpartition(".")
    called = []

    def fail(*_args, **_kwargs):
        called.append(where)
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(
            importlib.import_module(module) if module != "ramet._core" else sys.modules["ramet._core"],
            name,
            fail,
        )
        with pytest.raises((type(error), ramet.Error)):
            ramet.run(["true"])
    assert called
    assert ramet.run(["true"]).ok


def test_exception_in_the_callers_part_leaves_nothing(monkeypatch, nothing_left):
    """An exception while the child waits for its ids comes out as it is, and the child is gone."""
    from ramet.host.facts import IdRange, facts
    from ramet.plan.compile import compile
    from ramet.run import launch
    from ramet.spec import Command, Sandbox

    def fail(*_):
        raise LookupError("on purpose")

    ids = (IdRange(100000, 9),)
    host = facts().replace(capabilities=0, subuids=ids, subgids=ids, newuidmap="/bin/false", newgidmap="/bin/false")
    spec = Sandbox(uid_mappings="subordinate", gid_mappings="subordinate")
    plan = compile(spec, host, Command(("/bin/true",)))
    assert plan.sync
    monkeypatch.setattr(launch, "serve", fail)
    with pytest.raises(LookupError, match="on purpose"):
        launch.launch(plan, (0, 1, 2))
