"""Calls into a pool: what goes in, what comes back, how they may end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
import warnings
from concurrent.futures import Executor, as_completed

import numpy
import pytest

import ramet


@dataclasses.dataclass
class Point:
    x: int
    y: list[int]


class Own(Exception):
    pass


def double(value):
    return value * 2


def test_values_and_arguments(pool):
    """The value comes back; arguments by position and by name go in; lambdas and functions of this file go by value."""
    assert pool.run(double, 21) == 42
    assert pool.run(lambda a, *, b: (a, b), {"x": 1}, b={2}) == ({"x": 1}, {2})
    assert pool.run(os.path.join, "a", "b") == "a/b"


def test_it_is_another_process_in_a_sandbox(pool):
    """The function has another pid namespace, user and network, and none of the host's files; called directly it has the caller's."""

    def look():
        return (
            os.readlink("/proc/self/ns/pid"),
            os.getuid(),
            sorted(os.listdir("/sys/class/net")) if os.path.exists("/sys") else [],
            os.path.exists(__file__),
        )

    pids, uid, _, sees_us = pool.run(look)
    assert pids != os.readlink("/proc/self/ns/pid") == look()[0]
    assert (uid, sees_us) == (1000, False)
    assert look()[3]


def test_a_class_of_the_caller_comes_back_as_itself(pool):
    """A dataclass of a module that only the caller has goes in by value, and out by its name and its fields."""
    found = pool.run(lambda p: dataclasses.replace(p, x=p.x + 1), Point(1, [2]))
    assert type(found) is Point
    assert found == Point(2, [2])


def test_large_arrays_go_in_and_out(pool):
    """A large array goes in beside the pickle and comes out mapped, whole; and the caller's own does not change."""
    array = numpy.arange(1_000_000.0)
    assert pool.run(lambda a: float(a.sum()), array) == float(array.sum())

    def change(a):
        a += 1
        return a

    assert numpy.array_equal(pool.run(change, array), array + 1)
    assert array[0] == 0


def test_exceptions_come_back(pool):
    """A builtin exception is itself, with the sandbox's traceback as its cause; another a RemoteError, or itself where it is listed."""

    def fail(error):
        raise error

    with pytest.raises(KeyError, match="missing") as caught:
        pool.run(fail, KeyError("missing"))
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(ramet.RemoteError, match="Own: once"):
        pool.run(fail, Own("once"))


def exit_by(code):
    sys.exit(code)


@pytest.mark.parametrize(
    ("what", "code", "number"),
    [
        (lambda: os._exit(3), 3, None),
        (lambda: exit_by(17), 17, None),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None, signal.SIGKILL),
        (os.abort, None, signal.SIGABRT),
    ],
    ids=["_exit", "sys.exit", "SIGKILL", "abort"],
)
def test_processes_that_end(pool, what, code, number):
    """A function that ends its process is told of by its exit code or signal, and the pool goes on."""
    with pytest.raises(ramet.ExitError) as caught:
        pool.run(what)
    assert (caught.value.result.exit_code, caught.value.result.signal) == (code, number)
    assert pool.run(double, 1) == 2


def test_interrupts_inside(pool):
    """KeyboardInterrupt raised inside does not interrupt the caller."""

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(ramet.RemoteError, match="KeyboardInterrupt"):
        pool.run(interrupt)


def test_what_is_left_running_ends_with_the_call(pool):
    """A function that forks, or leaves a thread, returns at once, and what it has left ends with its sandbox."""

    def leave():
        if os.fork() == 0:
            time.sleep(1000)
        threading.Thread(target=time.sleep, args=(1000,)).start()
        return "returned"

    before = time.monotonic()
    assert pool.run(leave) == "returned"
    assert time.monotonic() - before < 500


def test_coroutines_run_and_generators_are_refused(pool):
    """A coroutine function is run to its end; a generator function is refused with what to do."""

    async def wait():
        await asyncio.sleep(0)
        return "awaited"

    def several():
        yield 1

    assert pool.run(wait) == "awaited"
    with pytest.raises(ramet.SpecTypeError, match="generator function"):
        pool.run(several)


def test_what_cannot_go_in_is_named(pool):
    """An argument that can't be pickled is named; so is a function that is no function. Nothing is called."""
    with pytest.raises(ramet.SpecTypeError, match=r"args\[1\]: can't be sent into the sandbox.*lock"):
        pool.run(double, 1, threading.Lock())
    with pytest.raises(ramet.SpecTypeError, match="handle: can't be sent"):
        pool.run(double, handle=threading.Lock())
    with pytest.raises(ramet.SpecTypeError, match="can't be called"):
        pool.run(3)


