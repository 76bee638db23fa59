"""Experiment 27: do caller and child share an I/O context?"""

from __future__ import annotations

from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import ioprio_get, ioprio_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    ioprio_set(4)  # which gives the caller a context to share

    def child() -> None:
        ioprio_set(7)
        see.child("I/O priority", ioprio_get())

    ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    see.caller("I/O priority", ioprio_get())


def conclude(seen: Seen, control: Seen) -> Findings:
    level = "I/O priority"
    return (
        ("the child's I/O priority is the caller's", seen.child[level] == seen.caller[level] == 7),
        ("without CLONE_IO the caller keeps its own", control.caller[level] == 4),
    )


EXPERIMENT = Experiment(
    number=27,
    name="io",
    title="one I/O context",
    question="Do caller and child share an I/O context?",
    flags=CLONE.VM | CLONE.IO,
    exit_signal=SIGCHLD,
    without=CLONE.IO,
    run=run,
    conclude=conclude,
    answer="With CLONE_IO yes: the I/O priority that the child gives itself is the caller's as well.",
    claimed="CLONE_IO shares the I/O context.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_IO",
    manual="Caller and child share an I/O context; I/O schedulers treat them as one.",
)
