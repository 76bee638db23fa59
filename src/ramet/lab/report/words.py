"""What the parts of the page say alike: flags, man pages, verdicts."""

from __future__ import annotations

import re

from ramet.lab.report.html import Markup, element, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PAGE = re.compile(r"\b([A-Za-z_][A-Za-z0-9_.]*)\((\d)\)")


def who(uid: int) -> str:
    """Who ran it."""
    return "root" if uid == 0 else f"the ordinary user {uid}"


def flags(names: str) -> Markup:
    """``CLONE_VM | SIGCHLD``, each as code, to be broken between them."""
    parts = [element("code", name) for name in names.split("|") if name]
    return join(*parts, between=" | ") if parts else element("em", "none")


def manual(text: str) -> Markup:
    """The text, in which each man page leads to where it can be read."""
    parts: list[Any] = []
    last = 0
    for found in _PAGE.finditer(text):
        name, section = found.groups()
        where = f"https://man7.org/linux/man-pages/man{section}/{name}.{section}.html"
        parts += [text[last : found.start()], element("a", found.group(), href=where, rel="noreferrer")]
        last = found.end()
    return join(*parts, text[last:])


def badge(word: str, sign: str, style: str) -> Markup:
    """A verdict: a sign and a word, so that its colour tells nothing that they do not."""
    return element("span", element("span", sign, aria_hidden="true"), f" {word}", class_=f"badge {style}")


def plural(count: int, one: str, many: str = "") -> str:
    """``1 case``, ``2 cases``."""
    return f"{count} {one if count == 1 else many or one + 's'}"
