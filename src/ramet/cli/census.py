"""What `ramet ps` and `ramet tree` have in common: options, words, and processes and namespaces as JSON."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.table import shown, user_name
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ramet.host.census import Census, Namespace
    from ramet.host.namespaces import Process

TYPE = Option("-t --type", "KIND,...", "only these kinds: user mnt pid net ipc uts cgroup time; can be repeated")
LONG = Option("-l --long", "", "whole command lines, however wide")
HIDDEN_NEEDS = "the right to ptrace (the same user, or CAP_SYS_PTRACE)"
AGAINST_YOU = "* compared with you, since its parent can't be looked at."


def read_census(line: options.Line, *, descriptors: bool = False, also: Sequence[str] = ()) -> Census:
    """The census that the options ask for; with types, of those and of `also`."""
    from ramet.host.census import parse_kinds, take_census
    from ramet.host.namespaces import KINDS

    named = {kind for option, name, value in line.given if option is TYPE for kind in parse_kinds(value, name)}
    kinds = [kind for kind in KINDS if kind in named or kind in also] if named else KINDS
    return take_census(kinds, descriptors=descriptors)


def new_at(census: Census, process: Process) -> str:
    """``pid+mnt`` for a process that has these of its own; with a star, compared with the caller; "" for none."""
    if census.comparable(process):
        return "+".join(census.own(process))
    apart = census.apart(process)
    return "+".join(apart) + "*" if apart else ""


def command_of(process: Process) -> str:
    """Its command line, on one line."""
    from ramet.host.namespaces import command_line

    return shown(command_line(process))


def kept_lines(census: Census, namespace: Namespace, *, children: bool = True) -> list[str]:
    """What keeps it alive other than a process in it."""
    lines = [f"bound at {shown(path)}" for path in namespace.mounts]
    lines += [f"for the children of process {pid}" for pid in namespace.awaiting]
    lines += [f"open in process {pid} as descriptor {fd}" for pid, fd in namespace.descriptors]
    hanging = census.kept_by_children(namespace) if children else []
    if hanging:
        more = f" and {len(hanging) - 1} more" if len(hanging) > 1 else ""
        lines.append(f"{hanging[0]}{more} {'hang' if more else 'hangs'} from it")
    return lines


def owner_of(uid: int | None) -> str:
    """``uid 0 (root)``."""
    if uid is None:
        return "a uid that can't be seen"
    name = user_name(uid)
    return f"uid {uid}" if name == str(uid) else f"uid {uid} ({shown(name)})"


def namespace_dict(census: Census, namespace: Namespace) -> dict[str, Any]:
    """A namespace for JSON; ns, type, nprocs, pid, user and command are named as lsns(8) does."""
    first = census.processes[namespace.pids[0]] if namespace.pids else None
    return {
        "ns": namespace.id,
        "type": namespace.kind,
        "nprocs": len(namespace.pids),
        "pid": first.pid if first else None,
        "uid": first.uid if first else None,
        "user": user_name(first.uid) if first else None,
        "command": command_of(first) if first else None,
        "owner": namespace.owner,
        "parent": namespace.parent,
        "owner_uid": namespace.owner_uid,
        "mounts": namespace.mounts,
        "for_children_of": namespace.awaiting,
        "descriptors": [{"pid": pid, "fd": fd} for pid, fd in namespace.descriptors],
        "pids": namespace.pids,
    }


def process_dict(census: Census, process: Process) -> dict[str, Any]:
    """A process for JSON. own: null where its parent, or it, can't be looked at."""
    return {
        "pid": process.pid,
        "parent": process.parent,
        "uid": process.uid,
        "user": user_name(process.uid),
        "command": process.command,
        "kernel_thread": process.kernel_thread,
        "zombie": process.state == "Z",
        "namespaces": {kind: id or None for kind, id in process.ids.items()},
        "namespaces_for_children": process.children,
        "own": list(census.own(process)) if census.comparable(process) else None,
        "apart_from_caller": list(census.apart(process)) if census.caller and not process.hidden else None,
    }


def hidden_lines(census: Census) -> list[str]:
    """What the page could not show."""
    lines = []
    if census.hidden:
        count, total = len(census.hidden), len(census.processes)
        are = "is" if count == 1 else "are"
        lines += wrap(f"{count} of {total} processes {are} hidden: looking needs {HIDDEN_NEEDS}.", options.WIDTH)
    if census.hidepid:
        why = f"/proc is mounted with hidepid={census.hidepid}: processes of other users may be missing."
        lines += wrap(why, options.WIDTH)
    return lines


def with_gap(lines: Iterable[str]) -> list[str]:
    """The lines under an empty one, if there are any."""
    lines = list(lines)
    return ["", *lines] if lines else []
