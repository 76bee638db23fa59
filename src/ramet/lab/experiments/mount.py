"""Experiment 6: do the child's mounts stay in its mount namespace?"""

from __future__ import annotations

import os
from signal import SIGCHLD
from tempfile import TemporaryDirectory

import ramet
from ramet.flags import CLONE, MS
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import link, mount, umount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    mount(None, "/", None, MS.REC | MS.SHARED)  # as systemd has it

    def child(private: bool) -> None:
        if private:
            mount(None, "/", None, MS.REC | MS.PRIVATE)
        mount("tmpfs", folder, "tmpfs")

    see.caller("ns/mnt", link("mnt"))
    with TemporaryDirectory(prefix="ramet-lab-") as folder:
        for private in (False, True):
            how = "private" if private else "shared"
            ramet.call(child, private, flags=flags, exit_signal=SIGCHLD)
            leaked = os.path.ismount(folder)
            see.caller(f"{how}: mount seen", leaked)
            if leaked:
                umount(folder)
    ramet.call(lambda: see.child("ns/mnt", link("mnt")), flags=flags)


def conclude(seen: Seen, control: Seen) -> Findings:
    shared, private = "shared: mount seen", "private: mount seen"
    return (
        ("the links differ", seen.child["ns/mnt"] != seen.caller["ns/mnt"]),
        ("yet where / is shared, the caller gets the mount", seen.caller[shared] is True),
        ("after MS_REC|MS_PRIVATE it does not", seen.caller[private] is False),
        ("without CLONE_NEWNS private does not help", control.caller[private] is True),
    )


EXPERIMENT = Experiment(
    number=6,
    name="mount",
    title="a mount table of its own, and how it leaks",
    question="Do the child's mounts stay in its mount namespace?",
    flags=CLONE.VM | CLONE.NEWNS,
    exit_signal=SIGCHLD,
    without=CLONE.NEWNS,
    needs="CAP_SYS_ADMIN",
    ground=CLONE.NEWNS,
    run=run,
    conclude=conclude,
    answer="Not by CLONE_NEWNS alone. The copied mounts stay in the caller's peer group, and where / is shared, as "
    "systemd makes it, each new mount is passed on. Only after MS_REC|MS_PRIVATE (or MS_SLAVE) does it stay inside.",
    claimed="The links differ: what the child mounts is isolated from the parent.",
    verdict=CORRECTED,
    page="mount_namespaces(7), shared subtrees",
    manual="A new mount namespace is a copy of the caller's. A shared mount and its copy are peers: mounts "
    "below one appear below the other.",
)
