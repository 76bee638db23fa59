"""Isolated functions, their results and their errors on the way to other processes: pickle, cloudpickle, process pools, Dask."""

from __future__ import annotations

import importlib.util
import inspect
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import shipped

import ramet
from needs import SLOW, need

HERE = Path(__file__).parent


def program(code, **options):
    """A program of its own that sees what this one sees; what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:ramet", "-c", textwrap.dedent(code)],
        capture_output=True,
        env=environment,
        timeout=100,
        **options,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# Functions


def test_a_decorated_function_goes_by_name():
    """Where it stands for the function it decorates, in a module that the other side can import, only its name is sent."""
    sent = pickle.dumps(shipped.square)
    assert pickle.loads(sent) is shipped.square
    assert len(sent) < 60


def test_another_goes_with_its_fields():
    """Made by isolated(fn, ...), it goes as the function's name and all that it was made with."""
    made = ramet.isolated(
        shipped.plain, hostname="far", timeout=9, results="pickle", results_max="1M", exceptions=[shipped.Own]
    )
    copy = pickle.loads(pickle.dumps(made))
    assert copy is not made
    assert copy.fn is shipped.plain
    assert copy.sandbox == made.sandbox
    assert (copy._results, copy._most, copy._exceptions) == ("pickle", 1 << 20, (shipped.Own,))
    assert copy.__name__ == "plain"
    assert copy(1) == 2


def test_a_method_goes_with_its_object():
    """A bound one goes as the object and the method's name; run and call both know the object there."""
    copy = pickle.loads(pickle.dumps(shipped.Scale(3).of))
    assert copy.run(5).value == copy(5) == 15
    run = pickle.loads(pickle.dumps(shipped.Scale(4).of.run))
    assert run(5).value == 20


def test_one_that_has_no_name_needs_cloudpickle():
    """A lambda is refused by pickle, and named; cloudpickle takes it along."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="needs cloudpickle")
    add = 3
    made = ramet.isolated(lambda n: n + add)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(made)
    assert pickle.loads(cloudpickle.dumps(made))(1) == 4


MAIN = """
    import sys, pickle, ramet

    @ramet.isolated(timeout=60, hostname="of-main")
    def count(n):
        return n if n < 1 else (n, count.sandbox.hostname)

    if {by}:
        import cloudpickle
        sys.stdout.buffer.write(cloudpickle.dumps(count))
    else:
        copy = pickle.loads(pickle.dumps(count))
        print(copy is count)
"""


def test_what_main_defines():
    """A function that a program's __main__ decorates goes by name for pickle; for cloudpickle as a whole, even where it mentions itself,
    since another program's __main__ does not have it."""
    need(importlib.util.find_spec("cloudpickle"), "cloudpickle")
    assert program(MAIN.format(by=False)) == b"True\n"
    sent = program(MAIN.format(by=True))
    said = program("import sys, pickle; f = pickle.load(sys.stdin.buffer); print(f, f(2))", input=sent)
    assert said == b"<isolated count> (2, 'of-main')\n"


# Results and errors


def same_slots(one, other):
    """Usage has no __eq__ of its own."""
    return all(repr(getattr(one, name)) == repr(getattr(other, name)) for name in one.to_mapping())


def test_results_pickle_whole():
    """A FunctionResult is the same one elsewhere: value, verdict, output, usage, protections."""
    result = shipped.square.run(3)
    copy = pickle.loads(pickle.dumps(result))
    assert type(copy) is ramet.FunctionResult
    assert copy.value == 9
    assert copy.ok
    assert copy.to_mapping() == result.to_mapping()
    assert same_slots(copy.usage, result.usage)


@pytest.mark.parametrize(
    ("kind", "cls"), [("builtin", KeyError), ("named", shipped.Own), ("other", ramet.RemoteError)], ids=lambda v: str(v)
)
def test_a_result_keeps_the_remote_traceback(kind, cls):
    """An exception in a result has the sandbox's traceback as its cause elsewhere too; exceptions alone lose theirs when they are pickled."""
    result = shipped.fail.run(kind)
    copy = pickle.loads(pickle.dumps(result))
    assert type(copy.exception) is cls
    assert not copy.ok
    assert copy.exception.args == result.exception.args
    assert "in fail" in str(copy.exception.__cause__)
    assert str(copy.exception.__cause__) == str(result.exception.__cause__)
    assert pickle.loads(pickle.dumps(result.exception)).__cause__ is None


@pytest.mark.parametrize("fn", [shipped.dies, shipped.leaves, shipped.loops, shipped.forges], ids=repr)
def test_what_ended_a_run_pickles(fn):
    """The error of a run that gave no value is the same one elsewhere, with the whole result in it."""
    with pytest.raises(ramet.Error) as raised:
        fn(1)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert type(copy) is type(raised.value)
    assert str(copy) == str(raised.value)
    assert copy.result.to_mapping() == raised.value.result.to_mapping()


