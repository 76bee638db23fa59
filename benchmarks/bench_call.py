"""ramet.call(int) against its floor in C, in turns: python benchmarks/bench_call.py [ROUNDS]

Both run on one CPU. Where the scheduler places the child is worth more than all the rest: unpinned, a floor
started from here took 48 us where the same program started by hand took 27, and lost to what it bounds.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from ramet.call import call

BATCH = 100


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    source = pathlib.Path(__file__).with_name("floor_call.c")
    with tempfile.TemporaryDirectory() as where:
        floor = f"{where}/floor_call"
        subprocess.run(["cc", "-O2", "-o", floor, source], check=True)
        ours: list[int] = []
        theirs: list[int] = []
        clock = time.perf_counter_ns
        for _ in range(0, rounds, BATCH):
            said = subprocess.run([floor, str(BATCH)], check=True, capture_output=True, text=True)
            theirs += map(int, said.stdout.split())
            for _ in range(BATCH):
                start = clock()
                call(int)
                ours.append(clock() - start)
    ours_us, theirs_us = statistics.median(ours) / 1000, statistics.median(theirs) / 1000
    if ours_us < theirs_us:
        sys.exit(
            f"the floor ({theirs_us:.1f} us) is above what it bounds ({ours_us:.1f} us): measured wrongly"
        )
    print(
        f"ramet.call(int) {ours_us:.1f} us, floor {theirs_us:.1f} us, "
        f"{ours_us / theirs_us:.2f}x, n={len(ours)}"
    )


if __name__ == "__main__":
    main()
