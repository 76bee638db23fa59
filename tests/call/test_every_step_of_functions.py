"""A function's sandbox with one step that fails: nothing of it is left, and the function has not been called."""

from __future__ import annotations

import errno
import os
import time

import pytest

import ramet
from ramet.call.isolated import plan_for_function
from ramet.host.facts import facts_for
from ramet.plan.compile import compile
from ramet.plan.encode import failing
from ramet.run.fork import Function, numbers_handed
from ramet.run.launch import launch
from ramet.run.streams import readable
from ramet.spec import Command

BOX = ramet.Sandbox()
PLAN = plan_for_function("called", BOX)
STAGES = [name for name in ("child", "init", "payload") if name in PLAN.stages]


def attempt(stage, number, error):
    """The launch with that step failing; the StepError, and whether the function was called."""
    heard, said = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def called(numbers):
        os.write(numbers[0], b"called")
        os._exit(0)

    function = Function(called, (said,))
    try:
        with pytest.raises(ramet.StepError) as caught:
            launch(PLAN, (null, null, null), encoded=failing(PLAN, stage, number, error), function=function).close()
        os.close(said)
        said = -1
        return caught.value, os.read(heard, 100)
    finally:
        function.close()
        for fd in (heard, said, null):
            if fd >= 0:
                os.close(fd)


@pytest.mark.parametrize("stage", STAGES)
def test_every_step_that_fails_is_told(stage):
    """Whichever step of a stage fails, the error is its own, by stage, number and errno, and the function is not called."""
    steps = PLAN.stages[stage].steps
    # Init's own steps from where it has put its descriptors in place have nobody to tell them to.
    known = len(steps) if stage != "init" else next(n for n, step in enumerate(steps) if step.call == "dup3")
    for number in range(known):
        error, said = attempt(stage, number, errno.EDOM)
        assert said == b""
        assert (error.stage, error.index, error.errno) == (stage, number, errno.EDOM)


def test_no_function_outlives_an_init_that_cannot_start():
    """Where init can't be executed, the start fails, or the function that had begun is ended with it."""
    number = len(PLAN.stages["init"].steps) - 1
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    function = Function(lambda _: time.sleep(600), ())
    plan = compile(BOX, facts_for(BOX), Command(("sleeps",), numbers_handed(0)), function=True)
    try:
        launched = launch(plan, (null, null, null), encoded=failing(plan, "init", number, 1), function=function)
    except ramet.StepError as error:
        assert error.stage == "payload"  # noqa: PT017  either may come
    else:
        assert readable(launched.pidfd, 20_000)
        launched.close()
    finally:
        function.close()
        os.close(null)


def test_the_same_launch_without_a_failure_calls_it():
    """The control: with no step failing the function is called."""
    heard, said = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def called(numbers):
        os.write(numbers[0], b"called")
        os._exit(0)

    function = Function(called, (said,))
    try:
        launched = launch(PLAN, (null, null, null), function=function)
        assert os.read(heard, 100) == b"called"
        launched.close()
    finally:
        function.close()
        for fd in (heard, said, null):
            os.close(fd)
