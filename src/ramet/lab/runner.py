"""Run experiments, each in a process of its own: the caller's own directory, umask, signals and threads stay out of it."""

from __future__ import annotations

import os
import sys

from ramet.errors import Error, TimeoutExpired
from ramet.lab.experiments import NAMES, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from subprocess import Popen

    from ramet.lab.evidence import Evidence

SECONDS = 30.0
"""How long one experiment may take. Each takes some hundredths of that."""


class ExperimentFailed(Error):
    """The process of an experiment ended without evidence: a bug of the lab, or of the kernel."""


def run(name: str | int, *, flags: int | None = None, timeout: float = SECONDS) -> Evidence:
    """Run one experiment and its control, and return what was seen and what follows.

    name: its name or number. flags: run it with these in place of its own: without the flag it is about, its
    conclusion must fail. timeout: in seconds. It may be called from any thread; nothing of the calling process
    or the host is changed. Raises SpecError for an experiment that there isn't, TimeoutExpired, and `ExperimentFailed`.
    """
    known = find(name)
    (evidence,) = _evidence([known], None if flags is None else int(flags), timeout)
    return evidence


def run_all(
    names: Iterable[str | int] = NAMES, *, progress: Callable[[int, int, str], None] | None = None
) -> list[Evidence]:
    """Run them all, one after the other. progress is called with how many are done, of how many, and the next's name."""
    wanted = [find(name) for name in names]
    tell = progress or (lambda done, of, name: None)
    found: list[Evidence] = []
    if wanted:
        tell(0, len(wanted), wanted[0])
        for evidence in _evidence(wanted, None, SECONDS):
            found.append(evidence)
            tell(len(found), len(wanted), wanted[len(found)] if len(found) < len(wanted) else "")
    return found


def _evidence(names: list[str], flags: int | None, timeout: float) -> Iterator[Evidence]:
    """The evidence of each, as soon as it is there. All that the worker has started ends with it."""
    import json

    from ramet.lab.evidence import from_json

    complaints = os.memfd_create("complaints", os.MFD_CLOEXEC)
    worker = _start(json.dumps([{"name": name, "flags": flags} for name in names]), complaints)
    lines = _lines(worker, timeout)
    try:
        for name in names:
            line = next(lines, None)
            if line is None:
                raise TimeoutExpired(f"experiment {name} still runs", seconds=timeout)
            if not line:
                status = worker.wait()
                said = os.pread(complaints, 65536, 0).decode("utf-8", "backslashreplace").strip()
                raise ExperimentFailed(f"experiment {name} gave no evidence: its process ended with {status}\n{said}")
            yield from_json(json.loads(line))
        worker.wait()
    finally:
        worker.terminate()  # it ends what it has started, and removes their files
        with worker:
            os.close(complaints)


def _start(requests: str, complaints: int) -> Popen[bytes]:
    import subprocess

    import ramet

    where = os.path.dirname(os.path.dirname(os.path.abspath(ramet.__file__)))
    script = f"import sys; sys.path.insert(0, {where!r}); from ramet.lab.worker import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", script, requests, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        start_new_session=True,
    )


def _lines(worker: Popen[bytes], timeout: float) -> Iterator[bytes]:
    """The worker's lines; b"" at its end; nothing more where one takes longer than this many seconds."""
    import select
    from time import monotonic

    assert worker.stdout is not None
    pipe = worker.stdout.fileno()
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    rest = b""
    while True:
        end = monotonic() + timeout
        while b"\n" not in rest:
            if not poller.poll(max(0, end - monotonic()) * 1000):
                return
            part = os.read(pipe, 1 << 16)
            if not part:
                yield b""
            rest += part
        line, _, rest = rest.partition(b"\n")
        yield line