def test_what_cannot_come_out_is_named(pool):
    """A value of a type that is not sent is named by the path to it."""
    with pytest.raises(ramet.ResultError, match=r"value\['a'\]\[1\]: "):
        pool.run(lambda: {"a": [1, object()]})


def test_rubbish_on_the_channel(pool):
    """What is written on the channel by hand is no result; neither is ten gigabytes of it, which are not read."""

    def the_channel():
        import stat

        return next(fd for fd in range(3, 64) if stat.S_ISSOCK(os.fstat(fd).st_mode))

    def rubbish():
        os.write(the_channel(), b"rubbish" * 100)
        return 1

    def without_end():
        chunk, fd = bytes(1 << 20), the_channel()
        for _ in range(10_000):
            os.write(fd, chunk)

    for what in (rubbish, without_end):
        with pytest.raises(ramet.ResultError, match="no result"):
            pool.run(what)
    assert pool.run(double, 1) == 2


def test_output_and_warnings_are_passed_on(pool, capsys, caplog):
    """What the function prints comes out of the caller's streams, its warnings and log records out of the caller's."""

    def speak():
        print("spoken")
        print("aside", file=sys.stderr)
        os.write(1, b"raw\n")
        warnings.warn("careful", stacklevel=1)
        logging.getLogger().warning("logged")

    with pytest.warns(UserWarning, match="careful"):
        pool.run(speak)
    out, err = capsys.readouterr()
    assert sorted(out.split()) == ["raw", "spoken"]
    assert "aside" in err
    assert "logged" in caplog.text


def test_reports_raise_nothing(pool):
    """A report has the value or the exception, what was printed, the status and what it cost."""

    def speak():
        print("spoken")
        return 7

    found = pool.report(speak)
    assert (found.ok, found.value, found.stdout, found.status) == (True, 7, b"spoken\n", "exited")
    assert found.usage.wall > 0
    assert found.usage.memory_peak > 1 << 20
    failed = pool.report(int, "x")
    assert isinstance(failed.exception, ValueError)
    assert failed.exit_code == 1


# As an executor


def test_it_is_an_executor(pool):
    """submit gives futures, map keeps the order, and an exception is the future's."""
    assert isinstance(pool, Executor)
    futures = [pool.submit(double, n) for n in range(6)]
    assert sorted(future.result(60) for future in as_completed(futures, 60)) == [0, 2, 4, 6, 8, 10]
    assert list(pool.map(double, range(5))) == [0, 2, 4, 6, 8]
    assert isinstance(pool.submit(int, "x").exception(60), ValueError)


async def cancelled(pool, pause):
    """A call that is cancelled when it was seen to run, by looks so many seconds apart."""
    task = asyncio.ensure_future(pool.arun(time.sleep, 1000))
    while pool.counts["running"] == 0:
        await asyncio.sleep(pause)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_awaited(pool):
    """arun and aexec are awaited; many at once; and a cancelled call is killed."""

    async def main():
        many = await asyncio.gather(*(pool.arun(double, n) for n in range(5)))
        shown = (await pool.aexec("6 * 7")).value
        while pool.counts["running"]:  # a place is free a moment after its call has told
            await asyncio.sleep(0.01)
        await cancelled(pool, 0.01)
        while pool.counts["running"]:
            await asyncio.sleep(0.01)
        return many, shown

    assert asyncio.run(asyncio.wait_for(main(), 50)) == ([0, 2, 4, 6, 8], 42)


def test_cancelled_before_there_is_a_copy():
    """A call that is cancelled while a copy for it is still to be made never begins; the next does."""

    async def main():
        with ramet.Pool(size=1, spare=0) as pool:
            await cancelled(pool, 0)
            return await pool.arun(double, 1)

    assert asyncio.run(asyncio.wait_for(main(), 50)) == 2


# Fresh each time


def test_random_states_differ(pool):
    """Python's, numpy's and OpenSSL's generators give each copy numbers of its own."""

    def draw():
        import random

        return random.random(), float(numpy.random.random()), os.urandom(4), numpy.random.default_rng().random()

    drawn = [pool.run(draw) for _ in range(4)]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 4


def test_pids_differ(pool):
    """No copy has the zygote's pid or that of the copy before: libraries tell a fork by it."""
    assert len({pool.run(os.getpid) for _ in range(4)}) == 4