def one_of(cls):
    """An error of this class, filled."""
    given = {
        "message": "no",
        "field": "Sandbox.x",
        "fact": "f",
        "needs": "n",
        "doing": "do it",
        "errno": 13,
        "call": "mount()",
        "origin": "Sandbox.mounts",
        "stage": "child",
        "argv": ["newuidmap"],
        "exit_code": 1,
        "stderr": "why",
        "seconds": 1.5,
        "result": shipped.leaves.run(1),
        "type_name": "m.C",
        "text": "Traceback",
        "status": 9,
        "args": ("no",),
    }
    if cls in (ramet.Error, ramet.ResultError):
        return cls("no")
    init = inspect.signature(cls.__init__)
    required = [
        (name, one)
        for name, one in list(init.parameters.items())[1:]
        if one.default is one.empty and one.kind != one.VAR_KEYWORD
    ]
    plain = [given[name] for name, one in required if one.kind == one.POSITIONAL_OR_KEYWORD]
    return cls(*plain, **{name: given[name] for name, one in required if one.kind == one.KEYWORD_ONLY})


@pytest.mark.parametrize(
    "name", sorted(name for name in ramet.__all__ if isinstance(getattr(ramet, name), type) and issubclass(getattr(ramet, name), ramet.Error))
)  # fmt: skip
def test_every_error_pickles(name):
    """Every error that ramet raises is the same elsewhere: class, text, what it knows, notes."""
    error = one_of(getattr(ramet, name))
    error.add_note("seen twice")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__notes__ == ["seen twice"]
    assert {k: repr(v) for k, v in vars(copy).items()} == {k: repr(v) for k, v in vars(error).items()}


# Other processes


def test_a_process_pool_started_by_spawn():
    """Workers of a ProcessPoolExecutor that know nothing of us run them, each call in its sandbox, and errors come all the way."""
    wanted = {shipped.fail: KeyError, shipped.loops: ramet.TimeLimitError, shipped.leaves: ramet.ExitError}
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        values = list(pool.map(shipped.square, range(10)))
        uid, sees_us = pool.submit(shipped.where).result()
        error = {fn: pool.submit(fn, "builtin").exception() for fn in wanted}
        # Only now: the workers' own end, and that of what they run, is not the pool's.
        still = pool.submit(shipped.kills_its_parent, 5).result()
    multiprocessing.resource_tracker._resource_tracker._stop()  # its process is kept otherwise, as long as this one
    assert values == [n * n for n in range(10)]
    assert (uid, sees_us, still) == (1000, False, 5)
    assert {fn: type(one) for fn, one in error.items()} == wanted
    assert "in fail" in str(error[shipped.fail].__cause__)


def test_a_worker_that_kills_itself_is_noticed():
    """The control: the same work without a sandbox ends the worker, and the pool with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        gone = pool.submit(os.kill, 0, 0).exception()
        assert gone is None
        broken = pool.submit(signal.raise_signal, signal.SIGKILL).exception()
    multiprocessing.resource_tracker._resource_tracker._stop()
    assert isinstance(broken, BrokenProcessPool)


def test_joblib():
    """joblib's worker processes run them, a lambda too."""
    need(importlib.util.find_spec("joblib"), "joblib")
    code = """
        import joblib, ramet, shipped
        times = ramet.isolated(lambda n: n * 10)
        print(joblib.Parallel(n_jobs=2)(joblib.delayed(fn)(n) for fn in (shipped.square, times) for n in (2, 3)))
    """
    assert program(code) == b"[4, 9, 20, 30]\n"


@pytest.mark.timeout(1200 if SLOW else 300)
def test_a_dask_cluster(tmp_path):
    """A Dask scheduler and two workers, over TCP, get isolated functions, one in five hostile; a worker is killed in the middle. Every
    verdict is the right one, and none is missing."""
    from ramet import cgroups

    need(importlib.util.find_spec("distributed"), "dask's distributed")
    try:
        need(cgroups.find().facts["memory"].ok, "a control group that limits memory")
    finally:
        cgroups.forget()
    count = 2000 if SLOW else 200
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    driver = [sys.executable, str(HERE / "dask_driver.py"), str(tmp_path), str(count)]
    done = subprocess.run(driver, capture_output=True, text=True, env=environment, timeout=1100, check=False)
    logs = "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(tmp_path.glob("*.log")))
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    found = json.loads(done.stdout)
    assert found["protocols"] == ["tcp"]
    assert found["pids"] == 2
    assert found["doctor"] == [True, True]
    assert found["direct"].pop("TimeLimitError").startswith("'loops' ran out of time")
    assert found["direct"] == {
        "value": 49,
        "where": [1000, False],
        "ValueError": "5",
        "ExitError": "'leaves' exited with 3",
        "of main": 40,
        "method": 15,
    }
    assert found["wrong"] == [], logs
    assert found["done"] == count
    assert found["killed"]
    assert found["workers"] == ["three", "two"], "the one that was killed is replaced by a third"
