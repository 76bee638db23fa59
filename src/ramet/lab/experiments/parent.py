"""Experiment 12: whose child is the child?"""

from __future__ import annotations

import os
from select import poll

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.child import in_a_copy
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    def caller() -> None:
        ask = lowlevel.Call(NR["getppid"])
        made = lowlevel.clone3(flags, pidfd=True, child=[ask])
        end = poll()
        end.register(made.pidfd or 0)
        end.poll()
        see.child("getppid()", made.results[0])
        see.caller("getpid()", os.getpid())
        see.caller("getppid()", os.getppid())
        see.caller("waitpid", outcome(os.waitpid, made.pid, lowlevel.WALL))

    in_a_copy(caller, CLONE(0), see)  # so that its parent is us
    answer = outcome(os.waitpid, -1, lowlevel.WALL)
    see.caller("its parent's waitpid", answer)


def conclude(seen: Seen, control: Seen) -> Findings:
    waited, above = "waitpid", "its parent's waitpid"
    return (
        ("the child's parent is the caller's parent", seen.child["getppid()"] == seen.caller["getppid()"]),
        ("and can wait for it", seen.caller[above] == "done"),
        ("while the caller can't", seen.caller[waited] == "ECHILD"),
        ("without the flag it is the caller's", control.child["getppid()"] == control.caller["getpid()"]),
        ("and the caller waits for it", [control.caller[waited], control.caller[above]] == ["done", "ECHILD"]),
    )


EXPERIMENT = Experiment(
    number=12,
    name="parent",
    title="a sibling in place of a child",
    question="Whose child is the child?",
    flags=CLONE.PARENT | CLONE.PIDFD,
    without=CLONE.PARENT,
    run=run,
    conclude=conclude,
    answer="With CLONE_PARENT it is the caller's parent's: caller and child are siblings, and only the parent can wait.",
    claimed="With CLONE_PARENT the child's parent is that of the calling process.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_PARENT",
    manual="The child's parent is the caller's; it, not the caller, is signaled when the child ends.",
)
