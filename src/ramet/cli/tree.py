"""`ramet tree`: processes as a tree, each with the namespaces that are new there."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.branches import Leaf, Style, draw
from ramet.cli.census import (
    AGAINST_YOU,
    LONG,
    TYPE,
    command_of,
    hidden_lines,
    new_at,
    process_dict,
    read_census,
    with_gap,
)
from ramet.cli.options import Option
from ramet.cli.output import colours_wanted, put, put_json
from ramet.cli.table import shown
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.cli.branches import Node
    from ramet.cli.namespace_tree import NamespaceTree
    from ramet.host.census import Census
    from ramet.host.namespaces import Process

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
    page: NamespaceTree | ProcessTree
    if NAMESPACES in wanted:
        from ramet.cli.namespace_tree import NamespaceTree

        page = NamespaceTree(census)
    else:
        page = ProcessTree(census, top)
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
            lines = ["nothing is new: each process shares all that can be seen with its parent"]
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
                made[process.pid] = (self._leaf(process, style), below + self._fold(plain, style))
        return [made[root.pid] for root in self.roots if root.pid in made]

    def _is_plain(self, process: Process) -> bool:
        return not self.children.get(process.pid) and not self._news(process)

    def _news(self, process: Process) -> str:
        new = new_at(self.census, process)
        later = "+".join(process.children)
        parts = [f"{new[:-1]} new*" if new.endswith("*") else f"{new} new"] if new else []
        return ", ".join([*parts, f"children: {later}"] if later else parts)

    def _leaf(self, process: Process, style: Style) -> Leaf:
        name, rest = f"{process.pid} {shown(process.command)}", _rest(process, style)
        if process.state == "Z":
            return Leaf(name, "zombie", rest, colour="dim")
        if process.hidden:
            return Leaf(name, "?", rest, colour="dim")
        return Leaf(name, self._news(process), rest)

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
                nodes.append((self._leaf(only, style), []))
                continue
            what = name if members[0].kernel_thread else f"x {shown(name)}"
            nodes.append((Leaf(f"{len(members)} {what}", "?" if hidden else "", colour="dim"), []))
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


def _rest(process: Process, style: Style) -> str:
    """Its arguments; only where there is room for all of them."""
    return command_of(process) if style.wide and not process.kernel_thread else ""
