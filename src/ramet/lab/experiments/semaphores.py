"""Experiment 21: when are a child's semaphore operations undone?"""

from __future__ import annotations

from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import new_semaphore, remove_semaphore, semaphore_value, take_with_undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    semaphore = new_semaphore(1)

    def child() -> None:
        take_with_undo(semaphore)  # undo it when I end
        see.child("value, while it runs", semaphore_value(semaphore))

    try:
        ramet.call(child, flags=flags, exit_signal=SIGCHLD)
        see.caller("value, at its end", semaphore_value(semaphore))
    finally:
        remove_semaphore(semaphore)


def conclude(seen: Seen, control: Seen) -> Findings:
    runs, ended = "value, while it runs", "value, at its end"
    return (
        ("the child takes the semaphore", seen.child[runs] == control.child[runs] == 0),
        ("with one undo list, it stays taken when the child ends", seen.caller[ended] == 0),
        ("without the flag the child's end gives it back", control.caller[ended] == 1),
    )


EXPERIMENT = Experiment(
    number=21,
    name="semaphores",
    title="one list of semaphore undo values",
    question="When are a child's semaphore operations undone?",
    flags=CLONE.VM | CLONE.SYSVSEM,
    exit_signal=SIGCHLD,
    without=CLONE.SYSVSEM,
    ground=CLONE.NEWIPC,  # what ends early leaves no semaphore on the host
    ground_optional=True,
    run=run,
    conclude=conclude,
    answer="Without CLONE_SYSVSEM when the child ends; with it, when the last of those that share the list ends.",
    claimed="CLONE_SYSVSEM shares the list of undo values.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_SYSVSEM; semop(2)",
    manual="The undo list is shared, and undone when the last process that shares it ends.",
)
