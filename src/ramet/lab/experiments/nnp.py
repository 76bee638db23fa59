"""Experiment 32: no_new_privs from the first instruction."""

from __future__ import annotations

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import status
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

PR_GET_NO_NEW_PRIVS = 39


def run(flags: CLONE, see: Notes) -> None:
    ask = lowlevel.Call(NR["prctl"], PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
    child = lowlevel.clone3(flags, child=[ask])
    child.wait()
    see.child("no_new_privs", child.results[0])
    see.caller("no_new_privs", int(status("NoNewPrivs")))


def conclude(seen: Seen, control: Seen) -> Findings:
    nnp = "no_new_privs"
    return (
        ("the child has it from the start", seen.child[nnp] == 1),
        ("without the flag it is as the caller is", control.child[nnp] == control.caller[nnp]),
        ("who has not got it by that", seen.caller[nnp] == control.caller[nnp]),
    )


EXPERIMENT = Experiment(
    number=32,
    name="nnp",
    title="no_new_privs from the start (7.1)",
    question="Can a child be born without the way to more privilege?",
    flags=CLONE.VM | CLONE.NNP,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.NNP,
    run=run,
    conclude=conclude,
    answer="With CLONE_NNP it has no_new_privs before its first instruction; the caller is as before.",
    claimed="Linux 7.1's CLONE_NNP starts the child with no_new_privs.",
    verdict=CONFIRMED,
    page="clone3, CLONE_NNP, since Linux 7.1; PR_SET_NO_NEW_PRIVS(2const)",
    manual="The child starts with no_new_privs set: execve gives it nothing that it couldn't do without.",
)
