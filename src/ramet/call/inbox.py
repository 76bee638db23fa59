"""The caller's side of a function's run: what came out of its sandbox, taken apart and trusted in nothing."""

from __future__ import annotations

import os

from ramet.call import channel
from ramet.call.remote import rebuilt
from ramet.call.wire import Malformed, Unpacker
from ramet.errors import ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from ramet.call.channel import Frame
    from ramet.run.trays import Tray

WARNINGS_MAX = 1000
#: What a record of a logger may be made of.
RECORD: dict[str, Any] = {
    "name": str,
    "levelno": int,
    "levelname": str,
    "msg": str,
    "pathname": str,
    "lineno": int,
    "funcName": str,
    "created": float,
    "threadName": str,
    "process": int,
    "exc_text": (str, type(None)),
}


class Inbox:
    """Of one run. value: what came, if has_value; exception: what was raised, or what is wrong with the value.

    A value of which a part lies in the tray is there when `settle` has been called: then has_told is true, and has_value not yet.

    parts: the value may have `wire.Part`s; forked: it comes from a copy of the caller, whose loggers have had their say there: a zygote's have not.
    """

    def __init__(
        self,
        end: socket.socket,
        most: int,
        *,
        pickled: bool,
        mine: tuple[type[BaseException], ...],
        pages: int | None = None,
        tray: Tray | None = None,
        parts: bool = False,
        forked: bool = True,
    ) -> None:
        self._reader = channel.Reader(end, most, pages, tray)
        self._later: Frame | None = None
        self._most, self._pickled, self._mine, self._parts, self._forked = most, pickled, mine, parts, forked
        self.value: Any = None
        self.has_value = False
        self.exception: BaseException | None = None
        self.warnings: list[dict[str, Any]] = []

    def take(self) -> bool:
        """Take what is there; True at the end. After nonsense we hang up: whoever sends it learns that."""
        try:
            frames, ended = self._reader.take()
            for frame in frames:
                self._took(frame)
        except (channel.Broken, Malformed) as error:
            self._is_no_result(error)
            ended = True
        if ended:
            self._reader.hang_up()
        return ended

    def take_open(self) -> bool:
        """The same of a channel on which more is to come after the answer: it is left open. What is no answer is one that says so."""
        try:
            frames, ended = self._reader.take()
            for frame in frames:
                self._took(frame)
        except (channel.Broken, Malformed) as error:
            self._is_no_result(error)
            return False
        return ended

    def _is_no_result(self, error: Exception) -> None:
        self.has_value, self.value, self._later = False, None, None
        self.exception = ResultError(f"the sandbox sent what is no result: {error}")

    @property
    def has_told(self) -> bool:
        """Is it known how it went?"""
        return self.has_value or self.exception is not None or self._later is not None

    @property
    def awaits_end(self) -> bool:
        """Has a value come that can't be looked at before the sandbox is gone?"""
        return self._later is not None

    def settle(self) -> None:
        """All of the sandbox is gone: take what lies in the tray."""
        frame, self._later = self._later, None
        if frame is None or frame.laid is None:
            return
        try:
            frame.buffers = self._reader.in_tray(frame.laid) + frame.buffers
            self.value, self.has_value = self._unpacked(frame), True
        except (channel.Broken, Malformed) as error:
            self._is_no_result(error)

    def _took(self, frame: Frame) -> None:
        if frame.kind in (channel.LOG, channel.WARNING):
            self._heard(frame)
            return
        if self.has_told:
            raise channel.Broken("a second result")
        if frame.kind == channel.PICKLED:
            if not self._pickled:
                raise channel.Broken("a pickle, which nobody asked for")
            import pickle

            self.value, self.has_value = pickle.loads(frame.data), True
        elif frame.laid is not None:
            self._later = frame
        elif frame.kind == channel.VALUE:
            self.value, self.has_value = self._unpacked(frame), True
        elif frame.kind == channel.RAISED:
            self.exception = self._exception(self._unpacked(frame))
        else:
            self.exception = ResultError(f"can't send {frame.data.decode('utf-8', 'backslashreplace')}")

    def _unpacked(self, frame: Frame) -> Any:
        return Unpacker(frame.buffers, self._most, parts=self._parts).unpack(frame.data)

    def _exception(self, told: Any) -> BaseException:
        try:
            return rebuilt(told, self._mine)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
            raise Malformed(f"no exception: {type(error).__name__}") from None

    def _heard(self, frame: Frame) -> None:
        said = self._unpacked(frame)
        if not isinstance(said, dict):
            raise Malformed("no record")
        if frame.kind == channel.LOG:
            _log(said, forked=self._forked)
        elif len(self.warnings) < WARNINGS_MAX:
            self.warnings.append(said)

    def warn(self) -> None:
        """Give the warnings to the caller's filters, in their order. Raises one that they make an error of."""
        import builtins
        import warnings

        heard, self.warnings = self.warnings, []
        for one in heard:
            text, file, line = one.get("text"), one.get("file"), one.get("line")
            if not (isinstance(text, str) and isinstance(file, str) and isinstance(line, int)):
                continue
            category = getattr(builtins, str(one.get("category")), None)
            known = isinstance(category, type) and issubclass(category, Warning)
            warnings.warn_explicit(text, category if known else UserWarning, file, line)  # type: ignore[arg-type]

    def close(self) -> None:
        """Hang up."""
        self._reader.close()


def _log(said: dict[Any, Any], *, forked: bool) -> None:
    """To the logger of that name, where the caller has one: a sandbox can't fill the table of loggers."""
    import logging

    if set(said) != set(RECORD) or not all(isinstance(said[name], kind) for name, kind in RECORD.items()):
        raise Malformed("no log record")
    found = logging.root.manager.loggerDict.get(said["name"])
    logger = found if isinstance(found, logging.Logger) else logging.root
    if not (forked or logger.isEnabledFor(said["levelno"])):
        return
    filename = os.path.basename(said["pathname"])
    logger.handle(logging.makeLogRecord({**said, "filename": filename, "module": os.path.splitext(filename)[0]}))
