"""Experiment 2: what does CLONE_FS share, and what does a mount call say about it?"""

from __future__ import annotations

import os
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE, MS
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import mount, outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    os.chdir("/usr")
    os.umask(0o022)

    def share_root() -> None:
        mount(None, "/", None, MS.SHARED | MS.REC)

    def child() -> None:
        os.chdir("/")
        os.umask(0o077)
        see.child("mount(MS_SHARED)", see.guarded(share_root))

    ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    see.caller("directory", os.getcwd())
    see.caller("umask", f"{os.umask(0):03o}")
    if see.grounded:  # and one who is root only in a namespace of its own
        answer = ramet.call(outcome, share_root, flags=CLONE.NEWUSER)
        see.child("mount, unprivileged", answer)


def conclude(seen: Seen, control: Seen) -> Findings:
    mounts = seen.child["mount(MS_SHARED)"]
    return (
        ("the child's chdir moves the caller", seen.caller["directory"] == "/"),
        ("its umask is the caller's", seen.caller["umask"] == "077"),
        ("without CLONE_FS it changes neither", ["/usr", "022"] == list(control.caller.values())),
        ("the mount answers the same with and without CLONE_FS", mounts == control.child["mount(MS_SHARED)"]),
        ("without privilege it is EPERM in both", _refused(seen) and _refused(control)),
    )


def _refused(seen: Seen) -> bool:
    return "EPERM" in (seen.child["mount, unprivileged"], seen.child["mount(MS_SHARED)"])


EXPERIMENT = Experiment(
    number=2,
    name="directory",
    title="one working directory, root and umask",
    question="Is file-system information shared, and does a mount call show it?",
    flags=CLONE.VM | CLONE.FS,
    exit_signal=SIGCHLD,
    without=CLONE.FS,
    ground=CLONE.NEWNS,
    ground_optional=True,
    run=run,
    conclude=conclude,
    answer="CLONE_FS shares working directory, root and umask: the child's chdir and umask show it. "
    "The mount call depends on privilege alone: it wants CAP_SYS_ADMIN in the user namespace that owns the "
    "mount namespace.",
    claimed="mount is refused to an ordinary user and works with sudo, so file-system information is shared.",
    verdict=CORRECTED,
    page="clone(2), CLONE_FS",
    manual="Caller and child share root, working directory and umask: chroot, chdir and umask of one affect the other.",
)
