"""A cgroup of the lab's own, for as long as it takes. Nothing of the host's own cgroups is changed."""

from __future__ import annotations

import os
from contextlib import contextmanager

from ramet.cgroups import ending
from ramet.cgroups.files import CLOEXEC_DIRECTORY
from ramet.cgroups.hierarchy import hierarchies
from ramet.errors import errno_name
from ramet.proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ramet.cgroups.hierarchy import Hierarchy


def mounted() -> list[Hierarchy]:
    """The hierarchies that are mounted, and where this process is in each."""
    return hierarchies(read("/proc/self/mountinfo") or "", read("/proc/self/cgroup") or "")


def own_cgroup() -> tuple[str | None, str]:
    """The directory of this process's version 2 cgroup; None and why, where there is none to be seen."""
    found = [each for each in mounted() if each.version == 2]
    if not found:
        return None, "no cgroup version 2 is mounted here"
    if found[0].own is None or not os.path.isdir(found[0].own):
        return None, f"this process's cgroup is not under {found[0].mount}"
    return found[0].own, ""


@contextmanager
def made_cgroup() -> Iterator[tuple[int | None, str]]:
    """A descriptor of an empty cgroup below this process's own, removed afterwards; or None, and why not."""
    parent, why_not = own_cgroup()
    if parent is None:
        yield None, why_not
        return
    path = os.path.join(parent, name())
    try:
        os.mkdir(path)
    except OSError as error:
        hint = "" if os.geteuid() == 0 else "; systemd-run --user --scope -p Delegate=yes gives one"
        yield None, f"no cgroup to make below {parent}: {errno_name(error.errno or 0)}{hint}"
        return
    fd = os.open(path, CLOEXEC_DIRECTORY)
    try:
        yield fd, ""
    finally:
        os.close(fd)
        remove_tree(path)


def name(group: int = 0) -> str:
    """What a cgroup of the lab is called: by the process group of the measurement, this one's or the given."""
    return f"ramet-lab-{group or os.getpgrp()}"


def parents() -> list[str]:
    """Where the lab makes its cgroups: in this process's own, in the one above it, and where processes are counted."""
    counting = [each.own for each in mounted() if each.version == 1 and "pids" in each.controllers and each.own]
    own, _ = own_cgroup()
    return [*counting, own, os.path.dirname(own)] if own else counting


def remove_left(group: int) -> None:
    """Remove what a measurement that was killed could not."""
    for parent in parents():
        path = os.path.join(parent, name(group))
        if os.path.isdir(path):
            remove_tree(path)


def remove_tree(path: str) -> None:
    """A cgroup with those in it. The last process of it may still be on its way out. Raises OSError."""
    parent = os.open(os.path.dirname(path), CLOEXEC_DIRECTORY)
    try:
        for _ in ending.waits(10.0):
            if ending.remove_tree(parent, os.path.basename(path)):
                return
    finally:
        os.close(parent)
    os.rmdir(path)
