"""Experiment 1: do caller and child share memory?"""

from __future__ import annotations

import os
from ctypes import c_int
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.child import in_a_copy
from ramet.lab.experiment import CONFIRMED, Experiment, Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    words, number = ["caller"], c_int(0)

    def child() -> None:
        words.append("child")
        number.value = 42
        see.child("getpid()", os.getpid())
        see.child("the list", words)
        see.child("the C int", number.value)

    if flags & CLONE.VM:
        ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    else:
        in_a_copy(child, flags, see)  # as after fork
    see.caller("getpid()", os.getpid())
    see.caller("the list", words)
    see.caller("the C int", number.value)


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("what the child appends to a list, the caller reads", ["caller", "child"] == seen.caller["the list"]),
        ("what it writes to a C int, too", seen.caller["the C int"] == 42),
        ("yet it is another process", seen.child["getpid()"] not in (None, seen.caller["getpid()"])),
        ("without CLONE_VM the list stays as it was", control.caller["the list"] == ["caller"]),
        ("and so does the C int", control.caller["the C int"] == 0),
        ("although the child wrote all the same", control.child["the C int"] == 42),
    )


EXPERIMENT = Experiment(
    number=1,
    name="memory",
    title="caller and child in one memory",
    question="Do caller and child share memory?",
    flags=CLONE.VM,
    exit_signal=SIGCHLD,
    without=CLONE.VM,
    run=run,
    conclude=conclude,
    answer="With CLONE_VM there is one memory: whatever either writes, both have. Without it the child has a copy.",
    claimed="Parent and child share memory.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_VM",
    manual="Caller and child run in the same memory space; writes and mappings of one are visible in the other.",
)
