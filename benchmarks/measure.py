"""Timing: candidates take turns, so that what disturbs one disturbs all; medians, so that one disturbance is none."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Candidate = Callable[[], float]


def timed(job: Callable[[], object]) -> Candidate:
    """A candidate that times a job with our own clock."""

    def candidate() -> float:
        start = time.perf_counter_ns()
        job()
        return (time.perf_counter_ns() - start) / 1e9

    return candidate


def interleaved(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, float]:
    """The median seconds of each, over so many turns; three turns before are not counted."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-3, rounds):
        for name, candidate in candidates.items():
            taken = candidate()
            if turn >= 0:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}
