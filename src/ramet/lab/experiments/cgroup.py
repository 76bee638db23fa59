"""Experiment 22: where in the tree of cgroups does the child see itself?"""

from __future__ import annotations

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
    def paths() -> list[str]:
        with open("/proc/self/cgroup") as file:
            return sorted({line.strip().split(":")[2] for line in file})

    def child() -> None:
        see.child("ns/cgroup", link("cgroup"))
        see.child("its cgroups", paths())

    ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    see.caller("ns/cgroup", link("cgroup"))
    see.caller("its cgroups", paths())


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("the links differ", seen.child["ns/cgroup"] != seen.caller["ns/cgroup"]),
        ("inside, every cgroup of the child's is /", seen.child["its cgroups"] == ["/"]),
        ("without the flag both see the same", control.child == control.caller),
    )


EXPERIMENT = Experiment(
    number=22,
    name="cgroup",
    title="its own cgroup is the root",
    question="Where in the tree of cgroups does the child see itself?",
    flags=CLONE.VM | CLONE.NEWCGROUP,
    exit_signal=SIGCHLD,
    without=CLONE.NEWCGROUP,
    needs="CAP_SYS_ADMIN",
    run=run,
    conclude=conclude,
    answer="At its root, wherever it is: a cgroup namespace changes what is shown, and moves or limits nothing.",
    claimed="A cgroup namespace isolates the view of the cgroup tree.",
    verdict=CONFIRMED,
    page="cgroup_namespaces(7)",
    manual="The cgroups of its maker become the roots of what /proc/PID/cgroup shows to processes inside.",
)
