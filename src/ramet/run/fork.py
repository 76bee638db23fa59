"""A forked copy of the caller that builds a sandbox around itself, for a Python function as the payload.

    caller --fork--> go-between --clone--> child, becomes init
                                             \\--clone--> the payload's process: makes its steps, calls the function

The fork is libc's, since other threads of the caller may hold libc's locks; what follows are raw clones, from a process that
has but one thread. The go-between makes the child the caller's (CLONE_PARENT), tells its pid and ends. Its memory is a copy, so
nothing here can harm the caller. The payload's is another, and the child's none (csrc/branch.c): each costs the page tables of all
that the caller has. Only where the caller must do something while the child waits, or where the child is itself the payload, has the child
a copy too.

In the payload's process the number of every descriptor that the caller had is taken by /dev/null: an object that believes to own
one, and is collected there, closes nothing of the function's.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from ramet import _core
from ramet.errors import StepError
from ramet.plan.calls import numbers
from ramet.plan.finish import PAYLOAD_PID
from ramet.plan.steps import STAGE_CLONE, STAGE_PAYLOAD_CLONE
from ramet.run.failure import step_failed
from ramet.run.hold import Signals
from ramet.run.launch import SIGKILL, kill

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import NoReturn

    from ramet.plan.encode import Encoded, Encodings
    from ramet.plan.steps import Plan
    from ramet.run.launch import Launched

CLONE_PARENT, CLONE_CLEAR_SIGHAND = 0x8000, 1 << 32
SIGCHLD, PR_SET_DUMPABLE = 17, 4
JOIN, CHILD, INIT, PAYLOAD = 1, 3, 4, 5
CLONED, FAILED, READY = 1, 2, 3
NEWS = struct.Struct("<iiii")
EXIT_FAILED = 125


#: Whether this process is a function's, in its sandbox, whose init may not have been started yet. (A pool's copy is called when it was.)
settled = False


class _Failed(Exception):
    """A step failed: stage, step, errno."""


class Function:
    """What runs in place of a program.

    call: called in the payload's process, with the numbers at which the descriptors of `handed` are there; never returns.
    handed: descriptors of the caller that go along; None: /dev/null. Owns a pipe, by which the copies tell how far they have come, and /dev/null.
    """

    def __init__(self, call: Callable[[tuple[int, ...]], NoReturn], handed: tuple[int | None, ...]) -> None:
        self.call = call
        self.opened: list[int] = []
        self.hear, tell = os.pipe2(os.O_CLOEXEC)
        self.opened += [self.hear, tell]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.opened.append(null)
        self.handed = (*(null if fd is None else fd for fd in handed), tell, null)

    @property
    def pass_fds(self) -> dict[int, int]:
        """The number in the payload's process, and the descriptor."""
        return dict(enumerate(self.handed, 3))

    def let_go(self) -> None:
        """Close all but the end that hears: who is not there any more must not seem to be about to tell something."""
        for fd in self.opened[1:]:
            os.close(fd)
        del self.opened[1:]

    def close(self) -> None:
        """Close everything that is its own."""
        while self.opened:
            os.close(self.opened.pop())


def numbers_handed(count: int) -> tuple[int, ...]:
    """Command.pass_fds of a function that so many descriptors are handed to."""
    return tuple(range(3, 3 + count + 2))


def fork_into(
    plan: Plan,
    encoded: Encodings,
    values: Callable[[Encoded], list[tuple[int, int]]],
    launched: Launched,
    sync: Callable[[int, int], None] | None,
    into: int | None,
    function: Function,
    let_go: Callable[[], None],
) -> None:
    """Fork, and let the copy become the plan's child; returns when the payload's process is about to call the function.

    let_go: close what only the copy needs. Raises StepError.
    """
    signals = Signals()
    try:
        signals.hold()  # the calling thread may not be the one that held them
        between = _core.fork()  # os.fork would warn of other threads; the head of this file is the answer
        if between == 0:
            _go_between(plan, encoded, values, into, function, syncs=sync is not None)
        let_go()
        function.let_go()
        try:
            failed, ready = _follow(function.hear, launched, sync)
        finally:
            _reap(between)
    finally:
        signals.release()
    if failed is not None:
        raise step_failed(plan, *failed)
    if not ready:
        raise StepError(
            "start the function",
            errno=errno.ECHILD,
            call="read(news)",
            origin="command",
            stage="payload",
            hint="its process was killed before the function was called: a limit that is too tight, or somebody's SIGKILL",
        )


