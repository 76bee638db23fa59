"""isolated: a Python function as the payload of a sandbox of its own."""

from __future__ import annotations

import os
import sys
from functools import update_wrapper

from ramet.call.build import refuse_free_threaded
from ramet.call.generic import Generic, P, R, overload
from ramet.errors import (
    ExitError,
    MemoryLimitError,
    ResultError,
    SpecError,
    SpecTypeError,
    TimeLimitError,
)
from ramet.run.planning import plan_for, sandbox_with
from ramet.run.process import Popen, finish
from ramet.run.result import Result
from ramet.run.streams import DEVNULL, PIPE, Capture, Pump
from ramet.run.trays import tray_for
from ramet.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

    from ramet.call.inside import Job
    from ramet.plan.steps import Plan, Slot
    from ramet.run.hold import Signals
    from ramet.run.launch import Launched
    from ramet.run.planning import Argv
    from ramet.spec import Sandbox

    Q = ParamSpec("Q")
    T = TypeVar("T")

    class Decorator(Protocol):
        """What `isolated` with options alone is. A coroutine function's value is what its coroutine returns."""

        @overload
        def __call__(self, fn: Callable[Q, Coroutine[Any, Any, T]], /) -> Isolated[Q, T]: ...
        @overload
        def __call__(self, fn: Callable[Q, T], /) -> Isolated[Q, T]: ...


RESULTS = ("plain", "pickle")
RESULTS_MAX = 1 << 30
#: Descriptors that a function's process gets: the channel, the pipe for large buffers, and a tray, or /dev/null in its place.
HANDED = 3
CO_GENERATOR, CO_ASYNC_GENERATOR = 0x20, 0x200


class FunctionResult(Result, Generic[R]):
    """How a function's run ended: a `Result`, and what the function gave.

    value: what it returned, None where it did not; exception: what calling it would have raised, or None.
    """

    __slots__ = ("exception", "value")
    value: R | None
    exception: BaseException | None

    @property
    def ok(self) -> bool:
        """Did it return?"""
        return self.exception is None

    def __reduce__(self) -> Any:
        """With the exception's cause, the traceback of the sandbox, which exceptions leave behind when they are pickled."""
        slots = {name: getattr(self, name) for base in type(self).__mro__ for name in getattr(base, "__slots__", ())}
        return _blank, (type(self),), (slots, self.exception and self.exception.__cause__)

    def __setstate__(self, state: tuple[dict[str, Any], BaseException | None]) -> None:
        slots, cause = state
        for name, value in slots.items():
            setattr(self, name, value)
        if self.exception is not None:
            self.exception.__cause__ = cause


def _blank(cls: Any) -> Any:
    return cls.__new__(cls)


class Isolated(Generic[P, R]):
    """A function that runs in a sandbox of its own, each time it is called. See `isolated`."""

    def __init__(
        self,
        fn: Callable[P, Any],
        sandbox: Sandbox,
        *,
        results: str,
        results_max: int,
        exceptions: tuple[type[BaseException], ...],
    ) -> None:
        self.fn, self.sandbox = fn, sandbox
        self._results, self._most, self._exceptions = results, results_max, exceptions
        update_wrapper(self, fn)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns, or raises. What it prints is passed on to sys.stdout and sys.stderr."""
        result = self._run(args, kwargs, relay=True)
        if result.exception is not None:
            raise result.exception
        value: Any = result.value
        return value  # type: ignore[no-any-return]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> FunctionResult[R]:
        """The same as a `FunctionResult`, output captured. Never raises because of what the function does."""
        return self._run(args, kwargs, relay=False)

    def plan(self) -> Plan:
        """The plan of its sandbox on this host; print it to read it. Nothing runs."""
        return plan_for_function(name_of(self.fn), self.sandbox, HANDED)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, relay: bool) -> FunctionResult[R]:
        from ramet.call.inside import Job

        refuse_free_threaded()
        job = Job(self.fn, args, kwargs, most=self._most, pickled=self._results == "pickle")
        process = FunctionProcess(job, self.sandbox, self._exceptions, relay=relay)
        try:
            result = finish(process, None)
        finally:
            process.close()
        process.inbox.warn()
        assert isinstance(result, FunctionResult)
        return result

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...
    @overload
    def __get__(
        self: Isolated[Concatenate[Any, Q], T], instance: object, owner: type | None = None
    ) -> BoundIsolated[Q, T]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """As a method."""
        return self if instance is None else BoundIsolated(self, instance)

    def __reduce__(self) -> Any:
        """By name where it stands for the function that it decorates; else the function and the rest."""
        from ramet.call.wire import find_named

        name = getattr(self, "__qualname__", "")
        if find_named(self.__module__, name) is self and not (self.__module__ == "__main__" and _goes_by_value()):
            return name
        # As state: when the function is pickled, and what it refers to, which may be this, it is known already.
        return _blank, (Isolated,), (self.fn, self.sandbox, self._results, self._most, self._exceptions)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        fn, sandbox, results, most, exceptions = state
        Isolated.__init__(self, fn, sandbox, results=results, results_max=most, exceptions=exceptions)

    def __repr__(self) -> str:
        return f"<isolated {name_of(self.fn)}>"


class BoundIsolated(Isolated[P, R]):
    """An isolated function as a method of an object."""

    def __init__(self, of: Isolated[Any, R], instance: object) -> None:
        import types

        bound = types.MethodType(of.fn, instance)
        super().__init__(bound, of.sandbox, results=of._results, results_max=of._most, exceptions=of._exceptions)
        self.__self__, self.__func__ = instance, of

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """It is bound already."""
        return self

    def __reduce__(self) -> Any:
        """The object, and the function of its class."""
        return BoundIsolated, (self.__func__, self.__self__)


def _goes_by_value() -> bool:
    """Is it cloudpickle, or a copy of it (joblib's, Ray's), that asks? That sends what __main__ defines as a whole, since at its other
    end __main__ is another program; but it knows functions and classes only. For pickle the name is right: multiprocessing has the
    same __main__ at its other end."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == "pickle":
        frame = frame.f_back
    return frame is not None and "cloudpickle" in str(frame.f_globals.get("__name__")).split(".")


