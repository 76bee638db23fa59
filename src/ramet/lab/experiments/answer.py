"""Experiment 8: what does clone answer?"""

from __future__ import annotations

import errno
import os

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
    try:
        calls = [lowlevel.Call(NR["gettid"])]
        made = lowlevel.clone3(flags, child=calls)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise  # not what this is about
        see.caller("clone3 answers", "-1, EINVAL")
        see.caller("wait for any child", outcome(os.waitpid, -1, 0))
    else:
        see.caller("clone3 answers", made.pid)
        see.caller("wait for any child", outcome(os.waitpid, -1, 0))
        see.child("gettid()", made.results[0])


def conclude(seen: Seen, control: Seen) -> Findings:
    answer, any_child = "clone3 answers", "wait for any child"
    return (
        ("the caller gets the child's thread id", seen.caller[answer] == seen.child["gettid()"]),
        ("and there is a child", seen.caller[any_child] == "done"),
        ("an illegal combination gets -1 and an errno", control.caller[answer] == "-1, EINVAL"),
        ("and there is no child", control.caller[any_child] == "ECHILD"),
    )


EXPERIMENT = Experiment(
    number=8,
    name="answer",
    title="a thread id, or -1 and no child",
    question="What does clone answer?",
    flags=CLONE.VM | CLONE.SIGHAND,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.VM,
    with_is="legal",
    control_is="without CLONE_VM",
    run=run,
    conclude=conclude,
    answer="The child's thread id, in the caller's pid namespace; or -1 and an errno, and then there is no child.",
    claimed="clone answers the thread id of the child, or -1, no child, and errno.",
    verdict=CONFIRMED,
    page="clone(2), RETURN VALUE",
    manual="On success the caller gets the child's thread id; on failure -1, no child is made, and errno says why.",
)
