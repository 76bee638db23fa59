"""Scripts that other processes run, in namespaces of theirs: the standard library alone, and nothing of ramet in most."""

from __future__ import annotations

import os


def source(name: str) -> str:
    """The text of one of these scripts, for ``python -c``: inside a root of its own the file may not be there."""
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()
