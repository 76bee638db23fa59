"""`ramet tree`: processes as a tree, each with the namespaces that are new there; or namespaces as a tree."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import colours_wanted, paint, put, put_json
from ramet.cli.ps import (
    AGAINST_YOU,
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
from ramet.cli.table import ELLIPSIS, columns, cut, shown
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from ramet.host.census import Census, Namespace
    from ramet.host.namespaces import Process

    Node = tuple["Leaf", list["Node"]]
    Below = dict[int | None, list[Namespace]]

ABOUT = """\
Show the processes as a tree. A line names the namespaces that are new at this
process, against its parent; nothing means that all are its parent's. Processes
without children and with nothing new are counted on one line.

  ramet tree                the whole machine
  ramet tree 1234           process 1234 and what is below it
  ramet tree --new          only the branches that lead to something new
  ramet tree --namespaces   user namespaces as they nest, with what each owns,
                            and pid namespaces as they nest

  new        of its own, against its parent's
  children:  the next child it makes will be in this one
  ?          hidden from the caller"""
ALL = Option("-a --all", "", "a line for every process")
NEW = Option("-n --new", "", "only what is new somewhere, and the way to it")
NAMESPACES = Option("--namespaces", "", "the tree of user and of pid namespaces")
TABLE = (TYPE, NEW, ALL, NAMESPACES, LONG, options.JSON, options.DEBUG, options.HELP)
STEP = 3
DEEPEST = 15
"""How many steps of the indent are drawn; a deeper line begins with its depth instead."""
USAGE = "ramet tree [OPTION...] [PID|self]"


def command(args: Sequence[str]) -> int:
    """Show a tree."""
    line = options.read(args, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text(USAGE, ABOUT, [("options", TABLE)]))
        return 0
    if len(line.operands) > 1:
        raise SpecError(f"takes one process, not {len(line.operands)}", field="tree")
    top = _pid(line.operands[0]) if line.operands else None
    if NAMESPACES in wanted and (top is not None or NEW in wanted or ALL in wanted):
        raise SpecError("goes with neither a process nor --new or --all", field="--namespaces")
    census = read_census(line, also=("user",) if NAMESPACES in wanted else ())
    if top is not None and top not in census.processes:
        raise SpecError(f"there is no process {top}", field="tree")
    page = NamespaceTree(census) if NAMESPACES in wanted else ProcessTree(census, top)
    if options.JSON in wanted:
        put_json(page.as_dict())
        return 0
    style = Style(wide=LONG in wanted, colour=colours_wanted())
    lines = page.lines(style, folded=ALL not in wanted, only_new=NEW in wanted)
    put("\n".join(lines), colours=style.colour)
    return 0


def _pid(text: str) -> int:
    if text == "self":
        from os import getpid

        return getpid()
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"{text!r} is no pid", field="tree")
    return int(text)


class Style:
    """How lines are shown."""

    __slots__ = ("colour", "wide")

    def __init__(self, *, wide: bool = False, colour: bool = False) -> None:
        self.wide, self.colour = wide, colour


class Leaf:
    """What stands on one line: what it is, what is new there (in colour), and what may be cut off."""

    __slots__ = ("name", "news", "rest")

    def __init__(self, name: str, news: str = "", rest: str = "") -> None:
        self.name, self.news, self.rest = name, news, rest


def draw(nodes: Iterable[Node], style: Style) -> Iterator[str]:
    """The lines of a tree, within 80 columns unless the style is wide."""
    # no recursion: processes may be nested deeper than Python's calls
    todo = [("", "", node) for node in reversed(list(nodes))]
    while todo:
        branch, onward, (leaf, below) = todo.pop()
        yield _line(branch if style.wide else _shortened(branch), leaf, style)
        for n, node in enumerate(reversed(below)):
            todo.append((onward + ("├─ " if n else "└─ "), onward + ("│  " if n else "   "), node))


def _shortened(indent: str) -> str:
    """An indent that leaves room for what follows; where it is cut, how deep the line lies."""
    if len(indent) <= DEEPEST * STEP:
        return indent
    depth = f"{len(indent) // STEP} deep{ELLIPSIS} "
    return depth.ljust(-(-len(depth) // STEP) * STEP) + indent[-(DEEPEST - 5) * STEP :]


def _line(indent: str, leaf: Leaf, style: Style) -> str:
    name, news, rest = leaf.name, leaf.news, leaf.rest
    if not style.wide:
        name = cut(name, max(options.WIDTH - columns(indent), 20))
        room = options.WIDTH - columns(indent) - columns(name)
        news = cut(news, max(room - 2, 8)) if news else ""
        room -= columns(news) + 2 if news else 0
        rest = cut(rest, room - 2) if rest and room > 8 else ""
    parts = [name, paint(news, "green") if news and style.colour else news, rest]
    return indent + "  ".join(part for part in parts if part)


class ProcessTree:
    """Processes below their parents. top: the one to begin with; None for all that have no parent here."""

    def __init__(self, census: Census, top: int | None) -> None:
        self.census = census
        self.children: dict[int, list[Process]] = {}
        for process in census.processes.values():
            parent = process.parent if process.parent in census.processes else 0
            self.children.setdefault(parent, []).append(process)
        self.roots = self.children.get(0, []) if top is None else [census.processes[top]]

    def lines(self, style: Style, *, folded: bool, only_new: bool) -> list[str]:
        """The page."""
        lines = list(draw(self._nodes(style, folded=folded, only_new=only_new), style))
        if not lines:
            lines = ["nothing is new anywhere: each process shares all that can be seen with its parent"]
        starred = [AGAINST_YOU] if any("*" in line for line in lines) else []
        return lines + with_gap([*starred, *hidden_lines(self.census)])

    def _in_order(self) -> list[Process]:
        """Parents before their children."""
        order: list[Process] = []
        todo = list(reversed(self.roots))
        while todo:
            order.append(todo.pop())
            todo += reversed(self.children.get(order[-1].pid, []))
        return order

    def _nodes(self, style: Style, *, folded: bool, only_new: bool) -> list[Node]:
        made: dict[int, Node] = {}
        for process in reversed(self._in_order()):
            children = self.children.get(process.pid, [])
            plain = [child for child in children if self._is_plain(child)] if folded and not only_new else []
            hidden = {child.pid for child in plain}
            below = [made[child.pid] for child in children if child.pid in made and child.pid not in hidden]
            if below or not only_new or self._news(process):
                leaf = Leaf(_name(process), self._marks(process), _rest(process, style))
                made[process.pid] = (leaf, below + self._fold(plain, style))
        return [made[root.pid] for root in self.roots if root.pid in made]

    def _is_plain(self, process: Process) -> bool:
        return not self.children.get(process.pid) and not self._news(process)

    def _news(self, process: Process) -> str:
        new = new_at(self.census, process)
        later = "+".join(process.children)
        parts = [f"{new[:-1]} new*" if new.endswith("*") else f"{new} new"] if new else []
        return ", ".join([*parts, f"children: {later}"] if later else parts)

    def _marks(self, process: Process) -> str:
        if process.state == "Z":
            return "zombie"
        return "?" if process.hidden else self._news(process)

    def _fold(self, plain: list[Process], style: Style) -> list[Node]:
        """One line for all of a kind."""
        kinds: dict[tuple[str, bool], list[Process]] = {}
        for process in plain:
            name = "kernel threads" if process.kernel_thread else process.command
            kinds.setdefault((name, bool(process.hidden)), []).append(process)
        nodes: list[Node] = []
        for (name, hidden), members in kinds.items():
            if len(members) == 1:
                only = members[0]
                nodes.append((Leaf(_name(only), self._marks(only), _rest(only, style)), []))
                continue
            what = name if members[0].kernel_thread else f"x {shown(name)}"
            nodes.append((Leaf(f"{len(members)} {what}", "?" if hidden else ""), []))
        return nodes

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON, nothing folded: parents before their children, which each names by pid."""
        return {
            "processes": [self._dict(process) for process in self._in_order()],
            "hidden": self.census.hidden,
            "hidepid": self.census.hidepid or None,
        }

    def _dict(self, process: Process) -> dict[str, Any]:
        below = [child.pid for child in self.children.get(process.pid, [])]
        return {**process_dict(self.census, process), "children": below}


