"""Hand-made programs for _core.spawn, and what the tests of the core look at."""

import os
import select
import sys

from ramet import _core
from ramet.plan.calls import numbers
from ramet.plan.encode import encode
from ramet.plan.steps import Stage, Step

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a test's own Python has this folder only
from observed import children as children
from observed import descriptors as descriptors

MACHINE = os.uname().machine
NUMBERS = numbers(MACHINE)
CHILD = 3  # the stage that spawn's own steps report
EPROTO = 71

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
CLEAR_SIGHAND = 1 << 32
#: Rights over everything new, for root and an ordinary user alike.
OWN = NEWUSER | NEWNS | NEWUTS | NEWNET | CLEAR_SIGHAND


def step(call, *args, result=None, allow=(), expect=None, retries=False):
    """One step of a hand-made program."""
    return Step(call, args, result, "test", "test", tuple(allow), expect, retries)


def spawn(*steps, inputs=None, flags=CLEAR_SIGHAND, fail=None, join=None, **more):
    """Run the steps in a child. Returns what spawn does; a child that succeeded is waited for."""
    encoded = encode(Stage("child", steps), MACHINE, fail=fail)
    given = [(encoded.offsets[slot], fd) for slot, fd in (inputs or {}).items() if slot in encoded.offsets]
    if join is not None:
        more["join"] = encode(Stage("join", tuple(join)), MACHINE).blob, []
    found = _core.spawn(encoded.blob, given, flags, **more)
    if found[0] > 0:
        end(found[1])
    return found


def end(pidfd):
    """Wait for the end; its (si_code, si_status)."""
    found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | 0x40000000)
    os.close(pidfd)
    return found.si_code, found.si_status


def succeeded(found):
    """No step failed."""
    return found[0] > 0 and found[2:] == (0, 0, 0)


def failed(number, errno, stage=CHILD):
    """What spawn returns for this failure."""
    return (-1, -1, stage, number, errno)


def prctl(option, argument=0):
    """prctl(2) on the calling thread."""
    return _core.syscall("prctl", NUMBERS["prctl"], option, argument, 0, 0, 0)


PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def readable(fd, seconds=0):
    """Is there something to read, now or within so many seconds?"""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(int(seconds * 1000)))
