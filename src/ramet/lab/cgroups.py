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
    path = os.path.join(parent, f"ramet-lab-{os.getpid()}")
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
