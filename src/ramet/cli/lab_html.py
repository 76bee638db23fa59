"""`ramet lab --html FILE`: all the lab finds out, as a page that needs nothing but a browser."""

from __future__ import annotations

import os

from ramet.cli.lab import Progress
from ramet.cli.output import OutputError, ReaderGone, say, write_all
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STDOUT = "-"


def main(path: str, words: Sequence[str], sizes: str | None) -> int:
    """Measure what the words name (experiments, parts of the lab; all, without any), and write the page.

    Returns 1 if a conclusion does not hold, or the kernel's answer is not the one said. What this host can't do is in the
    page, and on stderr.
    """
    from ramet.lab.report.gather import gather, troubles, unsound
    from ramet.lab.report.page import page

    names, parts = chosen(words)
    held = _sizes(sizes, parts)
    with Destination(path) as destination:
        with Progress(quiet=False) as progress:
            found = gather(names, parts, sizes=held, progress=progress.show)
        destination.write(page(found).encode())
    for trouble in troubles(found):
        say(trouble)
    return int(unsound(found))


def chosen(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The experiments and the parts that are meant."""
    from ramet.lab import NAMES, find
    from ramet.lab.report.gather import PARTS

    if list(words) in ([], ["all"]):
        return list(NAMES), list(PARTS)
    if "all" in words:
        raise SpecError("means every experiment, and stands alone", field="lab all")
    return [find(word) for word in words if word not in PARTS], [word for word in words if word in PARTS]


def _sizes(given: str | None, parts: Sequence[str]) -> tuple[int, ...] | None:
    """Bytes that the callers hold whose children are timed. That they fit is found out before anything runs."""
    if given is None:
        return None
    if "compare" not in parts:
        raise SpecError("is about the part compare, which is not asked for", field="--sizes")
    from ramet.cli.lab_compare import sizes
    from ramet.lab.latency import check_sizes

    found = sizes(given)
    check_sizes(found)
    return found


class Destination:
    """Where the page goes. That it can be written there is found out at once; a context.

    A file that was there keeps what it holds until the page is complete; one that was made for it goes, if it never is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._made = ""  # the file that was made, by its true name
        self._fd = -1

    def __enter__(self) -> Destination:
        if self._path == STDOUT:
            self._fd = 1
            return self
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            try:
                self._fd = os.open(self._path, flags)
            except FileNotFoundError:
                self._fd = os.open(self._path, flags | os.O_CREAT, 0o666)
                self._made = os.path.realpath(self._path)
        except (OSError, ValueError) as error:
            raise OutputError(self._path, getattr(error, "errno", None) or 22) from None
        return self

    def write(self, data: bytes) -> None:
        """All of it, in place of what was there."""
        try:
            if self._path != STDOUT and os.path.isfile(self._path):
                os.ftruncate(self._fd, 0)
            write_all(self._fd, data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OutputError(self._path if self._path != STDOUT else "stdout", error.errno or 0) from None
        self._made = ""

    def __exit__(self, *_: object) -> None:
        if self._path != STDOUT:
            os.close(self._fd)
        if self._made:
            os.unlink(self._made)
