"""Hazard 4 of csrc/spawn.c: CLONE_VFORK stops the caller's thread, so a plan with a sync has none."""

import os
import threading

import pytest
from core_programs import OWN, children, failed, readable, spawn, step, succeeded

from ramet.plan.steps import Block, Slot

ZERO = Block(bytes(8))
READY = Slot("ready")
WAIT = step("read", READY, ZERO, 1, expect=1)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_4_vfork_other_threads_run_while_the_child_does(pipe):
    """Without sync the calling thread waits for the child, and the other threads of Python do not."""
    ready, go = pipe
    turns = []

    def work():
        turns.extend(range(1000))
        os.write(go, b"G")  # the child, and with it the spawning thread, waits for this

    thread = threading.Thread(target=work)
    thread.start()
    assert succeeded(spawn(WAIT, inputs={READY: ready}))
    assert len(turns) == 1000
    thread.join()


def test_4_vfork_returns_when_the_child_has_left_our_memory(pipe):
    """spawn returns after the exec, not after the end: the payload still waits when it does."""
    ready, go = pipe
    from ramet import _core
    from ramet.plan.encode import encode
    from ramet.plan.steps import Ptr, Stage

    steps = (step("dup3", READY, 0, 0), step("execve", "/bin/cat", Block(Ptr("cat"), bytes(8)), ZERO))
    encoded = encode(Stage("child", steps), os.uname().machine)
    _pid, pidfd, *where = _core.spawn(encoded.blob, [(encoded.offsets[READY], ready)], 0)
    assert where == [0, 0, 0]
    assert not readable(pidfd)
    import signal

    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert readable(pidfd, 50)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | 0x40000000)
    os.close(pidfd)
    assert go


def test_4_vfork_sync_runs_python_while_the_child_waits(pipe):
    """With sync the child is there, waiting, while Python and its other threads run; then it goes on."""
    ready, go = pipe
    seen = []

    def sync(pid, pidfd):
        thread = threading.Thread(target=lambda: seen.append(sum(range(1000))))
        thread.start()
        thread.join()
        seen.extend([pid in children(), readable(pidfd)])
        os.write(go, b"G")

    assert succeeded(spawn(WAIT, inputs={READY: ready}, sync=sync))
    assert seen == [499500, True, False]


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_4_vfork_exception_in_sync_kills_and_reaps(pipe, raised, nothing_left):
    """An exception in the caller's part comes out of spawn, and the waiting child is gone and reaped."""
    ready, _go = pipe
    pids = []

    def sync(pid, _pidfd):
        pids.append(pid)
        raise raised("no")

    with pytest.raises(raised, match="no"):
        spawn(WAIT, inputs={READY: ready}, sync=sync, flags=OWN)
    assert pids and pids[0] not in children()


def test_4_vfork_child_that_fails_first_is_reported_as_itself(pipe, nothing_left):
    """A child that fails before or while the caller does its part is reported by its own step, even if the
    caller's part
    then fails as a consequence."""
    ready, _go = pipe

    def sync(pid, pidfd):
        assert readable(pidfd, 50)  # it has failed and ended

    steps = (step("chdir", "/"), step("chdir", "/nonexistent"), WAIT)
    assert spawn(*steps, inputs={READY: ready}, sync=sync) == failed(1, 2)
