"""The machine's namespaces: who is in each, who owns it, and what keeps those alive that nobody is in.

From /proc, with no more right than the caller has: what it may not look at is counted, never guessed.
"""

from __future__ import annotations

import os

from ramet.errors import SpecError
from ramet.host import nsfs
from ramet.host.namespaces import KINDS, read_processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ramet.host.namespaces import Process


class Namespace:
    """A namespace and who is in it.

    pids: the processes in it that the caller may look at, lowest first. owner, parent, owner_uid: as in
    `nsfs.Namespace`. mounts: where its file is bound, in the caller's mount namespace. awaiting: processes whose
    children will be in it. descriptors: (pid, fd) of who holds it open, if that was asked for.
    """

    __slots__ = ("awaiting", "descriptors", "id", "kind", "mounts", "owner", "owner_uid", "parent", "pids")

    def __init__(self, id: int, kind: str) -> None:
        self.id, self.kind = id, kind
        self.pids: list[int] = []
        self.awaiting: list[int] = []
        self.mounts: list[str] = []
        self.descriptors: list[tuple[int, int]] = []
        self.owner: int | None = None
        self.parent: int | None = None
        self.owner_uid: int | None = None


class Census:
    """Processes by pid and namespaces by id, of one moment.

    caller: the process that asked; None where /proc shows another pid namespace than the caller's. hidepid: how
    /proc is mounted, if it hides any.
    """

    __slots__ = ("_below", "caller", "hidepid", "namespaces", "processes")

    def __init__(
        self,
        processes: dict[int, Process],
        namespaces: dict[int, Namespace],
        *,
        caller: Process | None = None,
        hidepid: str = "",
    ) -> None:
        self.processes, self.namespaces, self.caller, self.hidepid = processes, namespaces, caller, hidepid
        self._below: dict[int | None, list[int]] | None = None

    @property
    def hidden(self) -> list[int]:
        """The processes that the caller may not look at."""
        return [pid for pid, process in self.processes.items() if process.hidden]

    def parent_of(self, process: Process) -> Process | None:
        """None if it is outside of what /proc shows, or has ended."""
        return self.processes.get(process.parent)

    def own(self, process: Process) -> tuple[str, ...]:
        """The kinds of which its parent has another namespace."""
        return process.own(self.parent_of(process))

    def comparable(self, process: Process) -> bool:
        """May the caller look at both it and its parent, so that what is its own is known?"""
        parent = self.parent_of(process)
        return parent is not None and not process.hidden and not parent.hidden

    def apart(self, process: Process) -> tuple[str, ...]:
        """The kinds of which the caller has another namespace: what is known where the parent is hidden."""
        return process.own(self.caller)

    def kept_by_children(self, namespace: Namespace) -> list[int]:
        """The namespaces that hang from this one; they keep it alive."""
        if self._below is None:
            self._below = {}
            for each in self.namespaces.values():
                for above in {each.owner, each.parent} - {None}:
                    self._below.setdefault(above, []).append(each.id)
        return self._below.get(namespace.id, [])


def take_census(kinds: Sequence[str] = KINDS, *, descriptors: bool = False, proc: str = "/proc") -> Census:
    """Look at every process and its namespaces of these kinds.

    descriptors: look also at every open descriptor, for namespaces that nothing else keeps alive.
    """
    processes = read_processes(kinds, proc=proc)
    namespaces = _populated(processes)
    mounts, hidepid = _read_mountinfo(f"{proc}/self/mountinfo", proc)
    for id, kind, path in mounts:
        if kind in kinds:
            namespaces.setdefault(id, Namespace(id, kind)).mounts.append(path)
    if descriptors:
        for pid, fd, id, kind in _open_namespaces(processes, proc):
            if kind in kinds:
                namespaces.setdefault(id, Namespace(id, kind)).descriptors.append((pid, fd))
    _ask_the_kernel(namespaces, kinds, proc)
    caller = processes.get(os.getpid()) if _self(proc) == os.getpid() else None
    return Census(processes, dict(sorted(namespaces.items())), caller=caller, hidepid=hidepid)


def _self(proc: str) -> int:
    """Which process proc takes us for."""
    try:
        return int(os.readlink(f"{proc}/self"))
    except (OSError, ValueError):
        return 0


