"""Experiment 33: a child that dies with its pidfd."""

from __future__ import annotations

from select import poll
from signal import SIGKILL

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

SOON, LONG_ENOUGH = 200, 20_000  # milliseconds


def run(flags: CLONE, see: Notes) -> None:
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    child = lowlevel.clone3(flags, child=[sleep])
    other = lowlevel.pidfd_open(child.pid)  # which is no copy of it
    end = poll()
    end.register(other)
    see.caller("ended at first", bool(end.poll(0)))
    child.close()
    killed = flags & CLONE.PIDFD_AUTOKILL
    ended = bool(end.poll(LONG_ENOUGH if killed else SOON))
    see.caller("ended after close", ended)
    if not ended:
        lowlevel.pidfd_send_signal(other, SIGKILL)
        end.poll()


def conclude(seen: Seen, control: Seen) -> Findings:
    before, after = "ended at first", "ended after close"
    return (
        ("while the pidfd is open the child lives", seen.caller[before] is False),
        ("closing it kills the child", seen.caller[after] is True),
        ("without the flag the child lives on", control.caller[after] is False),
    )


EXPERIMENT = Experiment(
    number=33,
    name="autokill",
    title="a child that dies with its pidfd (7.1)",
    question="What happens to a child when nobody holds its pidfd any more?",
    flags=CLONE.PIDFD | CLONE.AUTOREAP | CLONE.NNP | CLONE.PIDFD_AUTOKILL,
    without=CLONE.PIDFD_AUTOKILL,
    run=run,
    conclude=conclude,
    answer="With CLONE_PIDFD_AUTOKILL the kernel kills it: it can't outlive a caller that dies, however that dies.",
    claimed="Linux 7.1's CLONE_PIDFD_AUTOKILL ties the child's life to the pidfd.",
    verdict=CONFIRMED,
    page="clone3, CLONE_PIDFD_AUTOKILL, since Linux 7.1",
    manual="The child gets SIGKILL when the last copy of the pidfd that clone3 returned is closed. It goes with "
    "CLONE_AUTOREAP.",
)
