"""Limits: what a group shall hold its processes to, and which file of which version says so. Pure."""

from __future__ import annotations

from ramet.spec.group_limits import CPU_PERIOD
from ramet.spec.group_limits import GroupLimits as Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NamedTuple, TypeAlias

    Maker: TypeAlias = "Callable[[Limits, frozenset[str], dict[str, str]], list[tuple[str, str]]]"

    class Write(NamedTuple):
        """See below."""

        limit: str
        controller: str
        file: str
        value: str
else:
    from collections import namedtuple

    class Write(namedtuple("Write", "limit controller file value")):
        """One file of a group to write: for which limit, of which controller."""

        __slots__ = ()


#: Which controller holds each limit.
CONTROLLER = {
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "processes": "pids",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "idle": "cpu",
    "cpuset": "cpuset",
    "cpuset_mems": "cpuset",
    "io_weight": "io",
    "io": "io",
}
#: Not limits but what a group can do besides; each an entry of `Place.facts`.
ABILITIES = ("cpu_time", "kill", "pressure")

#: One file that has to be there, and be writable, for each limit; (version 1, version 2). None: there is no such limit.
FILES: dict[str, tuple[str | None, str | None]] = {
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "memory_high": (None, "memory.high"),
    "swap": ("memory.memsw.limit_in_bytes", "memory.swap.max"),
    "processes": ("pids.max", "pids.max"),
    "cpus": ("cpu.cfs_quota_us", "cpu.max"),
    "cpu_weight": ("cpu.shares", "cpu.weight"),
    "idle": ("cpu.idle", "cpu.idle"),
    "cpuset": ("cpuset.cpus", "cpuset.cpus"),
    "cpuset_mems": ("cpuset.mems", "cpuset.mems"),
    "io_weight": ("blkio.bfq.weight", "io.weight"),
    "io": ("blkio.throttle.read_bps_device", "io.max"),
}


def writes(limits: Limits, version_of: dict[str, int], has: frozenset[str], devices: dict[str, str]) -> list[Write]:
    """What to write, in order. version_of: of each controller; has: the limits whose files are there (swap, idle);
    devices: "254:0" for each device that the limits name."""
    found: list[Write] = []
    for name in limits.asked():
        if name == "swap":
            continue  # written with memory, always
        maker = _V2[name] if version_of[CONTROLLER[name]] == 2 else _V1[name]
        found += [Write(name, CONTROLLER[name], file, value) for file, value in maker(limits, has, devices)]
    return found


def _memory_v2(limits: Limits, has: frozenset[str], _: dict[str, str]) -> list[tuple[str, str]]:
    # oom.group: a payload of which a random part has been killed is worse than none.
    swap = [("memory.swap.max", str(limits.swap))] if "swap" in has else []
    return [("memory.max", str(limits.memory)), *swap, ("memory.oom.group", "1")]


def _memory_v1(limits: Limits, has: frozenset[str], _: dict[str, str]) -> list[tuple[str, str]]:
    memory, swap = int(limits.memory or 0), int(limits.swap)
    first = ("memory.limit_in_bytes", str(memory))  # first: memsw may not be below it
    if "swap" in has:
        return [first, ("memory.memsw.limit_in_bytes", str(memory + swap))]
    return [first] if swap else [first, ("memory.swappiness", "0")]  # 0: reclaim for this limit never swaps


def _cpus_v1(limits: Limits, *_: object) -> list[tuple[str, str]]:
    quota, period = limits.cpu_quota()
    longer = [("cpu.cfs_period_us", str(period))] if period != CPU_PERIOD else []
    return [*longer, ("cpu.cfs_quota_us", str(quota))]


def _shares(weight: int) -> int:
    """1024 where a weight is 100; the kernel takes 2 to 262144."""
    return min(262_144, max(2, weight * 1024 // 100))


def _io_v2(limits: Limits, _: object, devices: dict[str, str]) -> list[tuple[str, str]]:
    lines = []
    for one in limits.io:
        lines.append(("io.max", " ".join([devices[one.device], *(f"{key}={value}" for key, value in one.given())])))
    return lines


_IO_V1 = {"rbps": "read_bps", "wbps": "write_bps", "riops": "read_iops", "wiops": "write_iops"}


def _io_v1(limits: Limits, _: object, devices: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (f"blkio.throttle.{_IO_V1[key]}_device", f"{devices[one.device]} {value}")
        for one in limits.io
        for key, value in one.given()
    ]


_BOTH: dict[str, Maker] = {
    "processes": lambda limits, *_: [("pids.max", str(limits.processes))],
    "idle": lambda *_: [("cpu.idle", "1")],
    "cpuset": lambda limits, *_: [("cpuset.cpus", str(limits.cpuset))],
    "cpuset_mems": lambda limits, *_: [("cpuset.mems", str(limits.cpuset_mems))],
}
_V2: dict[str, Maker] = _BOTH | {
    "memory": _memory_v2,
    "memory_high": lambda limits, *_: [("memory.high", str(limits.memory_high))],
    "cpus": lambda limits, *_: [("cpu.max", "{} {}".format(*limits.cpu_quota()))],
    "cpu_weight": lambda limits, *_: [("cpu.weight", str(limits.cpu_weight))],
    "io_weight": lambda limits, *_: [("io.weight", str(limits.io_weight))],
    "io": _io_v2,
}
_V1: dict[str, Maker] = _BOTH | {
    "memory": _memory_v1,
    "cpus": _cpus_v1,
    "cpu_weight": lambda limits, *_: [("cpu.shares", str(_shares(limits.cpu_weight or 100)))],
    "io_weight": lambda limits, *_: [("blkio.bfq.weight", str(limits.io_weight))],
    "io": _io_v1,
}
