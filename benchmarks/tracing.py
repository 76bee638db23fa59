"""What following a command costs, against strace: python benchmarks/tracing.py [--rounds N] [--json]

A command makes 1,000 tasks: by fork, whose children only exit; by vfork and execve of /bin/true; as threads, which
live for microseconds. Nothing else happens, so these are the worst cases: a command that works between its clones
is slowed by less. Each runs alone, under `ramet trace`, `strace -f` with the same calls, and `strace -f --seccomp-bpf`,
in turns; the whole command is measured, the tracer's start and its output to a file included. `make bench` has it as a part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ramet
import rivals
from measure import interleaved, timed
from report import Figure, Report, ratio

CALLS = "clone,clone3,fork,vfork,unshare,setns,execve"
COUNT = 1000
KINDS = {"fork": "fork, exit", "spawn": "vfork, execve, exit", "thread": "threads"}
AT_MOST = 5


def candidates(program: str, kind: str, count: int, directory: str) -> dict[str, list[str]]:
    """The command alone, and under each tracer."""
    command = [program, kind, str(count)]
    tool = Path(rivals.python()).with_name("ramet")
    ours = [str(tool)] if tool.exists() else [rivals.python(), "-m", "ramet"]
    found = {"alone": command, "ramet trace": [*ours, "trace", "-o", f"{directory}/ramet", "--", *command]}
    strace = shutil.which("strace")
    if strace:
        found["strace -f"] = [strace, "-f", "-o", f"{directory}/strace", "-e", f"trace={CALLS}", *command]
        found["strace -f --seccomp-bpf"] = [strace, "--seccomp-bpf", *found["strace -f"][1:]]
    return found


def measure(report: Report, directory: str, rounds: int, count: int = COUNT) -> None:
    """Add all kinds to the report, one after the other."""
    program = rivals.compile_c("many.c", directory)
    for kind, words in KINDS.items():
        argvs = candidates(program, kind, count, directory)
        found = interleaved({name: timed(lambda argv=argv: rivals.spawn(argv)) for name, argv in argvs.items()}, rounds)
        alone, ours = found["alone"], found["ramet trace"]
        report.add(f"{count} x {words}", *(Figure(name, seconds) for name, seconds in found.items()))
        report.add("", ratio("ramet trace / alone", ours, alone, at_most=AT_MOST))
        if theirs := found.get("strace -f"):
            report.add("", ratio("strace -f / ramet trace", theirs, ours, at_least=1))
            report.add("", ratio("strace --seccomp-bpf / ramet trace", found["strace -f --seccomp-bpf"], ours))
        else:
            report.skip(f"strace, {words}", "is not installed")


def main() -> int:
    """Measure, print, and say by the exit status whether every target was met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21, help="turns of each candidate (default 21)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured has its byte code cached, as installed
    subprocess.run([sys.executable, "-m", "compileall", "-q", Path(ramet.__file__).parent], check=True)
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        report = Report()
        measure(report, directory, options.rounds)
    print(json.dumps(report.to_mapping(), indent=2) if options.json else report)
    return 0 if report.met else 1


if __name__ == "__main__":
    sys.exit(main())
