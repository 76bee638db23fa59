"""Experiment 9: what is the low byte of the flags for?"""

from __future__ import annotations

import os
from signal import SIG_BLOCK, SIGCHLD, SIGUSR1, pthread_sigmask, sigpending

from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import outcome
from ramet.lowlevel import WALL, clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes, exit_signal: int = 0) -> None:
    pthread_sigmask(SIG_BLOCK, [SIGCHLD, SIGUSR1])
    one = clone3(flags, exit_signal=exit_signal, child=[])
    see.caller("waitpid", outcome(os.waitpid, one.pid, 0))
    see.caller("waitpid, __WALL", outcome(os.waitpid, one.pid, WALL))
    see.caller("SIGCHLD came", SIGCHLD in sigpending())

    two = clone3(flags, exit_signal=SIGUSR1, child=[])
    two.wait()
    see.caller("SIGUSR1, if asked for", SIGUSR1 in sigpending())


def with_sigchld(flags: CLONE, see: Notes) -> None:
    """The control: what fork gives."""
    run(flags, see, SIGCHLD)


def conclude(seen: Seen, control: Seen) -> Findings:
    return (
        ("with exit signal 0 a plain waitpid finds no child", seen.caller["waitpid"] == "ECHILD"),
        ("with __WALL it finds it", seen.caller["waitpid, __WALL"] == "done"),
        ("with SIGCHLD a plain waitpid does", control.caller["waitpid"] == "done"),
        ("SIGCHLD comes where asked for alone", control.caller["SIGCHLD came"] and not seen.caller["SIGCHLD came"]),
        ("another signal comes where that is asked for", seen.caller["SIGUSR1, if asked for"] is True),
    )


EXPERIMENT = Experiment(
    number=9,
    name="exit-signal",
    title="the signal at its end, and who can wait",
    question="What is the low byte of the flags for?",
    flags=CLONE.VM,
    with_is="exit signal 0",
    control_is="exit signal SIGCHLD",
    run=run,
    control=with_sigchld,
    conclude=conclude,
    answer="It is the signal that the caller gets when the child ends. With another one than SIGCHLD the child is "
    "invisible to a plain wait, and needs __WALL or __WCLONE.",
    claimed="The low byte is the signal that the parent gets when the child ends.",
    verdict=CONFIRMED,
    page="clone(2), the child termination signal",
    manual="If it is not SIGCHLD, the parent must wait with __WALL or __WCLONE; if it is 0, no signal is sent.",
)
