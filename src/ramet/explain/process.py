"""Which namespaces a process has of its own, and what it may do."""

from __future__ import annotations

from ramet.errors import SpecError
from ramet.explain.words import WHAT, printable, relation, wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.host.namespaces import Process
    from ramet.host.standing import IdMap, Standing


class ProcessExplanation:
    """A process, and for each kind of namespace whether it has one of its own.

    parent: None if it can't be seen from here. caller: the process that asked. standing: its ids, capabilities
    and so on, if they were asked for.
    """

    __slots__ = ("caller", "parent", "process", "standing")

    def __init__(
        self, process: Process, parent: Process | None, caller: Process, standing: Standing | None = None
    ) -> None:
        self.process, self.parent, self.caller, self.standing = process, parent, caller, standing

    @property
    def own(self) -> tuple[str, ...]:
        """The kinds that it does not share with its parent."""
        return self._differing(self.parent)

    @property
    def apart_from_caller(self) -> tuple[str, ...]:
        """The kinds that it does not share with the caller."""
        return self._differing(self.caller)

    def _differing(self, other: Process | None) -> tuple[str, ...]:
        if other is None:
            return ()
        ours, theirs = self.process.ids, other.ids
        return tuple(kind for kind in ours if relation(ours[kind], theirs[kind]) == "own")

    def __str__(self) -> str:
        process = self.process
        parent = f"parent {process.parent}" if self.parent else f"parent {process.parent}, not visible"
        lines = [f"process {process.pid} ({printable(process.command)}), {parent}", ""]
        lines.append(f"  {'':7} {'namespace':>12}  {'to parent':9}  {'to you':7}  holds")
        for kind, identity in process.ids.items():
            parents = self.parent.ids[kind] if self.parent else None
            name = "hidden" if identity is None else str(identity or "none")
            to_parent, to_caller = relation(identity, parents), relation(identity, self.caller.ids[kind])
            lines.append(f"  {kind:7} {name:>12}  {to_parent:9}  {to_caller:7}  {WHAT[kind]}")
        lines += ["", *self._summary().splitlines()]
        if self.standing is not None:
            lines += ["", *standing_lines(self.standing)]
        return "\n".join(line.rstrip() for line in lines)

    def _summary(self) -> str:
        process = self.process
        text = ""
        if process.state == "Z":
            return wrap("A zombie: it has ended, and waits only for its parent to ask how.", 0)
        if not any(process.ids.values()):
            return wrap("hidden: looking needs the right to ptrace the process.", 0)
        if self.parent is not None:
            own = ", ".join(self.own)
            text += wrap(f"Of its own, compared with its parent: {own or 'none'}.", 0)
        apart = ", ".join(self.apart_from_caller)
        text += wrap(f"Apart from you: {apart or 'none'}.", 0)
        for kind, identity in process.children.items():
            text += wrap(f"Its children will be in another {kind} namespace, {identity}.", 0)
        if None in process.ids.values():
            text += wrap("hidden: looking needs the right to ptrace the process.", 0)
        return text

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        process = self.process
        return {
            "kind": "process",
            "pid": process.pid,
            "parent": process.parent,
            "command": process.command,
            "namespaces": {
                kind: {
                    "id": identity or None,
                    "to_parent": relation(identity, self.parent.ids[kind] if self.parent else None),
                    "to_caller": relation(identity, self.caller.ids[kind]),
                }
                for kind, identity in process.ids.items()
            },
            "namespaces_for_children": dict(process.children),
            "standing": standing_dict(self.standing) if self.standing is not None else None,
        }


def explain_process(
    pid: int,
    *,
    read: Callable[[int], Process],
    caller_pid: int,
    read_standing: Callable[[int], Standing] | None = None,
) -> ProcessExplanation:
    """Explain a process; `read` looks at one (`ramet.host.namespaces.read_process`), `read_standing` at its rights."""
    process = read(pid or caller_pid)
    caller = process if process.pid == caller_pid else read(caller_pid)
    try:
        parent = read(process.parent) if process.parent else None
    except SpecError:  # it has just ended
        parent = None
    return ProcessExplanation(process, parent, caller, read_standing(process.pid) if read_standing else None)


def standing_lines(standing: Standing) -> list[str]:
    """What a process may do, a line or a few each."""
    rows = [
        ("ids", _ids_text(standing)),
        ("uid map", _map_text(standing.uid_map)),
        ("gid map", _map_text(standing.gid_map)),
        ("pids", _pids_text(standing.pids)),
        *_capability_rows(standing),
        ("no_new_privs", _no_new_privs_text(standing.no_new_privs)),
        ("seccomp", _seccomp_text(standing)),
        ("cgroup", _cgroup_text(standing.cgroups)),
    ]
    lines = []
    for name, text in rows:
        if text:
            lines += wrap(f"{name:<12}  {text}", 2, 16).splitlines()
    return lines


