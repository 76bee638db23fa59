"""Columns of text, for pages that show the machine's own names: users, commands, paths."""

from __future__ import annotations

from ramet.cli.options import WIDTH
from ramet.cli.output import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ELLIPSIS = "…"


def shown(text: str) -> str:
    """The text on one line, without anything that would steer a terminal."""
    return visible(text).decode().replace("\n", "\\n")


def columns(text: str) -> int:
    """How many columns it takes: Chinese letters take two, accents on the letter before them none."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def cut(text: str, width: int) -> str:
    """At most so many columns of it; what was left out shows as an ellipsis."""
    text = shown(text)
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def user_name(uid: int | None) -> str:
    """The user's name, or the number where it has none here."""
    if uid is None or uid < 0:
        return "?"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "", wide: bool = False) -> list[str]:
    """Lines of columns as wide as what is in them; the last gets what is left of 80, or with wide all it needs.

    right: the heads of the columns that are numbers, separated by blanks.
    """
    cells = [tuple(heads), *(tuple(row) for row in rows)]
    last = len(heads) - 1
    widths = [max(columns(row[n]) for row in cells) for n in range(last)]
    to_the_right = set(right.split())
    lines = []
    for row in cells:
        line = ""
        for n, width in enumerate(widths):
            pad = " " * (width - columns(row[n]))
            line += (pad + row[n] if heads[n] in to_the_right else row[n] + pad) + " "
        rest = row[last] if wide else cut(row[last], max(WIDTH - columns(line), 8))
        lines.append((line + rest).rstrip())
    return lines
