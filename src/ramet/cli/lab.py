"""`ramet lab`: the experiments about clone, and the lab's other commands."""

from __future__ import annotations

import os
import signal
import threading
from importlib import import_module

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import SIGNALED, OutputError, ReaderGone, put, visible, write_all
from ramet.errors import SpecError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ramet.lab.evidence import Evidence

OTHERS = {
    "matrix": "each flag and each resource: shared, copied or new, as measured here",
    "compare": "fork, vfork, posix_spawn, pthread_create and clone, side by side",
    "errors": "each errno of clone and clone3, produced for real",
    "container": "one container, built step by step",
}
"""Subcommands with a module of their own, ramet.cli.lab_NAME, whose main(argv) returns an exit code."""

ABOUT = """\
Run experiments about clone on this kernel and show the evidence: what caller
and child see, beside a control without the flag, and what follows from it. The
host is left as it was. An ordinary user's experiments run in a user namespace
where they need one.

  ramet lab                     list the experiments
  ramet lab 3                   run one, by its number
  ramet lab pid                 or by its name
  ramet lab CLONE_NEWPID        or by a flag
  ramet lab all                 run every one, a line each
  ramet lab --html report.html  run all there is, into one page for a browser"""
AFTER = """\
ramet lab {name} --help says more.

exit codes: 0 every conclusion holds or can't be settled here; 1 one does not
hold."""
OUTPUT = Option("-o --output", "FILE", "write to FILE in place of stdout")
HTML = Option("--html", "FILE", "a page with everything, or with the experiments and parts named; - is stdout")
SIZES = Option("--sizes", "LIST", "with --html: memory of the callers it times, as 0,256M,1G")
TABLE = (options.JSON, OUTPUT, HTML, SIZES, options.DEBUG, options.HELP)


def command(args: Sequence[str]) -> int:
    """List, run, or hand on."""
    with EndedInOrder():
        return _command(args)


class EndedInOrder:
    """A context in which SIGTERM and SIGHUP, like Ctrl-C, end what was begun and remove its files."""

    def __enter__(self) -> None:
        self._before: dict[int, object] = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
                self._before[number] = signal.signal(number, self._end)

    def __exit__(self, *_: object) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)

    def _end(self, number: int, _: object) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(SIGNALED + number)


def _command(args: Sequence[str]) -> int:
    if args and args[0] in OTHERS:
        return int(import_module(f"ramet.cli.lab_{args[0]}").main(list(args[1:])))
    line = options.read(args, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(_help())
        return 0
    values = {option: value for option, _, value in line.given}
    if HTML in values:
        if options.JSON in wanted or OUTPUT in wanted:
            raise SpecError("goes with neither --json nor --output", field="--html")
        from ramet.cli import lab_html

        return lab_html.main(values[HTML], line.operands, values.get(SIZES))
    if SIZES in values:
        raise SpecError("goes with --html; or say: ramet lab compare --sizes", field="--sizes")
    names = _names(line.operands)
    write = _writer([value for option, _, value in line.given if option is OUTPUT])
    as_json = options.JSON in wanted
    if not names:
        _list(write, as_json=as_json)
        return 0
    everything = line.operands == ["all"]
    return _run(names, write, everything=everything, as_json=as_json, colour=write is _put and _colour())


def _help() -> str:
    others = "\n".join(f"  {name:<10}{what}" for name, what in OTHERS.items())
    about = f"{ABOUT}\n\nmore of the lab:\n{others}"
    after = AFTER.format(name="|".join(OTHERS))
    return options.help_text("ramet lab [OPTION...] [EXPERIMENT...|all]", about, [("options", TABLE)], after)


def _list(write: Callable[[str], None], *, as_json: bool) -> None:
    from ramet.lab import NAMES, load

    experiments = [load(name) for name in NAMES]
    if as_json:
        fields = ("number", "name", "title", "question", "claimed", "needs")
        write(_json([{name: getattr(each, name) for name in fields} | {"flags": each.says} for each in experiments]))
        return
    from ramet.cli.lab_page import list_text

    write(list_text(experiments))


def _names(words: Sequence[str]) -> list[str]:
    """The experiments that are meant."""
    from ramet.lab import NAMES

    if list(words) == ["all"]:
        return list(NAMES)
    if "all" in words:
        raise SpecError("means every experiment, and stands alone", field="lab all")
    return [_experiment(word) for word in words]


def _experiment(word: str) -> str:
    """Its name. A part of the lab, or what was probably meant to be one, is no experiment, and is told apart."""
    from ramet.lab import NAMES, find

    field = f"experiment {word!r}"
    if word in OTHERS:
        raise SpecError("is no experiment, and stands alone", field=field, hint=f"ramet lab {word}")
    try:
        return find(word)
    except SpecError:
        meant = nearest(word, (*NAMES, *OTHERS))
        if meant in OTHERS:
            raise SpecError("there is no such experiment", field=field, hint=f"did you mean {meant}?") from None
        raise


def _run(names: Sequence[str], write: Callable[[str], None], *, everything: bool, as_json: bool, colour: bool) -> int:
    from time import monotonic

    from ramet.lab import run_all

    start = monotonic()
    with Progress(quiet=len(names) == 1) as progress:
        found = run_all(names, progress=progress.show)
    if as_json:
        plain = [evidence.as_json() for evidence in found]
        write(_json(plain if everything or len(plain) > 1 else plain[0]))
    else:
        from ramet.cli.lab_page import evidence_text, summary_text

        pages = [evidence_text(evidence, colour=colour) for evidence in found]
        write(summary_text(found, monotonic() - start, colour=colour) if everything else "\n\n\n".join(pages))
    return exit_code(found)


def exit_code(found: Sequence[Evidence]) -> int:
    """1 if a conclusion that could be settled does not hold."""
    return int(any(not evidence.holds and not evidence.missing for evidence in found))


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2)


def _colour() -> bool:
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _writer(paths: Sequence[str]) -> Callable[[str], None]:
    """stdout, or the last file named; that it can be written to is found out before anything runs."""
    if not paths:
        return _put
    path = paths[-1]
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError) as error:
        raise OutputError(path, getattr(error, "errno", None) or 22) from None

    def write(text: str) -> None:
        try:
            if os.path.isfile(path):
                os.ftruncate(fd, 0)
            write_all(fd, visible(text + "\n"))
            os.close(fd)
        except OSError as error:
            raise OutputError(path, error.errno or 0) from None

    return write


def _put(text: str) -> None:
    """To stdout. What would steer a terminal is escaped, but for the pages' own colours."""
    from ramet.cli.lab_page import END, STYLES

    safe = visible(text + "\n").decode()
    for code in (*STYLES.values(), END):
        safe = safe.replace(ascii(code)[1:-1], code)
    try:
        write_all(1, safe.encode())
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise OutputError("stdout", error.errno or 0) from None


class Progress:
    """A bar on stderr while experiments run, where that is a terminal; a context, which wipes it away."""

    WIDTH = 30

    def __init__(self, *, quiet: bool) -> None:
        self._on = not quiet and os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\r\033[K")

    def show(self, done: int, of: int, name: str) -> None:
        """So many are done, and this one is next."""
        full = self.WIDTH * done // of
        self._write(f"\r\033[K[{'#' * full}{'.' * (self.WIDTH - full)}] {done:>2} of {of}  {name}")

    def _write(self, text: str) -> None:
        if self._on:
            try:
                write_all(2, text.encode())
            except OSError:
                self._on = False  # the terminal is gone
