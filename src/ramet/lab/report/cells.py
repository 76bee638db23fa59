"""Shared, copied or new: as a shape, a letter and a word."""

from __future__ import annotations

from ramet.lab.manual import MANUAL
from ramet.lab.report.html import Markup, element, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MEANING = {
    "shared": "one for caller and child",
    "copied": "the caller's, in a copy",
    "new": "another, that the caller never had",
    "unknown": "not to be told here",
}
"""What is measured, in the order of the legend."""


def symbols() -> Markup:
    """The shapes, once for the whole page: two in one, one and its copy, one by itself."""
    shapes = {
        "shared": element("circle", cx="8", cy="8", r="6.5", fill="currentColor"),
        "copied": join(
            element("circle", cx="8", cy="8", r="5.75", fill="none", stroke="currentColor", stroke_width="1.5"),
            element("path", d="M8 2a6 6 0 0 0 0 12z", fill="currentColor"),
        ),
        "new": element(
            "rect",
            x="2.75",
            y="2.75",
            width="10.5",
            height="10.5",
            fill="none",
            stroke="currentColor",
            stroke_width="1.5",
        ),
        "unknown": element("path", d="M4 8h8", stroke="currentColor", stroke_width="1.5"),
    }
    drawn = [element("symbol", shape, id=f"shape-{word}", viewBox="0 0 16 16") for word, shape in shapes.items()]
    return element("svg", drawn, class_="symbols", aria_hidden="true", width="0", height="0")


def shape(word: str) -> Markup:
    """The picture of it; the word stands beside it."""
    use = element("use", href=f"#shape-{word}")
    return element("svg", use, class_="shape", aria_hidden="true", width="14", height="14")


def legend() -> Markup:
    """What the shapes mean."""
    rows = [
        join(element("dt", shape(word), f" {word}", class_=word), element("dd", what)) for word, what in MEANING.items()
    ]
    mark = join(element("dt", element("strong", "!"), " difference"), element("dd", "not as the manual says"))
    return element("dl", rows, mark, class_="legend")


def told(cell: dict[str, Any], key: str) -> str:
    """All there is to say of a cell."""
    says = f"{cell['measured']}; the manual says {cell['manual']} ({MANUAL[key].page})"
    if cell["agrees"] is False:
        says += ", which is not so here"
    kcmp = cell["kcmp"]
    witness = "" if kcmp is None else f" kcmp(2): {'the same' if kcmp else 'another'} kernel object."
    return f"{says}. Seen: {cell['evidence']}.{witness}"


def style(cell: dict[str, Any], base: dict[str, Any]) -> str:
    """Its classes: what it is, whether a flag made it so, whether the manual says otherwise."""
    classes = [str(cell["measured"])]
    if cell["measured"] != base["measured"]:
        classes.append("changed")
    if cell["agrees"] is False:
        classes.append("odd")
    return " ".join(classes)


def groups(resources: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The resources by the heading over them."""
    found: dict[str, list[dict[str, str]]] = {}
    for resource in resources:
        found.setdefault(resource["group"], []).append(resource)
    return found