def _follow(
    hear: int, launched: Launched, sync: Callable[[int, int], None] | None
) -> tuple[tuple[int, int, int] | None, bool]:
    """What the copies tell, until the payload is ready and known, or until all of them are gone. In any order: who is cloned
    may be faster than who tells of it."""
    failed, ready, stopped = None, False, None
    while (launched.pidfd < 0 or not ready) and (news := os.read(hear, NEWS.size)):
        kind, first, second, third = NEWS.unpack(news)
        if kind == FAILED:
            failed = failed or (first, second, third)
        elif kind == READY:
            ready = True
        else:
            # Our child, and not reaped: nobody else can have its pid.
            launched.pid, launched.pidfd = first, os.pidfd_open(first)
            if sync is not None and failed is None:
                try:
                    sync(first, launched.pidfd)
                except Exception as error:
                    # It may have failed because the child has: then that is the cause, and still to be heard.
                    stopped = error
                    kill(launched.pidfd)
    if stopped is not None and failed is None:
        raise stopped
    return failed, ready


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # the caller ignores SIGCHLD, or waits for any child


def _go_between(
    plan: Plan,
    encoded: Encodings,
    values: Callable[[Encoded], list[tuple[int, int]]],
    into: int | None,
    function: Function,
    *,
    syncs: bool,
) -> NoReturn:
    """All of the copies' work. Only the payload's process leaves it, by the function."""
    ready, tell = False, function.handed[-2]
    try:
        # The flag is a copy too: another thread's child may have cleared it in the caller's memory at that moment.
        _core.syscall("prctl", numbers(plan.facts.machine)["prctl"], PR_SET_DUMPABLE, 1, 0, 0, 0)
        forget_handlers()
        theirs = [int(name) for name in os.listdir("/proc/self/fd")]
        _make(JOIN, encoded.join, values)
        flags = plan.clone_flags & ~CLONE_CLEAR_SIGHAND | CLONE_PARENT
        if not plan.init:
            _become_the_child(encoded, values, flags, into, tell)
        else:
            wait, go = os.pipe2(os.O_CLOEXEC)
            if syncs:
                _become_the_child(encoded, values, flags, into, tell)
                if pid := _clone(0, SIGCHLD, None, STAGE_PAYLOAD_CLONE):
                    _become_init(encoded, values, pid)
            else:
                _branch(encoded, values, flags, into, tell, go)
            # Until init's own steps have closed the pipe: if one of them fails, that is told before we are ready.
            os.close(go)
            os.read(wait, 1)
            _make(PAYLOAD, encoded.payload, values)
        tell = _number_of(plan, -2)
        handed = settle_in(plan.command.pass_fds, plan.environment, theirs)
        tell = handed[-2]
        os.write(tell, NEWS.pack(READY, 0, 0, 0))
        os.close(tell)
        ready = True
    except _Failed as failure:
        _tell_of(failure.args, tell, plan)
    finally:
        if not ready:
            os._exit(EXIT_FAILED)
    function.call(handed[:-2])


def _become_the_child(
    encoded: Encodings, values: Callable[[Encoded], list[tuple[int, int]]], flags: int, into: int | None, tell: int
) -> None:
    """Returns in the child, which has made its steps."""
    if pid := _clone(flags, 0, into, STAGE_CLONE):
        os.write(tell, NEWS.pack(CLONED, pid, 0, 0))
        os._exit(0)
    _make(CHILD, encoded.child, values)


def _become_init(encoded: Encodings, values: Callable[[Encoded], list[tuple[int, int]]], payload: int) -> None:
    """Where it fails our end would kill the payload's process, but a moment after it has closed what that waits for."""
    try:
        _make(INIT, encoded.init, values, payload)
    except _Failed:
        os.kill(payload, SIGKILL)
        raise


def _branch(
    encoded: Encodings,
    values: Callable[[Encoded], list[tuple[int, int]]],
    flags: int,
    into: int | None,
    tell: int,
    go: int,
) -> None:
    """Returns in the payload's process; the child shares our memory until it is init. go: what the payload waits for all others to
    close."""
    child, init = encoded.child, encoded.init
    assert init is not None
    programs = child.blob, values(child), init.blob, values(init), init.offsets[PAYLOAD_PID]
    made = _core.branch(*programs, flags, 0, -1 if into is None else into, False)
    if made is None:
        default_handlers()
        return
    pid, _, *failed = made
    os.close(go)  # before our end, which takes as long as our memory is large
    if failed[0]:
        os.write(tell, NEWS.pack(FAILED, *failed))
    if pid > 0:
        os.write(tell, NEWS.pack(CLONED, pid, 0, 0))  # the last of it: who knows of child and failure listens no longer
    os._exit(EXIT_FAILED if failed[0] else 0)


