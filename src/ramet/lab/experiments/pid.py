"""Experiment 3: which pid does a child in a new pid namespace have, and which does ps show?"""

from __future__ import annotations

import os
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE, MS
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import mount, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    def numbers() -> list[int]:  # that ps would print
        return sorted(int(n) for n in os.listdir("/proc") if n.isdigit())

    def child() -> None:
        see.child("getpid()", os.getpid())
        see.child("getppid()", os.getppid())
        both = [int(n) for n in status("NSpid").split()]
        see.child("NSpid in /proc", both)
        see.child("ps shows it as", int(os.readlink("/proc/self")))

    def child_with_proc() -> None:
        mount(None, "/", None, MS.REC | MS.PRIVATE)
        mount("proc", "/proc", "proc")
        see.child("ps, fresh /proc", numbers())

    ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    if flags & CLONE.NEWPID:
        ramet.call(child_with_proc, flags=flags | CLONE.NEWNS)
    see.caller("getpid()", os.getpid())


def conclude(seen: Seen, control: Seen) -> Findings:
    outer, *inner = seen.child["NSpid in /proc"] or [0]
    return (
        ("inside, the child is pid 1 and its parent 0", [1, 0] == [seen.child["getpid()"], seen.child["getppid()"]]),
        ("outside it has a second number", outer != 1 and inner[-1:] == [1]),
        ("ps shows that one: /proc is still the outer one", outer == seen.child["ps shows it as"] != 1),
        ("with a fresh /proc ps shows 1 alone", seen.child["ps, fresh /proc"] == [1]),
        ("without the flag it is an ordinary pid", control.child["getppid()"] == control.caller["getpid()"]),
    )


EXPERIMENT = Experiment(
    number=3,
    name="pid",
    title="pid 1 of a numbering of its own",
    question="Which pid does the child have, and which does ps show?",
    flags=CLONE.VM | CLONE.NEWPID,
    exit_signal=SIGCHLD,
    without=CLONE.NEWPID,
    needs="CAP_SYS_ADMIN",
    run=run,
    conclude=conclude,
    answer="The child has two numbers: 1 inside and another outside. ps reads /proc, which shows the numbers of the "
    "namespace it was mounted in: the outer ones, until a fresh /proc is mounted inside.",
    claimed="The child prints pid 1, and the numbers that ps then prints are those inside the namespace.",
    verdict=CORRECTED,
    page="pid_namespaces(7)",
    manual="The first process in there has pid 1, and a pid in each namespace above. A /proc shows the processes of "
    "the namespace of whoever mounted it.",
)
