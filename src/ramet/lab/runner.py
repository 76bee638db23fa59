"""Run experiments, each in a process of its own: the caller's own directory, umask, signals and threads stay out of it."""

from __future__ import annotations

import os
import sys

from ramet.errors import Error, TimeoutExpired
from ramet.lab.experiments import NAMES, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ramet.lab.evidence import Evidence

SECONDS = 30.0
"""How long one experiment may take. Each takes some hundredths of that."""


class ExperimentFailed(Error):
    """The process of an experiment ended without evidence: a bug of the lab, or of the kernel."""


def run(name: str | int, *, flags: int | None = None, timeout: float = SECONDS) -> Evidence:
    """Run one experiment and its control, and return what was seen and what follows.

    name: its name or number. flags: run it with these in place of its own: without the flag it is about, its
    conclusion must fail. It may be called from any thread; nothing of the calling process or the host is changed.
    Raises SpecError for an experiment that there isn't, TimeoutExpired, and `ExperimentFailed`.
    """
    import json

    from ramet.lab.evidence import from_json

    known = find(name)
    request = json.dumps({"name": known, "flags": None if flags is None else int(flags)})
    return from_json(json.loads(_in_a_process(known, request, timeout)))


def run_all(
    names: Iterable[str | int] = NAMES, *, progress: Callable[[int, int, str], None] | None = None
) -> list[Evidence]:
    """Run them all, one after the other. progress is called with how many are done, of how many, and the next's name."""
    wanted = [find(name) for name in names]
    found = []
    for done, name in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), name)
        found.append(run(name))
    if progress is not None:
        progress(len(wanted), len(wanted), "")
    return found


def _in_a_process(name: str, request: str, timeout: float) -> bytes:
    """The stdout of the worker. It leads a session, so that all it has started ends with it."""
    import signal
    import subprocess

    import ramet

    where = os.path.dirname(os.path.dirname(os.path.abspath(ramet.__file__)))
    script = f"import sys; sys.path.insert(0, {where!r}); from ramet.lab.worker import main; sys.exit(main())"
    worker = subprocess.Popen(
        [sys.executable, "-c", script, request],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with worker:
        try:
            told, complaint = worker.communicate(timeout=timeout)
        except BaseException as error:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeoutExpired(f"experiment {name} still runs", seconds=timeout) from None
            raise
    if worker.returncode or not told:
        text = complaint.decode("utf-8", "backslashreplace").strip()
        raise ExperimentFailed(
            f"experiment {name} gave no evidence: its process ended with {worker.returncode}\n{text}"
        )
    return told
