"""Reading a group: the kernel's evidence of limits that were hit, and what was used. Values out of files.

Both versions' files, by kernel: memory.peak is there since Linux 5.19, pids.peak since 6.1; before, those are None.
"""

from __future__ import annotations

import os
from collections import namedtuple

from ramet.cgroups import files
from ramet.descriptors import aside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from ramet.cgroups.group import Group
    from ramet.cgroups.limits import Write
    from ramet.cgroups.spots import Spot

    class Events(NamedTuple):
        """See below."""

        oom_kills: int | None
        out_of_memory: int | None
        memory_at_limit: int | None
        forks_refused: int | None
        throttled: int | None

    class Usage(NamedTuple):
        """See below."""

        cpu: float | None
        user: float | None
        system: float | None
        memory: int | None
        memory_peak: int | None
        processes: int | None
        processes_peak: int | None
        read_bytes: int | None
        written_bytes: int | None
        pressure: dict[str, dict[str, float]]
else:

    class Events(namedtuple("Events", "oom_kills out_of_memory memory_at_limit forks_refused throttled")):
        """Numbers since the group was made; None where there is no such file, as without that limit's controller.

        oom_kills: processes killed for lack of memory (the group's, one above's, or the host's). out_of_memory: how often
        its own limit could not be held by reclaiming, and the cause is within; on version 1 that is what oom_kills are when
        memory_at_limit is not 0. memory_at_limit: how often the limit was reached. forks_refused: how often fork or clone failed by
        the limit of processes. throttled: periods in which it had to wait for CPU time (cpus).
        """

        __slots__ = ()

    class Usage(
        namedtuple(
            "Usage", "cpu user system memory memory_peak processes processes_peak read_bytes written_bytes pressure"
        )
    ):
        """Seconds, bytes, numbers; None where this kernel or host doesn't count it.

        cpu, user, system: seconds of CPU time of all that ever was in it. memory, processes: now. memory_peak, processes_peak:
        the most at once. read_bytes, written_bytes: from and to devices, not the page cache. pressure: for "cpu", "memory" and "io" the
        seconds in which "some" or "full" (all) of its tasks had to wait for it; see psi(7).
        """

        __slots__ = ()


def _tree(spot: Spot, name: str) -> list[str]:
    """The group, and the groups that were made in it."""
    return [name, *files.subgroups(spot.fd, name)]


def events(group: Group) -> Events:
    """See `Group.events`."""
    kills = own = at_limit = forks = throttled = None
    spot = group.spot_of("memory")
    if spot is not None and spot.version == 2:
        found = files.flat(files.get_if_there(spot.fd, f"{group.name}/memory.events") or "")
        kills, own, at_limit = found.get("oom_kill"), found.get("oom"), found.get("max")
    elif spot is not None:
        kills = files.flat(files.get(spot.fd, f"{group.name}/memory.oom_control")).get("oom_kill")
        at_limit = _at_limit_v1(spot, group.name)
        own = kills if at_limit else 0
    spot = group.spot_of("pids")
    if spot is not None:
        # Before Linux 6.11 a refusal is counted where the fork was tried, which may be a group within.
        names = _tree(spot, group.name)
        refused = [files.flat(files.get_if_there(spot.fd, f"{name}/pids.events") or "").get("max", 0) for name in names]
        forks = max(refused)
    spot = group.spot_of("cpu")
    if spot is not None:
        throttled = files.flat(files.get_if_there(spot.fd, f"{group.name}/cpu.stat") or "").get("nr_throttled")
    return Events(kills, own, at_limit, forks, throttled)


def account(group: Group) -> tuple[int, int, Usage]:
    """See `Group.account`."""
    kills = forks = 0
    memory_peak = processes_peak = None
    spot = group.spot_of("memory")
    if spot is not None:
        v2 = spot.version == 2
        text = files.get(spot.fd, f"{group.name}/{'memory.events' if v2 else 'memory.oom_control'}")
        kills = files.flat(text).get("oom_kill", 0)
        memory_peak = _number(spot, f"{group.name}/{'memory.peak' if v2 else 'memory.max_usage_in_bytes'}")
    spot = group.spot_of("pids")
    if spot is not None:
        names = _tree(spot, group.name)
        forks = max(files.flat(files.get_if_there(spot.fd, f"{one}/pids.events") or "").get("max", 0) for one in names)
        processes_peak = _others(_number(spot, f"{group.name}/pids.peak"), group)
    used = Usage(*_cpu(group), None, memory_peak, None, processes_peak, *_io(group), _pressure(group))
    return kills, forks, used


def _number(spot: Spot, path: str) -> int | None:
    text = files.get_if_there(spot.fd, path)
    return None if text is None else int(text)


def _others(counted: int | None, group: Group) -> int | None:
    """Without ours; which may not have come in yet."""
    return None if counted is None else max(counted - group.ours, 0)


NEAR = 64 << 10


def _at_limit_v1(spot: Spot, name: str) -> int:
    """memory.failcnt, or that of memory.memsw, which counts in its place where the two limits are equal. Kernels such as
    6.18 count neither; there it is 1 if the highest use came to the limit."""

    def number(file: str) -> int:
        return int(files.get_if_there(spot.fd, f"{name}/{file}") or 0)

    counted = max(number("memory.failcnt"), number("memory.memsw.failcnt"))
    return counted or int(number("memory.max_usage_in_bytes") + NEAR >= number("memory.limit_in_bytes"))


