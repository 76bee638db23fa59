"""Which namespaces a process is in, as /proc/PID/ns shows them, and which kernel runs here."""

from __future__ import annotations

import os

from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time")
"""The kinds of namespace, under their names in /proc/PID/ns."""


class Process:
    """A process and its namespaces.

    ids: the inode number of each kind's namespace, which is its identity; None where the caller may not look, 0
    where there is none: a zombie has left most of its own, and a kernel may be built without a kind.
    children: the same for what its children will be in, where that differs (unshare or setns of pid or time).
    parent is 0 for a process whose parent is outside the caller's pid namespace. uid is the effective one, -1
    if it can't be read. state: one letter, as in proc_pid_stat(5); Z is a zombie.
    """

    __slots__ = ("children", "command", "ids", "kernel_thread", "parent", "pid", "state", "uid")

    def __init__(
        self,
        pid: int,
        *,
        parent: int,
        command: str,
        ids: dict[str, int | None],
        children: dict[str, int],
        uid: int = -1,
        state: str = "S",
        kernel_thread: bool = False,
    ) -> None:
        self.pid, self.parent, self.command, self.ids, self.children = pid, parent, command, ids, children
        self.uid, self.state, self.kernel_thread = uid, state, kernel_thread

    @property
    def hidden(self) -> tuple[str, ...]:
        """The kinds that the caller may not look at."""
        return tuple(kind for kind, identity in self.ids.items() if identity is None)

    def own(self, parent: Process | None) -> tuple[str, ...]:
        """The kinds of which it is known that its parent is in another namespace."""
        if parent is None:
            return ()
        theirs = parent.ids
        return tuple(kind for kind, ours in self.ids.items() if ours and theirs.get(kind) and ours != theirs[kind])


def read_process(pid: int, *, kinds: Sequence[str] = KINDS, proc: str = "/proc") -> Process:
    """Look at one process, and its namespaces of these kinds. SpecError if there is none, or proc is not there."""
    command, state, parent, flags = _stat(pid, proc)
    uid = _owner(f"{proc}/{pid}")
    ids = {kind: _identity(f"{proc}/{pid}/ns/{kind}") for kind in kinds}
    children = {}
    for kind in ("pid", "time"):
        if not ids.get(kind):
            continue
        later = _identity(f"{proc}/{pid}/ns/{kind}_for_children")
        if later and later != ids[kind]:
            children[kind] = later
    if 0 in ids.values():
        command, state, parent, flags = _stat(pid, proc)  # it may have ended meanwhile
    return Process(
        pid,
        parent=parent,
        command=command,
        ids=ids,
        children=children,
        uid=uid,
        state=state,
        kernel_thread=bool(flags & _PF_KTHREAD),
    )


def read_processes(kinds: Sequence[str] = KINDS, *, proc: str = "/proc") -> dict[int, Process]:
    """Look at every process there is. Those that end meanwhile are left out; SpecError if proc is not there."""
    try:
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError:
        pids = []
    if not pids:
        raise SpecError(f"{proc} shows no process", field="ps", hint=f"mount -t proc proc {proc}")
    found = {}
    for pid in pids:
        try:
            found[pid] = read_process(pid, kinds=kinds, proc=proc)
        except SpecError:
            continue  # it has just ended
    return found


def command_line(process: Process, *, proc: str = "/proc") -> str:
    """Its arguments, as it shows them; its short name where there are none, or it has ended."""
    try:
        with open(f"{proc}/{process.pid}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            words = file.read()
    except OSError:
        words = ""
    return words.rstrip("\0").replace("\0", " ").strip() or process.command


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


_PF_KTHREAD = 0x0020_0000


def _stat(pid: int, proc: str) -> tuple[str, str, int, int]:
    """The command, the state, the parent and the flags. Everybody may read them."""
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        hint = None if os.path.isdir(f"{proc}/self") else f"{proc} is not mounted here"
        raise SpecError(f"there is no process {pid}", field="pid", hint=hint) from None
    # "1 (a name) with) spaces) S 0 ...": the name ends at the last parenthesis
    command, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return command, fields[0], int(fields[1]), int(fields[6])


def _owner(path: str) -> int:
    """The effective uid: that of /proc/PID itself, unlike what is in it, is right for every process."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1


def _identity(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except OSError:
        return None
