"""What ramet raises.

`Error` is the root. `SpecError` is wrong before anything ran; `UnsupportedError` says this host can't;
`StepError` says the kernel refused one step of a plan; `HelperError` that an outside program failed;
`TimeoutExpired` and `ExitError` tell of the payload, when asked to; `RemoteError` and `ResultError` of an isolated function.

An error's text answers, in this order: what was being done, the call, the errno by name, where it came from,
and, after a blank line, what to do (``hint: ...``).
"""

from __future__ import annotations

import errno as _errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.run.result import Result


def errno_name(number: int) -> str:
    """``EPERM (Operation not permitted)`` for 1; the bare number for one that has no name."""
    return f"{_errno.errorcode.get(number, number)} ({os.strerror(number)})"


def with_hint(text: str, hint: str | None) -> str:
    """The text, and under a blank line what to do about it."""
    return f"{text}\n\nhint: {hint}" if hint else text


class Error(Exception):
    """The root of every exception that ramet raises on purpose."""

    hint: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come out of pools' workers by pickle, which would call __init__ without its keywords. What it knows goes as state, since
        a result that it knows may know it."""
        return (_restored, (type(self), self.args), self.__dict__ or None)


def _restored(cls: type[Error], args: tuple[Any, ...]) -> Error:
    # Its base's: MemoryLimitError.__new__ is found to be MemoryError's, which refuses what is laid out as ExitError.
    base: Any = cls.__base__
    error: Error = base.__new__(cls)
    (OSError if isinstance(error, OSError) else Exception).__init__(error, *args)
    error.args = args
    return error


class SpecError(Error, ValueError):
    """What was asked for is wrong or contradicts itself; nothing ran.

    field: the path of the field at fault, as ``Sandbox.mounts[2].destination``.
    """

    def __init__(self, message: str, *, field: str, hint: str | None = None) -> None:
        self.message, self.field, self.hint = message, field, hint
        super().__init__(with_hint(f"{field}: {message}", hint))

    def of(self, field: str) -> SpecError:
        """The same error about another field, which holds the one at fault."""
        return type(self)(self.message, field=field, hint=self.hint)


class SpecTypeError(SpecError, TypeError):
    """A `SpecError` about the type of a value, or the name of a field; also a TypeError."""


class UnsupportedError(Error):
    """This host can't do what was asked for; nothing ran.

    fact: what was found, as ``kernel.unprivileged_userns_clone is 0``; needs: what it would take.
    """

    def __init__(self, message: str, *, fact: str, needs: str, hint: str | None = None) -> None:
        self.message, self.fact, self.needs, self.hint = message, fact, needs, hint
        super().__init__(with_hint(f"{message}: {fact}\n  needs: {needs}", hint))


class StepError(Error, OSError):
    """The kernel refused a step of a plan, and nothing of the sandbox is left.

    errno: what the kernel answered. stage, index, total: which step of which stage. call: the step in strace
    form. origin: the spec field that it came from. Step is None where the clone itself was refused.
    """

    def __init__(
        self,
        doing: str,
        *,
        errno: int,
        call: str,
        origin: str,
        stage: str,
        index: int | None = None,
        total: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.doing, self.call, self.origin, self.stage = doing, call, origin, stage
        self.index, self.total, self.hint = index, total, hint
        OSError.__init__(self, errno, os.strerror(errno))

    def __str__(self) -> str:
        number = self.errno or 0
        where = self.stage if self.index is None else f"{self.stage} step {self.index} of {self.total}"
        text = f"cannot {self.doing}: {errno_name(number)}\n  {where}: {self.call}\n  from: {self.origin}"
        return with_hint(text, self.hint)


class CommandError(StepError):
    """The payload itself can't be executed. exit_code: 127 not found, 126 found but not executable."""

    @property
    def exit_code(self) -> int:
        """As a shell tells it: 127 not found, 126 found but not executable."""
        return 127 if self.errno in (_errno.ENOENT, _errno.ENOTDIR) else 126


class HelperError(Error):
    """An outside program that ramet called (newuidmap, newgidmap) failed.

    argv: how it was called; exit_code; stderr: what it said.
    """

    def __init__(self, message: str, *, argv: list[str], exit_code: int, stderr: str, hint: str | None = None) -> None:
        self.argv, self.exit_code, self.stderr, self.hint = argv, exit_code, stderr, hint
        said = f"\n  it said: {stderr.strip()}" if stderr.strip() else ""
        super().__init__(with_hint(f"{message}: {' '.join(argv)} exited with {exit_code}{said}", hint))


class TimeoutExpired(Error, TimeoutError):
    """A wait ended before what it waited for. seconds: how long it was."""

    def __init__(self, message: str, *, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"{message} after {seconds:g} s")


class ExitError(Error):
    """With check=True: the payload did not exit with 0. result: the whole `Result`."""

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__(str(result))


class TimeLimitError(ExitError, TimeoutError):
    """An isolated function was ended, since its time, or its CPU time, was over. result: the whole `Result`."""


class MemoryLimitError(ExitError, MemoryError):
    """An isolated function was ended for its memory. result: the whole `Result`."""


class ResultError(Error):
    """What an isolated function returned could not be sent, or what came out of its sandbox is no result.

    result: the `Result` of the run, where there is one.
    """

    result: Result | None = None


class ZygoteError(Error):
    """A pool's zygote could not start. module: whose import failed, or that starts threads; None where it was none; traceback: as text, of
    the zygote."""

    def __init__(self, message: str, *, module: str | None = None, traceback: str = "") -> None:
        self.message, self.module, self.traceback = message, module, traceback
        what = "the pool's zygote can't start" if module is None else f"the pool's zygote can't load {module!r}"
        super().__init__(f"{what}: {message}" + (f"\n\n{traceback.rstrip()}" if traceback else ""))


class PoolError(Error, RuntimeError):
    """A pool or session that is closed, or was made by the process that this one was forked from."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message, self.hint = message, hint
        super().__init__(with_hint(message, hint))


class RemoteError(Error):
    """An isolated function raised something that does not come back as itself.

    type_name: as ``module.Class``; message: its text; traceback: as text, of the sandbox; notes: see BaseException.add_note.
    """

    def __init__(self, type_name: str, message: str, *, traceback: str = "", notes: tuple[str, ...] = ()) -> None:
        self.type_name, self.message, self.traceback, self.notes = type_name, message, traceback, notes
        super().__init__(f"{type_name}: {message}" if message else type_name)


class RemoteTraceback(Error):
    """The cause of an exception that comes from a sandbox: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class ChildDied(Error):
    """A function's process ended without returning or raising. status: as os.waitpid gives it."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)
