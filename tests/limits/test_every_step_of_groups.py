"""A sandbox with limits, each of whose steps fails in turn: its control group goes as well."""

import errno as E
import os
import sys

import pytest
from limited import groups_of, may

import ramet
from ramet.plan.encode import encodings, failing
from ramet.run.planning import plan_for
from ramet.spec import Sandbox

launching = sys.modules["ramet.run.launch"]
ERRNOS = E.EPERM, E.ENOSYS, E.ENOSPC, E.ENOMEM, E.EMFILE, E.EINTR, E.EINVAL, E.EBUSY
LIMITS = {"memory": "64M", "processes": 20}


def test_every_step_failing_leaves_no_group(monkeypatch):
    """Whichever step fails, with whichever errno, it is a StepError that names it, the group made for the run is gone, and so is
    every descriptor of it; with nothing made to fail the same sandbox runs."""
    may("memory", "processes")
    assert ramet.run(["/bin/true"], **LIMITS).ok
    plan = plan_for(["/bin/true"], Sandbox(**LIMITS))
    assert plan.groups is not None and plan.groups.made
    before, descriptors = groups_of(os.getpid()), len(os.listdir("/proc/self/fd"))
    fail = None
    monkeypatch.setattr(launching, "encodings", lambda plan: failing(plan, *fail) if fail else encodings(plan))
    tried = 0
    for stage in plan.stages.values():
        for number in range(len(stage.steps)):
            fail = stage.name, number, ERRNOS[tried % len(ERRNOS)]
            with pytest.raises(ramet.StepError) as raised:
                ramet.Popen(["/bin/true"], **LIMITS)
            assert (raised.value.stage, raised.value.index, raised.value.errno) == fail
            assert groups_of(os.getpid()) == before
            tried += 1
    fail = None
    assert tried == len(plan) > 20
    assert ramet.run(["/bin/true"], **LIMITS).ok
    assert len(os.listdir("/proc/self/fd")) <= descriptors
