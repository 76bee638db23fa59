"""Experiment 7: what can clone3 say that clone can't?"""

from __future__ import annotations

import os
import signal

from ramet import _core, lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import handles
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    with lowlevel.clone3(child=[], exit_status=7) as child:
        see.caller("exit status", os.waitstatus_to_exitcode(child.wait()))
    with lowlevel.clone3(CLONE.PIDFD, child=[]) as child:
        see.caller("gives a pidfd", child.pidfd is not None)
        child.wait()

    signal.signal(signal.SIGUSR1, lambda *_: None)
    child = lowlevel.clone3(flags)  # CLONE_CLEAR_SIGHAND, bit 32
    if child.pid == 0:
        os._exit(handles("SigCgt", signal.SIGUSR1))
    status = os.waitstatus_to_exitcode(child.wait())
    see.child("handles SIGUSR1", bool(status))


def by_clone(flags: CLONE, see: Notes) -> None:
    """The same through clone(2)."""
    with lowlevel.clone(child=[], exit_status=7) as child:
        see.caller("exit status", os.waitstatus_to_exitcode(child.wait()))
    with lowlevel.clone(CLONE.PIDFD, child=[]) as child:
        see.caller("gives a pidfd", child.pidfd is not None)
        child.wait()

    signal.signal(signal.SIGUSR1, lambda *_: None)
    word = CLONE.CLEAR_SIGHAND | signal.SIGCHLD  # ramet.lowlevel.clone would refuse it
    pid = _core.syscall("clone", NR["clone"], int(word), 0, 0, 0, 0)
    if pid == 0:
        os._exit(handles("SigCgt", signal.SIGUSR1))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    see.child("handles SIGUSR1", bool(status))


def conclude(seen: Seen, control: Seen) -> Findings:
    handled = "handles SIGUSR1"
    return (
        ("the same child comes of both", seen.caller["exit status"] == control.caller["exit status"] == 7),
        ("both give a pidfd, not clone3 alone", seen.caller["gives a pidfd"] and control.caller["gives a pidfd"]),
        ("clone3 clears handlers when bit 32 says so", seen.child[handled] is False),
        ("clone drops that bit without a word", control.child[handled] is True),
    )


EXPERIMENT = Experiment(
    number=7,
    name="clone3",
    title="clone3 beside clone",
    question="Is clone3 a superset of clone?",
    flags=CLONE.CLEAR_SIGHAND,
    exit_signal=signal.SIGCHLD,
    with_is="through clone3",
    control_is="through clone",
    run=run,
    control=by_clone,
    conclude=conclude,
    answer="Yes. clone has 32 bits of flags and drops the rest; clone3 takes a struct with 64 of them, and with "
    "set_tid (26) and a cgroup (23). CLONE_PIDFD is for both.",
    claimed="clone3 is a superset: CLONE_PIDFD, CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP, set_tid.",
    verdict=CORRECTED,
    page="clone(2), clone3()",
    manual="clone3 does all that clone does, and has room for more flags; the exit signal has a field of its own.",
)
