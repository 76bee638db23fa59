"""Hazard 5 of csrc/spawn.c: the child's new credentials clear the dumpable flag of memory that it shares
with us."""

import os

import pytest
from core_programs import NUMBERS, PR_GET_DUMPABLE, PR_SET_DUMPABLE, prctl, spawn, step, succeeded

import ramet
from ramet.plan.steps import Block, Slot

ZERO = Block(bytes(8))


@pytest.fixture(params=[1, 0])
def dumpable(request):
    """The caller's flag, as it mostly is, and cleared."""
    before = prctl(PR_GET_DUMPABLE)
    prctl(PR_SET_DUMPABLE, request.param)
    yield request.param
    prctl(PR_SET_DUMPABLE, before)


def test_5_dumpable_is_kept_by_a_spawn(dumpable):
    """A child that clears the flag of our memory leaves ours as it was, 1 or 0."""
    assert succeeded(spawn(step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)))
    assert prctl(PR_GET_DUMPABLE) == dumpable
    assert spawn(step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0), step("chdir", "/nonexistent"))[0] == -1
    assert prctl(PR_GET_DUMPABLE) == dumpable


def test_5_dumpable_is_shared_while_the_child_waits():
    """The control: while the child that cleared it waits, ours is cleared; so without care it would stay
    so."""
    ready, go = os.pipe()
    seen = []

    def sync(pid, _pidfd):
        while True:
            with open(f"/proc/{pid}/syscall") as file:
                if file.read().split()[0] == str(NUMBERS["read"]):
                    break
        seen.append(prctl(PR_GET_DUMPABLE))
        os.write(go, b"G")

    if os.geteuid():
        # /proc/PID of a child that is not dumpable is root's: go on by the clock of the flag itself
        def sync(_pid, _pidfd):
            while prctl(PR_GET_DUMPABLE):
                pass
            seen.append(prctl(PR_GET_DUMPABLE))
            os.write(go, b"G")

    prctl(PR_SET_DUMPABLE, 1)
    steps = (step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0), step("read", Slot("ready"), ZERO, 1, expect=1))
    assert succeeded(spawn(*steps, inputs={Slot("ready"): ready}, sync=sync))
    os.close(ready)
    os.close(go)
    assert seen == [0]
    assert prctl(PR_GET_DUMPABLE) == 1


def test_5_dumpable_is_kept_by_a_run(dumpable):
    """A whole run, which for a root caller changes uid and gid in the child, leaves the flag as it was."""
    if dumpable or os.geteuid() == 0:
        assert ramet.run(["true"]).ok
    else:
        # An ordinary user's /proc/self belongs to root then, and nobody may write its maps.
        with pytest.raises(ramet.StepError) as refused:
            ramet.run(["true"])
        assert refused.value.errno in (1, 13)
    assert prctl(PR_GET_DUMPABLE) == dumpable


def test_5_dumpable_survives_spawns_of_many_threads(python):
    """Children of several threads clear the flag at overlapping times, and in the end it is what it was."""
    out = python("""
        import threading
        from core_programs import PR_GET_DUMPABLE, PR_SET_DUMPABLE, prctl, spawn, step
        def work():
            for _ in range(200):
                spawn(step("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0), step("chdir", "/"))
        before = prctl(PR_GET_DUMPABLE)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(before, prctl(PR_GET_DUMPABLE))
    """)
    assert out == "1 1\n"


def test_5_dumpable_cleared_before_joining(nothing_left):
    """Joining namespaces of others, the child hides our memory first: setns is made while the flag is 0."""
    from ramet.run.planning import plan_for

    plan = plan_for(["true"], ramet.Sandbox(namespaces={"mnt"}, join=[ramet.Join("user", pid=os.getpid())]))
    first, *others = plan.stages["join"].steps
    assert first.args[:2] == (PR_SET_DUMPABLE, 0)
    assert "setns" in {step.call for step in others}
