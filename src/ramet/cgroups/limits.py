"""Limits: what a group shall hold its processes to, and which file of which version says so. Pure."""

from __future__ import annotations

from ramet.errors import SpecTypeError
from ramet.spec import values
from ramet.spec.record import Record

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
CPU_PERIOD = 100_000  # us, the kernel's default
CPU_QUOTA_LEAST, CPU_PERIOD_MOST = 1_000, 1_000_000  # us, kernel/sched/core.c
PROCESSES_MOST = 2**22  # PID_MAX_LIMIT


class IoLimit(Record):
    """How much may pass to and from one device. See io.max in the kernel's cgroup-v2.rst.

    device: a block device, or any path of a file system on one. read_bytes, write_bytes, read_ops, write_ops: a second;
    None does not limit. Version 1 counts only what reaches the device at once: reads, and writes by O_DIRECT or fsync.
    """

    device: str
    read_bytes: int | None = None
    write_bytes: int | None = None
    read_ops: int | None = None
    write_ops: int | None = None

    def _settle(self) -> None:
        self._put("device", values.host_path(self.device, "IoLimit.device"))
        for name in ("read_bytes", "write_bytes", "read_ops", "write_ops"):
            if getattr(self, name) is not None:
                self._put(name, values.size(getattr(self, name), f"IoLimit.{name}"))
        if not self.given():
            raise self._bad("device", "has no limit: give read_bytes, write_bytes, read_ops or write_ops")

    def given(self) -> list[tuple[str, int]]:
        """The limits that are set, by the names of io.max."""
        names = {"read_bytes": "rbps", "write_bytes": "wbps", "read_ops": "riops", "write_ops": "wiops"}
        return [(short, getattr(self, name)) for name, short in names.items() if getattr(self, name) is not None]


class Limits(Record):
    """What a group holds all of its processes to, together. None, the default, does not limit.

    memory: bytes, or "512M"; anonymous memory, page cache, tmpfs and the kernel's own for them. The group is killed when
    it needs more and nothing can be reclaimed. memory_high: bytes above which it is slowed down and reclaimed from
    (version 2). swap: bytes beyond memory (default 0: none); only with memory.
    processes: tasks, that is threads too. cpus: so many CPUs' worth of time, as 0.5 or 4. cpu_weight: 1 to 10000, against
    its siblings (100 is the default of all). idle: runs only when nobody else wants to (SCHED_IDLE, since Linux 5.15).
    cpuset, cpuset_mems: which CPUs and memory nodes, as "0-2,4". io_weight: 1 to 10000. io: `IoLimit`s.
    """

    memory: int | str | None = None
    memory_high: int | str | None = None
    swap: int | str = 0
    processes: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    idle: bool = False
    cpuset: str | None = None
    cpuset_mems: str | None = None
    io_weight: int | None = None
    io: tuple[IoLimit, ...] = ()

    def _settle(self) -> None:
        for name in ("memory", "memory_high"):
            if getattr(self, name) is not None:
                self._put(name, values.size(getattr(self, name), f"Limits.{name}"))
        if self.swap != 0:
            self._put("swap", values.size(self.swap, "Limits.swap"))
            if self.memory is None:
                raise self._bad("swap", "needs memory: it is what may be used beyond that")
        if self.processes is not None:
            values.integer(self.processes, "Limits.processes", least=1, most=PROCESSES_MOST)
        for name in ("cpu_weight", "io_weight"):
            if getattr(self, name) is not None:
                values.integer(getattr(self, name), f"Limits.{name}", least=1, most=10_000)
        values.flag(self.idle, "Limits.idle")
        if self.idle and self.cpu_weight is not None:
            raise self._bad("idle", "can't be had with cpu_weight: an idle group has none")
        self._settle_cpus()
        for name in ("cpuset", "cpuset_mems"):
            if getattr(self, name) is not None:
                self._put(name, _cpu_list(getattr(self, name), f"Limits.{name}"))
        devices = values.several(self.io, "Limits.io", "IoLimit")
        for n, device in enumerate(devices):
            if not isinstance(device, IoLimit):
                raise SpecTypeError(f"must be an IoLimit, not {type(device).__name__}", field=f"Limits.io[{n}]")
        self._put("io", devices)

    def _settle_cpus(self) -> None:
        cpus = self.cpus
        if cpus is None:
            return
        if isinstance(cpus, bool) or not isinstance(cpus, (int, float)):
            raise SpecTypeError(f"must be a number, not {type(cpus).__name__}", field="Limits.cpus")
        if not CPU_QUOTA_LEAST / CPU_PERIOD_MOST <= cpus <= 100_000:
            raise self._bad("cpus", f"must be 0.001 to 100000, not {cpus}", hint="use None for none")
        self._put("cpus", float(cpus))

    def asked(self) -> list[str]:
        """The names of the limits that are set."""
        return [name for name in CONTROLLER if getattr(self, name) not in (None, False, 0, ())]

    def cpu_quota(self) -> tuple[int, int]:
        """(quota, period) in us; a longer period where the quota would be less than the kernel takes."""
        cpus = self.cpus or 0.0
        period = CPU_PERIOD if cpus * CPU_PERIOD >= CPU_QUOTA_LEAST else CPU_PERIOD_MOST
        return max(round(cpus * period), CPU_QUOTA_LEAST), period


def _cpu_list(value: object, field: str) -> str:
    """A list as cpuset(7) has it: "0-2,4". Also one number, or several."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif not isinstance(value, str):
        value = ",".join(str(values.integer(one, field)) for one in values.several(value, field, "numbers"))
    found = value.replace(" ", "")
    for part in found.split(","):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first]
        if not all(one.isascii() and one.isdigit() for one in numbers) or (dash and int(first) > int(last)):
            from ramet.errors import SpecError

            raise SpecError(f"{value!r} is no list of numbers", field=field, hint="as '0-2,4'")
    return found


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
