"""Files of /proc and the like, which may be gone or refused at any moment."""

from __future__ import annotations


def read(path: str) -> str | None:
    """The file as text, bytes that are none as surrogates; None where it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None
