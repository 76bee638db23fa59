"""Experiment 31: a child that leaves no zombie."""

from __future__ import annotations

import os
from select import poll
from signal import SIG_BLOCK, SIGCHLD, pthread_sigmask, sigpending

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    pthread_sigmask(SIG_BLOCK, [SIGCHLD])
    with lowlevel.clone3(flags, child=[], exit_status=7) as child:
        end = poll()
        end.register(child.pidfd or 0)
        end.poll()
        see.caller("SIGCHLD came", SIGCHLD in sigpending())
        if flags & CLONE.AUTOREAP:
            status = os.waitstatus_to_exitcode(child.wait())
            see.caller("status, by the pidfd", status)
        answer = outcome(os.waitpid, child.pid, lowlevel.WALL)
        see.caller("waitpid", answer)


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("nobody has to wait: there is no zombie", seen.caller["waitpid"] == "ECHILD"),
        ("no signal comes", seen.caller["SIGCHLD came"] is False),
        ("the pidfd tells the exit status", seen.caller["status, by the pidfd"] == 7),
        ("without the flag a zombie is left to be waited for", control.caller["waitpid"] == "done"),
    )


EXPERIMENT = Experiment(
    number=31,
    name="autoreap",
    title="a child that leaves no zombie (7.1)",
    question="Must somebody wait for every child?",
    flags=CLONE.PIDFD | CLONE.AUTOREAP,
    without=CLONE.AUTOREAP,
    run=run,
    conclude=conclude,
    answer="Not with CLONE_AUTOREAP: the child leaves no zombie and sends no signal; the pidfd keeps its exit status.",
    claimed="Linux 7.1's CLONE_AUTOREAP reaps the child by itself.",
    verdict=CONFIRMED,
    page="clone3, CLONE_AUTOREAP, since Linux 7.1",
    manual="The child is reaped when it ends, without a signal; its status is read through a pidfd (PIDFD_GET_INFO).",
)
