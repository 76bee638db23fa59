"""Experiment 15: what is a pidfd good for?"""

from __future__ import annotations

import os
from select import poll
from signal import SIGKILL

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
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    child = lowlevel.clone3(flags, child=[sleep])
    see.caller("gets a descriptor", child.pidfd is not None)
    if child.pidfd is None:
        os.kill(child.pid, SIGKILL)  # by number: whoever has it now
        child.wait()
        return

    def signal() -> None:
        lowlevel.pidfd_send_signal(child.pidfd or 0, SIGKILL)

    end = poll()
    end.register(child.pidfd)
    see.caller("readable while it runs", bool(end.poll(0)))
    see.caller("SIGKILL through it", outcome(signal))
    see.caller("readable at its end", bool(end.poll()))
    see.caller("exit code", os.waitstatus_to_exitcode(child.wait()))
    see.caller("a signal after that", outcome(signal))
    child.close()


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("the caller gets a descriptor", seen.caller["gets a descriptor"] is True),
        ("it becomes readable when the child ends", _becomes_readable(seen)),
        ("a signal goes through it", seen.caller["SIGKILL through it"] == "done" and seen.caller["exit code"] == -9),
        ("never to another process: ESRCH", seen.caller["a signal after that"] == "ESRCH"),
        ("without the flag there is none", control.caller["gets a descriptor"] is False),
    )


def _becomes_readable(seen: Seen) -> bool:
    return [False, True] == [seen.caller["readable while it runs"], seen.caller["readable at its end"]]


EXPERIMENT = Experiment(
    number=15,
    name="pidfd",
    title="a descriptor that stands for the child",
    question="What is a pidfd good for?",
    flags=CLONE.PIDFD,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.PIDFD,
    run=run,
    conclude=conclude,
    answer="It can be polled for the child's end, waited and signaled through, and never means another process, as a "
    "pid does once it is used again.",
    claimed="CLONE_PIDFD gives the caller a descriptor that refers to the child.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_PIDFD; pidfd_open(2)",
    manual="A pidfd for the child is placed in the caller, close-on-exec; it is readable when the process has ended.",
)
