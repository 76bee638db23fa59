"""Which namespaces a process is in, as /proc/PID/ns shows them, and which kernel runs here."""

from __future__ import annotations

import os

from ramet.errors import SpecError

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
"""The kinds of namespace, under their names in /proc/PID/ns."""


class Process:
    """A process and its namespaces.

    ids: the inode number of each kind's namespace, which is its identity; None where the caller may not look.
    children: the same for what its children will be in, where that differs (unshare or setns of pid or time).
    parent is 0 for a process whose parent is outside the caller's pid namespace.
    """

    __slots__ = ("children", "command", "ids", "parent", "pid")

    def __init__(
        self, pid: int, *, parent: int, command: str, ids: dict[str, int | None], children: dict[str, int]
    ) -> None:
        self.pid, self.parent, self.command, self.ids, self.children = pid, parent, command, ids, children


def read_process(pid: int, *, proc: str = "/proc") -> Process:
    """Look at one process. SpecError if there is none, or proc is not there."""
    parent, command = _parent_and_command(pid, proc)
    ids = {kind: _identity(f"{proc}/{pid}/ns/{kind}") for kind in KINDS}
    children = {}
    for kind in ("pid", "time"):
        later = _identity(f"{proc}/{pid}/ns/{kind}_for_children")
        if later is not None and later != ids[kind]:
            children[kind] = later
    return Process(pid, parent=parent, command=command, ids=ids, children=children)


def kernel_version(release: str | None = None) -> tuple[int, ...]:
    """``(6, 12, 3)`` for the release "6.12.3-amd64"; by default that of the running kernel."""
    text = os.uname().release if release is None else release
    numbers: list[int] = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _parent_and_command(pid: int, proc: str) -> tuple[int, str]:
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        hint = None if os.path.isdir(f"{proc}/self") else f"{proc} is not mounted here"
        raise SpecError(f"there is no process {pid}", field="pid", hint=hint) from None
    # "1 (a name) with) spaces) S 0 ...": the name ends at the last parenthesis
    command, _, rest = text.partition("(")[2].rpartition(")")
    return int(rest.split()[1]), command


def _identity(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
