"""Experiment 13: which words in memory does the kernel write for a thread library?"""

from __future__ import annotations

import os
from ctypes import addressof, c_int

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

UNTOUCHED = -1


def run(flags: CLONE, see: Notes) -> None:
    parents, childs = c_int(UNTOUCHED), c_int(UNTOUCHED)
    # Without the flags ramet has the kernel clear a word of its own.
    given = addressof(childs) if flags & CLONE.CHILD_SETTID else 0
    reading, writing = os.pipe()
    tell = lowlevel.Call(NR["write"], writing, addressof(childs), 4)
    child = lowlevel.clone3(
        flags,
        parent_tid=addressof(parents),
        child_tid=given,
        child=[tell],
    )
    child.wait()
    found = int.from_bytes(os.read(reading, 4), "little", signed=True)
    os.close(reading)
    os.close(writing)

    see.caller("clone3 answers", child.pid)
    see.caller("*parent_tid", parents.value)
    see.child("*child_tid, at start", found)
    see.caller("*child_tid, at the end", childs.value)


def conclude(seen: Seen, control: Seen) -> Findings:
    answer = seen.caller["clone3 answers"]
    before, after = "*child_tid, at start", "*child_tid, at the end"
    return (
        ("CLONE_PARENT_SETTID writes the thread id for the caller", seen.caller["*parent_tid"] == answer is not None),
        ("CLONE_CHILD_SETTID writes it for the child", seen.child[before] == answer is not None),
        ("CLONE_CHILD_CLEARTID zeroes it when the child has left", seen.caller[after] == 0),
        (
            "without them nothing is written",
            {UNTOUCHED} == {control.caller["*parent_tid"], control.child[before], control.caller[after]},
        ),
    )


_WORDS = CLONE.PARENT_SETTID | CLONE.CHILD_SETTID | CLONE.CHILD_CLEARTID
EXPERIMENT = Experiment(
    number=13,
    name="words",
    title="thread ids written, and zeroed at the end",
    question="Which words in memory does the kernel write for a thread library?",
    flags=CLONE.VM | _WORDS,
    exit_signal=lowlevel.SIGCHLD,
    without=_WORDS,
    with_is="with the three flags",
    control_is="without them",
    run=run,
    conclude=conclude,
    answer="The child's id for the caller, the same for the child, and a zero when the child has left the memory: that "
    "zero, with a futex wake-up, is what pthread_join waits for.",
    claimed="The kernel writes the thread id for parent and child, and clears it at exit.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_PARENT_SETTID, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID",
    manual="The id is stored before clone returns; the child's word is cleared at exit and a futex there is woken.",
)