@overload
def isolated(
    fn: Callable[Q, Coroutine[Any, Any, T]],
    /,
    *,
    sandbox: Sandbox | None = None,
    results: str = "plain",
    results_max: int | str = RESULTS_MAX,
    exceptions: Sequence[type[BaseException]] = (),
    **fields: Any,
) -> Isolated[Q, T]: ...
@overload
def isolated(
    fn: Callable[Q, T],
    /,
    *,
    sandbox: Sandbox | None = None,
    results: str = "plain",
    results_max: int | str = RESULTS_MAX,
    exceptions: Sequence[type[BaseException]] = (),
    **fields: Any,
) -> Isolated[Q, T]: ...
@overload
def isolated(
    fn: None = None,
    /,
    *,
    sandbox: Sandbox | None = None,
    results: str = "plain",
    results_max: int | str = RESULTS_MAX,
    exceptions: Sequence[type[BaseException]] = (),
    **fields: Any,
) -> Decorator: ...
def isolated(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    sandbox: Sandbox | None = None,
    results: str = "plain",
    results_max: int | str = RESULTS_MAX,
    exceptions: Sequence[type[BaseException]] = (),
    **fields: Any,
) -> Any:
    """Make a function run in a process and a sandbox of its own; its value comes back, or its exception.

        @ramet.isolated(memory="1G", timeout=10)
        def parse(upload: bytes) -> list[str]: ...

        parse(data)             # the value; or the exception, with the traceback of the sandbox as its cause
        parse.run(data)         # a FunctionResult: value, exception, status, usage, stdout, stderr; raises nothing of the function's
        ramet.isolated(json.loads, timeout=1)(text)

    Any field of Sandbox by name, or a Sandbox; without any, the sandbox is that of `run`: no network, no files of the host.

    The function is called in a fork of this process, so arguments, closures and imported modules are there, and nothing has to be
    serialised on the way in. **So it can read whatever this process has in its memory**; what it can't is do anything with it
    but return it. Modules that it imports itself must lie where the sandbox shows them.

    results: "plain": nothing that comes out is unpickled. None, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
    Decimal, UUID, dates and times, paths, members of Enum, named tuples, dataclasses of modules that are imported here
    (made without running any code of theirs), buffers, numpy arrays, Arrow tables. "pickle" takes anything, and **gives
    the function this process**: for functions that you trust. results_max: bytes that may come out; large arrays
    are copied once, by the kernel. exceptions: classes of yours that come back as themselves, as builtin ones do; others are a `RemoteError`.

    A function that returns a coroutine has it run. sys.exit, or being killed, is an `ExitError`, which has the `Result`; a
    limit a `TimeLimitError` or `MemoryLimitError`; a value that can't be sent a `ResultError`. Threads that it leaves end with it.

    Raises SpecError (a generator function, a bad field), UnsupportedError (this host, or no msgspec: `pip install ramet[functions]`),
    StepError. Needs Linux 5.14.
    """
    if fn is None:

        def decorate(fn: Callable[..., Any]) -> Any:
            return isolated(
                fn, sandbox=sandbox, results=results, results_max=results_max, exceptions=exceptions, **fields
            )

        return decorate
    check_function(fn)
    if results not in RESULTS:
        raise SpecError(f"must be one of {', '.join(RESULTS)}, not {results!r}", field="results")
    most = values.size(results_max, "results_max")
    classes = tuple(exceptions)
    for number, cls in enumerate(classes):
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise SpecTypeError(f"must be an exception class, not {cls!r}", field=f"exceptions[{number}]")
    box = sandbox_with(sandbox, fields)
    return Isolated(fn, box, results=results, results_max=most, exceptions=classes)