def starved(group: Group) -> bool:
    """See `Group.starved`. Version 2 slows down who is above its soft limit, and refuses nothing."""
    spot = group.spot_of("memory")
    if spot is None or spot.version == 2 or group.limits.memory is None:
        return False
    return (_number(spot, f"{group.name}/memory.max_usage_in_bytes") or 0) + NEAR >= int(group.limits.memory)


def cpu_usec(group: Group) -> int:
    """See `Group.cpu_usec`."""
    spot = group.unified
    if spot is not None:
        text = files.get(spot.fd, f"{group.name}/cpu.stat")
        return int(text.split(None, 2)[1])  # usage_usec, the first line
    spot = group.spot_of("cpuacct")
    if spot is None:
        from ramet.errors import UnsupportedError

        raise UnsupportedError(
            "can't tell the CPU time of the group",
            fact=group._place.facts["cpu_time"].found,
            needs="a group of version 2, or the cpuacct controller",
        )
    return int(files.get(spot.fd, f"{group.name}/cpuacct.usage")) // 1000


def usage(group: Group) -> Usage:
    """See `Group.usage`."""
    memory, memory_peak = _level(
        group, "memory", "memory.current", "memory.peak", "memory.usage_in_bytes", "memory.max_usage_in_bytes"
    )
    processes, processes_peak = _level(group, "pids", "pids.current", "pids.peak", "pids.current", "pids.peak")
    processes, processes_peak = _others(processes, group), _others(processes_peak, group)
    return Usage(*_cpu(group), memory, memory_peak, processes, processes_peak, *_io(group), _pressure(group))


def _cpu(group: Group) -> tuple[float | None, float | None, float | None]:
    spot = group.unified
    if spot is not None:
        found = files.flat(files.get(spot.fd, f"{group.name}/cpu.stat"))
        total, user, system = (found.get(f"{key}_usec") for key in ("usage", "user", "system"))
        return _seconds(total, 1e6), _seconds(user, 1e6), _seconds(system, 1e6)
    spot = group.spot_of("cpuacct")
    if spot is None:
        return None, None, None
    numbers = [
        _seconds(int(text), 1e9) if (text := files.get_if_there(spot.fd, f"{group.name}/cpuacct.usage{end}")) else None
        for end in ("", "_user", "_sys")
    ]
    return numbers[0], numbers[1], numbers[2]


def _seconds(number: int | None, unit: float) -> float | None:
    return None if number is None else number / unit


def _level(
    group: Group, controller: str, now: str, peak: str, now_v1: str, peak_v1: str
) -> tuple[int | None, int | None]:
    spot = group.spot_of(controller)
    if spot is None:
        return None, None
    names = (now, peak) if spot.version == 2 else (now_v1, peak_v1)
    first, second = (files.get_if_there(spot.fd, f"{group.name}/{file}") for file in names)
    return None if first is None else int(first), None if second is None else int(second)


def _io(group: Group) -> tuple[int | None, int | None]:
    """Bytes from and to devices; bounced through several layers (a loop device's file) they count for each."""
    spot = group.spot_of("io")
    if spot is None:
        return None, None
    if spot.version == 2:
        words = files.get(spot.fd, f"{group.name}/io.stat").split()
        pairs = [word.partition("=") for word in words]
        return tuple(sum(int(v) for k, _, v in pairs if k == key) for key in ("rbytes", "wbytes"))  # type: ignore[return-value]
    rows = files.get(spot.fd, f"{group.name}/blkio.throttle.io_service_bytes_recursive").splitlines()
    words_of = [row.split() for row in rows]
    return tuple(sum(int(row[2]) for row in words_of if row[1:2] == [key]) for key in ("Read", "Write"))  # type: ignore[return-value]


def _pressure(group: Group) -> dict[str, dict[str, float]]:
    spot = group.unified
    if spot is None or "pressure" not in spot.limits:
        return {}
    found = {}
    for kind in ("cpu", "memory", "io"):
        try:
            text = files.get_if_there(spot.fd, f"{group.name}/{kind}.pressure")
        except OSError:
            continue  # EOPNOTSUPP: psi=0 at boot, or cgroup.pressure is 0
        if text:
            rows = [line.split() for line in text.splitlines()]
            found[kind] = {row[0]: int(row[-1].rpartition("=")[2]) / 1e6 for row in rows}
    return found


def watch_memory(spot: Spot, name: str) -> int:
    """A descriptor to poll; see `Group.watch_memory`."""
    if spot.version == 2:
        fd = aside(os.open(f"{name}/memory.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=spot.fd))
        os.read(fd, 4096)  # what has happened until now is no news
        return fd
    event = aside(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    try:
        control = os.open(f"{name}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC, dir_fd=spot.fd)
        try:
            files.put(spot.fd, f"{name}/cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(event)
        raise
    return event


def changed(group: Group, writes: list[tuple[Spot, Write]]) -> list[str]:
    """See `Group.intact`."""
    found = []
    for spot, write in writes:
        if write.limit in ("io", "io_weight", "cpuset", "cpuset_mems"):
            continue  # the kernel writes those back in words of its own
        try:
            now = files.get(spot.fd, f"{group.name}/{write.file}").strip()
        except OSError as error:
            found.append(f"{write.limit}: {write.file}: {error.strerror}")
            continue
        if not _same(now, write.value):
            found.append(f"{write.limit}: {write.file} is {now}, not {write.value}")
    return found


def _same(now: str, wanted: str) -> bool:
    """Sizes are rounded down to pages."""
    if now == wanted:
        return True
    return now.isdigit() and wanted.isdigit() and 0 <= int(wanted) - int(now) < 65536