def _number_of(plan: Plan, index: int) -> int:
    return plan.command.pass_fds[index]


def _tell_of(failure: tuple[int, ...], tell: int, plan: Plan) -> None:
    """After the steps that place descriptors the pipe is at its number, before them where it was."""
    for fd in (tell, _number_of(plan, -2)):
        try:
            os.write(fd, NEWS.pack(FAILED, *failure))
            return
        except OSError:
            continue


def forget_handlers() -> None:
    """The caller's handlers are not the function's; what exec would have left is."""
    # Without the enums of the public module, which take longer than the calls.
    import _signal as signal  # type: ignore[import-not-found]

    ignored = (signal.SIGPIPE, signal.SIGXFSZ)  # as every Python has them
    for number in range(1, signal.NSIG):
        if number in (signal.SIGKILL, signal.SIGSTOP):
            continue
        wanted = signal.SIG_IGN if number in ignored else signal.SIG_DFL
        try:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else wanted)
        except (OSError, ValueError):
            continue  # libc keeps two for itself
    signal.set_wakeup_fd(-1)


def default_handlers() -> None:
    """Where the kernel has every default again: those that Python has."""
    import _signal as signal

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)


def _make(
    stage: int, encoded: Encoded | None, values: Callable[[Encoded], list[tuple[int, int]]], payload: int | None = None
) -> None:
    if encoded is None:
        return
    at, text = (-1, b"") if payload is None else (encoded.offsets[PAYLOAD_PID], str(payload).encode())
    found = _core.run(encoded.blob, values(encoded), at, text)
    if found is not None:
        raise _Failed(stage, *found)


def _clone(flags: int, exit_signal: int, into: int | None, stage: int) -> int:
    fields = struct.pack("<11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, 0 if into is None else into)
    try:
        return _core.clone3(fields)[0]
    except OSError as error:
        raise _Failed(stage, 0, error.errno or 0) from None


def settle_in(pass_fds: Sequence[int], environment: Mapping[str, str], theirs: Collection[int]) -> tuple[int, ...]:
    """The sandbox is there, and this process in it: what a program would have got by exec. The new numbers of what was handed."""
    import gc

    global settled
    settled = True
    gc.freeze()  # the caller's garbage is the caller's: its finalizers must not run here
    handed = guard_numbers(pass_fds, theirs)
    os.environ.clear()
    os.environ.update(environment)
    if "tempfile" in sys.modules:
        sys.modules["tempfile"].tempdir = None  # type: ignore[attr-defined]  # the caller's, by an environment that is not ours
    new_streams()
    return handed


def guard_numbers(pass_fds: Sequence[int], theirs: Collection[int]) -> tuple[int, ...]:
    """The new numbers of what was handed, the last of which is /dev/null. theirs: numbers that objects here believe to own;
    /dev/null takes them."""
    taken, handed = {*theirs, *pass_fds}, []
    free = (number for number in range(3, 1 << 20) if number not in taken)
    for fd in pass_fds:
        handed.append(_move(fd, next(free)) if fd in theirs else fd)
    for number in theirs:
        if number > 2 and number not in handed:
            try:
                os.dup2(handed[-1], number, inheritable=False)
            except OSError:
                break  # beyond the limit of open files, where the function can't open anything either
    for fd in handed:
        os.set_inheritable(fd, False)
    return tuple(handed)


def _move(fd: int, number: int) -> int:
    try:
        os.dup2(fd, number, inheritable=False)
    except OSError:
        return fd  # no number is left that was not the caller's
    return number


def new_streams() -> None:
    """What the caller had buffered is the caller's; a replaced sys.stdout, as pytest's, too."""
    import io

    for number, (name, mode) in enumerate((("stdin", "rb"), ("stdout", "wb"), ("stderr", "wb"))):
        errors = "backslashreplace" if number == 2 else "surrogateescape"
        raw = open(number, mode, closefd=False)  # noqa: SIM115  the process's own
        file = io.TextIOWrapper(raw, "utf-8", errors, line_buffering=number == 2)
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)