def check_function(fn: object) -> None:
    if not callable(fn):
        raise SpecTypeError(f"{fn!r} can't be called", field="fn")
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    if flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
        raise SpecTypeError(
            f"{name_of(fn)} is a generator function: its values would be made after it has returned",
            field="fn",
            hint="return a list",
        )


def name_of(fn: object) -> str:
    return str(getattr(fn, "__qualname__", None) or type(fn).__qualname__)


def plan_for_function(name: str, sandbox: Sandbox, handed: int = 1) -> Plan:
    """The plan of a sandbox around a function that so many descriptors are handed to."""
    from ramet.run.fork import numbers_handed

    return plan_for((name,), sandbox, numbers_handed(handed), function=True)


class FunctionProcess(Popen):
    """A function's process, in the shape of a program's: the channel is one more stream to be read."""

    def __init__(self, job: Job, sandbox: Sandbox, exceptions: tuple[type[BaseException], ...], *, relay: bool) -> None:
        import socket

        from ramet.call.inbox import Inbox

        ours, self._theirs = socket.socketpair()
        pages, self._pages_theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(pages, False)
        self._ours, self._job, self._relay = ours, job, relay
        self._tray = None if job.pickled else tray_for(sandbox, job.most)
        self.inbox = Inbox(ours, job.most, pickled=job.pickled, mine=exceptions, pages=pages, tray=self._tray)
        try:
            _flush_own()
            super().__init__((name_of(job.fn),), sandbox, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
        except BaseException:
            self.inbox.close()
            raise
        finally:
            self._theirs.close()
            os.close(self._pages_theirs)

    def _compile(self, argv: Argv, pass_fds: Sequence[int]) -> Plan:
        return plan_for_function(str(argv[0]), self.sandbox, HANDED)

    def _start(
        self, stdio: tuple[int, int, int], given: Mapping[Slot, int], into: int | None, signals: Signals
    ) -> Launched:
        from ramet.run.fork import Function
        from ramet.run.launch import launch

        tray = None
        if self._tray is not None:
            tray, self._job.hands = self._tray.fd, self._tray.hands
        function = Function(self._job, (self._theirs.fileno(), self._pages_theirs, tray))
        try:
            return launch(self.plan, stdio, given=given, into=into, signals=signals, function=function)
        finally:
            function.close()

    def _new_pump(self, data: bytes | memoryview) -> Pump:
        pump = super()._new_pump(data)
        pump.watch(self._ours.fileno(), self.inbox.take)
        if self._relay:
            for number, stream in ((1, sys.stdout), (2, sys.stderr)):
                pump.captures[number] = _Relay(self.sandbox.output, stream)
        return pump

    def _result_with(self, out: bytes | str | None, err: bytes | str | None, truncated: tuple[str, ...]) -> Result:
        result = self._result_of(FunctionResult, out, err, truncated)
        inbox = self.inbox
        inbox.settle()  # all of the sandbox is gone
        result.exception = None if inbox.has_value and result.exit_code == 0 else _failure(result, inbox.exception)
        result.value = inbox.value if result.exception is None else None
        return result

    def close(self) -> None:
        """Also hang up."""
        super().close()
        self.inbox.close()


def _failure(result: Result, told: BaseException | None) -> BaseException:
    """A run that was ended for a limit, or by a signal, has not come as far as what it told."""
    if told is not None and not result.ended_by_limit and result.signal is None:
        if isinstance(told, ResultError):
            told.result = result
        return told
    if result.status in ("timed-out", "cpu-time"):
        return TimeLimitError(result)
    if result.status == "out-of-memory":
        return MemoryLimitError(result)
    return ExitError(result)


class _Relay(Capture):
    """Passes on what comes, instead of keeping it."""

    def __init__(self, limit: int, stream: Any) -> None:
        import codecs

        super().__init__(limit)
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def add(self, data: bytes) -> None:
        room = self.limit - self.size
        self.truncated = self.truncated or len(data) > room
        self.size += len(data[:room])
        if self._stream is not None:
            self._stream.write(self._decode(data[:room], final=not data))


def _flush_own() -> None:
    """What is buffered would be in the copy too. A stream that can't be flushed is its owner's affair."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue


__all__ = ["BoundIsolated", "FunctionResult", "Isolated", "isolated"]
