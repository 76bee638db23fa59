"""Experiment 26: can one choose the child's pid?"""

from __future__ import annotations

import os

import ramet
from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes, asked: tuple[int, ...] = (4242,)) -> None:
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)

    def clone(calls: list[lowlevel.Call]) -> lowlevel.Clone:
        return lowlevel.clone3(set_tid=asked, child=calls)

    def first_in_a_new_namespace() -> None:
        child = clone([sleep])
        see.child("its pid", child.pid)
        see.caller("the same again", outcome(lambda: clone([]).wait()))
        os.kill(child.pid, 9)
        child.wait()

    ramet.call(first_in_a_new_namespace, flags=flags)


def without_set_tid(flags: CLONE, see: Notes) -> None:
    """The control: the kernel's choice."""
    run(flags, see, ())


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("the child has the pid that was asked for", seen.child["its pid"] == 4242),
        ("asked for again while it lives, EEXIST", seen.caller["the same again"] == "EEXIST"),
        ("without set_tid the kernel chooses", control.child["its pid"] not in (None, 4242)),
        ("and a second child is no trouble", control.caller["the same again"] == "done"),
    )


EXPERIMENT = Experiment(
    number=26,
    name="set-tid",
    title="a pid of one's choice",
    question="Can the caller choose the child's pid?",
    flags=CLONE.VM | CLONE.NEWPID,
    with_is="set_tid=[4242]",
    control_is="without set_tid",
    needs="CAP_SYS_ADMIN",
    run=run,
    control=without_set_tid,
    conclude=conclude,
    answer="Yes, with clone3's set_tid and privilege in the pid namespace; EEXIST if it is taken. Checkpoint and restore "
    "lives on that.",
    claimed="clone3 can ask for a pid with set_tid, and answers EEXIST where it is taken.",
    verdict=CONFIRMED,
    page="clone(2), the set_tid array",
    manual="It names the pid in the innermost namespace first; CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE is needed "
    "in the user namespace that owns each.",
)
