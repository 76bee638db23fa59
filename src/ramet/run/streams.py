"""The standard streams of a run: pipes of our own, and moving data through them without blocking or filling memory."""

from __future__ import annotations

import fcntl
import os
import select
from time import monotonic

from ramet.errors import SpecError, SpecTypeError, TimeoutExpired
from ramet.run.guard import sooner
from ramet.run.hold import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ramet.run.guard import Guard

#: As subprocess has them.
PIPE, STDOUT, DEVNULL = -1, -2, -3
CHUNK = 1 << 16
PIPE_BIG = 1 << 20


class Streams:
    """Both ends of stdin, stdout and stderr. Ours are None where the stream is no pipe of ours.

    owner: uid and gid that pipes are given to; else a payload with other ids than the caller's could not open
    /dev/stdin or /dev/stderr. signals: who holds them already, and lets them go.
    """

    def __init__(
        self,
        stdin: object,
        stdout: object,
        stderr: object,
        owner: tuple[int, int] | None = None,
        *,
        signals: Signals | None = None,
    ) -> None:
        self._owner = owner
        self.theirs: list[int] = []
        self.ours: list[int | None] = [None, None, None]
        self._close: list[int] = []
        own = signals or Signals()
        try:
            own.hold()
            for number, (name, wanted) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
                self.theirs.append(self._choose(number, name, wanted))
        except BaseException as error:
            self.close_all()
            if isinstance(error, OSError):
                from ramet.run.failure import caller_failed

                raise caller_failed(error) from None
            raise
        finally:
            if signals is None:
                own.release()

    def _choose(self, number: int, name: str, wanted: object) -> int:
        if wanted is None:
            return self._inherited(number)
        if wanted == PIPE:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            mine, other = (writer, reader) if number == 0 else (reader, writer)
            self._close.append(other)
            self.ours[number] = mine
            if number == 0:
                os.set_blocking(mine, False)  # what is read is there: poll has said so
            if self._owner is not None:
                os.fchown(mine, *self._owner)
            return other
        if wanted == DEVNULL:
            return self._null(number)
        if wanted == STDOUT:
            if number != 2:
                raise SpecError("STDOUT is only for stderr", field=name)
            return self.theirs[1]
        fd = wanted if isinstance(wanted, int) and not isinstance(wanted, bool) else _fileno(wanted, name)
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except (OSError, OverflowError, ValueError):
            raise SpecError(f"descriptor {fd} is not open", field=name) from None
        return fd

    def _inherited(self, number: int) -> int:
        """The caller's own; /dev/null where the caller has closed it."""
        try:
            fcntl.fcntl(number, fcntl.F_GETFD)
        except OSError:
            return self._null(number)
        return number

    def _null(self, number: int) -> int:
        fd = os.open("/dev/null", (os.O_RDONLY if number == 0 else os.O_WRONLY) | os.O_CLOEXEC)
        self._close.append(fd)
        return fd

    def close_theirs(self) -> None:
        """After the launch: the child's ends are the child's alone."""
        while self._close:
            fd = self._close[-1]
            del self._close[-1]  # not pop: after a call a signal handler may raise, and the descriptor would be lost
            os.close(fd)

    def close_ours(self, number: int) -> None:
        """Our end of one stream; once."""
        fd, self.ours[number] = self.ours[number], None
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Everything still open."""
        self.close_theirs()
        for number in range(3):
            self.close_ours(number)

    def __del__(self) -> None:
        if hasattr(self, "_close"):  # for an exception between being made and being kept
            self.close_all()


def _fileno(wanted: object, name: str) -> int:
    fileno: Callable[[], int] | None = getattr(wanted, "fileno", None)
    if fileno is None:
        raise SpecTypeError(
            f"must be None, PIPE, DEVNULL, a descriptor or a file, not {type(wanted).__name__}", field=name
        )
    try:
        return fileno()
    except (OSError, ValueError) as error:
        raise SpecError(
            f"has no descriptor ({type(error).__name__}: {error})",
            field=name,
            hint="use PIPE, and take the output from there",
        ) from None


class Capture:
    """What came out of one stream, up to a limit; the rest is read and thrown away, so that the payload isn't blocked."""

    def __init__(self, limit: int) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.limit = limit
        self.truncated = False

    def add(self, data: bytes) -> None:
        room = self.limit - self.size
        if len(data) > room:
            self.truncated = True
            data = data[:room]
        if data:
            self.chunks.append(data)
            self.size += len(data)

    def value(self) -> bytes:
        return b"".join(self.chunks)


