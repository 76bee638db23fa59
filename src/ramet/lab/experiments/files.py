"""Experiment 4: does reading a file show that anything is shared?"""

from __future__ import annotations

import os
from signal import SIGCHLD
from tempfile import TemporaryDirectory

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import errno_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    def child(ours: int) -> int:
        opened = os.open("example.txt", os.O_RDONLY)
        see.child("the file, by name", os.read(opened, 99))
        os.read(ours, 5)
        return opened

    with TemporaryDirectory(prefix="ramet-lab-") as folder:
        os.chdir(folder)
        with open("example.txt", "x+") as file:
            file.write("Hello, this is example text.")
            file.seek(0)
            ours = file.fileno()
            theirs = ramet.call(child, ours, flags=flags, exit_signal=SIGCHLD)
            offset = os.lseek(ours, 0, os.SEEK_CUR)
            see.caller("child's descriptor", reread(theirs))
            see.caller("inherited, offset", offset)
        os.chdir("/")


def reread(fd: int) -> str:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        text = os.read(fd, 5).decode()
        os.close(fd)
    except OSError as error:
        return errno_of(error)
    return text


def conclude(seen: Seen, control: Seen) -> Findings:
    by_name, offset = "the file, by name", "inherited, offset"
    return (
        ("by name the child reads the file either way", seen.child[by_name] == control.child[by_name] is not None),
        ("what the child opens, the caller can read", seen.caller["child's descriptor"] == "Hello"),
        ("without CLONE_FILES it is EBADF", control.caller["child's descriptor"] == "EBADF"),
        ("the offset of an inherited one is shared either way", seen.caller[offset] == control.caller[offset] == 5),
    )


EXPERIMENT = Experiment(
    number=4,
    name="files",
    title="one table of descriptors",
    question="The child reads a file of the caller's: is anything shared?",
    flags=CLONE.VM | CLONE.FS | CLONE.FILES,
    exit_signal=SIGCHLD,
    without=CLONE.FILES,
    control_is="as the program had it",
    run=run,
    conclude=conclude,
    answer="Reading a file by name needs nothing shared. With CLONE_FILES a descriptor opened by the child is the "
    "caller's as well. Without it the child has a copy of the table; only open files, with their offsets, are the same.",
    claimed="The child reads the caller's file, so they are in one namespace and share resources "
    "(with CLONE_VM|CLONE_FS).",
    verdict=CORRECTED,
    page="clone(2), CLONE_FILES",
    manual="Caller and child share one descriptor table. Without it the child inherits a copy, whose entries refer to "
    "the same open file descriptions.",
)
