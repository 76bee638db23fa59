"""`ramet tree --namespaces`: user namespaces as they nest, with what each owns, and pid namespaces as they nest."""

from __future__ import annotations

from ramet.cli.branches import Leaf, draw
from ramet.cli.census import command_of, hidden_lines, kept_lines, namespace_dict, owner_of, with_gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.cli.branches import Node, Style
    from ramet.host.census import Census, Namespace

    Below = dict[int | None, list[Namespace]]


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