def _populated(processes: dict[int, Process]) -> dict[int, Namespace]:
    found: dict[int, Namespace] = {}
    for pid, process in processes.items():
        for kind, id in process.ids.items():
            if id:
                found.setdefault(id, Namespace(id, kind)).pids.append(pid)
        for kind, id in process.children.items():
            found.setdefault(id, Namespace(id, kind)).awaiting.append(pid)
    return found


def _read_mountinfo(path: str, proc: str) -> tuple[list[tuple[int, str, str]], str]:
    """Bound namespaces as (id, kind, where), and hidepid's value if /proc has it. See proc_pid_mountinfo(5)."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return [], ""
    bound, hidepid = [], ""
    for line in lines:
        front, _, back = line.partition(" - ")
        root, point = (_plain(word) for word in front.split(" ")[3:5])
        kind_of_fs, _, options = back.split(" ", 2)
        if kind_of_fs == "nsfs" and (named := _parse_name(root)):
            bound.append((*named, point))
        elif kind_of_fs == "proc" and point == proc:
            words = (word.partition("=") for word in options.split(" ")[-1].split(","))
            hidepid = next((value for name, _, value in words if name == "hidepid" and value not in ("0", "off")), "")
    return bound, hidepid


def _plain(word: str) -> str:
    r"""A path as it is: mountinfo has blanks, tabs, newlines and backslashes in octal, as \040."""
    head, *parts = word.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts)


def _parse_name(text: str) -> tuple[int, str] | None:
    """(4026531840, "net") of "net:[4026531840]", as links in /proc name namespaces."""
    kind, separator, number = text.partition(":[")
    if not separator or not number.endswith("]") or not number[:-1].isdecimal():
        return None
    return int(number[:-1]), kind.removesuffix("_for_children")


def _open_namespaces(processes: dict[int, Process], proc: str) -> Iterator[tuple[int, int, int, str]]:
    for pid in processes:
        try:
            fds = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue  # it has ended, or is one of those that are counted as hidden
        for fd in fds:
            try:
                named = _parse_name(os.readlink(f"{proc}/{pid}/fd/{fd}"))
            except OSError:
                continue  # closed meanwhile
            if named:
                yield (pid, int(fd), *named)


def _ask_the_kernel(namespaces: dict[int, Namespace], kinds: Sequence[str], proc: str) -> None:
    """Fill in owners and parents; add those that nobody is in and that others hang from."""
    asked: set[int] = set()
    for namespace in list(namespaces.values()):
        if namespace.id in asked:
            continue
        fd = _open(namespace, proc)
        if fd is None:
            continue
        try:
            for told in nsfs.lineage(fd):
                if told.id in asked or told.kind not in kinds:
                    continue
                asked.add(told.id)
                found = namespaces.setdefault(told.id, Namespace(told.id, told.kind))
                found.owner, found.parent, found.owner_uid = told.owner, told.parent, told.owner_uid
        except OSError:
            continue  # no ioctls for namespaces here, and so nothing known
        finally:
            os.close(fd)


def _open(namespace: Namespace, proc: str) -> int | None:
    """A descriptor of the namespace by one of the ways to it; None if they have gone meanwhile."""
    ways = [f"{proc}/{pid}/ns/{namespace.kind}" for pid in namespace.pids[:8]]
    ways += [f"{proc}/{pid}/ns/{namespace.kind}_for_children" for pid in namespace.awaiting[:8]]
    ways += namespace.mounts
    ways += [f"{proc}/{pid}/fd/{fd}" for pid, fd in namespace.descriptors[:8]]
    for way in ways:
        try:
            fd = os.open(way, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue  # this way has gone; there may be others
        if os.fstat(fd).st_ino == namespace.id:
            return fd
        os.close(fd)
    return None


def parse_kinds(text: str, field: str) -> tuple[str, ...]:
    """Kinds by name, with commas between: "net,pid"; "mount" and "network" are known too. Raises SpecError."""
    from ramet.spec.namespaces import Namespace as Kind

    wanted = {Kind.of(name.strip(), field).value for name in text.split(",")}
    if not wanted:
        raise SpecError("names no kind of namespace", field=field)
    return tuple(kind for kind in KINDS if kind in wanted)
