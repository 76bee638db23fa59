"""Experiment 11: how long does the caller of a CLONE_VFORK stand still?"""

from __future__ import annotations

import os
from ctypes import addressof, c_char_p
from select import POLLIN
from struct import pack

from ramet import lowlevel
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    (reading, writing), (echo, out) = os.pipe(), os.pipe()
    # A child without the flag may wait long: it will be told.
    wait = (0, 2 * 10**8) if flags & CLONE.VFORK else (10, 0)
    pollfd = pack("ihh", reading, POLLIN, 0)
    listen = lowlevel.Call(NR["ppoll"], pollfd, 1, pack("qq", *wait), 0)
    child = lowlevel.clone3(flags, child=[listen])
    os.write(writing, b"!")  # as soon as the caller goes on
    child.wait()
    see.child("hears the caller", bool(child.results[0]))

    argv = (c_char_p * 2)(b"cat", None)
    become_cat = [
        lowlevel.Call(NR["dup3"], reading, 0, 0),
        lowlevel.Call(NR["dup3"], out, 1, 0),
        lowlevel.Call(NR["execve"], b"/bin/cat", addressof(argv), 0),
    ]
    child = lowlevel.clone3(flags, child=become_cat)
    os.close(out)
    see.caller("goes on, and cat says", os.read(echo, 1))
    os.kill(child.pid, 9)
    child.wait()
    for fd in (reading, writing, echo):
        os.close(fd)


def conclude(seen: Seen, control: Seen) -> Findings:
    heard, cat = "hears the caller", "goes on, and cat says"
    return (
        ("for 0.2 s that the child runs, the caller says nothing", seen.child[heard] is False),
        ("without the flag both run", control.child[heard] is True),
        ("once the child is another program, both run", seen.caller[cat] == control.caller[cat] == "!"),
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
