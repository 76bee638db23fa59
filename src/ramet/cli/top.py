"""`ramet top`: the sandboxes that are alive, and what they use."""

from __future__ import annotations

import os
from time import monotonic

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import put, put_json, visible, write_all
from ramet.cli.table import cut, table, user_name
from ramet.errors import SpecError
from ramet.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramet.run.sandboxes import Live

ABOUT = """\
Show the sandboxes that are alive on this machine, whoever has started them, and
what they use. On a terminal the page is drawn again every second, until q or
Ctrl-C; else it is printed once.

PID     its init's; what ends it ends all of it
CALLER  the process that has started it
CPU%    of one CPU, since the page before; on the first, since its start
MEMORY  of its control group; with ~, of its largest process, since it has none
PROCS   processes and threads; "/" is followed by the limit"""
EVERY = Option("--every", "TIME", "between two pages (1s)")
ONCE = Option("--once", "", "print one page, also on a terminal")
TABLE = (EVERY, ONCE, options.JSON, options.DEBUG, options.HELP)
HEADS = ("PID", "USER", "CALLER", "TIME", "CPU", "CPU%", "MEMORY", "PROCS", "COMMAND")
RIGHT = "PID CALLER TIME CPU CPU% MEMORY PROCS"


def command(args: Sequence[str]) -> int:
    """Show live sandboxes."""
    line = options.read(args, TABLE)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text("ramet top [OPTION...]", ABOUT, [("options", TABLE)]))
        return 0
    if line.operands:
        raise SpecError("takes no argument", field=f"top {line.operands[0]}")
    every = 1.0
    for option, name, value in line.given:
        if option is EVERY:
            every = values.duration(value, f"{name} {value}")
    from ramet.run.sandboxes import sandboxes

    if options.JSON in wanted:
        put_json([one._asdict() for one in sandboxes()])
    elif ONCE in wanted or not (os.isatty(0) and os.isatty(1)):
        put("\n".join(page(sandboxes(), {}, 0)))
    else:
        watch(every)
    return 0


def page(found: Sequence[Live], before: dict[int, float], passed: float, *, wide: bool = False) -> list[str]:
    """Lines. before: CPU seconds by pid, so many seconds ago."""
    return table(HEADS, rows(found, before, passed), right=RIGHT, wide=wide)


def rows(found: Sequence[Live], before: dict[int, float], passed: float) -> list[tuple[str, ...]]:
    """A row of words for each sandbox, as `HEADS` has them."""
    return [
        (
            str(one.pid),
            cut(user_name(one.uid), 12),
            str(one.caller or "?"),
            _time(one.seconds),
            "?" if one.cpu is None else f"{one.cpu:.1f}",
            _share(one, before, passed),
            _limited(_size(one.memory, approximate=one.group is None), _size(one.memory_limit)),
            _limited("?" if one.processes is None else str(one.processes), str(one.processes_limit or "")),
            one.command,
        )
        for one in found
    ]


def _share(one: Live, before: dict[int, float], passed: float) -> str:
    if one.cpu is None:
        return "?"
    if one.pid in before and passed > 0:
        return f"{max(0.0, one.cpu - before[one.pid]) / passed * 100:.0f}"
    return f"{one.cpu / one.seconds * 100:.0f}" if one.seconds > 0.1 else "?"


def _limited(now: str, limit: str) -> str:
    return f"{now}/{limit}" if limit else now


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}s"
    minutes = int(seconds) // 60
    return f"{minutes}m{int(seconds) % 60:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def _size(number: int | None, *, approximate: bool = False) -> str:
    if number is None:
        return "?" if approximate else ""
    shown, unit = float(number), "B"
    for unit in ("B", "K", "M", "G", "T"):
        if shown < 1000 or unit == "T":
            break
        shown /= 1024
    text = f"{shown:.0f}{unit}" if unit == "B" or shown >= 10 else f"{shown:.1f}{unit}"
    return f"~{text}" if approximate else text


# On a terminal


def watch(every: float) -> None:
    """Draw the page again and again, on the terminal's other screen, until q, Ctrl-C or its end."""
    import select

    from ramet.cli.terminal import Terminal
    from ramet.run.sandboxes import sandboxes

    draw = _drawer()
    before: dict[int, float] = {}
    last = monotonic()
    poller = select.poll()
    poller.register(0, select.POLLIN)
    with Terminal():
        write_all(1, b"\033[?1049h\033[?25l")
        try:
            while True:
                found, now = sandboxes(), monotonic()
                draw(found, before, now - last)
                before, last = {one.pid: one.cpu for one in found if one.cpu is not None}, now
                if poller.poll(every * 1000) and os.read(0, 64)[:1] in (b"q", b"Q", b"\x03", b"\x04", b""):
                    return
        finally:
            write_all(1, b"\033[?25h\033[?1049l")


def _drawer() -> Drawer:
    """rich's table where it is installed, which fits columns to the terminal; else our own."""
    try:
        return _RichDrawer()
    except ImportError:
        return Drawer()


class Drawer:
    """Draws a page over the one before."""

    def __call__(self, found: Sequence[Live], before: dict[int, float], passed: float) -> None:
        width, height = os.get_terminal_size(1)
        lines = [_title(found), "", *page(found, before, passed, wide=True)]
        shown = [cut(line, width) for line in lines[: height - 1]]
        self.put(visible("\n".join(shown)))

    def put(self, page: bytes) -> None:
        """The terminal is raw, so a line's end takes both; what is left of the old page is wiped out."""
        write_all(1, b"\033[H" + page.replace(b"\n", b"\033[K\r\n") + b"\033[J")


class _RichDrawer(Drawer):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self._console, self._table, self._text = Console, Table, Text

    def __call__(self, found: Sequence[Live], before: dict[int, float], passed: float) -> None:
        import io

        width, height = os.get_terminal_size(1)
        shown = self._table(box=None, expand=True, pad_edge=False, header_style="bold")
        right = set(RIGHT.split())
        for name in HEADS:
            last = name == HEADS[-1]
            shown.add_column(
                name,
                justify="right" if name in right else "left",
                no_wrap=True,
                overflow="ellipsis",
                ratio=1 if last else None,
            )
        for row in rows(found, before, passed)[: max(1, height - 4)]:
            shown.add_row(*(self._text(visible(word).decode().replace("\n", " ")) for word in row))
        written = io.StringIO()
        console = self._console(file=written, width=width, force_terminal=True, color_system="standard")
        console.print(_title(found))
        console.print()
        console.print(shown)
        self.put(written.getvalue().rstrip("\n").encode("utf-8", "backslashreplace"))


def _title(found: Sequence[Live]) -> str:
    many = f"{len(found)} sandbox" + ("" if len(found) == 1 else "es")
    return f"{many} on {os.uname().nodename}, {len(os.sched_getaffinity(0))} CPUs; q ends this page"
