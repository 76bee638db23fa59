"""A test function in its sandbox, and its report on the way out. Half of this runs in the fork: what it changes there is nobody else's.

The sandbox has none of the project's files, so what a traceback shows of them is read before. Captured output, log records
and warnings go to pytest's own process, as of any isolated function; but capsys, caplog and recwarn must also see them inside.
"""

from __future__ import annotations

import linecache
import logging
import os
import sys
import warnings
from pathlib import Path

import pytest

from ramet.call.remote import CONTROL, with_sources
from ramet.call.wire import Packer, find_class
from ramet.errors import RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: Exceptions that say how a test ended rather than what went wrong.
OUTCOMES: dict[str, Any] = {
    "skip": pytest.skip.Exception,
    "xfail": pytest.xfail.Exception,
    "fail": pytest.fail.Exception,
    "exit": pytest.exit.Exception,
}
_read: set[str] = set()


class Malformed(Exception):
    """What came is no report."""


class Inside:
    """Made in pytest's process; called in the sandbox, where it gives the report as plain data."""

    def __init__(self, item: pytest.Function) -> None:
        import asyncio  # noqa: F401  the sandbox may not have it
        import difflib  # noqa: F401
        import pprint  # noqa: F401

        self.item = item
        self.__qualname__ = item.name
        self.cwd = os.getcwd()
        self.theirs: list[object] = []  # kept, so that none is found unclosed in the sandbox
        self.args = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
        self.capture: Any = getattr(item.config.pluginmanager.getplugin("capturemanager"), "_capture_fixture", None)
        self.impl = getattr(warnings, "_showwarnmsg_impl", None)
        self.handle = logging.Logger.handle
        if self.capture is not None:
            # What it holds in a descriptor would not be there; as text it comes along.
            self.capture._captured_out, self.capture._captured_err = self.capture.readouterr()
        _read_sources()

    def close(self) -> None:
        """Afterwards, in pytest's process: what the capture held was read by the test, or has come back as output."""
        if self.capture is not None:
            self.capture._captured_out = self.capture._captured_err = self.capture.captureclass.EMPTY_BUFFER

    def __call__(self) -> dict[str, Any]:
        """In the sandbox."""
        self._capture_inside()
        self._hear_inside()
        breakpoint_ = _no_debugger
        sys.breakpointhook = breakpoint_
        if "pdb" in sys.modules:
            sys.modules["pdb"].set_trace = breakpoint_  # type: ignore[attr-defined]
        call = pytest.CallInfo.from_call(self._run, when="call")
        self._let_out()
        return self._told(call)

    def _run(self) -> None:
        value: Any = self.item.obj(**self.args)
        if hasattr(value, "__await__"):
            import asyncio

            value = asyncio.run(_awaited(value))
        if value is not None:
            said = f"Test functions should return None, but {self.item.nodeid} returned {type(value)!r}."
            warnings.warn(pytest.PytestReturnNotNoneWarning(said), stacklevel=1)

    def _hear_inside(self) -> None:
        """Records and warnings are forwarded already; let them be heard here too, by caplog, by what the test sets up, by recwarn."""
        forward, here = logging.Logger.handle, self.handle
        mine = self._caplog_handler()
        for reference in list(getattr(logging, "_handlerList", ())):
            handler = reference()
            if handler is not None and handler is not mine:
                handler.addFilter(lambda record: False)  # pytest's process has it as well

        def handle(self: logging.Logger, record: logging.LogRecord) -> None:
            forward(self, record)
            here(self, record)

        logging.Logger.handle = handle  # type: ignore[method-assign]
        forwarded, impl = warnings.showwarning, self.impl

        def showwarning(
            message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
        ) -> None:
            forwarded(message, category, filename, lineno, file, line)
            if impl is not None:
                impl(warnings.WarningMessage(message, category, filename, lineno, file, line))

        warnings.showwarning = showwarning

    def _caplog_handler(self) -> object:
        try:
            from _pytest.logging import caplog_handler_key
        except ImportError:
            return None
        return self.item.stash.get(caplog_handler_key, None)

    def _capture_inside(self) -> None:
        """pytest's own capture is the other process's; a fixture of the test starts again here."""
        manager: Any = self.item.config.pluginmanager.getplugin("capturemanager")
        if manager is not None:
            from _pytest.capture import MultiCapture

            self.theirs.append(manager._global_capturing)
            manager._global_capturing = MultiCapture(in_=None, out=None, err=None)
        if self.capture is not None:
            self.theirs.append(self.capture._capture)
            self.capture._capture = None
            self.capture._start()

    def _let_out(self) -> None:
        """What the test has left in its capture."""
        if self.capture is None:
            return
        left = self.capture.readouterr()
        self.capture.close()
        for number, text in enumerate(left, 1):
            data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
            (sys.stdout if number == 1 else sys.stderr).flush()
            while data:
                data = data[os.write(number, data) :]

    def _told(self, call: pytest.CallInfo[None]) -> dict[str, Any]:
        packer = Packer(frozenset(sys.modules))
        told: dict[str, Any] = {"kind": "passed", "properties": _plain_properties(self.item.user_properties, packer)}
        if call.excinfo is None:
            return told
        error = call.excinfo.value
        told.update(
            kind=_kind(error),
            module=str(type(error).__module__),
            name=str(type(error).__qualname__),
            message=_text(error),
            args=list(error.args) if _plain(list(error.args), packer) else None,
            returncode=getattr(error, "returncode", None),
        )
        longrepr = self._longrepr(call)
        told["longrepr"] = longrepr if _plain(longrepr, packer) else str(longrepr)
        return told

    def _longrepr(self, call: pytest.CallInfo[None]) -> Any:
        """As xdist's workers send it."""
        _as_if_files_were_here(self.cwd)
        report = pytest.TestReport.from_item_and_call(self.item, call)
        return report._to_json()["longrepr"]


