"""Experiment 10: what makes a child a thread?"""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    calls = [lowlevel.Call(NR["getpid"]), lowlevel.Call(NR["gettid"])]
    made = lowlevel.clone3(flags, child=calls)
    answer = outcome(os.waitpid, made.pid, lowlevel.WALL)
    outcome(made.wait)
    pid, tid = made.results

    see.child("getpid()", pid)
    see.child("gettid()", tid)
    see.caller("getpid()", os.getpid())
    see.caller("clone3 answers", made.pid)
    see.caller("waitpid, __WALL", answer)


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("a thread has the caller's pid", seen.child["getpid()"] == seen.caller["getpid()"]),
        (
            "and a thread id of its own: clone's answer",
            _own_tid(seen) and seen.child["gettid()"] != seen.child["getpid()"],
        ),
        ("nobody can wait for it", seen.caller["waitpid, __WALL"] == "ECHILD"),
        (
            "without the flag it is a process of its own",
            _own_tid(control) and control.child["getpid()"] == control.child["gettid()"],
        ),
        ("that can be waited for", control.caller["waitpid, __WALL"] == "done"),
    )


def _own_tid(seen: Seen) -> bool:
    return bool(seen.child["gettid()"] == seen.caller["clone3 answers"] != seen.caller["getpid()"])


EXPERIMENT = Experiment(
    number=10,
    name="thread",
    title="a thread beside a process",
    question="What makes a child a thread?",
    flags=CLONE.VM | CLONE.SIGHAND | CLONE.THREAD,
    without=CLONE.THREAD,
    run=run,
    conclude=conclude,
    answer="CLONE_THREAD: the child is in the caller's thread group, has its pid, and can't be waited for. Shared memory "
    "and handlers alone leave it a process.",
    claimed="Threads and processes are made by the same call.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_THREAD",
    manual="The child is put in the caller's thread group, so getpid is the same in both; it sends no signal when it "
    "ends and its status can't be had by wait.",
)
