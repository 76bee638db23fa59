"""A function's sandbox with one step that fails: nothing of it is left, and the function has not been called."""

from __future__ import annotations

import errno
import os
import time

import pytest

import ramet
from ramet.call.isolated import plan_for_function
from ramet.plan.compile import compile
from ramet.plan.encode import failing
from ramet.run.fork import Function, numbers_handed
from ramet.run.launch import launch
from ramet.run.streams import readable
from ramet.spec import Command

pytestmark = pytest.mark.timeout(300)  # hundreds of launches: 43 s were seen beside other work

BOX = ramet.Sandbox()
PLAN = plan_for_function("called", BOX)
#: Root writes the maps of its child; this one needs nobody else. An ordinary user's child writes its own.
ALONE = PLAN
if PLAN.sync:
    ALONE = plan_for_function("called", ramet.Sandbox(namespaces=BOX.namespaces - {ramet.Namespace.USER}))
PLANS = {plan.sync: plan for plan in (PLAN, ALONE)}.values()
BOTH = pytest.mark.parametrize("plan", PLANS, ids=lambda plan: "with sync" if plan.sync else "alone")


def attempt(plan, stage, number, error):
    """The launch with that step failing; the StepError, and whether the function was called."""
    heard, said = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def called(numbers):
        os.write(numbers[0], b"called")
        os._exit(0)

    function = Function(called, (said,))
    try:
        with pytest.raises(ramet.StepError) as caught:
            launch(plan, (null, null, null), encoded=failing(plan, stage, number, error), function=function).close()
        os.close(said)
        said = -1
        return caught.value, os.read(heard, 100)
    finally:
        function.close()
        for fd in (heard, said, null):
            if fd >= 0:
                os.close(fd)


@BOTH
@pytest.mark.parametrize("stage", ["child", "init", "payload"])
def test_every_step_that_fails_is_told(plan, stage):
    """Whichever step of a stage fails, the error is its own, by stage, number and errno, and the function is not called."""
    steps = plan.stages[stage].steps
    known = len(steps)
    if stage == "init" and plan.sync:
        # From where such an init has put its descriptors in place it has nobody to tell.
        known = next(n for n, step in enumerate(steps) if step.call == "dup3")
    for number in range(known):
        error, said = attempt(plan, stage, number, errno.EDOM)
        assert said == b""
        assert (error.stage, error.index, error.errno) == (stage, number, errno.EDOM)


@BOTH
def test_an_init_that_fails_slowly_calls_no_function(plan, monkeypatch):
    """Between the moment when a failed init closes what the function's process waits for, and its end, which kills that, nothing is called."""
    end = os._exit

    def slow_end(code):
        os.closerange(3, 300)
        time.sleep(1)
        end(code)

    monkeypatch.setattr(os, "_exit", slow_end)
    assert attempt(plan, "init", 0, errno.EDOM)[1] == b""


@BOTH
def test_no_function_outlives_an_init_that_cannot_start(plan):
    """Where init can't be executed, the start fails, or the function that had begun is ended with it."""
    number = len(plan.stages["init"].steps) - 1
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    function = Function(lambda _: time.sleep(600), ())
    plan = compile(plan.spec, plan.facts, Command(("sleeps",), numbers_handed(0)), function=True)
    try:
        launched = launch(plan, (null, null, null), encoded=failing(plan, "init", number, 1), function=function)
    except ramet.StepError as error:
        assert error.stage == ("payload" if plan.sync else "init")  # noqa: PT017  either may come
    else:
        assert readable(launched.pidfd, 20_000)
        launched.close()
    finally:
        function.close()
        os.close(null)


@BOTH
def test_the_same_launch_without_a_failure_calls_it(plan):
    """The control: with no step failing the function is called."""
    heard, said = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def called(numbers):
        os.write(numbers[0], b"called")
        os._exit(0)

    function = Function(called, (said,))
    try:
        launched = launch(plan, (null, null, null), function=function)
        assert os.read(heard, 100) == b"called"
        launched.close()
    finally:
        function.close()
        for fd in (heard, said, null):
            os.close(fd)
