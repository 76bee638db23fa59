"""Experiment 30: what became of the flags that are gone?"""

from __future__ import annotations

from ramet import lowlevel
from ramet.flags import CLONE, OBSOLETE_CLONE, kernel_name
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

    Clone: TypeAlias = Callable[..., lowlevel.Clone]

PID, DETACHED, STOPPED = (OBSOLETE_CLONE[name] for name in ("PID", "DETACHED", "STOPPED"))


def run(flags: CLONE, see: Notes, clone: Clone = lowlevel.clone) -> None:
    def child(word: int) -> None:
        with clone(word, child=[]) as made:
            made.wait()

    see.caller("CLONE_DETACHED", outcome(child, DETACHED))
    see.caller("with CLONE_PIDFD", outcome(child, DETACHED | CLONE.PIDFD))
    see.caller("CLONE_PID's bit", kernel_name(CLONE(PID)))
    see.caller("CLONE_STOPPED's", kernel_name(CLONE(STOPPED)))


def by_clone3(flags: CLONE, see: Notes) -> None:
    """The same through clone3, where that can be had at all."""
    lowlevel.clone3(child=[]).wait()
    run(flags, see, lowlevel.clone3)


def conclude(seen: Seen, control: Seen) -> Findings:
    detached = "CLONE_DETACHED"
    return (
        ("clone ignores CLONE_DETACHED", seen.caller[detached] == "done"),
        ("but refuses it beside CLONE_PIDFD", seen.caller["with CLONE_PIDFD"] == "EINVAL"),
        ("clone3 refuses it in any case", control.caller[detached] == "EINVAL"),
    )


EXPERIMENT = Experiment(
    number=30,
    name="obsolete",
    title="flags that are gone",
    question="What became of CLONE_DETACHED, CLONE_PID and CLONE_STOPPED?",
    flags=CLONE(0),
    exit_signal=lowlevel.SIGCHLD,
    with_is="through clone",
    control_is="through clone3",
    run=run,
    control=by_clone3,
    conclude=conclude,
    answer="CLONE_DETACHED means nothing: clone ignores it, clone3 says EINVAL. The bits of the other two mean other "
    "things by now.",
    claimed="These flags are obsolete.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_DETACHED, CLONE_PID, CLONE_STOPPED",
    manual="CLONE_DETACHED is ignored by clone, and an error for clone3 and beside CLONE_PIDFD; the others were removed.",
)
