"""The service of service_asyncio.py with FastAPI: POST /run with {"code": "..."}, and read server-sent events.

    $ pip install fastapi uvicorn
    $ python examples/service_fastapi.py --port 8000 &
    $ curl -N --json '{"code": "print(6 * 7)"}' http://127.0.0.1:8000/run

Starlette ends the iteration of an answer whose client has gone away, and that ends the run.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, ValidationError, field_validator

from service_asyncio import BOX, CODE_MAX, Busy, Event, Runner, arguments, as_sse

#: A byte of the code may be six in JSON.
BODY_MAX = 6 * CODE_MAX + 1000


class Job(BaseModel):
    """What is to be run."""

    code: str = Field(max_length=CODE_MAX)

    @field_validator("code")
    @classmethod
    def can_be_an_argument(cls, code: str) -> str:
        """No NUL, no halves of surrogate pairs; bytes count."""
        if "\0" in code or len(code.encode()) > CODE_MAX:
            raise ValueError("too long, or not to be run")
        return code


async def job_of(request: Request) -> Job:
    """What a request asks for. FastAPI alone would take a body of any size into memory, and send back what is wrong in it."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            raise HTTPException(413, "too long")
    try:
        return Job.model_validate_json(bytes(body))
    except ValidationError as error:
        raise HTTPException(422, [found["msg"] for found in error.errors()]) from None


async def stream(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """As server-sent events, and closed in any case."""
    try:
        async for event in events:
            yield as_sse(event)
    finally:
        await events.aclose()  # type: ignore[attr-defined]


def application(runner: Runner) -> FastAPI:
    """The service around this runner."""

    app = FastAPI(title="run Python in sandboxes")

    @app.post("/run")
    async def run(job: Annotated[Job, Depends(job_of)]) -> StreamingResponse:
        try:
            events = await runner.enter(job.code)
        except Busy:
            raise HTTPException(503, "as many run, and wait, as may", {"Retry-After": "1"}) from None
        return StreamingResponse(stream(events), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    return app


class Server(uvicorn.Server):
    """Ends the runs first, so that every client has its verdict; uvicorn would wait for them, then cut them off."""

    def __init__(self, config: uvicorn.Config, runner: Runner) -> None:
        super().__init__(config)
        self.runner = runner

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.runner.close()
        await super().shutdown(sockets)


if __name__ == "__main__":
    options = arguments()
    runner = Runner(BOX.replace(timeout=options.timeout), options.at_once, options.waiting)
    config = uvicorn.Config(application(runner), options.host, options.port, timeout_graceful_shutdown=5)
    Server(config, runner).run()
