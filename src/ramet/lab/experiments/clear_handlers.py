"""Experiment 17: how does a child start without the caller's signal handlers?"""

from __future__ import annotations

import os
import signal
from signal import SIG_IGN, SIGUSR1, SIGUSR2

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import handles
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    signal.signal(SIGUSR1, lambda *_: None)
    signal.signal(SIGUSR2, SIG_IGN)

    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    child = lowlevel.clone3(flags, child=[sleep])
    see.child("handles SIGUSR1", handles("SigCgt", SIGUSR1, child.pid))
    see.child("ignores SIGUSR2", handles("SigIgn", SIGUSR2, child.pid))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    see.caller("handles SIGUSR1", handles("SigCgt", SIGUSR1))


def conclude(seen: Seen, control: Seen) -> Findings:
    handled, ignored = "handles SIGUSR1", "ignores SIGUSR2"
    return (
        ("what the caller handles is default in the child", seen.child[handled] is False),
        ("what it ignores stays ignored", seen.child[ignored] is True),
        ("the caller's handlers stay", seen.caller[handled] is True),
        ("without the flag the child has them too", control.child[handled] is True),
    )


EXPERIMENT = Experiment(
    number=17,
    name="clear-handlers",
    title="handlers cleared at the start",
    question="How does a child start without the caller's signal handlers?",
    flags=CLONE.VM | CLONE.CLEAR_SIGHAND,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.CLEAR_SIGHAND,
    run=run,
    conclude=conclude,
    answer="With CLONE_CLEAR_SIGHAND each handled signal has its default action in the child; ignored ones stay "
    "ignored. So no handler of the caller's runs in a child that shares its memory.",
    claimed="CLONE_CLEAR_SIGHAND resets the handlers in the child.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_CLEAR_SIGHAND",
    manual="All signals that have a handler get their default disposition; those that are ignored stay so.",
)