class Pump:
    """Feeds stdin and drains stdout and stderr until they, and the sandbox, are at their end."""

    def __init__(
        self, streams: Streams, data: bytes | memoryview, limit: int, already: Mapping[int, bytes] | None = None
    ) -> None:
        self.streams = streams
        self._guard: Guard | None = None
        #: Is everybody who could write dead at the end? Then whoever holds a pipe open is a fork of the caller's, made by
        #: another thread at the wrong moment, and would keep us for as long as it lives.
        self.alone = False
        self.input = memoryview(data)
        self.others: dict[int, Callable[[], bool]] = {}
        self.captures = {n: Capture(limit) for n in (1, 2) if streams.ours[n] is not None}
        for number, found in (already or {}).items():
            self.captures[number].add(found)
        if streams.ours[0] is not None and not self.input:
            streams.close_ours(0)

    def run(self, ended: int, deadline: float | None, guard: Guard) -> None:
        """Until the descriptor `ended` is readable and every stream at its end. TimeoutExpired at the deadline."""
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        if guard.watched is not None:
            poller.register(guard.watched, select.POLLIN)
        self.guard_with(guard)
        by_fd = {}
        for number, fd in enumerate(self.streams.ours):
            if fd is not None:
                by_fd[fd] = number
                poller.register(fd, select.POLLOUT if number == 0 else select.POLLIN)
        for fd in self.others:
            poller.register(fd, select.POLLIN)
        over = False
        while by_fd or self.others or not over:
            ready = poller.poll(milliseconds(sooner(deadline, guard.next_look())))
            guard.look()
            late = deadline is not None and monotonic() >= deadline
            for fd, _ in ready:
                if fd == ended and self.alone:
                    self.drain()
                    return
                if fd == ended:
                    over = True
                    poller.unregister(ended)
                elif fd in by_fd and self.move(by_fd[fd], fd):
                    poller.unregister(fd)
                    self.streams.close_ours(by_fd.pop(fd))
                elif fd in self.others and self.others[fd]():
                    poller.unregister(fd)
                    del self.others[fd]
            if over and 0 in by_fd.values():
                # Nobody is left to read stdin; a full pipe must not keep us here.
                fd = next(fd for fd, number in by_fd.items() if number == 0)
                poller.unregister(fd)
                self.streams.close_ours(by_fd.pop(fd))
            if late and not (ready and over):  # also where there is always something to read
                raise TimeoutExpired("the sandbox still ran", seconds=0)

    def guard_with(self, guard: Guard) -> None:
        """Who ends a payload that writes too much, if that is wanted."""
        self._guard = guard

    def watch(self, fd: int, take: Callable[[], bool]) -> None:
        """Another descriptor to read from: take() takes what is there, and says whether that was the end."""
        self.others[fd] = take

    def drain(self) -> None:
        """Take what is there now, and wait for no more: somebody who is none of the sandbox's, or who was left behind by it where
        it had no pid namespace of its own, may hold a stream open."""
        self.streams.close_ours(0)
        for number in self.captures:
            fd = self.streams.ours[number]
            while fd is not None and readable(fd, 0):
                if self.move(number, fd):
                    break
            self.streams.close_ours(number)
        for fd, take in self.others.items():
            while readable(fd, 0) and not take():
                pass
        self.others.clear()

    def move(self, number: int, fd: int) -> bool:
        """Move what can be moved now; True when the stream is at its end."""
        try:
            if number == 0:
                self.input = self.input[os.write(fd, self.input[:CHUNK]) :]
                return not self.input
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except BrokenPipeError:
            return True  # the payload has closed its stdin; that is its right
        capture = self.captures[number]
        capture.add(data)
        if capture.truncated and self._guard is not None:
            self._guard.too_much_output()
        return not data


def milliseconds(deadline: float | None) -> int | None:
    """For poll(2): the time left, rounded up, so that it never spins."""
    if deadline is None:
        return None
    return max(0, int(min((deadline - monotonic()) * 1000 + 1, 2**31 - 1)))


def wait_guarded(fd: int, guard: Guard, deadline: float | None) -> bool:
    """Wait for an end, or for the guard to look; is there something to read?"""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if guard.watched is not None:
        poller.register(guard.watched, select.POLLIN)
    ready = poller.poll(milliseconds(sooner(deadline, guard.next_look())))
    guard.look()
    return any(found == fd for found, _ in ready)


def readable(fd: int, timeout: int | None) -> bool:
    """Is there something to read, or an end, within so many milliseconds?"""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout))
