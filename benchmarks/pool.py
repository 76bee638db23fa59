"""A pool: a call with a copy ready, a call that waits for its copy, as many as can be, memory; and the same line of code in others."""

from __future__ import annotations

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import limits
import ramet
import rivals
from measure import interleaved, timed
from ramet.host.facts import facts
from report import Figure, Report, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

LINE = "import numpy, pandas; print(pandas.DataFrame({'a': numpy.arange(1000)}).a.sum())"
MODULES = ["numpy", "pandas"]
#: In the zygote and in each spare: what pandas does when it is used for the first time, and what a line of it looks at.
REHEARSE = "import pandas; str(pandas.DataFrame({'a': [1]}).a.sum())"
SECONDS = 3.0


def measure(report: Report, directory: str, rounds: int) -> None:
    """Add the part to the report."""
    try:
        import msgspec  # noqa: F401
        import numpy  # noqa: F401
        import pandas  # noqa: F401
    except ImportError as error:
        report.skip("pools", str(error))
        return
    with (
        ramet.Pool(MODULES, size=1, spare=8, timeout=60, rehearse=REHEARSE) as warm,
        ramet.Pool(MODULES, size=1, spare=0, timeout=60) as bare,
    ):
        _calls(report, warm, bare, rounds)
        _lines(report, warm, directory, max(5, rounds // 20))
        report.add("", Figure("memory of a spare, of eight (PSS)", _pss_of_spare(warm), at_most=12 << 20, unit="bytes"))
    _throughput(report)


def _calls(report: Report, warm: ramet.Pool, bare: ramet.Pool, rounds: int) -> None:
    found = interleaved(
        {"with a copy ready": _when_ready(warm, lambda: warm.run(int)), "by clone": _when_quiet(lambda: bare.run(int))},
        rounds,
    )
    report.add(
        "A call that does nothing, numpy and pandas loaded",
        Figure("with a copy ready", found["with a copy ready"], at_most=1.5e-3),
        Figure("by clone", found["by clone"], at_most=6e-3),
    )


def _when_ready(pool: ramet.Pool, job: Callable[[], object]) -> Callable[[], float]:
    """The job alone, after a copy has been made ready, and what the copy before has left is cleared away."""

    def candidate() -> float:
        while not pool.counts["ready"]:
            time.sleep(0.001)
        time.sleep(0.01)
        return timed(job)()

    return candidate


def _when_quiet(job: Callable[[], object]) -> Callable[[], float]:
    """The job alone, when the other pool has replaced what was used up, and that has rehearsed."""

    def candidate() -> float:
        time.sleep(0.06)
        return timed(job)()

    return candidate


def _lines(report: Report, warm: ramet.Pool, directory: str, rounds: int) -> None:
    candidates = {"pool.exec": _when_ready(warm, lambda: _right(warm.exec(LINE)))}
    argv = [rivals.python(), "-c", LINE]
    bubblewrap = rivals.bubblewrap(directory)
    if bubblewrap is None:
        report.skip("bwrap python3 -c", "is not installed")
    else:
        candidates["bwrap python3 -c"] = timed(lambda: rivals.spawn([*bubblewrap[:-1], *argv]))
    if shutil.which("crun") is None or os.geteuid() != 0:
        report.skip("crun run python3 -c", "is not installed" if os.geteuid() == 0 else "needs root")
    else:
        run = [shutil.which("crun") or "crun", "run", "-b", _bundle(directory, argv), f"pool-{os.getpid()}"]
        candidates["crun run python3 -c"] = timed(lambda: rivals.spawn([*_absolute(limits._without_v2()), *run]))
    found = interleaved(candidates, rounds)
    report.add("A line of numpy and pandas", *(Figure(name, seconds) for name, seconds in found.items()))
    for name, at_least in (("bwrap python3 -c", 50), ("crun run python3 -c", 60)):
        if name in found:
            report.add("", ratio(f"{name} / pool.exec", found[name], found["pool.exec"], at_least=at_least))


def _right(result: ramet.ExecResult) -> None:
    assert result.stdout == "499500\n", (result.stdout, result.error)


def _absolute(argv: tuple[str, ...]) -> list[str]:
    return [shutil.which(argv[0]) or argv[0], *argv[1:]] if argv else []


def _bundle(directory: str, argv: list[str]) -> str:
    """The bundle of the other part, with the running Python in it, and memory for it."""
    place = Path(directory, "pool")
    place.mkdir()
    bundle = Path(limits.make_bundle(str(place)))
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = argv
    config["linux"]["resources"] = {}
    for path, real in facts().python:
        (bundle / f"rootfs{path}").mkdir(parents=True, exist_ok=True)
        config["mounts"].append({"destination": path, "source": real, "type": "bind", "options": ["rbind", "ro"]})
    (bundle / "config.json").write_text(json.dumps(config))
    return str(bundle)


def _throughput(report: Report) -> None:
    """As many calls as two threads for each processor get done."""
    processors = len(os.sched_getaffinity(0))
    with ramet.Pool(MODULES, size=2 * processors, spare=2 * processors, timeout=60) as pool:
        pool.run(int)
        end = time.perf_counter() + SECONDS

        def work(_: int) -> int:
            done = 0
            while time.perf_counter() < end:
                pool.run(int)
                done += 1
            return done

        begin = time.perf_counter()
        with ThreadPoolExecutor(2 * processors) as threads:
            done = sum(threads.map(work, range(2 * processors)))
        rate = done / (time.perf_counter() - begin)
    report.add("", Figure(f"calls a second, {processors} processors", rate, at_least=125 * processors, unit="number"))


def _pss_of_spare(pool: ramet.Pool) -> float:
    """Of the payload's process of a copy that waits, and of its init."""
    while not pool.counts["ready"]:
        time.sleep(0.001)
    init = pool._engine._keeper._ready[0].pid
    children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    return float(sum(_pss(pid) for pid in (str(init), *children)))


def _pss(pid: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
