"""The gate: the payload's process, which shares the caller's memory, waits at it until the child has left that memory."""

import contextlib
import os
import signal
import struct
import time

import pytest
from core_programs import CLEAR_SIGHAND, MACHINE, end, failed, readable, step

from ramet import _core
from ramet.plan.encode import encode
from ramet.plan.finish import INIT_RUNNING, PAYLOAD_PID, PID_TEXT_SIZE
from ramet.plan.steps import Block, Ptr, Slot, Stage

INIT = 4  # the stage, as spawn reports it
ENOENT, EAGAIN = 2, 11
NOTHING = Block(bytes(8))
OUT, GO = Slot("out"), Slot("go")
AT_THE_GATE = step("futex", Block(INIT_RUNNING, bytes(4)), 0, 1, 0, 0, 0, allow=(EAGAIN,))
#: Only that the payload's pid has a place in init's data.
PID = step("chdir", Block(PAYLOAD_PID, bytes(PID_TEXT_SIZE - 4)), allow=(ENOENT,))
FAIL = step("chdir", "/nonexistent")


def wait(seconds):
    return step("ppoll", 0, 0, Block(struct.pack("<qq", 0, int(seconds * 1e9))), 0, 0)


def execute(*argv):
    return step("execve", argv[0], Block(*(Ptr(arg) for arg in argv), bytes(8)), NOTHING)


def spawn(init, payload, *, sync=None, out=-1, go=-1):
    """A child that becomes init by these steps, while the payload's process makes those."""
    child, init, payload = (encode(Stage("", steps), MACHINE) for steps in ((step("getpid"),), init, payload))
    return _core.spawn(
        child.blob,
        [],
        CLEAR_SIGHAND,
        payload=(payload.blob, [(payload.offsets[OUT], out)] if OUT in payload.offsets else []),
        init=(init.blob, [(init.offsets[GO], go)] if GO in init.offsets else []),
        gate=payload.offsets[INIT_RUNNING],
        pid_text=init.offsets[PAYLOAD_PID],
        sync=sync,
    )


@contextlib.contextmanager
def on_one_cpu():
    """So that a process which is woken runs only when the one that woke it sleeps or ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_payload_waits_until_the_child_has_left():
    """Its next step is made when the child has exec'd init, not before; when spawn returns, both have left our memory."""
    reader, writer = os.pipe()
    held, go = os.pipe()
    passed = []
    init = PID, step("read", GO, Block(bytes(8)), 1, expect=1), execute("/bin/sleep", "100")
    payload = AT_THE_GATE, step("write", OUT, "P", 1), execute("/bin/true")

    def sync(pid, pidfd):
        passed.append(readable(reader, 0.1))
        os.write(go, b"G")

    found = spawn(init, payload, sync=sync, out=writer, go=held)
    assert found[0] > 0 and found[2:] == (0, 0, 0)
    assert passed == [False] and readable(reader)
    signal.pidfd_send_signal(found[1], signal.SIGKILL)
    end(found[1])
    for fd in (reader, writer, held, go):
        os.close(fd)


@pytest.mark.parametrize("caller", ["first", "last"])
def test_child_that_fails_wakes_the_caller(caller, nothing_left):
    """The child fails, and ends the payload's process, which waits at the gate: whoever of the two began to wait first, the
    caller hears of it. (The kernel wakes one waiter for the child's end: it must not be the one that was killed.)"""
    late = (lambda pid, pidfd: time.sleep(0.1)) if caller == "last" else None
    with on_one_cpu():
        assert spawn((PID, wait(0.3), FAIL), (AT_THE_GATE, FAIL), sync=late) == failed(2, ENOENT, INIT)
