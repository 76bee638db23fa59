"""Flags and exit signals in words, for the lab's pages."""

from __future__ import annotations

from ramet.flags import CLONE, kernel_name, signal_name


def flag_words(flags: int, exit_signal: int) -> list[tuple[str, str]]:
    """(name, meaning) of each flag, and of the exit signal."""
    words = [(kernel_name(flag), flag.meaning) for flag in CLONE if flags & flag]
    if exit_signal:
        words.append((signal_name(exit_signal), "The exit signal: the caller gets it when the child ends."))
    return words
