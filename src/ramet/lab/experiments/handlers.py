"""Experiment 16: are signal handlers shared?"""

from __future__ import annotations

import signal
from signal import SIG_DFL, SIG_IGN, SIGUSR1

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import handles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    signal.signal(SIGUSR1, SIG_DFL)

    def child() -> None:
        signal.signal(SIGUSR1, SIG_IGN)
        see.child("kernel: ignored", handles("SigIgn", SIGUSR1))

    ramet.call(child, flags=flags, exit_signal=signal.SIGCHLD)
    see.caller("kernel: ignored", handles("SigIgn", SIGUSR1))
    see.caller("Python: ignored", signal.getsignal(SIGUSR1) == SIG_IGN)


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("what the child ignores, the caller ignores", seen.caller["kernel: ignored"] is True),
        ("without CLONE_SIGHAND it does not", control.caller["kernel: ignored"] is False),
        ("though the child does", control.child["kernel: ignored"] is True),
        ("Python's own table is memory, and shared by CLONE_VM", control.caller["Python: ignored"] is True),
    )


EXPERIMENT = Experiment(
    number=16,
    name="handlers",
    title="one table of signal handlers",
    question="Are signal handlers shared?",
    flags=CLONE.VM | CLONE.SIGHAND,
    exit_signal=signal.SIGCHLD,
    without=CLONE.SIGHAND,
    run=run,
    conclude=conclude,
    answer="With CLONE_SIGHAND caller and child have one table: sigaction by either is for both. Without it the child has "
    "a copy. (What Python remembers of it is memory, and in shared memory wrong for one of the two.)",
    claimed="CLONE_SIGHAND shares the table of signal handlers.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_SIGHAND",
    manual="Caller and child share the table of handlers, but not masks and pending signals. It demands CLONE_VM.",
)
