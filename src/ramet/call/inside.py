"""What happens in a function's process: the call, and telling how it went. The sandbox is around it by now."""

from __future__ import annotations

import _thread
import os
import sys

from ramet import _core
from ramet.call import channel
from ramet.call.remote import shown, told
from ramet.call.wire import Packer, Unsendable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from ramet.call.wire import Buffer

CO_COROUTINE = 0x80


class Job:
    """A function and its arguments, which the fork has brought here.

    most: bytes of result that the caller takes; pickled: it unpickles what we send; packer: else it is packed by this one.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        most: int,
        pickled: bool,
        packer: Packer | None = None,
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.most, self.pickled = most, pickled
        self.pages: int | None = None
        self.tray: memoryview | None = None
        self.hands = 1
        self.sent: Sequence[Buffer] = ()
        if packer is None:
            preload(fn)
        self.packer = packer or Packer(frozenset(sys.modules))

    def __call__(self, numbers: tuple[int, ...]) -> NoReturn:
        """Call the function, tell, and end the process."""
        import socket

        code = 1
        try:
            end = socket.socket(fileno=numbers[0])
            self.pages, self.tray = numbers[1], mapped_tray(numbers[2])
            code = self.run(end)
        except BaseException:
            import traceback

            traceback.print_exc()  # nobody listens on the channel any more
        finally:
            flush()
            os._exit(code)

    def run(self, end: socket.socket) -> int:
        """Call the function, and tell; the exit code."""
        own = os.getpid()
        forward_logs(end, Packer(self.packer.known))
        try:
            value = self._call()
        except SystemExit as leaving:
            return _exit_code(leaving)
        except BaseException as error:
            if os.getpid() == own:
                flush()
                error.__traceback__ = _from_function(error)
                self.tell_error(end, error)
            return 1
        if os.getpid() != own:
            return 0  # a copy that the function has forked comes out of it too; it has no result to tell
        flush()  # who is told may not wait for more
        return self._tell(end, value)

    def _call(self) -> Any:
        value = self.fn(*self.args, **self.kwargs)
        if type(value).__name__ == "coroutine":
            import asyncio

            return asyncio.run(value)
        return value

    def _tell(self, end: socket.socket, value: object) -> int:
        try:
            if self.pickled:
                import pickle

                kind, data, buffers = channel.PICKLED, pickle.dumps(value), []
            else:
                kind, data, buffers = channel.VALUE, self.packer.pack(value), self.packer.attached
            size = len(data) + sum(memoryview(one).nbytes for one in buffers)
            if size > self.most:
                raise Unsendable(f"takes {size} bytes, and results_max is {self.most}")
            self.sent = list(buffers)  # until this process ends: the caller may not have read their pages yet
            _send(end, kind, data, self.sent, pages=self.pages, tray=self.tray, hands=self.hands)
        except (Unsendable, RecursionError) as error:
            _send(end, channel.UNSENDABLE, str(error).encode("utf-8", "backslashreplace"))
            return 1
        except BaseException as error:  # no memory for it, or a value that can't be pickled
            self.tell_error(end, error)
            return 1
        return 0

    def tell_error(self, end: socket.socket, error: BaseException) -> None:
        """That it raised this."""
        _send(end, channel.RAISED, self.packer.pack(told(error, self.packer)))


#: Whose turn it is to send: the function's threads may log while its value is on its way.
_turn = _thread.RLock()


def _send(end: socket.socket, kind: bytes, data: bytes, buffers: Sequence[Buffer] = (), **by: Any) -> None:
    with _turn:
        channel.send(end, kind, data, buffers, **by)


def mapped_tray(fd: int) -> memoryview | None:
    """The caller's tray, if that is what it is. Its descriptor is closed before anything of the function's runs: nobody in here shall have
    more of it than this mapping, which ends with the process."""
    try:
        size = os.fstat(fd).st_size
        return _core.map_shared(fd, size) if size else None
    except OSError:
        return None
    finally:
        os.close(fd)


def preload(fn: Callable[..., Any]) -> None:
    """What the other side uses is loaded on this one: there the files may not be there."""
    import gc  # noqa: F401
    import select  # noqa: F401
    import signal  # noqa: F401
    import socket  # noqa: F401
    import traceback  # noqa: F401

    if getattr(getattr(fn, "__code__", None), "co_flags", 0) & CO_COROUTINE:
        import asyncio  # noqa: F401


def _from_function(error: BaseException) -> Any:
    """The traceback without our own two frames."""
    trace = error.__traceback__
    for _ in range(2):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    return trace


def _exit_code(leaving: SystemExit) -> int:
    """As Python has it."""
    code = leaving.code
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def flush() -> None:
    """Whatever is left of it."""
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except Exception:  # closed by the function, or nobody reads it: what it wrote is lost, as in any program
            continue


def forward_logs(end: socket.socket, packer: Packer) -> None:
    """Warnings, and records of loggers, go to the caller's. What the caller has not imported says what it says on stderr."""
    global _turn
    own = os.getpid()
    _turn = _thread.RLock()  # the caller's may have been held by another thread when this copy of it was made

    def send(kind: bytes, what: dict[str, object]) -> None:
        # In the middle of a frame a handler of signals may want to say something, on the same thread: that is lost.
        if os.getpid() == own and not _turn._is_owned():  # type: ignore[attr-defined]
            with _turn:
                channel.send(end, kind, packer.pack(what))

    if "warnings" in sys.modules:
        import warnings

        def showwarning(
            message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None
        ) -> None:
            text = {"text": shown(str(message)), "category": category.__name__, "file": filename, "line": lineno}
            send(channel.WARNING, text)

        warnings.showwarning = showwarning
    if "logging" in sys.modules:
        import logging

        def handle(self: logging.Logger, record: logging.LogRecord) -> None:
            if self.filter(record) is not False:
                send(channel.LOG, _record(record))

        logging.Logger.handle = handle  # type: ignore[method-assign]


def _record(record: Any) -> dict[str, object]:
    import logging

    text = logging.Formatter().formatException(record.exc_info) if record.exc_info else record.exc_text
    return {
        "name": str(record.name),
        "levelno": int(record.levelno),
        "levelname": str(record.levelname),
        "msg": shown(record.getMessage()),
        "pathname": str(record.pathname),
        "lineno": int(record.lineno),
        "funcName": str(record.funcName),
        "created": float(record.created),
        "threadName": str(record.threadName),
        "process": os.getpid(),
        "exc_text": shown(text) if isinstance(text, str) else None,
    }
