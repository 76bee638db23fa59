"""The same from asyncio: waiting without a thread, and cancelling kills the sandbox.

>>> result = await ramet.aio.run(["python3", "-c", code], timeout=5)
"""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic

from ramet.errors import ExitError
from ramet.run.process import Popen, start_run
from ramet.run.result import Result
from ramet.run.streams import DEVNULL, PIPE, Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.run.guard import Guard
    from ramet.run.planning import Argv
    from ramet.spec import Sandbox


async def run(
    argv: Argv,
    sandbox: Sandbox | None = None,
    *,
    input: bytes | str | None = None,
    timeout: float | str | None = None,
    check: bool = False,
    stdin: object = None,
    stdout: object = PIPE,
    stderr: object = PIPE,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    pass_fds: Sequence[int] = (),
    **fields: Any,
) -> Result:
    """`ramet.run` for asyncio: the same arguments, result and errors.

    The start (1 to 2 ms, more with newuidmap) happens in the loop's executor, the waiting on descriptors in the loop.
    Cancelling kills everything in the sandbox and waits for its end before CancelledError goes on.
    """
    process = await _start(
        partial(
            start_run,
            argv,
            sandbox,
            input=input,
            timeout=timeout,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            encoding=encoding,
            errors=errors,
            pass_fds=pass_fds,
            **fields,
        )
    )
    try:
        result = await _finish(process, input)
    finally:
        process.close()
    if check and not result.ok:
        raise ExitError(result)
    return result


async def _start(start: partial[Popen]) -> Popen:
    """In the executor; a start that is cancelled is still waited for, or nobody would end what it made."""
    starting = asyncio.get_running_loop().run_in_executor(None, start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_end_started)
        raise


def _end_started(starting: asyncio.Future[Popen]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().close()


async def _finish(process: Popen, input: bytes | str | None) -> Result:
    pump = process._pump(input)
    limit = process.sandbox.timeout
    guarding = asyncio.ensure_future(_guard(process._guard))
    try:
        async with asyncio.timeout(None if limit is None else max(0, process._started + limit - monotonic())):
            await _drain(pump, process._ended_fd(), process._guard)
    except TimeoutError:
        process._guard.stop("timed-out")
        process.wait()
        pump.drain()
    else:
        process.wait()
    finally:
        guarding.cancel()
    return process._result(pump)


GUARD_EVERY = 0.05


async def _guard(guard: Guard) -> None:
    """Look when the guard wants to; what rings meanwhile may make that sooner."""
    while True:
        at = guard.next_look()
        await asyncio.sleep(GUARD_EVERY if at is None else min(max(0, at - monotonic()), GUARD_EVERY))
        guard.look()


async def _drain(pump: Pump, ended: int, guard: Guard) -> None:
    """What Pump.run does with poll(2), with the loop's readers and writers."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    watched: dict[int, int | None] = {}  # descriptor -> number of the stream; None: the end

    def unwatch(fd: int) -> None:
        if watched.pop(fd) == 0:
            loop.remove_writer(fd)
        else:
            loop.remove_reader(fd)
        if not watched and not done.done():
            done.set_result(None)

    def ready(fd: int) -> None:
        if fd == guarded:
            guard.look()
            return
        number = watched[fd]
        try:
            if number is None:
                over()
            elif pump.move(number, fd):
                unwatch(fd)
                pump.streams.close_ours(number)
        except BaseException as error:
            if not done.done():
                done.set_exception(error)

    def over() -> None:
        if pump.alone:
            for fd in list(watched):
                unwatch(fd)
            pump.drain()
            return
        unwatch(ended)
        for fd, number in list(watched.items()):
            if number == 0:  # nobody is left to read stdin
                unwatch(fd)
                pump.streams.close_ours(0)

    guarded = guard.watched
    if guarded is not None:
        loop.add_reader(guarded, ready, guarded)
    pump.guard_with(guard)
    watched[ended] = None
    loop.add_reader(ended, ready, ended)
    for number, fd in enumerate(pump.streams.ours):
        if fd is not None:
            watched[fd] = number
            (loop.add_writer if number == 0 else loop.add_reader)(fd, ready, fd)
    try:
        await done
    finally:
        if guarded is not None:
            loop.remove_reader(guarded)
        for fd in list(watched):
            unwatch(fd)


__all__ = ["DEVNULL", "PIPE", "run"]
