"""Experiment 28: is the child of a traced caller traced?"""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import status
from ramet.lab.numbers import NR
from ramet.lab.tracer import Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    with Traced():  # from here on, the caller has a tracer
        child = lowlevel.clone3(flags, child=[sleep])
        see.caller("has a tracer", status("TracerPid") != "0")
        see.child("has a tracer", status("TracerPid", child.pid) != "0")
        os.kill(child.pid, 9)
        child.wait()


def conclude(seen: Seen, control: Seen) -> Findings:
    traced = "has a tracer"
    return (
        ("the caller is traced", seen.caller[traced] is True),
        ("so is its child", seen.child[traced] is True),
        ("without CLONE_PTRACE the child is not", control.child[traced] is False),
    )


EXPERIMENT = Experiment(
    number=28,
    name="ptrace",
    title="traced, if the caller is",
    question="Is the child of a traced caller traced as well?",
    flags=CLONE.PTRACE,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.PTRACE,
    run=run,
    conclude=conclude,
    answer="With CLONE_PTRACE, from its first instruction on; without it only if the tracer asked for that.",
    claimed="CLONE_PTRACE has the child traced if the caller is.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_PTRACE; ptrace(2)",
    manual="If the caller is being traced, then trace the child also.",
)
