"""Experiment 25: can one come back to a namespace?"""

from __future__ import annotations

import os
import socket

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    socket.sethostname("outside")

    def first() -> int:  # it ends; its descriptor stays with us
        socket.sethostname("inside")
        return os.open("/proc/self/ns/uts", os.O_RDONLY | os.O_CLOEXEC)

    def second() -> None:
        see.child("host name, joined", socket.gethostname())

    namespace = ramet.call(first, flags=flags)
    ramet.call(second, join=[namespace])
    see.caller("host name", socket.gethostname())
    os.close(namespace)


def conclude(seen: Seen, control: Seen) -> Findings:
    joined = "host name, joined"
    return (
        ("a second child finds what the first has left", seen.child[joined] == "inside"),
        ("outside it can't be seen", seen.caller["host name"] == "outside"),
        ("without CLONE_NEWUTS the caller was renamed", control.caller["host name"] == "inside"),
    )


EXPERIMENT = Experiment(
    number=25,
    name="join",
    title="namespaces connected again",
    question="Can a later child enter the namespace of one that has ended?",
    flags=CLONE.VM | CLONE.FILES | CLONE.NEWUTS,
    without=CLONE.NEWUTS,
    needs="CAP_SYS_ADMIN",
    ground=CLONE.NEWUTS,
    run=run,
    conclude=conclude,
    answer="Yes, with setns: an open descriptor of /proc/PID/ns/uts keeps the namespace although nobody is in it.",
    claimed="Processes in different namespaces can be connected again.",
    verdict=CONFIRMED,
    page="namespaces(7), setns(2)",
    manual="A namespace lives as long as a process is in it or a descriptor or bind mount refers to it.",
)
