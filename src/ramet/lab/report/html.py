"""HTML and SVG from Python values: whatever is not markup already is escaped.

A template engine would bring a language of its own for what a few functions do; and here nothing that was read from the
machine can become markup by mistake, since only `element` and `join` make any.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Child: TypeAlias = Any


class Markup(str):
    """Text that is markup already. Made by the functions here, and of the package's own files."""

    __slots__ = ()


_SPECIAL = {ord(c): f"&{name};" for c, name in {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "#39"}.items()}
#: What HTML can't hold, not even by number: it is shown as Python would write it.
_CONTROLS = {n: ascii(chr(n))[1:-1] for n in (*range(9), 11, 12, *range(13, 32), *range(127, 160), 0xFFFE, 0xFFFF)}
_TABLE = _SPECIAL | _CONTROLS
_VOID = frozenset({"br", "input", "link", "meta"})


def escape(value: object) -> Markup:
    """The text with nothing in it that means something to HTML; markup stays as it is."""
    if isinstance(value, Markup):
        return value
    text = str(value).translate(_TABLE)
    if text.isascii():
        return Markup(text)
    return Markup("".join(_visible(c) for c in text))


def _visible(c: str) -> str:
    """Without what turns a text's direction around, and without halves of characters: bytes of a path that are none."""
    number = ord(c)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if 0xD800 <= number <= 0xDFFF or 0x202A <= number <= 0x202E or 0x2066 <= number <= 0x2069:
        return f"\\u{number:04x}"
    return c


def join(*children: Child, between: str = "") -> Markup:
    """One after the other. Lists are taken apart, None and False are left out."""
    return Markup(escape(between).join(escape(child) for child in _flat(children)))


def _flat(children: Any) -> Any:
    for child in children:
        if isinstance(child, (list, tuple)) or hasattr(child, "__next__"):
            yield from _flat(child)
        elif child is not None and child is not False:
            yield child


def element(name: str, /, *children: Child, **attributes: object) -> Markup:
    """``<name attributes>children</name>``. class_ is class, aria_label is aria-label; None and False: no such attribute."""
    head = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{head}>")
    return Markup(f"<{head}>{join(*children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'


def hidden(text: str) -> Markup:
    """For those who hear the page: what others see by a shape or a place."""
    return element("span", text, class_="sr")


def scrolling(label: str, *children: Child, class_: str = "") -> Markup:
    """A box that scrolls sideways by itself, also by keyboard, so that the page does not."""
    return element("div", *children, class_=f"scroll {class_}".rstrip(), role="group", aria_label=label, tabindex="0")


def head_row(*titles: Child, first: str = "col") -> Markup:
    """The row of a table's column headings."""
    cells = [element("th", title, scope="col" if n else first) for n, title in enumerate(titles)]
    return element("thead", element("tr", cells))


def caption(text: Child, *, shown: bool = False) -> Markup:
    """What a table is about; where a heading says it already, for those who hear the page."""
    return element("caption", text, class_=None if shown else "sr")


def disclosure(summary: Child, *body: Child, **attributes: object) -> Markup:
    """What opens when it is asked to."""
    return element("details", element("summary", summary), element("div", *body, class_="body"), **attributes)
