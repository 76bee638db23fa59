"""What a process and its host look like before and after many runs."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

from report import Figure

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = os.sysconf("SC_PAGE_SIZE")


def leaks(job: Callable[[], object], times: int) -> list[Figure]:
    """Differences after so many times: memory may move by a MiB (the allocator's arenas), the rest not at all."""
    for _ in range(20):
        job()
    before = _counts()
    for _ in range(times):
        job()
    gc.collect()
    after = _counts()
    return [
        Figure(f"{name}, change", after[name] - before[name], at_most=allowed, unit=unit)
        for name, allowed, unit in (
            ("memory", 1 << 20, "bytes"),
            ("descriptors", 0, "count"),
            ("mounts", 0, "count"),
            ("children", 0, "count"),
        )
    ]


def _counts() -> dict[str, int]:
    return {
        "memory": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "children": sum(len((task / "children").read_text().split()) for task in Path("/proc/self/task").iterdir()),
    }
