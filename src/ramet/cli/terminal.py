"""The caller's terminal, while a sandbox has one of its own: raw, so that every key reaches the payload."""

from __future__ import annotations

import fcntl
import os
import termios

SIZE_BYTES = 8  # struct winsize: rows, columns, and two that nobody uses


class Terminal:
    """The caller's terminal, if stdin is one; a context: it is as it was, at the end."""

    def __init__(self) -> None:
        self._saved: list[object] | None = None
        self._raw = False

    def __enter__(self) -> Terminal:
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            self.make_raw()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def make_raw(self) -> None:
        """Pass every key on, and every byte to the screen: the sandbox's own terminal does the rest."""
        if self._saved is None:
            return
        import tty

        self._try(lambda: tty.setraw(0, termios.TCSANOW))

    def restore(self) -> None:
        """As it was before."""
        saved = self._saved
        if saved is not None:
            self._try(lambda: termios.tcsetattr(0, termios.TCSANOW, saved))  # type: ignore[arg-type]

    @staticmethod
    def _try(change: object) -> None:
        try:
            change()  # type: ignore[operator]
        except termios.error:
            return  # it has been hung up: there is nothing left to restore


def size() -> bytes | None:
    """The size of the caller's terminal, as struct winsize; None where no standard stream is one."""
    for fd in (0, 1, 2):
        try:
            return fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(SIZE_BYTES))
        except OSError:
            continue  # no terminal
    return None


def resize(fd: int) -> None:
    """Give a terminal the caller's size; the kernel then sends SIGWINCH to who uses it."""
    found = size()
    if found is not None:
        try:
            fcntl.ioctl(fd, termios.TIOCSWINSZ, found)
        except OSError:
            return  # it is closed already
