"""Reading a command line, by a table of options.

Why not argparse: options must keep their order across kinds (mounts are made as written), the first word that
is no option begins the payload's own command line, a misspelled option is answered with the nearest one, and
abbreviations that a later version could make ambiguous are refused. The table here does that in fewer lines
than it takes to turn the opposite off, and costs nothing at start-up.
"""

from __future__ import annotations

from collections import namedtuple

from ramet.errors import SpecError
from ramet.spec.record import nearest
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NamedTuple

    class Option(NamedTuple):
        """See below."""

        names: str
        metavar: str
        help: str
        take: Callable[..., None] | None = None

    class Line(NamedTuple):
        """See below."""

        given: list[tuple[Option, str, str]]
        operands: list[str]
else:

    class Option(namedtuple("Option", "names metavar help take", defaults=(None,))):
        """One option. names: "-t --tty"; metavar: of its value, "" for a flag; take: what to do with it."""

        __slots__ = ()

    class Line(namedtuple("Line", "given operands")):
        """A command line that was read. given: (option, its name as written, value)."""

        __slots__ = ()


WIDTH = 80
COLUMN = 26

HELP = Option("-h --help", "", "print this and exit")
DEBUG = Option("--debug", "", "when ramet itself fails, show where in its code")
JSON = Option("--json", "", "print JSON")


def read(args: Sequence[str], options: Iterable[Option], *, operands_end: bool = True) -> Line:
    """Read options up to "--" or, with operands_end, the first operand. Raises SpecError."""
    by_name = {name: option for option in options for name in option.names.split()}
    given: list[tuple[Option, str, str]] = []
    operands: list[str] = []
    rest = list(reversed(args))
    while rest:
        word = rest.pop()
        if word == "--":
            return Line(given, operands + rest[::-1])
        if not word.startswith("-") or word == "-":
            operands.append(word)
            if operands_end:
                return Line(given, operands + rest[::-1])
            continue
        name, equals, value = word.partition("=")
        option = by_name.get(name)
        if option is None:
            raise _unknown(name, by_name)
        if not option.metavar:
            if equals:
                raise SpecError("takes no value", field=name)
        elif not equals:
            value = _value(name, option, rest, by_name)
        given.append((option, name, value))
    return Line(given, operands)


def _value(name: str, option: Option, rest: list[str], by_name: dict[str, Any]) -> str:
    if not rest or rest[-1] == "--":
        raise SpecError(f"needs a value: {name} {option.metavar}", field=name)
    if rest[-1].partition("=")[0] in by_name:
        hint = f"{name}={rest[-1]}, if that is the value"
        raise SpecError(f"needs a value, and {rest[-1]!r} is an option", field=name, hint=hint)
    return rest.pop()


def _unknown(name: str, known: dict[str, Any]) -> SpecError:
    letters = name[1:]
    if not name.startswith("--") and len(letters) > 1 and all(f"-{letter}" in known for letter in letters):
        return SpecError("no such option", field=name, hint=" ".join(f"-{letter}" for letter in letters))
    meant = nearest(name, known)
    hint = f"did you mean {meant}?" if meant else "--help lists them"
    return SpecError("no such option", field=name, hint=hint)


def split(text: str, separator: str = ":") -> list[str]:
    r"""Parts of a value; ``\:`` is a colon that separates nothing. Any other backslash is itself."""
    parts, part, escaped = [], "", False
    for n, letter in enumerate(text):
        if escaped:
            part += letter
            escaped = False
        elif letter == "\\" and text[n + 1 : n + 2] in (separator, "\\"):
            escaped = True
        elif letter == separator:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [*parts, part]


def pair(text: str, separator: str = "=") -> tuple[str, str] | None:
    r"""What is before and after the first separator that no backslash escapes; None without one."""
    at = text.find(separator)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(separator, at + 1)
    return None if at < 0 else (text[:at].replace("\\" + separator, separator), text[at + 1 :])


def integer(text: str, field: str) -> int:
    """A decimal number, digits only."""
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"must be a number, not {text!r}", field=field)
    return int(text)


def help_text(usage: str, about: str, groups: Iterable[tuple[str, Iterable[Option]]], after: str = "") -> str:
    """A page within 80 columns. about and after are laid out already."""
    lines = [f"usage: {usage}", "", about]
    for title, options in groups:
        lines += ["", f"{title}:"]
        for option in options:
            lines += _option_lines(option)
    return "\n".join([*lines, "", after] if after else lines) + "\n"


def _option_lines(option: Option) -> list[str]:
    names = ", ".join(option.names.split())
    head = f"  {names} {option.metavar}".rstrip()
    body = wrap(option.help, WIDTH - COLUMN)
    if len(head) + 2 > COLUMN:
        return [head, *(" " * COLUMN + line for line in body)]
    return [head.ljust(COLUMN) + body[0], *(" " * COLUMN + line for line in body[1:])]
