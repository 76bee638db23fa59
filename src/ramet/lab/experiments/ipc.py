"""Experiment 20: does the child find the caller's System V objects?"""

from __future__ import annotations

from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import IPC_CREAT, IPC_EXCL, link, msgctl_rmid, msgget, outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

KEY = 0x72616D65


def run(flags: CLONE, see: Notes) -> None:
    queue = msgget(KEY, IPC_CREAT | IPC_EXCL | 0o600)

    def child() -> None:
        see.child("ns/ipc", link("ipc"))
        see.child("opens the queue", outcome(msgget, KEY))

    try:
        ramet.call(child, flags=flags, exit_signal=SIGCHLD)
        see.caller("ns/ipc", link("ipc"))
        see.caller("opens the queue", outcome(msgget, KEY))
    finally:
        msgctl_rmid(queue)


def conclude(seen: Seen, control: Seen) -> Findings:
    opens = "opens the queue"
    return (
        ("the caller's queue is there", seen.caller[opens] == "done"),
        ("inside there is none of that key", seen.child[opens] == "ENOENT"),
        ("without the flag the child opens it", control.child[opens] == "done"),
    )


EXPERIMENT = Experiment(
    number=20,
    name="ipc",
    title="System V objects of its own",
    question="Does the child find the caller's message queue?",
    flags=CLONE.VM | CLONE.NEWIPC,
    exit_signal=SIGCHLD,
    without=CLONE.NEWIPC,
    needs="CAP_SYS_ADMIN",
    ground=CLONE.NEWIPC,
    run=run,
    conclude=conclude,
    answer="Not with CLONE_NEWIPC: the keys of System V queues, semaphores and shared memory mean something else inside.",
    claimed="An IPC namespace isolates inter-process communication.",
    verdict=CONFIRMED,
    page="ipc_namespaces(7)",
    manual="It isolates System V IPC objects and POSIX message queues; pipes, sockets and shared memory stay as they are.",
)
