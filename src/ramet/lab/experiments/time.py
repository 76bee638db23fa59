"""Experiment 24: how does a child get clocks of its own?"""

from __future__ import annotations

from time import monotonic

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.child import in_a_copy
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    start = monotonic()

    def a_day_ahead() -> None:
        with open("/proc/self/timens_offsets", "w") as file:
            file.write("monotonic 86400 0")

    def tell() -> None:
        see.child("clock ahead by, s", round(monotonic() - start))

    def unshare_first() -> None:
        lowlevel.unshare(flags)  # for children to come
        see.caller("offset, after unshare", outcome(a_day_ahead))
        in_a_copy(tell, CLONE(0), see)

    def set_it_inside() -> None:
        see.child("offset, from inside", outcome(a_day_ahead))

    in_a_copy(unshare_first, CLONE(0), see)
    in_a_copy(set_it_inside, flags, see)


def conclude(seen: Seen, control: Seen) -> Findings:
    ahead, after, inside = "clock ahead by, s", "offset, after unshare", "offset, from inside"
    return (
        ("after unshare the offset can be set", seen.caller[after] == "done"),
        ("and the next child's clock is a day ahead", 86400 <= (seen.child[ahead] or 0) < 86460),
        ("in a child that clone3 put there it can't any more", seen.child[inside] == "EACCES"),
        ("without the flag the clock is the caller's", (control.child[ahead] or 0) < 60),
    )


EXPERIMENT = Experiment(
    number=24,
    name="time",
    title="clocks of its own",
    question="How does a child get clocks of its own?",
    flags=CLONE.NEWTIME,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.NEWTIME,
    needs="CAP_SYS_ADMIN",
    run=run,
    conclude=conclude,
    answer="By unshare(CLONE_NEWTIME), the offsets, then the child: offsets are fixed when the first process enters. In "
    "clone3 the flag gives a time namespace whose clocks nobody can set any more.",
    claimed="CLONE_NEWTIME makes a child with clock offsets of its own.",
    verdict=CORRECTED,
    page="time_namespaces(7)",
    manual="Offsets for CLOCK_MONOTONIC and CLOCK_BOOTTIME are written before the first process is in the namespace; "
    "after that writing answers EACCES.",
)