def _name(process: Process) -> str:
    return f"{process.pid} {shown(process.command)}"


def _rest(process: Process, style: Style) -> str:
    """Its arguments; only where there is room for all of them."""
    return command_of(process) if style.wide and not process.kernel_thread else ""


class NamespaceTree:
    """User namespaces, each with those that it owns and its children; then pid namespaces."""

    def __init__(self, census: Census) -> None:
        self.census = census

    def lines(self, style: Style, *, folded: bool = True, only_new: bool = False) -> list[str]:
        """The page."""
        roots = self._nodes(self._below("owner"), self._name_in_users)
        users = [node for node in roots if node[0].name.startswith("user ")]
        others = [node for node in roots if node not in users]
        lines = list(draw(users, style))
        if others:
            lines += ["", "owned by a user namespace that can't be seen from here:", "", *draw(others, style)]
        pids = self._below("pid")
        if pids:
            lines += ["", "pid namespaces; a process shows up in its own and in all above it:", ""]
            lines += draw(self._nodes(pids, self._name), style)
        return lines + with_gap(hidden_lines(self.census))

    def _below(self, by: str) -> dict[int | None, list[Namespace]]:
        """Which hang from which; under None those that hang from none that is known."""
        census = self.census
        members = [each for each in census.namespaces.values() if by == "owner" or each.kind == "pid"]
        known = {each.id for each in members}
        found: dict[int | None, list[Namespace]] = {}
        for each in sorted(members, key=lambda each: (each.kind == "user", each.id)):
            above = each.parent if by == "pid" or each.kind == "user" else each.owner
            found.setdefault(above if above in known else None, []).append(each)
        return found

    def _nodes(self, below: Below, name: Callable[[Namespace], str], id: int | None = None) -> list[Node]:
        return [
            (Leaf(name(each), "", self._who(each)), self._nodes(below, name, each.id)) for each in below.get(id, [])
        ]

    def _name(self, namespace: Namespace) -> str:
        count = len(namespace.pids)
        return f"{namespace.kind} {namespace.id}  {count} process{'es' * (count != 1)}"

    def _name_in_users(self, namespace: Namespace) -> str:
        name = self._name(namespace)
        if namespace.kind != "user" or namespace.parent is None:
            return name
        return f"{name}, made by {owner_of(namespace.owner_uid)}"

    def _who(self, namespace: Namespace) -> str:
        if namespace.pids:
            first = self.census.processes[namespace.pids[0]]
            return f"{first.pid} {command_of(first)}"
        kept = kept_lines(self.census, namespace, children=False)  # those are drawn below it
        return f"({kept[0]})" if kept else ""

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "namespaces": self._dicts(self._below("owner")),
            "pid_namespaces": self._dicts(self._below("pid")),
            "hidden": self.census.hidden,
            "hidepid": self.census.hidepid or None,
        }

    def _dicts(self, below: Below, id: int | None = None) -> list[dict[str, Any]]:
        return [
            {**namespace_dict(self.census, each), "children": self._dicts(below, each.id)} for each in below.get(id, [])
        ]
