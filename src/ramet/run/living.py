"""What a running sandbox without a control group has used, as far as /proc(5) tells: of the processes that are there now."""

from __future__ import annotations

import os

from ramet.run.result import Usage


def living(pid: int, wall: float, *, init: bool = False) -> Usage:
    """Of this process and all below it. init: it is ramet's own, and not one of the processes that are counted. CPU time of processes that have ended is counted where their parent has waited for them."""
    ticks = os.sysconf("SC_CLK_TCK")
    user = system = 0.0
    largest = count = 0
    for found in _family(pid):
        words = _stat(found)
        if words is None:
            continue
        count += 0 if init and found == pid else int(words[17])
        user += (int(words[11]) + int(words[13])) / ticks
        system += (int(words[12]) + int(words[14])) / ticks
        largest = max(largest, _peak(found))
    return Usage(
        wall=wall,
        cpu_user=user,
        cpu_system=system,
        memory_peak=largest or None,
        memory_peak_of="process" if largest else None,
        processes_peak=count or None,
    )


def _family(pid: int) -> list[int]:
    """The process and everybody below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children", encoding="ascii") as file:
                    todo += map(int, file.read().split())
        except OSError:
            continue  # it has just ended
    return found


def _stat(pid: int) -> list[str] | None:
    """The words of /proc/PID/stat behind the name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def _peak(pid: int) -> int:
    """VmHWM, in bytes."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
