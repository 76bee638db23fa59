"""The caller's side of a plan's sync: what it does while the child waits."""

from __future__ import annotations

import os

from ramet.errors import HelperError, StepError
from ramet.run.control import send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramet.plan.steps import CallerStep

HELPER_SECONDS = 10


def serve(steps: Sequence[CallerStep], control: int, pid: int) -> None:
    """Do the caller's steps for this child, then let it go on.

    A child that has failed meanwhile is noticed by whoever waits for it; here it only means nobody to write for.
    """
    for step in steps:
        if step.action == "write":
            _write(step, pid)
        else:
            _run_helper(step, pid)
    send(control, b"G")


def _write(step: CallerStep, pid: int) -> None:
    name, content = step.args
    path = f"/proc/{pid}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, content.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise StepError(
            step.doing,
            errno=error.errno or 0,
            call=f"write({path!r}, {content!r})",
            origin=step.origin,
            stage="caller",
        ) from None


def _run_helper(step: CallerStep, pid: int) -> None:
    import subprocess

    argv: Sequence[str] = [word.replace("{pid}", str(pid)) for word in step.args]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # a message in whatever language and encoding is a message
            timeout=HELPER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HelperError(
            f"cannot {step.doing}", argv=list(argv), exit_code=-1, stderr=f"no answer in {HELPER_SECONDS} s"
        ) from None
    except OSError as error:
        raise HelperError(f"cannot {step.doing}", argv=list(argv), exit_code=-1, stderr=str(error)) from None
    if done.returncode:
        raise HelperError(
            f"cannot {step.doing}",
            argv=list(argv),
            exit_code=done.returncode,
            stderr=done.stderr,
            hint="the range must be the caller's in /etc/subuid and /etc/subgid, and the helper set-uid root",
        )
