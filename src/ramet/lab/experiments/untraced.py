"""Experiment 29: can a tracer be kept out?"""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import status
from ramet.lab.numbers import NR
from ramet.lab.tracer import FOLLOW, Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    with Traced(FOLLOW):  # by one that wants children too: strace -f
        child = lowlevel.clone3(flags, child=[sleep])
        see.caller("has a tracer", status("TracerPid") != "0")
        see.child("has a tracer", status("TracerPid", child.pid) != "0")
        os.kill(child.pid, 9)
        child.wait()


def conclude(seen: Seen, control: Seen) -> Findings:
    traced = "has a tracer"
    return (
        ("the caller is traced", seen.caller[traced] is True),
        ("its child is not, though the tracer asked", seen.child[traced] is False),
        ("without CLONE_UNTRACED it is", control.child[traced] is True),
    )


EXPERIMENT = Experiment(
    number=29,
    name="untraced",
    title="not traced, whatever the tracer asks",
    question="Can a child be kept from the caller's tracer?",
    flags=CLONE.UNTRACED,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.UNTRACED,
    run=run,
    conclude=conclude,
    answer="With CLONE_UNTRACED the tracer's wish to follow children (PTRACE_O_TRACEFORK and its like) passes this one by.",
    claimed="CLONE_UNTRACED keeps a tracer from forcing CLONE_PTRACE on the child.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_UNTRACED",
    manual="A tracing process cannot force CLONE_PTRACE on this child.",
)
