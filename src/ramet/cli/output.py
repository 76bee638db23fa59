"""What the command says: data on stdout, everything else on stderr, and the exit code of each failure."""

from __future__ import annotations

import errno
import os

from ramet.errors import CommandError, Error, errno_name, with_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: As env(1) and timeout(1) have them; 126 and 127 are CommandError's own, 128+n is a signal.
EXIT_FAILED, EXIT_TIMED_OUT, SIGNALED = 125, 124, 128
SIGPIPE = 13
EXIT_CODES = """\
exit codes: the command's own; 124 it ran out of time, or of CPU time; 125 ramet
itself failed; 126 it can't be executed; 127 it was not found; 128+n signal n
ended it, 137 (SIGKILL) when it ran out of memory or wrote too much."""


class OutputError(Error):
    """What the payload or ramet wrote could not be passed on."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(f"cannot write to {name}: {errno_name(number)}")


class ReaderGone(Exception):
    """Whoever read our stdout has ended; there is nobody to tell."""


def fill_standard_descriptors() -> None:
    """Where the caller has closed 0, 1 or 2, /dev/null: otherwise a pipe of ours would get that number."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)


def write_all(fd: int, data: bytes) -> None:
    """All of it, also to a descriptor that somebody has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            import select

            waiter = select.poll()
            waiter.register(fd, select.POLLOUT)
            waiter.poll()


def put(text: str, *, colours: bool = False) -> None:
    """Print data, with a newline at its end. colours: what `paint` has put around words goes through."""
    try:
        write_all(1, visible(text if text.endswith("\n") else text + "\n", colours=colours))
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise ReaderGone from None
        raise OutputError("stdout", error.errno or 0) from None


def put_json(value: Any) -> None:
    """Print JSON, ASCII only: every byte of a path arrives, escaped."""
    import json

    put(json.dumps(value, indent=2))


def say(text: str) -> None:
    """A message for people, on stderr; where that is closed or full, there is nothing left to do about it."""
    try:
        write_all(2, visible(f"ramet: {text}\n"))
    except OSError:
        return


def visible(text: str, *, colours: bool = False) -> bytes:
    """UTF-8; what is no text, or would steer a terminal other than by the colours of `paint`, is escaped."""
    if colours and "\033[" in text:
        first, *parts = text.split("\033[")
        return visible(first) + b"".join(_coloured(part) for part in parts)
    if not text.isprintable():
        text = "\n".join(line if line.isprintable() else _printable(line) for line in text.split("\n"))
    return text.encode("utf-8", "backslashreplace")


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _coloured(part: str) -> bytes:
    code, end, rest = part.partition("m")
    if end and code in COLOURS.values():
        return f"\033[{code}m".encode() + visible(rest)
    return visible("\033[" + part)


COLOURS = {"plain": "0", "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def paint(text: str, colour: str) -> str:
    """The text in a colour, by its name in COLOURS; for `put` with colours=True."""
    return f"\033[{COLOURS[colour]}m{text}\033[0m"


def colours_wanted() -> bool:
    """Is stdout a terminal that shows colours, and is nobody against it? See no-color.org."""
    return os.isatty(1) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # surrogateescape's stand-in for a byte
        return f"\\x{number - 0xDC00:02x}"
    return ascii(character)[1:-1]


def exit_code(error: BaseException) -> int:
    """The exit code that tells of this exception."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, ReaderGone):
        return SIGNALED + SIGPIPE
    if isinstance(error, KeyboardInterrupt):
        return SIGNALED + 2
    return EXIT_FAILED


def error_text(error: BaseException) -> str:
    """The exception in the form of all our errors; what is no error of ours is a bug, and says so."""
    if isinstance(error, Error):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = f": {error.filename}" if error.filename else ""
        return errno_name(error.errno) + where
    if isinstance(error, MemoryError):
        return "out of memory"
    what = f"internal error: {type(error).__name__}: {error}"
    return with_hint(what, "--debug shows where; please report it")


def error_mapping(error: BaseException) -> dict[str, object]:
    """The exception as plain data."""
    message = getattr(error, "message", None) or error_text(error).partition("\n\nhint: ")[0]
    found: dict[str, object] = {"error": type(error).__name__, "message": message}
    for name in ("field", "fact", "needs", "doing", "stage", "index", "call", "origin", "hint"):
        value = getattr(error, name, None)
        if isinstance(value, (str, int)):
            found[name] = value
    if isinstance(error, OSError) and error.errno:
        found["errno"] = errno.errorcode.get(error.errno, str(error.errno))
    return found
