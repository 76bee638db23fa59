"""Limits: what a sandbox's control group holds all of its processes to, as values. Pure."""

from __future__ import annotations

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.record import Record, nearest

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


class GroupLimits(Record):
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
                self._put(name, values.size(getattr(self, name), f"GroupLimits.{name}"))
        if self.swap != 0:
            self._put("swap", values.size(self.swap, "GroupLimits.swap"))
            if self.memory is None:
                raise self._bad("swap", "needs memory: it is what may be used beyond that")
        if self.processes is not None:
            values.integer(self.processes, "GroupLimits.processes", least=1, most=PROCESSES_MOST)
        for name in ("cpu_weight", "io_weight"):
            if getattr(self, name) is not None:
                values.integer(getattr(self, name), f"GroupLimits.{name}", least=1, most=10_000)
        values.flag(self.idle, "GroupLimits.idle")
        if self.idle and self.cpu_weight is not None:
            raise self._bad("idle", "can't be had with cpu_weight: an idle group has none")
        self._settle_cpus()
        for name in ("cpuset", "cpuset_mems"):
            if getattr(self, name) is not None:
                self._put(name, _cpu_list(getattr(self, name), f"GroupLimits.{name}"))
        devices = values.several(self.io, "GroupLimits.io", "IoLimit")
        for n, device in enumerate(devices):
            if not isinstance(device, IoLimit):
                raise SpecTypeError(f"must be an IoLimit, not {type(device).__name__}", field=f"GroupLimits.io[{n}]")
        self._put("io", devices)
        self._put("_asked", [name for name in self._fields if getattr(self, name) not in (None, False, 0, ())])

    def _settle_cpus(self) -> None:
        cpus = self.cpus
        if cpus is None:
            return
        if isinstance(cpus, bool) or not isinstance(cpus, (int, float)):
            raise SpecTypeError(f"must be a number, not {type(cpus).__name__}", field="GroupLimits.cpus")
        if not CPU_QUOTA_LEAST / CPU_PERIOD_MOST <= cpus <= 100_000:
            raise self._bad("cpus", f"must be 0.001 to 100000, not {cpus}", hint="use None for none")
        self._put("cpus", float(cpus))

    def asked(self) -> list[str]:
        """The names of the limits that are set."""
        found: list[str] = self.__dict__["_asked"]
        return found

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
            raise SpecError(f"{value!r} is no list of numbers", field=field, hint="as '0-2,4'")
    return found


#: Limits, and protections, that can be held in another way, or be gone without, if `allow_degraded` says so.
DEGRADABLE = (*(name for name in GroupLimits._fields if name != "swap"), "cpu_time", "landlock")


def degradable(value: object, field: str) -> frozenset[str]:
    """Names of limits."""
    names = frozenset(values.text(name, field) for name in values.several(value, field, "names of limits"))
    for name in sorted(names):
        if name not in DEGRADABLE:
            meant = nearest(name, DEGRADABLE)
            hint = f"did you mean {meant!r}?" if meant else f"these can be: {', '.join(DEGRADABLE)}"
            raise SpecError(f"{name!r} is nothing that can be held less well", field=field, hint=hint)
    return names
