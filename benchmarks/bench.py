"""What ramet must reach, measured: python benchmarks/bench.py [--quick] [--json]

Every figure is the median of interleaved runs, and every ratio is between two medians of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import functions
import limits
import pool
import ramet
import rivals
import tracing
from leaks import leaks
from measure import interleaved, timed
from ramet.call import call
from ramet.host.facts import facts
from ramet.plan.compile import compile
from ramet.plan.encode import Encodings
from ramet.spec import Command
from report import Figure, Report, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ARGV = ["/bin/true"]
GIBIBYTE = 1 << 30
BARE = "ramet.run, without filter and Landlock"


class Bench:
    """The settings of one run, and the report it fills."""

    def __init__(self, *, quick: bool, directory: str) -> None:
        self.directory = directory
        self.rounds = 20 if quick else 200
        self.held = (1 if quick else 4) * GIBIBYTE
        self.many = 100 if quick else 1000
        self.report = Report()

    def run(self) -> Report:
        """All parts, one after the other."""
        parts = (
            self.start,
            self.limits,
            self.large_caller,
            self.function,
            self.functions,
            self.pool,
            self.plan,
            self.walls,
            self.trace,
            self.python,
            self.leaks,
        )
        for part in parts:
            part()
        return self.report

    def start(self) -> None:
        """The default sandbox against others and against the floor."""
        bare = {"seccomp": "none", "landlock": False}
        flags = compile(ramet.Sandbox(), facts(), Command(("/bin/true",))).clone_flags & 0xFFFFFFFF
        floor = rivals.Worker(rivals.compile_c("floor.c", self.directory), hex(flags), ARGV[0])
        candidates = {
            BARE: timed(lambda: ramet.run(ARGV, check=True, **bare)),
            "ramet.run, default sandbox": timed(lambda: ramet.run(ARGV, check=True)),
            "C floor: clone, execve, wait": floor,
            "subprocess.run, no isolation": timed(lambda: subprocess.run(ARGV, check=True, capture_output=True)),
        }
        for name, argv in (
            ("bubblewrap, same isolation", rivals.bubblewrap(self.directory)),
            ("unshare, namespaces only", rivals.unshare()),
        ):
            if argv is None:
                self.report.skip(name, "is not installed")
            else:
                candidates[name] = timed(lambda argv=argv: rivals.spawn(argv))
        found = interleaved(candidates, self.rounds)
        floor.close()
        ours = found["ramet.run, default sandbox"]
        self.report.add("Starting /bin/true", *(Figure(name, seconds) for name, seconds in found.items()))
        if theirs := found.get("bubblewrap, same isolation"):
            self.report.add("", ratio("bubblewrap / ramet", theirs, ours, at_least=2.5))
        self.report.add("", ratio("ramet / C floor", ours, found["C floor: clone, execve, wait"], at_most=1.6))

    def limits(self) -> None:
        """A control group's cost, against others that make one."""
        limits.measure(self.report, self.directory, self.rounds)

    def large_caller(self) -> None:
        """The same from a caller that holds much memory."""
        name = f"caller holding {self.held // GIBIBYTE} GiB"
        free = available_memory()
        if free < self.held + GIBIBYTE // 2:
            self.report.skip(name, f"needs {self.held // GIBIBYTE} GiB and a half, {free / GIBIBYTE:.1f} are free")
            return
        callers = {
            label: rivals.Worker(rivals.python(), str(HERE / "caller.py"), str(size >> 20))
            for label, size in (("empty caller", 0), (name, self.held))
        }
        found = interleaved(callers, self.rounds)
        for worker in callers.values():
            worker.close()
        self.report.add("The size of the caller", *(Figure(label, seconds) for label, seconds in found.items()))
        self.report.add("", ratio("large / empty", found[name], found["empty caller"], at_most=1.1))

    def function(self) -> None:
        """A Python function in a CLONE_VM child, against the same made in C."""
        program = rivals.compile_c("floor_call.c", self.directory)
        ours, theirs = in_batches(program, lambda: call(int), self.rounds * 10)
        self.report.add(
            "A Python function in a CLONE_VM child",
            Figure("ramet.call(int)", ours),
            Figure("C floor: clone, exit, wait", theirs),
            ratio("ramet.call / C floor", ours, theirs, at_most=1.5),
        )

    def functions(self) -> None:
        """Functions in processes: against multiprocessing, from a large caller, and in sandboxes."""
        free = available_memory()
        name = f"{self.held // GIBIBYTE} GiB"
        if free < 2 * self.held + GIBIBYTE // 2:
            self.report.skip(f"functions of a caller of {name}", f"{free / GIBIBYTE:.1f} GiB are free")
        else:
            functions.start(self.report, {"empty": 0, name: self.held >> 20}, self.rounds // 2)
        pages = rivals.Worker(rivals.compile_c("pages.c", self.directory))
        functions.isolated(self.report, self.rounds, pages)
        pages.close()

    def pool(self) -> None:
        """Copies of a warm interpreter."""
        pool.measure(self.report, self.directory, self.rounds)

    def plan(self) -> None:
        """From spec to plan to bytes. The cached figures are of a spec and command used again."""
        command, known = Command(("/bin/true",)), facts()
        spec = ramet.Sandbox()
        plan = compile(spec, known, command)
        found = interleaved(
            {
                "compile, first time": timed(lambda: compile.__wrapped__(spec, known, command)),
                "compile, again": timed(lambda: compile(spec, known, command)),
                "encode": timed(lambda: Encodings(plan, {})),
            },
            self.rounds,
        )
        first = Figure("compile, first time", found.pop("compile, first time"), at_most=0.3e-3)
        self.report.add(
            f"The default plan ({len(plan)} steps)", first, *(Figure(name, value) for name, value in found.items())
        )

    def walls(self) -> None:
        """What the filter and Landlock cost: a start, and each call of a payload that does nothing else."""
        bare, least = {"seccomp": "none", "landlock": False}, ramet.Seccomp(action="allow").deny("vhangup")
        start = interleaved(
            {
                "without": timed(lambda: ramet.run(ARGV, **bare)),
                "with": timed(lambda: ramet.run(ARGV)),
            },
            self.rounds,
        )
        self.report.add(
            "Filter and Landlock", Figure("a start, more", start["with"] - start["without"], at_most=0.3e-3)
        )
        program = ramet.Bind(rivals.compile_c("calls.c", self.directory), "/calls")
        kinds = {
            "no filter": bare,
            "the least filter": {"seccomp": least, "landlock": False},
            "the profile": {"landlock": False},
            "the profile and Landlock": {},
        }
        best: dict[str, list[float]] = {name: [1e9] * 3 for name in kinds}
        for _ in range(3):
            for name, fields in kinds.items():
                said = ramet.run(["/calls", str(self.rounds // 4)], mounts=[program], check=True, text=True, **fields)
                best[name] = [min(*pair) for pair in zip(best[name], map(float, said.stdout.split()), strict=True)]
        for number, name_of_call in enumerate(("1000 getpid", "1000 read", "1000 open, close")):
            self.report.add(
                "",
                *(Figure(f"{name_of_call}: {name}", found[number] / 1e6) for name, found in best.items()),
                ratio(
                    f"{name_of_call}: profile, least filter",
                    best["the profile"][number],
                    best["the least filter"][number],
                    at_most=1.03,
                ),
            )

    def trace(self) -> None:
        """Following a command that makes tasks, against strace."""
        tracing.measure(self.report, self.directory, self.rounds // 10 + 1, self.many)

    def python(self) -> None:
        """Import, and the command line, over an interpreter that does nothing."""
        bare = [rivals.python(), "-c", "pass"]
        jobs = {"python -c pass": bare, "python -c 'import ramet'": [rivals.python(), "-c", "import ramet"]}
        tool = Path(rivals.python()).with_name("ramet")
        if tool.exists() and subprocess.run([tool, "run", *ARGV], capture_output=True).returncode == 0:
            jobs["ramet run /bin/true"] = [str(tool), "run", *ARGV]
        else:
            self.report.skip("ramet run /bin/true", "is not there yet")
        found = interleaved(
            {name: timed(lambda argv=argv: rivals.spawn(argv)) for name, argv in jobs.items()}, self.rounds
        )
        self.report.add("From the shell", *(Figure(name, seconds) for name, seconds in found.items()))
        nothing = found["python -c pass"]
        cost = found["python -c 'import ramet'"] - nothing
        self.report.add("", Figure("import ramet, over bare python", cost, at_most=30e-3))
        if tool_time := found.get("ramet run /bin/true"):
            self.report.add("", ratio("ramet run / python -c pass", tool_time, nothing, at_most=6))

    def leaks(self) -> None:
        """What many runs leave behind."""
        self.report.add(f"After {self.many} runs", *leaks(lambda: ramet.run(ARGV), self.many))


def in_batches(program: str, job: Callable[[], object], rounds: int, batch: int = 100) -> tuple[float, float]:
    """Medians of a job that takes microseconds and of its floor, in turns of a batch, both on one processor.

    Where the scheduler places the child is worth more than all the rest.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    ours: list[float] = []
    theirs: list[float] = []
    try:
        for _ in range(0, rounds, batch):
            said = subprocess.run([program, str(batch)], check=True, capture_output=True, text=True)
            theirs += [int(line) / 1e9 for line in said.stdout.split()]
            ours += [timed(job)() for _ in range(batch)]
    finally:
        os.sched_setaffinity(0, processors)
    return sorted(ours)[len(ours) // 2], sorted(theirs)[len(theirs) // 2]


def available_memory() -> int:
    """Bytes that could be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> int:
    """Measure, print, and say by the exit status whether every target was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="20 rounds instead of 200, 1 GiB instead of 4: a smoke test"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured has its byte code cached, as installed
    subprocess.run([sys.executable, "-m", "compileall", "-q", Path(ramet.__file__).parent], check=True)
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        report = Bench(quick=options.quick, directory=directory).run()
    print(json.dumps(report.to_mapping(), indent=2) if options.json else report)
    return 0 if options.quick or report.met else 1


if __name__ == "__main__":
    sys.exit(main())
