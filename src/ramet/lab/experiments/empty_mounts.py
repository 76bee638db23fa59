"""Experiment 34: a mount namespace with nothing in it."""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.child import in_a_copy
from ramet.lab.experiment import CONFIRMED, Experiment, Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    def child() -> None:
        see.child("names in /", len(os.listdir("/")))
        see.child("/proc is there", os.path.exists("/proc/self"))

    in_a_copy(child, flags, see)
    see.caller("names in /", len(os.listdir("/")))


def conclude(seen: Seen, control: Seen) -> Findings:
    names, proc = "names in /", "/proc is there"
    return (
        ("the child's root is empty", seen.child[names] == 0),
        ("and nothing is mounted there", seen.child[proc] is False),
        ("the caller's root is as it was", bool(seen.caller[names])),
        ("without the flag the child has that, too", control.child[names] == control.caller[names]),
    )


EXPERIMENT = Experiment(
    number=34,
    name="empty-mounts",
    title="a mount table with nothing in it (7.1)",
    question="Must a new mount namespace be a copy?",
    flags=CLONE.EMPTY_MNTNS,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.EMPTY_MNTNS,
    needs="CAP_SYS_ADMIN",
    run=run,
    conclude=conclude,
    answer="Not with CLONE_EMPTY_MNTNS: the child sees one empty root and nothing else, and no copy had to be made.",
    claimed="Linux 7.1's CLONE_EMPTY_MNTNS starts the child with an empty mount namespace.",
    verdict=CONFIRMED,
    page="clone3, CLONE_EMPTY_MNTNS, since Linux 7.1",
    manual="The new mount namespace holds an empty root alone, in place of a copy of the caller's mounts.",
)
