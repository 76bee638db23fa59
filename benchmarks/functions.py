"""Functions in processes of their own: what a call costs, from a small and a large caller, and what a large value costs.

python functions.py call|fork MEBIBYTES     a caller that holds so much does it once for each line on stdin; prints nanoseconds
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from typing import TYPE_CHECKING

import ramet
import rivals
from measure import interleaved, timed
from ramet.call import call
from report import Figure, ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from measure import Candidate
    from report import Report

MEBIBYTE = 1 << 20
LARGE = 100_000_000


def in_fork() -> None:
    """One function by multiprocessing, as its documentation shows it."""
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()


def start(report: Report, callers: dict[str, int], rounds: int) -> None:
    """A function that does nothing. callers: by name, the MiB it holds.

    Each way has a caller of its own: after a fork every page that is written to faults once more, and that would be the cost of
    whoever comes next. So would be the page tables of a large fork, which the kernel still takes down: that one has no turns with others.
    """
    workers = {
        (what, label): rivals.Worker(rivals.python(), __file__, what, str(held))
        for label, held in callers.items()
        for what in ("call", "fork")
    }
    for worker in workers.values():
        worker()  # answers when its memory is filled
    small, large = callers
    groups = [("call", small), ("call", large)], [("call", small), ("fork", small)], [("fork", large)]
    sizes, ways, alone = (interleaved({f"{w}, {c}": workers[w, c] for w, c in group}, rounds) for group in groups)
    for worker in workers.values():
        worker.close()
    report.add(
        "A function that does nothing, in a process",
        Figure(f"ramet.call, {small}", ways[f"call, {small}"]),
        Figure(f"multiprocessing, fork, {small}", ways[f"fork, {small}"]),
        ratio("fork / call", ways[f"fork, {small}"], ways[f"call, {small}"], at_least=20),
        Figure(f"ramet.call, {large}", sizes[f"call, {large}"]),
        Figure(f"multiprocessing, fork, {large}", alone[f"fork, {large}"]),
        ratio("call, large / empty", sizes[f"call, {large}"], sizes[f"call, {small}"], at_most=1.2),
    )


def isolated(report: Report, rounds: int, pages: Callable[[str], float]) -> None:
    """The same in a sandbox of its own, and a large array out of one. pages: benchmarks/pages.c, which shows what the kernel allows."""
    try:
        import msgspec  # noqa: F401
        import numpy
    except ImportError as error:
        report.skip("isolated functions", str(error))
        return
    nothing = ramet.isolated(int)
    found = interleaved(
        {
            "ramet.isolated(int)": timed(nothing),
            'ramet.run(["/bin/true"])': timed(lambda: ramet.run(["/bin/true"])),
        },
        rounds,
    )
    report.add("A function in a sandbox", *(Figure(name, value) for name, value in found.items()))

    array = numpy.ones(LARGE // 8)
    give, warm = ramet.isolated(lambda: array), array.copy()
    ways = {
        "C: memcpy, large pages": "fresh",
        "C: memcpy, small pages": "small",
        "C: memcpy into used memory": "warm",
        "C: by a pipe": "pipe",
        "C: process_vm_readv": "readv",
        "C: into a memfd": "memfd",
    }

    def primed(job: Callable[[], object]) -> Candidate:
        """A virtual machine may have given free memory back to its host, which takes its time to return it: not here. And what went
        through the caches just before is the same for all."""

        def candidate() -> float:
            array.copy()
            return timed(job)()

        return candidate

    found = interleaved(
        {
            "nothing, of this caller": primed(nothing),
            "100 MB array": primed(give),
            "copy into used memory": timed(lambda: numpy.copyto(warm, array)),
            "copy of it": primed(array.copy),
            **{label: (lambda what=what: pages(what)) for label, what in ways.items()},
        },
        max(5, rounds // 10),
    )
    report.add("100 MB out of a sandbox", *(Figure(name, value) for name, value in found.items()))
    returning = found["100 MB array"] - found["nothing, of this caller"]
    report.add(
        "",
        ratio("returning it / copy", returning, found["copy of it"], at_most=1.3),
        ratio("with the sandbox around it / copy", found["100 MB array"], found["copy of it"]),
        ratio("by a pipe, in C / copy", found["C: by a pipe"], found["copy of it"]),
        ratio("into a memfd, in C / copy", found["C: into a memfd"], found["copy of it"]),
    )


def main() -> None:
    """Touch every page, then serve."""
    import mmap

    job, held = {"call": lambda: call(int), "fork": in_fork}[sys.argv[1]], int(sys.argv[2])
    memory = mmap.mmap(-1, max(1, held) * MEBIBYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(held):
        memory.write(b"x" * MEBIBYTE)
    for _ in sys.stdin:
        start = time.perf_counter_ns()
        job()
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
