"""A service that runs other people's Python, with the standard library alone: POST the code, read what it does as it does it.

    $ python examples/service_asyncio.py --port 8000 &
    $ curl -N --data-binary 'print(6 * 7)' http://127.0.0.1:8000/run
    event: started
    data: {}

    event: stdout
    data: "42\\n"

    event: verdict
    data: {"status": "exited", "exit_code": 0, ...}

Each run is in a sandbox of its own, with limits. So many run at once, some more may wait, the next is told to come again (503). A
client that reads slowly slows its own run down; one that goes away ends it. docs/how-to/service.md says why each part is as it is.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import json
import os
import signal
from collections.abc import AsyncIterator

import ramet
import ramet.aio

#: What one run may use. No network, no files of the host, no capabilities: those are the defaults.
BOX = ramet.Sandbox(memory="256M", processes=32, cpus=1, timeout=10, disk="64M")
OUTPUT_MAX = 1 << 20  # bytes, stdout and stderr together
CODE_MAX = 100_000  # bytes: one argument of execve(2) may have 128 KiB
CHUNK = 8 << 10

STOPPED = {"status": "stopped"}  # the service was

Event = tuple[str, object]


class Busy(Exception):
    """As many run, and as many wait, as may."""


class Runner:
    """Runs code in sandboxes. at_once: how many; waiting: how many more may wait for their turn."""

    def __init__(self, sandbox: ramet.Sandbox = BOX, at_once: int = os.cpu_count() or 2, waiting: int = 16) -> None:
        self.sandbox = sandbox
        self._turns = asyncio.Semaphore(at_once)
        self._room = at_once + waiting
        self._known = 0
        self._closed = False
        self._running: set[asyncio.Task[ramet.Result]] = set()

    async def enter(self, code: str) -> AsyncIterator[Event]:
        """What happens: ("started", {}), ("stdout" or "stderr", text)..., ("verdict", {...}). Close it, and the run ends. Raises Busy."""
        if self._known >= self._room:
            raise Busy
        events = self._events(code)
        await anext(events)  # no pause is in it: who comes at the same moment finds this one counted
        return events

    async def _events(self, code: str) -> AsyncIterator[Event]:
        self._known += 1
        try:
            yield "waiting", {}  # `enter` takes it; begun, this learns of it when it is dropped
            await self._turns.acquire()
        except BaseException:
            self._known -= 1
            raise
        if self._closed:
            self._known -= 1
            self._turns.release()
            yield "verdict", STOPPED
            return
        run = Run(code, self.sandbox)
        self._running.add(run.task)
        run.task.add_done_callback(
            self._over
        )  # not sooner: a run that was cancelled still takes a turn until it has ended
        try:
            yield "started", {}
            async for event in run.events():
                yield event
        finally:
            run.close()

    def _over(self, task: asyncio.Task[ramet.Result]) -> None:
        self._running.discard(task)
        self._known -= 1
        self._turns.release()

    async def close(self) -> None:
        """End everything; who waits gets a verdict, "stopped"."""
        self._closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)


class Run:
    """One. What it writes comes through pipes of ours, so that it comes at once; ramet.aio.run tells how it ended."""

    def __init__(self, code: str, sandbox: ramet.Sandbox) -> None:
        self._ours: dict[str, int] = {}
        writers = {}
        for name in ("stdout", "stderr"):
            self._ours[name], writers[name] = os.pipe()
        # -u: what it prints is written at once.
        self.task = asyncio.create_task(ramet.aio.run(["python3", "-u", "-c", code], sandbox, **writers))
        # When the sandbox is gone, and all that was started in it, nobody writes any more.
        self.task.add_done_callback(lambda _: [os.close(fd) for fd in writers.values()])

    def close(self) -> None:
        """End it, if it has not ended. Its task does that, and nobody needs to wait for it."""
        self.task.cancel()
        while self._ours:
            os.close(self._ours.popitem()[1])

    async def events(self) -> AsyncIterator[Event]:
        """Its output as it comes, then its verdict."""
        came: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(maxsize=4)  # then its pipe fills, then it waits
        pumps = [asyncio.create_task(self._pump(name, came)) for name in self._ours]
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in self._ours}
        open_pipes, written = len(pumps), 0
        try:
            while open_pipes:
                item = await came.get()
                if item is None:
                    open_pipes -= 1
                    continue
                name, data = item
                written += len(data)
                if written > OUTPUT_MAX:
                    self.task.cancel()
                    yield "verdict", {"status": "output-limit", "limit": OUTPUT_MAX}
                    return
                if text := decoders[name].decode(data, final=not data):
                    yield name, text
        finally:
            for pump in pumps:
                pump.cancel()
        await asyncio.wait([self.task])
        yield "verdict", STOPPED if self.task.cancelled() else verdict(self.task.result())

    async def _pump(self, name: str, came: asyncio.Queue[tuple[str, bytes] | None]) -> None:
        reader = asyncio.StreamReader(limit=CHUNK)
        pipe = os.fdopen(self._ours.pop(name), "rb", buffering=0)  # the transport's from here on
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while data := await reader.read(CHUNK):
                await came.put((name, data))
            await came.put((name, b""))
            await came.put(None)
        finally:
            transport.close()


def verdict(result: ramet.Result) -> dict[str, object]:
    """How it ended, and what it cost, for people who are not to know more of this machine."""
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "limits_hit": list(result.limits_hit),
        "seconds": round(result.duration, 3),
        "memory_peak": result.usage.memory_peak,
    }


def as_sse(event: Event) -> bytes:
    """One server-sent event. JSON, since data of several lines would be several lines of data."""
    name, data = event
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


# HTTP, as much as is needed


class Refused(Exception):
    """status and text of an answer."""


async def code_of(reader: asyncio.StreamReader) -> str:
    """The body of POST /run. Raises Refused."""
    method, path, *_ = (await reader.readline()).decode("latin-1").split() or ["", ""]
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
        if len(headers) > 100:
            raise Refused("431 Request Header Fields Too Large")
    if (method, path) != ("POST", "/run"):
        raise Refused("404 Not Found" if path != "/run" else "405 Method Not Allowed")
    length = headers.get("content-length", "")
    if not length.isdecimal():
        raise Refused("411 Length Required")
    if int(length) > CODE_MAX:
        raise Refused("413 Content Too Large")
    return checked(await reader.readexactly(int(length)))


def checked(body: bytes) -> str:
    """As text that can be an argument of a program. Raises Refused."""
    try:
        code = body.decode()
    except UnicodeDecodeError:
        raise Refused("400 Bad Request") from None
    if "\0" in code:
        raise Refused("400 Bad Request")
    return code


class Service:
    """The server's side of each connection: one request, one answer."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.answering: set[asyncio.Task[None]] = set()

    def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What asyncio.start_server calls."""
        task = asyncio.create_task(self._serve(reader, writer))
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(30):
                code = await code_of(reader)
            events = await self.runner.enter(code)
        except Refused as error:
            await answer(writer, str(error))
        except Busy:
            await answer(writer, "503 Service Unavailable", "Retry-After: 1\r\n")
        except (TimeoutError, ValueError, asyncio.IncompleteReadError, ConnectionError):
            writer.close()
        else:
            await self._stream(reader, writer, events)

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, events: AsyncIterator[Event]
    ) -> None:
        """Until the run has ended, or the client is gone: then what it waits for ends too."""
        sending = asyncio.create_task(self._send(writer, events))
        leaving = asyncio.create_task(reader.read(1))  # nothing more is to come, so this is its end
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, events: AsyncIterator[Event]) -> None:
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        try:
            writer.write(head.encode())
            async for event in events:
                writer.write(as_sse(event))
                await writer.drain()  # a client that reads slowly is waited for
        except ConnectionError:
            return
        finally:
            await events.aclose()  # type: ignore[attr-defined]


async def answer(writer: asyncio.StreamWriter, status: str, headers: str = "") -> None:
    """No more than a status."""
    writer.write(f"HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    writer.close()


async def main(host: str, port: int, runner: Runner) -> None:
    """Serve until SIGTERM or Ctrl-C; then end what runs."""
    service = Service(runner)
    server = await asyncio.start_server(service.serve, host, port, limit=64 << 10)
    print(f"listening on http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.close()
    await runner.close()
    if service.answering:
        await asyncio.wait(service.answering, timeout=5)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="run Python code in sandboxes, for whoever can reach the port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--waiting", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    options = arguments()
    box = BOX.replace(timeout=options.timeout)
    asyncio.run(main(options.host, options.port, Runner(box, options.at_once, options.waiting)))
