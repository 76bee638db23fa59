"""What the lab's pages say alike, as text and as HTML: flags, values, kinds of namespace."""

from __future__ import annotations

from ramet.flags import CLONE, kernel_name, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SPOKEN = {"mnt": "mount", "net": "network", "ipc": "IPC", "uts": "UTS"}
"""How the kinds of namespace are spoken of, where not by their name in /proc."""

NOWHERE = "-"
"""In place of a value that there is not."""


def flag_words(flags: int, exit_signal: int) -> list[tuple[str, str]]:
    """(name, meaning) of each flag, and of the exit signal."""
    words = [(kernel_name(flag), flag.meaning) for flag in CLONE if flags & flag]
    if exit_signal:
        words.append((signal_name(exit_signal), "The exit signal: the caller gets it when the child ends."))
    return words


def spoken(kind: str) -> str:
    """``mount`` for mnt."""
    return SPOKEN.get(kind, kind)


def kinds(names: Sequence[str]) -> str:
    """``a user and a mount namespace``."""
    words = [spoken(name) for name in names]
    return " and ".join(f"{'an' if word == 'IPC' else 'a'} {word}" for word in words) + " namespace"


def show(value: Any) -> str:
    """A value for people: yes and no, lists without brackets."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOWHERE
    if isinstance(value, list):
        return ", ".join(map(show, value)) or "none"
    return str(value)
