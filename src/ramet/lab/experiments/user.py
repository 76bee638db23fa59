"""Experiment 18: root inside, nobody special outside?"""

from __future__ import annotations

import os
import socket
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    root = 0 if flags & CLONE.NEWUSER else None

    def child() -> None:
        see.child("getuid()", os.getuid())
        see.child("has capabilities", int(status("CapEff"), 16) != 0)
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        back = outcome(os.setpriority, os.PRIO_PROCESS, 0, 18)
        see.child("power outside: nice 18", back)

    def rename() -> None:
        new = flags | CLONE.NEWUTS
        ramet.call(socket.sethostname, "lab", flags=new, map_uid=root)

    ramet.call(child, flags=flags, map_uid=root, exit_signal=SIGCHLD)
    see.child("power inside: rename", outcome(rename))
    see.caller("getuid()", os.getuid())


def conclude(seen: Seen, control: Seen) -> Findings:
    outside, inside = "power outside: nice 18", "power inside: rename"
    return (
        ("inside the child is uid 0", seen.child["getuid()"] == 0),
        ("with capabilities", seen.child["has capabilities"] is True),
        ("they rename the host that it has made itself", seen.child[inside] == "done"),
        ("but get it nothing outside", seen.child[outside] == "EACCES"),
        ("without the flag it is who the caller is", control.child["getuid()"] == control.caller["getuid()"]),
    )


EXPERIMENT = Experiment(
    number=18,
    name="user",
    title="root inside, nobody special outside",
    question="What may the root of a new user namespace do?",
    flags=CLONE.VM | CLONE.NEWUSER,
    exit_signal=SIGCHLD,
    without=CLONE.NEWUSER,
    needs="user namespaces, open to this user",
    run=run,
    conclude=conclude,
    answer="Everything to what it makes from then on, such as a UTS namespace's host name; nothing to what was there "
    "before: having made itself as nice as can be, it stays so. It needs no privilege.",
    claimed="In a user namespace an ordinary user is root inside and nobody special outside.",
    verdict=CONFIRMED,
    page="user_namespaces(7)",
    manual="The child has all capabilities in its user namespace, and none in the one it came from.",
)
