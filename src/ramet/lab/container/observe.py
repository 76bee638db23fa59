"""Start the probe as one stage says, talk with it, and look at it from outside while it is there."""

from __future__ import annotations

import os

from ramet.errors import Error
from ramet.host.namespaces import read_process
from ramet.lab.container.inside import source
from ramet.lab.container.interpreter import caller_python, container_python
from ramet.lab.container.outside import VARIABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from typing import Any

    from ramet.lab.container.outside import Outside
    from ramet.lab.container.stages import Stage

_PATIENCE = 30.0
_CREDENTIALS = 12


def observe(stage: Stage, outside: Outside) -> dict[str, Any]:
    """Who the process is, from inside and outside, its namespaces, and each row's cell."""
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_PATIENCE)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with _started(stage, outside, theirs):
            theirs.close()
            try:
                return _talk(ours, outside)
            except TimeoutError:
                raise Error(f"the probe has not answered within {_PATIENCE:g} s") from None


def _talk(ours: socket.socket, outside: Outside) -> dict[str, Any]:
    """Its hello carries who it is to us: the kernel fills that in. Then tell it where things are, and listen."""
    import json
    import socket
    from struct import unpack

    hello, extra, _, _ = ours.recvmsg(6, socket.CMSG_SPACE(_CREDENTIALS))
    if hello != b"hello\n":
        raise Error("the probe ended before it had begun")
    pid, uid, _ = unpack("3i", extra[0][2][:_CREDENTIALS])
    ids = read_process(pid).ids
    ours.sendall(json.dumps(outside.told(ids)).encode() + b"\n")
    with ours.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        raise Error("the probe ended before it had answered")
    found = json.loads(line)
    return {
        "who": {
            "pid_inside": found["pid"],
            "pid_outside": pid,
            "uid_inside": found["uid"],
            "uid_outside": uid,
            "capabilities": found["capabilities"],
        },
        "namespaces": {
            kind: "host" if number == outside.namespaces[kind] else "own"
            for kind, number in ids.items()
            if number is not None
        },
        "cells": {key: _cell(cell, saw, outside) for key, (cell, saw) in found["cells"].items()},
    }


def _cell(cell: str, saw: str, outside: Outside) -> dict[str, str]:
    """As the probe tells it; but whether a signal has arrived, only who should have got it knows."""
    if cell != "sent":
        return {"cell": cell, "saw": saw}
    if outside.signal_arrived():
        return {"cell": "host", "saw": "a process of the host's got it"}
    return {"cell": "own", "saw": "that pid is another process here"}


def _started(stage: Stage, outside: Outside, theirs: socket.socket) -> Any:
    """The probe, running; a context at whose end it is gone."""
    from contextlib import contextmanager

    return contextmanager(_cloned if stage.sandbox is None else _sandboxed)(stage, outside, theirs)


def _cloned(stage: Stage, outside: Outside, theirs: socket.socket) -> Iterator[None]:
    """By clone3 and exec, with nothing between."""
    import signal

    from ramet import lowlevel

    python = caller_python()
    argv = [python, "-I", "-S", "-c", source("probe.py"), str(theirs.fileno())]
    environment = {**os.environ, VARIABLE: outside.token}
    for fd in (theirs.fileno(), outside.fd):
        os.set_inheritable(fd, True)
    assert stage.flags is not None
    child = lowlevel.clone3(stage.flags, pidfd=True, allow_threads=True)
    if child.pid == 0:
        try:
            os.execve(python, argv, environment)
        finally:
            os._exit(127)
    os.set_inheritable(outside.fd, False)
    assert child.pidfd is not None
    with child:
        try:
            yield
        finally:
            try:
                lowlevel.pidfd_send_signal(child.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
            child.wait()


def _sandboxed(stage: Stage, outside: Outside, theirs: socket.socket) -> Iterator[None]:
    """By Popen. Its stdout is the socket."""
    from ramet.run.process import Popen

    python = container_python()
    argv = [python, "-I", "-S", "-c", source("probe.py"), "1"]
    doors = (outside.fd,) if stage.open_door else ()
    process = Popen(argv, stage.sandbox, stdout=theirs.fileno(), pass_fds=doors)
    try:
        yield
    finally:
        process.close()