def test_the_callers_levels_hold_for_log_records(pool, caplog):
    """A record that the caller's logger would not take is not taken from a sandbox either, whatever the level is in there."""

    def say():
        import logging

        logging.getLogger("quiet").error("said")

    logger = logging.getLogger("quiet")
    try:
        for level, heard in ((logging.CRITICAL, []), (logging.NOTSET, ["said"])):
            logger.setLevel(level)
            caplog.clear()
            pool.run(say)
            assert caplog.messages == heard
        logging.disable(logging.CRITICAL)
        pool.run(say)
        assert caplog.messages == ["said"]
    finally:
        logging.disable(logging.NOTSET)
        logger.setLevel(logging.NOTSET)


# Code


def test_code(pool):
    """Code sees its inputs; its new variables, what it printed and the last expression's value come back."""
    found = pool.exec(
        "import numpy, math\nprint('said')\ny = x * 2\nz = numpy.arange(3)\nw = object()\ny + 1", {"x": 20}
    )
    assert found.error is None
    assert (found.value, found.text, found.stdout) == (41, "41", "said\n")
    assert list(found.outputs) == ["y", "z"]
    assert found.outputs["y"] == 40
    assert found.outputs["z"].tolist() == [0, 1, 2]
    assert "builtins.object" in found.unsent["w"]


def test_chosen_outputs(pool):
    """Only the variables asked for come back; of one that is not there it is said."""
    found = pool.exec("a = 1; b = 2", outputs=["b", "c"])
    assert (found.outputs, found.unsent) == ({"b": 2}, {"c": "there is no such variable"})


NOT_HERE = {
    "a dataclass of the code's own": "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    n: int = 1\nbad = [Row()]",
    "an enum of the code's own": "import enum\nclass Colour(enum.Enum):\n    RED = 1\nbad = Colour.RED",
    "a named tuple of a module that is not loaded here": "import netrc, collections, sys\n"
    "netrc.Login = collections.namedtuple('Login', 'name', module='netrc')\nbad = netrc.Login('x')",
    "a class in a function": "import collections\ndef make():\n    return collections.namedtuple('Point', 'x')(1)\nbad = make()",
    "what can't be looked at": "import mmap\nbad = mmap.mmap(-1, 10)\nbad.close()",
    "keys that are all alike": "bad = {n * (2**61 - 1): 0 for n in range(500)}",
}


@pytest.mark.parametrize("code", NOT_HERE.values(), ids=NOT_HERE)
def test_one_variable_that_does_not_arrive(pool, code):
    """A variable that the caller can't be given, as an object of a class that the code has made, is named with the reason; all others come."""
    found = pool.exec(f"good = [1]\nprint('said')\n{code}\n(good, bad)")
    assert found.error is None
    assert (found.outputs, found.stdout, found.value) == ({"good": [1]}, "said\n", None)
    assert found.unsent["bad"]
    assert found.text is not None
    assert pool.exec("good = [1]\nbad = 2\n(good, bad)").value == ([1], 2)


def test_a_variable_as_deep_as_may_be(pool):
    """Of variables nested ever deeper those that are too deep stay behind, one by one."""
    code = "all = []\nfor n in range(90, 110):\n    one = 0\n    for _ in range(n):\n        one = (one,)\n    globals()[f'n{n}'] = one"
    found = pool.exec(code)
    assert found.error is None
    assert "n90" in found.outputs
    assert "nested deeper" in found.unsent["n109"]


def test_parts_are_for_code(pool):
    """What is read by itself, and may fail alone, is the form of a cell's variables, and no value of a function."""

    def odd():
        from ramet.call import wire

        return wire.Part(1)

    with pytest.raises(ramet.ResultError, match="extension 24 is unknown"):
        pool.run(odd)


def test_code_that_fails(pool):
    """What the code raised is the error, with its own lines in the traceback; variables up to there come back."""
    found = pool.exec("before = 1\ndef inner():\n    return 1 / 0\ninner()")
    assert isinstance(found.error, ZeroDivisionError)
    assert 'File "<exec>", line 3, in inner\n    return 1 / 0' in str(found.error.__cause__)
    assert found.outputs == {"before": 1}
    assert isinstance(pool.exec("1 +").error, SyntaxError)
    assert isinstance(pool.exec("import sys; sys.exit(3)").error, SystemExit)
    assert isinstance(pool.exec("raise KeyboardInterrupt").error, KeyboardInterrupt)
    assert isinstance(pool.exec("import os; os._exit(3)").error, ramet.ExitError)


def test_code_is_checked(pool):
    """Code that is no text, inputs that are no mapping, and inputs that can't go in are refused."""
    with pytest.raises(ramet.SpecTypeError, match="code: must be text"):
        pool.exec(b"1")
    with pytest.raises(ramet.SpecTypeError, match="inputs"):
        pool.exec("1", [1])
    with pytest.raises(ramet.SpecTypeError, match=r"can't be sent"):
        pool.exec("1", {"lock": threading.Lock()})
