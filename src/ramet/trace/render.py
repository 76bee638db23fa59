"""A trace as text: a tree of tasks and their calls, within 80 columns as long as the depth allows. Pure."""

from __future__ import annotations

import os
from functools import lru_cache

from ramet.flags import SIGNAL_MAX, format_clone, signal_name
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import NamedTuple

    from ramet.trace.collect import Trace
    from ramet.trace.tree import Call, Task

    class Marks(NamedTuple):
        """See below."""

        branch: str
        last: str
        bar: str
        gap: str

else:
    from collections import namedtuple

    class Marks(namedtuple("Marks", "branch last bar gap")):
        """What a tree is drawn with."""

        __slots__ = ()


WIDTH = 80
#: However deep in the tree, a line has room for this much.
NARROWEST = 44
HANGING = "  "
INDENT = 3
#: A longer argument of a program is shortened; JSON has it whole.
ARGUMENT = 48

LINES = Marks("├─ ", "└─ ", "│  ", "   ")
ASCII = Marks("|- ", "`- ", "|  ", "   ")


def marks_for(environ: Mapping[str, str]) -> Marks:
    """Lines where the locale is of UTF-8, ASCII where it is not."""
    locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or ""
    return LINES if locale.lower().replace("-", "").endswith("utf8") else ASCII


def render(trace: Trace, marks: Marks = LINES) -> str:
    """The whole page."""
    first = trace.tasks[0]
    lines = [f"process {first.tid}"]
    # A stack of its own: programs may fork deeper than Python's.
    rest = [(entry, "") for entry in reversed(_entries(first))]
    while rest:
        entry, before = rest.pop()
        below = before + (marks.gap if entry.is_last else marks.bar)
        of_child = _entries(entry.child) if entry.child else []
        inner = below + (marks.bar if of_child else marks.gap)
        width = max(WIDTH - len(below), NARROWEST)
        begin, *more = _wrapped(entry.text, entry.end, width, len(entry.head))
        lines.append(before + (marks.last if entry.is_last else marks.branch) + entry.head + begin)
        if more or entry.notes:
            lines += [inner + line for line in more]
            lines += [inner + line for note in entry.notes for line in wrap(note, width - len(marks.gap))]
        rest += [(each, below) for each in reversed(of_child)]
    lines += [f"{_name(task)} (of a maker that was killed)" for task in trace.tasks[1:] if task.maker is None]
    return "\n".join([*(line.rstrip() for line in lines), "", summary(trace)])


class _Entry:
    """A line of the tree, with what belongs below it.

    head: "process 12 = ", before the text; end: " = EPERM (...)", behind it, which no line break divides.
    """

    __slots__ = ("child", "end", "head", "is_last", "notes", "text")

    def __init__(
        self, text: str, *, head: str = "", end: str = "", notes: Sequence[str] = (), child: Task | None = None
    ) -> None:
        self.text, self.head, self.end = text, head, end
        self.notes, self.child, self.is_last = notes, child, False


def _entries(task: Task) -> list[_Entry]:
    """What is told of a task."""
    if not task.calls and not task.status:
        return []
    found = [_of_call(group) for group in _searches(task.calls)]
    if task.signal:
        found.append(_Entry(f"killed by {signal_name(task.signal)}"))
    elif task.exit_code:
        found.append(_Entry(f"exited with {task.exit_code}"))
    if found:
        found[-1].is_last = True
    return found


def _searches(calls: Iterable[Call]) -> list[list[Call]]:
    """The calls one by one; but one program tried in one directory after the other is one."""
    groups: list[list[Call]] = []
    for call in calls:
        before = groups[-1][-1] if groups else None
        if before is not None and _not_there(before) and call.name == "execve" and call.argv == before.argv:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


def _not_there(call: Call) -> bool:
    return call.name == "execve" and call.errno_name == "ENOENT"


def _of_call(group: Sequence[Call]) -> _Entry:
    *others, call = group
    text, notes = call_text(call), _notes(call)
    if others:
        notes.append(f"ENOENT at {len(others)} other place{'s' * (len(others) > 1)} before")
    if call.child is not None:
        return _Entry(text, head=f"{_name(call.child)} = ", notes=notes, child=call.child)
    if call.errno:
        return _Entry(text, end=f" = {_errno(call)}", notes=notes)
    return _Entry(text, end=" = ? (it ended first)" if call.result is None else "", notes=notes)


def _name(task: Task) -> str:
    kind = "thread" if task.thread else "process"
    if task.inside is None:
        return f"{kind} {task.tid}"
    return f"{kind} {task.tid} (pid {task.inside or '?'} inside)"


