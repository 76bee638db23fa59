"""Between the caller's standard streams and the sandbox's: pipes, or a terminal, of our own.

The payload never gets a descriptor of the caller's: a log passed on as stdout could be reopened through
/proc/self/fd and truncated, a terminal read. So data is carried across, 64 KiB at a time: as it comes, as
much as there is, never more in memory than that.

One thread a direction, and none of them the main one: a write may block for as long as the caller's reader
likes, and must hold up neither the other stream, nor a signal, nor the end of the time limit. Only the main
thread decides; the others tell it through a descriptor that they are done.
"""

from __future__ import annotations

import _thread
import errno
import os
import select

from ramet.cli.output import OutputError, say, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16
NAMES = {0: "stdin", 1: "stdout", 2: "stderr"}
END_OF_FILE = b"\x04"  # the terminal's VEOF, unless somebody changes it


class Relay:
    """Carries data until the sandbox's streams end. done: readable when they have.

    failed: the first failure to write; reader_gone: somebody does not take our output any more.
    """

    def __init__(self) -> None:
        self.done = os.eventfd(0, os.EFD_CLOEXEC)
        self.failed: OutputError | None = None
        self.reader_gone = False
        self._over = os.eventfd(0, os.EFD_CLOEXEC)
        self._open = 0
        self._lock = _thread.allocate_lock()

    def feed(self, target: int, *, terminal: bool = False) -> None:
        """Carry our stdin to this descriptor; close it at the end of file, or when nobody reads any more."""
        _thread.start_new_thread(self._feed, (target, terminal))

    def drain(self, source: int, sink: Callable[[bytes], object], name: str) -> None:
        """Carry all that comes out of this descriptor to the sink, to its end; close it."""
        with self._lock:
            self._open += 1
        _thread.start_new_thread(self._drain, (source, sink, name))

    def stop_feeding(self) -> None:
        """The sandbox has ended: nobody is left to read."""
        os.eventfd_write(self._over, 1)

    def _feed(self, target: int, terminal: bool) -> None:
        try:
            last = b"\n"
            while data := self._read_stdin():
                write_all(target, data)
                last = data[-1:]
            if terminal:
                # What is typed is handed over by a newline or VEOF; only an empty line plus VEOF is the end.
                write_all(target, END_OF_FILE if last == b"\n" else END_OF_FILE * 2)
        except OSError as error:
            # EPIPE, and EIO of a terminal: the payload doesn't read, that is its right.
            if error.errno not in (errno.EPIPE, errno.EIO):
                say(f"cannot pass on stdin: {os.strerror(error.errno or 0)}")
        finally:
            os.close(target)

    def _read_stdin(self) -> bytes:
        """What there is on stdin; empty at its end, or the sandbox's."""
        waiter = select.poll()
        waiter.register(0, select.POLLIN)
        waiter.register(self._over, select.POLLIN)
        while True:
            if any(fd == self._over for fd, _ in waiter.poll()):
                return b""
            try:
                return os.read(0, CHUNK)
            except BlockingIOError:
                continue  # somebody else has read it first

    def _drain(self, source: int, sink: Callable[[bytes], object], name: str) -> None:
        try:
            while data := _read(source):
                sink(data)
        except OSError as error:
            # A reader that has gone ends this stream, quietly: the payload finds that out by its next write.
            self.reader_gone = True
            if error.errno != errno.EPIPE and self.failed is None:
                self.failed = OutputError(name, error.errno or 0)
        finally:
            os.close(source)
            with self._lock:
                self._open -= 1
                if not self._open:
                    os.eventfd_write(self.done, 1)


def _read(source: int) -> bytes:
    try:
        return os.read(source, CHUNK)
    except OSError as error:
        if error.errno == errno.EIO:  # a terminal whose other side is closed
            return b""
        raise


def to_descriptor(fd: int) -> Callable[[bytes], None]:
    """A sink that writes to one of our own standard streams."""

    def sink(data: bytes) -> None:
        write_all(fd, data)

    return sink


def up_to(limit: int, sink: Callable[[bytes], object], beyond: Callable[[], object]) -> Callable[[bytes], None]:
    """A sink that hands on so many bytes; what comes after that is thrown away, and told each time."""
    left = limit

    def limited(data: bytes) -> None:
        nonlocal left
        if left:
            sink(data[:left])
        if len(data) > left:
            beyond()
        left = max(0, left - len(data))

    return limited
