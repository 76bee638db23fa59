"""Drawing a tree: branches, one line a node, within 80 columns however deep it is."""

from __future__ import annotations

from ramet.cli.options import WIDTH
from ramet.cli.output import paint
from ramet.cli.table import ELLIPSIS, columns, cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Node = tuple["Leaf", list["Node"]]

STEP = 3
DEEPEST = 15
"""How many steps of the indent are drawn; a deeper line begins with its depth instead."""


class Style:
    """How lines are shown."""

    __slots__ = ("colour", "wide")

    def __init__(self, *, wide: bool = False, colour: bool = False) -> None:
        self.wide, self.colour = wide, colour


class Leaf:
    """What stands on one line: what it is, what is new there (in this colour), and what may be cut off."""

    __slots__ = ("colour", "name", "news", "rest")

    def __init__(self, name: str, news: str = "", rest: str = "", *, colour: str = "green") -> None:
        self.name, self.news, self.rest, self.colour = name, news, rest, colour


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
        name = cut(name, max(WIDTH - columns(indent), 20))
        room = WIDTH - columns(indent) - columns(name)
        news = cut(news, max(room - 2, 8)) if news else ""
        room -= columns(news) + 2 if news else 0
        rest = cut(rest, room - 2) if rest and room > 8 else ""
    parts = [name, paint(news, leaf.colour) if news and style.colour else news, rest]
    return indent + "  ".join(part for part in parts if part)