async def _awaited(value: Any) -> Any:
    return await value


def _no_debugger(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("there is no terminal in a sandbox to debug from; --ramet-off runs the test unprotected")


def _kind(error: BaseException) -> str:
    import unittest

    for kind, cls in OUTCOMES.items():
        if isinstance(error, cls):
            return kind
    return "skip" if isinstance(error, unittest.SkipTest) else "error"


def _text(error: BaseException) -> str:
    try:
        return str(getattr(error, "msg", None) or error)
    except BaseException as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


def _plain(value: object, packer: Packer) -> bool:
    return packer.why_not(value, 3) is None  # how deep they are in what is told


def _plain_properties(properties: list[tuple[str, object]], packer: Packer) -> list[list[object]]:
    return [[str(name), value if _plain(value, packer) else repr(value)] for name, value in properties]


def _read_sources() -> None:
    """Lines of the modules that the sandbox need not have. Once for each; those of the interpreter's own directories are there."""
    own = (sys.prefix + os.sep, sys.base_prefix + os.sep)
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file not in _read and file.endswith(".py") and not file.startswith(own):
            _read.add(file)
            linecache.getlines(file)


def _as_if_files_were_here(cwd: str) -> None:
    """In the sandbox, when the test is over: a traceback is made from what was read, and paths are shown as seen from pytest's directory."""
    from _pytest._code import Code
    from _pytest.pathlib import absolutepath

    def path(self: Any) -> Any:
        name = self.raw.co_filename
        return absolutepath(name) if name.startswith(os.sep) else name

    Code.path = property(path)  # type: ignore[method-assign, assignment]
    linecache.checkcache = lambda filename=None: None
    os.getcwd = lambda: cwd
    Path.cwd = classmethod(lambda cls: cls(cwd))  # type: ignore[method-assign, assignment]


# In pytest's process


def rebuilt(told: Any) -> tuple[BaseException | None, Any, list[tuple[str, object]]]:
    """The exception to raise, what is shown of it, and the test's properties. Raises Malformed."""
    try:
        properties = [(str(name), value) for name, value in told["properties"]]
        if told["kind"] == "passed":
            return None, None, properties
        return _error(told), _shown(told["longrepr"]), properties
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _error(told: dict[str, Any]) -> BaseException:
    kind, message = told["kind"], str(told["message"])
    if kind == "exit":
        code = told["returncode"]
        return pytest.exit.Exception(message, code if isinstance(code, int) else None)
    if kind in OUTCOMES:
        outcome: BaseException = OUTCOMES[kind](message)
        return outcome
    cls, args = find_class(told["module"], told["name"]), told["args"]
    if cls is not None and isinstance(args, list):
        made = _made(cls, args)
        if made is not None:
            return made
    return RemoteError(f"{told['module']}.{told['name']}", message)


def _made(cls: type, args: list[Any]) -> BaseException | None:
    """One of this class, without running anything of it; None for what would steer us rather than tell."""
    if not issubclass(cls, Exception) or cls.__name__ in CONTROL:
        return None
    native: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    try:
        made: BaseException = native.__new__(cls, *args)
    except TypeError:
        return None
    made.args = tuple(args)
    return made


def _shown(longrepr: Any) -> Any:
    if isinstance(longrepr, dict):
        blank = {"nodeid": "", "location": ("", 0, ""), "keywords": {}, "outcome": "failed", "when": "call"}
        return pytest.TestReport._from_json({**blank, "longrepr": longrepr}).longrepr
    if isinstance(longrepr, (list, tuple)):
        path, line, reason = longrepr
        return str(path), int(line), str(reason)
    return with_sources(str(longrepr))
