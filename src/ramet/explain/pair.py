"""What two processes share: each namespace, and by kcmp(2) memory, descriptors and the like."""

from __future__ import annotations

import errno as _errno

from ramet.errors import errno_name
from ramet.explain.words import WHAT, printable, wrap
from ramet.flags import CLONE, NAMESPACE_FILES, format_clone
from ramet.host.kcmp import APART, NEITHER, SHARED, UNKNOWN, Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.host.namespaces import Process

TABLES = {
    "VM": "memory: one address space",
    "FS": "root directory, current directory, umask",
    "FILES": "descriptor table",
    "SIGHAND": "signal handlers",
    "SYSVSEM": "undo list of System V semaphores",
    "IO": "I/O context",
}


class PairExplanation:
    """Two processes. thread: the second is a thread of the first, or the other way round."""

    __slots__ = ("comparison", "first", "second", "thread")

    def __init__(self, first: Process, second: Process, comparison: Comparison, *, thread: bool) -> None:
        self.first, self.second, self.comparison, self.thread = first, second, comparison, thread

    @property
    def namespaces(self) -> dict[str, str]:
        """ "shared", "apart" or "?" for each kind."""
        theirs = self.second.ids
        found = {}
        for kind, ours in self.first.ids.items():
            if ours is None or theirs[kind] is None:
                found[kind] = UNKNOWN
            elif not ours or not theirs[kind]:
                found[kind] = APART if ours or theirs[kind] else NEITHER
            else:
                found[kind] = SHARED if ours == theirs[kind] else APART
        return found

    @property
    def tables(self) -> dict[str, str]:
        """ "shared", "apart", "neither" or "?" for memory, descriptors and the like, by the flag that shares it."""
        found = dict(self.comparison.relations)
        # kcmp compares pointers, and both are NULL
        if self.first.kernel_thread and self.second.kernel_thread and found["VM"] == SHARED:
            found["VM"] = NEITHER
        if self.first.state == self.second.state == "Z" and self.first.pid != self.second.pid:
            found.update({name: NEITHER for name in ("VM", "FS", "FILES") if found[name] == SHARED})
        return found

    @property
    def flags(self) -> CLONE | None:
        """The flags with which the one could have cloned the other, as they are now; None if anything is hidden, or
        one is a zombie."""
        tables, namespaces = self.tables, self.namespaces
        zombie = "Z" in (self.first.state, self.second.state)
        if zombie or UNKNOWN in tables.values() or UNKNOWN in namespaces.values():
            return None
        bits = CLONE(0)
        for name, relation in tables.items():
            if relation == SHARED:
                bits |= CLONE[name]
        for flag, kind in NAMESPACE_FILES.items():
            if namespaces[kind] == APART:
                bits |= flag
        return bits | CLONE.THREAD if self.thread else bits

    def __str__(self) -> str:
        first, second = self.first, self.second
        lines = [f"{_name(first)} and {_name(second)}", ""]
        lines += wrap(_kinship(first, second, self.thread), 0).splitlines()
        lines += ["", "  namespaces"]
        for kind, relation in self.namespaces.items():
            lines.append(f"  {kind:8} {relation:8} {self._ids(kind, relation):23}  {WHAT[kind]}")
        lines += ["", "  by kcmp(2)"]
        lines += [f"  {name:8} {relation:8} {TABLES[name]}" for name, relation in self.tables.items()]
        return "\n".join(line.rstrip() for line in [*lines, "", *self._summary().splitlines()])

    def _ids(self, kind: str, relation: str) -> str:
        ours, theirs = (_id_text(each.ids[kind]) for each in (self.first, self.second))
        return ours if relation == SHARED else f"{ours} {theirs}"

    def _summary(self) -> str:
        text = ""
        flags = self.flags
        if flags is not None and self.first.pid != self.second.pid:
            call = f"a clone with {format_clone(flags)}" if flags else "fork"
            text += wrap(f"As between caller and child of {call}.", 0)
        for each in (self.first, self.second):
            if each.state == "Z":
                text += wrap(f"{each.pid} is a zombie: it has ended, and has given back nearly all it had.", 0)
        if NEITHER in self.tables.values():
            text += wrap("neither: none of the two has one, so there is nothing to share.", 0)
        if UNKNOWN in self.namespaces.values():
            text += wrap("hidden: looking needs the right to ptrace the process.", 0)
        return text + self._why_unknown()

    def _why_unknown(self) -> str:
        why = self.comparison.why
        if not why:
            return ""
        reason = {
            _errno.EPERM: "it needs the right to ptrace both: the same user, and a process that may be dumped; or "
            "CAP_SYS_PTRACE in their user namespaces",
            _errno.ENOSYS: "this kernel was built without it (CONFIG_KCMP), or a seccomp filter hides it",
            _errno.ESRCH: "one of them has ended",
        }.get(why, "")
        return wrap(f"kcmp answers {errno_name(why)}" + (f": {reason}." if reason else "."), 0)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        flags = self.flags
        return {
            "kind": "pair",
            "processes": [
                {"pid": each.pid, "parent": each.parent, "command": each.command, "namespaces": each.ids}
                for each in (self.first, self.second)
            ],
            "threads_of_one_process": self.thread,
            "namespaces": self.namespaces,
            "kcmp": {f"KCMP_{name}": relation for name, relation in self.tables.items()},
            "kcmp_errno": _errno.errorcode.get(self.comparison.why) if self.comparison.why else None,
            "flags": None if flags is None else format_clone(flags),
        }


def explain_pair(
    first: int,
    second: int,
    *,
    read: Callable[[int], Process],
    compare: Callable[[int, int], Comparison],
    thread_group: Callable[[int], int | None],
) -> PairExplanation:
    """Explain what two processes, or threads, share. The functions look: at a process, by kcmp, at whose thread it is."""
    one, other = read(first), read(second)
    group = thread_group(one.pid)
    thread = one.pid != other.pid and group is not None and group == thread_group(other.pid)
    return PairExplanation(one, other, compare(one.pid, other.pid), thread=thread)


def _id_text(id: int | None) -> str:
    return "hidden" if id is None else str(id or "none")


def _name(process: Process) -> str:
    return f"{process.pid} ({printable(process.command)})"


def _kinship(first: Process, second: Process, thread: bool) -> str:
    if first.pid == second.pid:
        return "They are one and the same."
    if thread:
        return "They are threads of one process."
    for one, other in ((first, second), (second, first)):
        if other.parent == one.pid:
            return f"{other.pid} is a child of {one.pid}."
    if first.parent == second.parent != 0:
        return f"They are siblings, children of {first.parent}."
    return f"Their parents are {first.parent} and {second.parent}."
