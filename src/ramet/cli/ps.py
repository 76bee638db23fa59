"""`ramet ps`: the machine's namespaces and who is in them; of one process, or one namespace, more."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.census import (
    AGAINST_YOU,
    HIDDEN_NEEDS,
    LONG,
    TYPE,
    command_of,
    hidden_lines,
    kept_lines,
    namespace_dict,
    new_at,
    owner_of,
    process_dict,
    read_census,
    with_gap,
)
from ramet.cli.options import Option
from ramet.cli.output import put, put_json
from ramet.cli.table import cut, table, user_name
from ramet.errors import SpecError
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.host.census import Census, Namespace
    from ramet.host.namespaces import Process

ABOUT = """\
List the namespaces of this machine, and the processes that have one of which
their parent is not part. With a process, list its namespaces; with the number
of a namespace, list the processes in it. Needs no root: what the caller may not
look at is counted as hidden.

  ramet ps                  every namespace
  ramet ps -t net,pid       network and pid namespaces
  ramet ps 1234             those of process 1234; "self" is the caller
  ramet ps 4026531840       the processes in a namespace, by its inode number

NS      its inode number, as in /proc/PID/ns
PROCS   how many processes are in it; PID is the lowest, USER whose that is
OWNER   the user namespace that it belongs to; for a user namespace, its parent"""
ALL = Option("-a --all", "", "also namespaces that only an open descriptor keeps alive")
TABLE = (TYPE, ALL, LONG, options.JSON, options.DEBUG, options.HELP)
USAGE = "ramet ps [OPTION...] [PID|NAMESPACE|self]"
LOWEST_NAMESPACE = 0xEFFF_FFF8
"""Inode numbers of namespaces begin here (those that the kernel starts with), far above the highest pid."""


def command(args: Sequence[str]) -> int:
    """List namespaces."""
    line = options.read(args, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text(USAGE, ABOUT, [("options", TABLE)]))
        return 0
    if len(line.operands) > 1:
        hint = "ramet explain PID PID says what two processes share"
        raise SpecError(f"takes one process or namespace, not {len(line.operands)}", field="ps", hint=hint)
    subject = _number(line.operands[0]) if line.operands else None
    census = read_census(line, descriptors=ALL in wanted)
    page: CensusPage | NamespacePage | ProcessPage
    if subject is None:
        page = CensusPage(census)
    elif subject >= LOWEST_NAMESPACE:
        page = NamespacePage(census, _find_namespace(census, subject))
    else:
        page = ProcessPage(census, _find_process(census, subject))
    if options.JSON in wanted:
        put_json(page.as_dict())
    else:
        put("\n".join(page.lines(wide=LONG in wanted)))
    return 0


def _number(text: str) -> int:
    if text == "self":
        from os import getpid

        return getpid()
    if not (text.isascii() and text.isdigit()):
        hint = "-t net lists the namespaces of a kind" if text.isalpha() else None
        raise SpecError(f"{text!r} is neither a pid nor the number of a namespace", field="ps", hint=hint)
    return int(text)


def _find_process(census: Census, pid: int) -> Process:
    found = census.processes.get(pid)
    if found is None:
        raise SpecError(f"there is no process {pid}", field="ps")
    return found


def _find_namespace(census: Census, id: int) -> Namespace:
    found = census.namespaces.get(id)
    if found is None:
        hint = "some processes are hidden; it may be one of theirs" if census.hidden else "ramet ps lists them"
        raise SpecError(f"there is no namespace {id} to be seen", field="ps", hint=hint)
    return found


class CensusPage:
    """Every namespace, then the processes that have some of their own."""

    def __init__(self, census: Census) -> None:
        self.census = census

    def lines(self, *, wide: bool) -> list[str]:
        """The page."""
        census = self.census
        rows = [_namespace_row(census, each) for each in census.namespaces.values()]
        lines = table(
            ("NS", "TYPE", "PROCS", "PID", "USER", "OWNER", "COMMAND"), rows, right="NS PROCS PID OWNER", wide=wide
        )
        own = [(process, new) for process in census.processes.values() if (new := new_at(census, process))]
        if own:
            lines += ["", "processes that have another namespace than their parent:", ""]
            rows = [
                (str(each.pid), str(each.parent), cut(user_name(each.uid), 10), cut(each.command, 16), new)
                for each, new in own
            ]
            lines += table(("PID", "PARENT", "USER", "COMMAND", "OF ITS OWN"), rows, right="PID PARENT", wide=wide)
        starred = [AGAINST_YOU] if any(new.endswith("*") for _, new in own) else []
        return lines + with_gap([*starred, *hidden_lines(census)])

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        census = self.census
        return {
            "namespaces": [namespace_dict(census, each) for each in census.namespaces.values()],
            "processes": [process_dict(census, each) for each in census.processes.values()],
            "hidden": census.hidden,
            "hidepid": census.hidepid or None,
        }


class NamespacePage:
    """One namespace: what it hangs from, what keeps it alive, and the processes in it."""

    def __init__(self, census: Census, namespace: Namespace) -> None:
        self.census, self.namespace = census, namespace

    def lines(self, *, wide: bool) -> list[str]:
        """The page."""
        census, namespace = self.census, self.namespace
        count = len(namespace.pids)
        lines = [f"{namespace.kind} namespace {namespace.id}, {count} process{'es' * (count != 1)}"]
        lines += [f"  {line}" for line in _lineage_lines(namespace) + kept_lines(census, namespace)]
        members = [census.processes[pid] for pid in namespace.pids]
        if members:
            rows = [
                (str(each.pid), str(each.parent), cut(user_name(each.uid), 10), command_of(each)) for each in members
            ]
            lines += ["", *table(("PID", "PARENT", "USER", "COMMAND"), rows, right="PID PARENT", wide=wide)]
        return lines + with_gap(hidden_lines(census))

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        census, namespace = self.census, self.namespace
        return {
            **namespace_dict(census, namespace),
            "processes": [process_dict(census, census.processes[pid]) for pid in namespace.pids],
            "hidden": census.hidden,
        }


class ProcessPage:
    """One process: each of its namespaces, against its parent's."""

    def __init__(self, census: Census, process: Process) -> None:
        self.census, self.process = census, process

    def lines(self, *, wide: bool) -> list[str]:
        """The page."""
        census, process = self.census, self.process
        parent = census.parent_of(process)
        who = f"process {process.pid} ({cut(process.command, 24)}) of {user_name(process.uid)}, "
        who += f"parent {process.parent}" if parent else f"parent {process.parent}, not visible"
        rows = [self._row(kind, id, parent) for kind, id in process.ids.items()]
        heads = ("TYPE", "NS", "PARENT'S", "PROCS", "PID", "OWNER", "COMMAND")
        lines = [who, "", *table(heads, rows, right="NS PROCS PID OWNER", wide=wide)]
        after = [f"Its children will be in another {kind} namespace, {id}." for kind, id in process.children.items()]
        user = census.namespaces.get(process.ids.get("user") or 0)
        if user is not None and user.parent is not None:
            after.append(f"User namespace {user.id} was made by {owner_of(user.owner_uid)}, in {user.parent}.")
        if process.state == "Z":
            after.append("A zombie: it has ended, and waits only for its parent to ask how.")
        elif process.hidden:
            after.append(f"? is hidden: looking needs {HIDDEN_NEEDS}.")
        elif parent is not None and parent.hidden:
            after.append(f"? since its parent is hidden: looking needs {HIDDEN_NEEDS}.")
        return lines + with_gap(line for text in after for line in wrap(text, options.WIDTH))

    def _row(self, kind: str, id: int | None, parent: Process | None) -> tuple[str, ...]:
        namespace = self.census.namespaces.get(id or 0)
        theirs = parent.ids.get(kind) if parent else None
        relation = "?" if id is None or theirs is None else "shared" if id == theirs else "own"
        if not id:
            none = "?" if id is None else "-"
            return (kind, none, none, none, none, none, none)
        if namespace is None:
            return (kind, str(id), relation, "?", "?", "?", "?")
        _, _, procs, pid, _, owner, command = _namespace_row(self.census, namespace)
        return (kind, str(id), relation, procs, pid, owner, command)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        census = self.census
        ids = [id for id in self.process.ids.values() if id]
        return {
            **process_dict(census, self.process),
            "details": [namespace_dict(census, census.namespaces[id]) for id in ids],
        }


def _namespace_row(census: Census, namespace: Namespace) -> tuple[str, ...]:
    owner = "-" if namespace.owner is None else str(namespace.owner)
    head = (str(namespace.id), namespace.kind, str(len(namespace.pids)))
    if not namespace.pids:
        kept = kept_lines(census, namespace)
        return (*head, "-", "-", owner, f"({kept[0]})" if kept else "")
    first = census.processes[namespace.pids[0]]
    return (*head, str(first.pid), cut(user_name(first.uid), 8), owner, command_of(first))


def _lineage_lines(namespace: Namespace) -> list[str]:
    if namespace.kind == "user":
        if namespace.parent is None:
            return ["the outermost user namespace that can be seen from here"]
        return [f"child of user namespace {namespace.parent}, made by {owner_of(namespace.owner_uid)}"]
    lines = [] if namespace.parent is None else [f"child of {namespace.kind} namespace {namespace.parent}"]
    owner = "one outside of what can be seen" if namespace.owner is None else str(namespace.owner)
    return [*lines, f"owned by user namespace {owner}"]
