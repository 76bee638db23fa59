"""A forked copy of the caller that builds a sandbox around itself, for a Python function as the payload.

    caller --fork--> go-between --clone--> child, becomes init
                                             \\--clone--> the payload's process: makes its steps, calls the function

The fork is libc's, since other threads of the caller may hold libc's locks; what follows is raw clones, from a process that has but
one thread. The go-between makes the child the caller's (CLONE_PARENT), tells its pid and ends. Its memory is a copy at every step, so
nothing here can harm the caller; and no step needs to be free of libc.

Every descriptor of the caller is closed in the payload's process, and its number taken by /dev/null: an object that believes to own it
and is collected there must close nothing of the function's.
"""

from __future__ import annotations

import os
import struct

from ramet import _core
from ramet.plan.encode import Encoded
from ramet.plan.finish import PAYLOAD_PID
from ramet.run.failure import step_failed
from ramet.run.launch import values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from ramet.plan.encode import Encodings
    from ramet.plan.steps import Plan, Slot
    from ramet.run.launch import Launched

CLONE_VM, CLONE_PARENT, CLONE_CLEAR_SIGHAND = 0x100, 0x8000, 1 << 32
SIGCHLD, PR_SET_DUMPABLE = 17, 4
NUMBER_PRCTL = {"x86_64": 157, "aarch64": 167}
STAGES = {"join": 1, "child": 3, "init": 4, "payload": 5}
CLONED, FAILED, READY = 1, 2, 3
NEWS = struct.Struct("<iiii")
EXIT_FAILED = 125


class _Failed(Exception):
    """A step failed: stage, step, errno."""


def fork_into(
    plan: Plan,
    encoded: Encodings,
    inputs: Mapping[Slot, int],
    launched: Launched,
    sync: Callable[[int, int], None] | None,
    into: int | None,
    function: Callable[[], NoReturn],
) -> None:
    """Fork, and let the copy become the plan's child; returns when the payload's process has made all of its steps.

    Signals are held. Raises StepError.
    """
    hear, tell = os.pipe2(os.O_CLOEXEC)
    try:
        between = os.fork()
        if between == 0:
            _go_between(plan, encoded, inputs, into, tell, function)
        os.close(tell)
        tell = -1
        _follow(plan, hear, launched, sync, between)
    finally:
        os.close(hear)
        if tell >= 0:
            os.close(tell)


def _follow(
    plan: Plan, hear: int, launched: Launched, sync: Callable[[int, int], None] | None, between: int
) -> None:
    """What the copies tell, until the payload is ready or all of them are gone."""
    failed = None
    ready = False
    try:
        while (news := os.read(hear, NEWS.size)) and not ready:
            kind, first, second, third = NEWS.unpack(news)
            if kind == CLONED:
                # Our child, and not reaped: nobody else can have its pid.
                launched.pid, launched.pidfd = first, os.pidfd_open(first)
                if sync is not None:
                    sync(first, launched.pidfd)
            elif kind == FAILED:
                failed = failed or (first, second, third)
            else:
                ready = True
    finally:
        os.waitpid(between, 0)
    if failed is not None:
        raise step_failed(plan, *failed)
    if not ready:
        raise step_failed(plan, STAGES["payload"], len(plan.stages["payload" if plan.init else "child"].steps) - 1, 4)


def _go_between(
    plan: Plan,
    encoded: Encodings,
    inputs: Mapping[Slot, int],
    into: int | None,
    tell: int,
    function: Callable[[], NoReturn],
) -> NoReturn:
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    payload = False
    try:
        _make("join", encoded.join, inputs)
        pid = _clone(plan.clone_flags & ~CLONE_CLEAR_SIGHAND | CLONE_PARENT, 0, into)
        if pid:
            os.write(tell, NEWS.pack(CLONED, pid, 0, 0))
            os._exit(0)
        if plan.init:
            _make("child", encoded.child, inputs)
            pid = _clone(0, SIGCHLD, None)
            if pid:
                _make("init", encoded.init, inputs, pid)
        _make("payload" if plan.init else "child", encoded.payload if plan.init else encoded.child, inputs)
        _settle_in(plan, numbers, tell)
        payload = True
    except _Failed as failure:
        os.write(tell, NEWS.pack(FAILED, *failure.args))
    except OSError as error:
        stage = 2 if error.filename == "clone3" else STAGES["payload"]
        os.write(tell, NEWS.pack(FAILED, stage, 0, error.errno or 0))
    finally:
        if not payload:
            os._exit(EXIT_FAILED)
    function()


def _make(stage: str, encoded: Encoded | None, inputs: Mapping[Slot, int], payload: int | None = None) -> None:
    if encoded is None:
        return
    at, text = (-1, b"") if payload is None else (encoded.offsets[PAYLOAD_PID], str(payload).encode())
    found = _core.run(encoded.blob, values_of(encoded, inputs), at, text)
    if found is not None:
        raise _Failed(STAGES[stage], *found)


def _clone(flags: int, exit_signal: int, into: int | None) -> int:
    fields = struct.pack("<11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, 0 if into is None else into)
    return _core.clone3(fields)[0]


def _settle_in(plan: Plan, numbers: list[int], tell: int) -> None:
    """The sandbox is there, this process in it: what a program would have got by exec."""
    raise NotImplementedError
