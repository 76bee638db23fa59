"""Experiment 11: how long does the caller of a CLONE_VFORK stand still?"""

from __future__ import annotations

import os
from ctypes import addressof, c_char_p
from select import POLLIN
from struct import pack

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    reading, writing = os.pipe()
    pollfd, fifth = pack("ihh", reading, POLLIN, 0), pack("qq", 0, 2 * 10**8)
    listen = lowlevel.Call(NR["ppoll"], pollfd, 1, fifth, 0)
    child = lowlevel.clone3(flags, child=[listen])
    os.write(writing, b"!")  # as soon as the caller goes on
    child.wait()
    see.child("heard within 0.2 s", bool(child.results[0]))

    if flags & CLONE.VFORK:
        argv = (c_char_p * 2)(b"cat", None)
        to_stdin = lowlevel.Call(NR["dup3"], reading, 0, 0)
        to_cat = lowlevel.Call(NR["execve"], b"/bin/cat", addressof(argv), 0)
        child = lowlevel.clone3(flags, child=[to_stdin, to_cat])
        program = os.readlink(f"/proc/{child.pid}/exe")
        see.caller("goes on; child is", os.path.basename(program))
        os.kill(child.pid, 9)
        child.wait()
    os.close(reading)
    os.close(writing)


def conclude(seen: Seen, control: Seen) -> Findings:
    ours = os.path.basename(os.path.realpath("/proc/self/exe"))
    return (
        ("the caller does nothing while the child runs", seen.child["heard within 0.2 s"] is False),
        ("without the flag both run", control.child["heard within 0.2 s"] is True),
        ("once the child has exec'd, the caller goes on", seen.caller["goes on; child is"] not in (None, ours)),
    )


EXPERIMENT = Experiment(
    number=11,
    name="vfork",
    title="the caller stands still until it execs",
    question="How long does the caller of a CLONE_VFORK wait?",
    flags=CLONE.VM | CLONE.VFORK,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.VFORK,
    run=run,
    conclude=conclude,
    answer="Until the child has called execve or has ended: until it has left the caller's memory.",
    claimed="With CLONE_VFORK the parent is suspended until the child releases its memory.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_VFORK",
    manual="The caller is suspended until the child gives back its memory, by execve or _exit, as with vfork.",
)
