"""`ramet doctor`: what this host can do, and the exact fix for what it can't."""

from __future__ import annotations

import os

from ramet.cli import options
from ramet.cli.output import colours_wanted, error_mapping, error_text, paint, put, put_json
from ramet.errors import Error, SpecError, UnsupportedError
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.host.doctor import Check

ABOUT = """\
Try what sandboxes are made of, in throw-away children, and say what works, what
does not, what needs it, and what mends it. Nothing of the host is changed. The
last line is the default sandbox itself.

  ok        it works
  degraded  it does not, and there is a way without it
  missing   it does not, and sandboxes need it

exit codes: 0 the default sandbox works; 1 it does not."""
TABLE = (options.JSON, options.DEBUG, options.HELP)
COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red"}
INDENT = 31


def command(args: Sequence[str]) -> int:
    """Examine this host."""
    line = options.read(args, TABLE)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text("ramet doctor [OPTION...]", ABOUT, [("options", TABLE)]))
        return 0
    if line.operands:
        raise SpecError("takes no argument", field=f"doctor {line.operands[0]}")
    checks, seconds, error = diagnose()
    if options.JSON in wanted:
        put_json(report_json(checks, seconds, error))
    else:
        colour = colours_wanted()
        put(report_text(checks, seconds, error, colour=colour), colours=colour)
    return 0 if error is None else 1


def diagnose() -> tuple[list[Check], float, Error | None]:
    """The checks, then the default sandbox: how long it took, or why it failed."""
    from ramet.host.doctor import Check, examine

    try:
        from ramet.run.probes import Host
    except ImportError as missing:
        fact = f"ramet's C core can't be loaded: {missing}"
        found = Check("C core", "missing", fact, "everything", "pip install --force-reinstall ramet")
        return (
            [found],
            0,
            UnsupportedError("ramet can't run here", fact=fact, needs="the extension ramet._core"),
        )
    host = Host()
    checks = [_core_check(), *examine(host)]
    return checks, *host.sandbox()


def _core_check() -> Check:
    from ramet import _core
    from ramet.host.doctor import Check

    folder = os.path.dirname(os.path.abspath(_core.__file__))
    init = os.path.join(folder, "_init")
    if not os.access(init, os.R_OK):
        fix = "pip install --force-reinstall ramet"
        return Check("C core and init", "missing", f"{init} can't be read", "every sandbox", fix)
    return Check("C core and init", "ok", "there")


def report_text(checks: Sequence[Check], seconds: float, error: Error | None, *, colour: bool = False) -> str:
    """The page; but for commands to paste, within 80 columns."""
    lines = []
    for check in checks:
        state = f"{check.state:<8}"
        if colour:
            state = paint(state, COLOURS[check.state])
        fact = wrap(check.fact, options.WIDTH - INDENT)
        lines.append(f"{state}  {check.name:<19}  {fact[0]}")
        lines += [" " * INDENT + more for more in fact[1:]]
        if check.needed_by:
            lines += _labelled("needed by", check.needed_by)
        if check.fix:
            lines += _fix(check.fix)
    lines.append("")
    if error is None:
        lines.append(f"The default sandbox works: it ran /bin/true in {seconds * 1000:.1f} ms.")
    else:
        lines += [*error_text(error).splitlines(), "", "The default sandbox does not work here."]
    return "\n".join(lines)


def _labelled(label: str, text: str) -> list[str]:
    body = wrap(text, options.WIDTH - 21)
    return [f"          {label:<9}  {body[0]}", *(" " * 21 + more for more in body[1:])]


def _fix(fix: str) -> list[str]:
    """A one-line fix beside its label; commands below it, whole, to be copied."""
    first, *rest = fix.split("\n")
    return [*_labelled("fix", first), *rest, *([""] if rest else [])]


def report_json(checks: Sequence[Check], seconds: float, error: Error | None) -> dict[str, Any]:
    """The same as plain data."""
    return {
        "works": error is None,
        "seconds": round(seconds, 6) if error is None else None,
        "error": error_mapping(error) if error is not None else None,
        "checks": [check._asdict() for check in checks],
    }
