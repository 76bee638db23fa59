"""A cgroup of the lab's own, for as long as it takes. Nothing of the host's own cgroups is changed."""

from __future__ import annotations

import os
from contextlib import contextmanager

from ramet.errors import errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def own_cgroup() -> tuple[str | None, str]:
    """The directory of this process's version 2 cgroup; None and why, where there is none to be seen."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        fields = [line.split() for line in file if " - cgroup2 " in line]
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        own = [line.rstrip("\n")[3:] for line in file if line.startswith("0::")]
    if not fields or not own:
        return None, "no cgroup version 2 is mounted here"
    root, point = fields[0][3], fields[0][4]
    relative = own[0].removeprefix(root if root != "/" else "").lstrip("/")
    path = os.path.join(point, relative)
    if not os.path.isdir(path):
        return None, f"this process's cgroup {own[0]} is not under {point}"
    return path, ""


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
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, ""
    finally:
        os.close(fd)
        remove(path)


def name(group: int = 0) -> str:
    """What a cgroup of the lab is called: by the process group of the measurement, this one's or the given."""
    return f"ramet-lab-{group or os.getpgrp()}"


def parents() -> list[str]:
    """Where the lab makes its cgroups: in this process's own, in the one above it, and where processes are counted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split()[4] for line in file if " - cgroup " in line and "pids" in line.split()[-1].split(",")]
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        paths = [line.rstrip("\n").split(":", 2)[2] for line in file if "pids" in line.split(":")[1].split(",")]
    counting = [point + path.rstrip("/") for point, path in zip(points[:1], paths[:1], strict=False)]
    own, _ = own_cgroup()
    return counting + ([own.rstrip("/"), os.path.dirname(own.rstrip("/"))] if own else [])


def remove_left(group: int) -> None:
    """Remove what a measurement that was killed could not."""
    for parent in parents():
        path = os.path.join(parent, name(group))
        if os.path.isdir(path):
            remove_tree(path)


def remove_tree(path: str) -> None:
    """A cgroup with those in it."""
    for inner in os.listdir(path):
        if os.path.isdir(f"{path}/{inner}"):
            remove(f"{path}/{inner}")
    remove(path)


def remove(path: str) -> None:
    """rmdir, again for a moment where the last process is still on its way out."""
    import time

    for _ in range(200):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
    os.rmdir(path)
