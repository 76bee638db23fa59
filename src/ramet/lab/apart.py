"""A function in a fresh interpreter of its own: what it does to its process, the caller never feels.

The measurements change namespaces, handlers, limits and the working directory of the process they run in, and
clone from it, which wants a process without threads. So none of them runs in the caller.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from ramet import errors
from ramet.errors import Error, HelperError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import Popen
    from typing import Any

#: -S: no site-packages hooks; the path comes with the request. Its end of stdin is the sign that nobody waits any more.
_START = (
    "import sys, json; request = json.loads(sys.stdin.readline()); sys.path[:] = request['path'];"
    " from ramet.lab.apart import serve; serve(request)"
)


def apart(module: str, function: str, /, *, seconds: float = 120, **arguments: Any) -> Any:
    """``function(**arguments)`` of a module of ours, in a fresh interpreter. Arguments and result are JSON-able.

    What it raises of ramet's own errors is raised here too. Raises HelperError when it dies otherwise, or takes
    longer than so many seconds; then it and all it started (its process group) are killed.
    """
    import json
    import subprocess

    request = {"path": sys.path, "module": module, "function": function, "arguments": arguments}
    argv = [sys.executable, "-S", "-c", _START]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    finished = False
    try:
        out, complaint = process.communicate(json.dumps(request) + "\n", timeout=seconds)
        finished = True
    except subprocess.TimeoutExpired:
        what = f"{module}.{function} took more than {seconds:g} s"
        raise HelperError(what, argv=argv[:2], exit_code=-9, stderr="") from None
    finally:
        if not finished:
            _end(process)
    return _answer(out, complaint, process.returncode, f"{module}.{function}", argv[:2])


def _end(process: Popen[str]) -> None:
    """Kill it and all that it started, and remove what of theirs would stay."""
    from ramet.lab.cgroups import remove_left

    with suppress(ProcessLookupError):  # after Ctrl-C communicate gives it a moment, in which it may have ended
        os.killpg(process.pid, 9)
    process.communicate()
    remove_left(process.pid)


def _answer(out: str, complaint: str, status: int, what: str, argv: list[str]) -> Any:
    import json

    try:
        answer = json.loads(out)
    except ValueError:
        raise HelperError(f"{what} ended early", argv=argv, exit_code=status, stderr=complaint[-2000:]) from None
    if "result" in answer:
        return answer["result"]
    kind = getattr(errors, answer["error"])
    raise kind(*answer["args"], **answer["fields"])


def serve(request: dict[str, Any]) -> None:
    """The other side: run what was asked for, and answer on what stdout was. Ends the process.

    A child that the function has forked never comes here: it ends by os._exit.
    """
    import json
    from importlib import import_module

    settle_signals()
    reply = os.dup(1)
    os.dup2(2, 1)
    function = getattr(import_module(request["module"]), request["function"])
    try:
        answer = {"result": function(**request["arguments"])}
    except Error as error:
        answer = _portable(error)
    with open(reply, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os._exit(0)


def settle_signals() -> None:
    """Children can be waited for and no signal is blocked, whatever the caller has left to its children."""
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _portable(error: Error) -> dict[str, Any]:
    if isinstance(error, errors.UnsupportedError):
        fields = {"fact": error.fact, "needs": error.needs, "hint": error.hint}
    elif isinstance(error, SpecError):
        fields = {"field": error.field, "hint": error.hint}
    else:
        raise error
    return {"error": type(error).__name__, "args": [error.message], "fields": fields}
