"""Experiment 23: how does a child start in another cgroup?"""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.errors import UnsupportedError, errno_name
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.numbers import NR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    sleep = lowlevel.Call(NR["ppoll"], 0, 0, 0, 0)
    fd, path = new_cgroup() if flags & CLONE.INTO_CGROUP else (None, "")
    try:
        child = lowlevel.clone3(flags, cgroup=fd, child=[sleep])
        see.child("starts in", own_cgroup(child.pid))
        os.kill(child.pid, 9)
        child.wait()
    finally:
        if fd is not None:
            os.close(fd)
            os.rmdir(path)
    see.caller("is in", own_cgroup(os.getpid()))


NAME = "ramet-lab"  # as in ramet.lab.cgroups, which removes it where this is killed
NEEDED = "a version 2 cgroup that the caller may write to (systemd-run --user --scope -p Delegate=yes gives one)"


def new_cgroup() -> tuple[int, str]:
    """A cgroup below the caller's, with nobody in it: descriptor and path."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = [line.split() for line in file]
    for fields in mounts:
        if fields[fields.index("-") + 1] == "cgroup2":
            below = own_cgroup(os.getpid()).removeprefix(fields[3].rstrip("/")).rstrip("/")
            path = f"{fields[4]}{below}/{NAME}-{os.getpid()}"
            break
    else:
        raise UnsupportedError("no cgroup", needs=NEEDED, fact="cgroup2 is not mounted")
    try:
        os.mkdir(path)
    except OSError as error:
        fact = f"mkdir {path} answers {errno_name(error.errno or 0)}"
        raise UnsupportedError("no cgroup", needs=NEEDED, fact=fact) from None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path


def own_cgroup(pid: int) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                return line.strip()[3:]
    return ""


def conclude(seen: Seen, control: Seen) -> Findings:
    starts, caller = seen.child["starts in"] or "", seen.caller["is in"]
    return (
        ("the child starts in the cgroup that was given", starts.rpartition("/")[2].startswith(NAME)),
        ("the caller stays where it was", caller is not None and caller == control.caller["is in"]),
        ("without the flag the child starts in the caller's", control.child["starts in"] == control.caller["is in"]),
    )


EXPERIMENT = Experiment(
    number=23,
    name="into-cgroup",
    title="started in another cgroup",
    question="How does a child start in another cgroup?",
    flags=CLONE.INTO_CGROUP,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.INTO_CGROUP,
    run=run,
    conclude=conclude,
    answer="By the descriptor of the cgroup, given to clone3: from its first moment the child is there. "
    "Moved afterwards, it would have run a while outside.",
    claimed="CLONE_INTO_CGROUP starts the child in a version 2 cgroup.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_INTO_CGROUP",
    manual="The child is placed in the version 2 cgroup that the field cgroup refers to, in place of its parent's.",
)