def _ids_text(standing: Standing) -> str:
    if standing.uids is None or standing.gids is None:
        return "?"
    parts = []
    for kind, (real, effective, saved, _) in (("uid", standing.uids), ("gid", standing.gids)):
        same = real == effective == saved
        parts.append(f"{kind} {real}" if same else f"{kind} {real}, effective {effective}, saved {saved}")
    return "; ".join(parts)


def _map_text(lines: IdMap | None) -> str:
    from ramet.host.standing import EVERY_ID

    if lines is None:
        return "?"
    if not lines:
        return "not written yet: every id shows as nobody"
    if lines == ((0, 0, EVERY_ID),):
        return "every id is itself"
    return ", ".join(
        f"{inside} is {outside} to you"
        if length == 1
        else f"{inside}..{inside + length - 1} are {outside}..{outside + length - 1} to you"
        for inside, outside, length in lines
    )


def _pids_text(pids: tuple[int, ...] | None) -> str:
    if pids is None or len(pids) < 2:
        return ""
    between = "".join(f"{pid} further down, " for pid in pids[1:-1])
    return f"{pids[0]} here, {between}{pids[-1]} in its own pid namespace"


def _capability_rows(standing: Standing) -> list[tuple[str, str]]:
    """The sets by what is in them: most often all but a few, or none; equal ones share a line."""
    by_bits: dict[int, list[str]] = {}
    for name, bits in standing.capabilities.items():
        by_bits.setdefault(bits, []).append(name)
    label = "capabilities"
    rows = []
    for bits, names in by_bits.items():
        rows.append((label, f"{', '.join(names)}: {_capabilities_text(bits)}"))
        label = ""
    return rows or [(label, "?")]


def _capabilities_text(bits: int) -> str:
    from ramet.spec.capabilities import NAMES

    held = [name for number, name in enumerate(NAMES) if bits >> number & 1]
    missing = [name for name in NAMES if name not in held]
    unknown = bits >> len(NAMES) << len(NAMES)
    if unknown:
        held.append(f"{unknown:#x}")
    if not held:
        return "none"
    if not missing:
        return "all"
    return f"all but {', '.join(missing)}" if len(missing) <= 5 else ", ".join(held)


def _no_new_privs_text(value: bool | None) -> str:
    return {None: "?", True: "set: no exec gives it more rights", False: "not set"}[value]


def _seccomp_text(standing: Standing) -> str:
    if standing.seccomp != "filter" or standing.seccomp_filters is None:
        return standing.seccomp or "?"
    count = standing.seccomp_filters
    return f"{count} filter{'s' * (count != 1)}: system calls may be refused"


def _cgroup_text(cgroups: tuple[tuple[str, str], ...] | None) -> str:
    if cgroups is None:
        return "?"
    second = [path for hierarchy, path in cgroups if not hierarchy]
    first = [f"{hierarchy} {path}" for hierarchy, path in cgroups if hierarchy and path != "/"]
    text = ", ".join(second) or "no version 2 hierarchy"
    return text + (f"; version 1: {', '.join(first)}" if first else "")


def standing_dict(standing: Standing) -> dict[str, Any]:
    """The same for JSON."""
    from ramet.spec.capabilities import NAMES

    def ids(values: tuple[int, ...] | None) -> dict[str, int] | None:
        return None if values is None else dict(zip(("real", "effective", "saved", "fs"), values, strict=False))

    def rows(lines: IdMap | None) -> list[dict[str, int]] | None:
        names = ("inside", "outside", "length")
        return None if lines is None else [dict(zip(names, line, strict=True)) for line in lines]

    return {
        "uid": ids(standing.uids),
        "gid": ids(standing.gids),
        "uid_map": rows(standing.uid_map),
        "gid_map": rows(standing.gid_map),
        "pids": None if standing.pids is None else list(standing.pids),
        "thread_group": standing.thread_group,
        "threads": standing.threads,
        "capabilities": {
            kind: [name for number, name in enumerate(NAMES) if bits >> number & 1]
            for kind, bits in standing.capabilities.items()
        },
        "no_new_privs": standing.no_new_privs,
        "seccomp": standing.seccomp,
        "seccomp_filters": standing.seccomp_filters,
        "cgroups": None
        if standing.cgroups is None
        else [{"hierarchy": hierarchy, "path": path} for hierarchy, path in standing.cgroups],
    }
