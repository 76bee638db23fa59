"""Experiment 19: whose host name does the child change?"""

from __future__ import annotations

import socket
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    socket.sethostname("outside")

    def child() -> None:
        see.child("host name at first", socket.gethostname())
        socket.sethostname("inside")
        see.child("host name", socket.gethostname())
        see.child("ns/uts", link("uts"))

    ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    see.caller("host name", socket.gethostname())
    see.caller("ns/uts", link("uts"))


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("the child starts with a copy", seen.child["host name at first"] == "outside"),
        ("it renames itself", seen.child["host name"] == "inside"),
        ("and not the caller", seen.caller["host name"] == "outside"),
        ("without the flag the caller is renamed too", control.caller["host name"] == "inside"),
    )


EXPERIMENT = Experiment(
    number=19,
    name="uts",
    title="a host name of its own",
    question="Whose host name does the child change?",
    flags=CLONE.VM | CLONE.NEWUTS,
    exit_signal=SIGCHLD,
    without=CLONE.NEWUTS,
    needs="CAP_SYS_ADMIN",
    ground=CLONE.NEWUTS,
    run=run,
    conclude=conclude,
    answer="Its own, with CLONE_NEWUTS: a copy of the caller's at first, and apart from then on.",
    claimed="A UTS namespace isolates the host name.",
    verdict=CONFIRMED,
    page="uts_namespaces(7)",
    manual="A new UTS namespace copies host name and NIS domain name; changes are seen only in there.",
)