def _errno(call: Call) -> str:
    from ramet.trace.tree import RESTARTED

    if call.errno in RESTARTED:
        return f"{call.errno_name} (a signal came; made again)"
    return f"{call.errno_name} ({os.strerror(call.errno)})"


def call_text(call: Call) -> str:
    """The call in strace form, its flags and arguments by name."""
    if call.name in ("execve", "execveat"):
        path = "?" if call.path is None else call.path
        if call.argv is None:
            return f"{call.name}({_quoted(path)}, ?)"
        return execve_text(path, call.argv, name=call.name, cut=call.cut)
    if call.name in ("fork", "vfork"):
        return f"{call.name}()"
    if call.exit_signal > SIGNAL_MAX and not call.flags:
        return f"{call.name}(exit_signal={call.exit_signal})"
    flags = "?" if call.flags is None else _flags_text(int(call.flags), call.exit_signal)
    if call.name == "setns":
        fd = call.arguments[0] & 0xFFFF_FFFF
        return f"setns({fd - ((fd & 1 << 31) << 1)}, {flags})"
    return f"{call.name}({flags})"


#: Programs make many calls with few kinds of flags.
_flags_text = lru_cache(256)(format_clone)


def execve_text(path: str, argv: Sequence[str], *, name: str = "execve", cut: bool = False) -> str:
    """``execve("/bin/ls", ["ls", "-l"])``."""
    words = [_quoted(word) for word in argv] + ["..."] * cut
    return f"{name}({_quoted(path)}, [{', '.join(words)}])"


def _quoted(text: str) -> str:
    shown = text if len(text) <= ARGUMENT else text[:ARGUMENT]
    body = "".join(_escaped(letter) for letter in shown)
    return f'"{body}"' + "..." * (shown is not text)


def _escaped(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() else ascii(letter)[1:-1]


def _notes(call: Call) -> list[str]:
    found = []
    if call.arch in ("i386", "arm"):
        found.append(f"a 32-bit call ({call.arch})")
    if call.dropped:
        found.append(f"{call.dropped:#x} was given, too: clone drops what is above 32 bits")
    if new := call.new:
        found.append(f"new {_and(new)} namespace{'s' * (len(new) > 1)}")
    if for_children := call.new_for_children:
        found.append(f"new {_and(for_children)} namespace for the children to come")
    if call.name == "setns" and not call.errno and call.result is not None:
        from ramet.trace.tree import kinds_of

        kinds = _and(kinds_of(call.flags or 0))
        found.append(f"joins another {kinds} namespace".replace("  ", " "))
    if call.leader is not None:
        found.append(f"by a thread: it goes on as process {call.leader.tid}, whose other threads end here")
    if call.reason:
        found.append(call.reason)
    return found


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


# Wrapping


@lru_cache(256)
def _wrapped(text: str, end: str, width: int, taken: int) -> list[str]:
    """Lines of a call: broken behind a | or a blank, never inside a name; what can't be broken is longer.

    The first line has `taken` letters before it. All others have room for less: they are drawn further in.
    """
    lines: list[str] = []
    line = "x" * taken
    *pieces, last = _pieces(text)
    for piece in (*pieces, last + end) if len(last + end) < width - INDENT else (*pieces, last, end):
        room = width - (INDENT if lines else 0)
        if line.strip() and len((line + piece).rstrip()) > room:
            lines.append(line.rstrip())
            line = HANGING + piece.lstrip()
        else:
            line += piece
    lines.append(line.rstrip())
    return [lines[0][taken:], *lines[1:]]


def _pieces(text: str) -> list[str]:
    """The text in parts that stay whole: they end behind a | or a blank, but for those in quotation marks."""
    pieces, begin, quoted, skip = [], 0, False, False
    for at, letter in enumerate(text):
        if skip:
            skip = False
        elif letter == "\\" and quoted:
            skip = True
        elif letter == '"':
            quoted = not quoted
        elif letter in "| " and not quoted:
            pieces.append(text[begin : at + 1])
            begin = at + 1
    return [*pieces, text[begin:]]


# The last line


def summary(trace: Trace) -> str:
    """How many of what, in a sentence."""
    every = [call for task in trace.tasks for call in task.calls]
    threads = sum(task.thread for task in trace.tasks)
    parts = [
        _count(len(trace.tasks) - threads, "process", "processes"),
        _count(threads, "thread", "threads"),
        _count(sum(len(call.new) + len(call.new_for_children) for call in every), "new namespace", "new namespaces"),
        _count(sum(call.failed for call in every), "failed call", "failed calls"),
    ]
    return ", ".join(part for part in parts if part)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""
