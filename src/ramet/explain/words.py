"""Words and lines that every explanation uses."""

from __future__ import annotations

WIDTH = 80

WHAT = {
    "user": "user and group ids, capabilities",
    "mnt": "mounts",
    "pid": "process numbers",
    "net": "network devices, addresses, ports",
    "ipc": "System V IPC, message queues",
    "uts": "host name",
    "cgroup": "view of the cgroup tree",
    "time": "clock offsets",
}
"""What each kind of namespace holds, by its name in /proc/PID/ns."""


def relation(ours: int | None, theirs: int | None) -> str:
    """ "shared" or "own"; "?" where one of the two can't be seen; "none" where one has none (a zombie)."""
    if ours is None or theirs is None:
        return "?"
    if not ours or not theirs:
        return "none"
    return "shared" if ours == theirs else "own"


def printable(text: str) -> str:
    """The text on one line; what would steer a terminal is escaped. Names of processes are anybody's to choose."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[:1].upper() + text[1:] + "."


def wrap(text: str, indent: int, hanging: int | None = None) -> str:
    """Lines within 80 columns, the first after `indent` blanks, the others after `hanging`; with a newline."""
    from textwrap import fill

    later = indent if hanging is None else hanging
    return (
        fill(
            text,
            WIDTH,
            initial_indent=" " * indent,
            subsequent_indent=" " * later,
            break_on_hyphens=False,
        )
        + "\n"
    )
