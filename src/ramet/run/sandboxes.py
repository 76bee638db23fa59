"""The sandboxes that are alive on this machine, whoever has started them, and what they use: as /proc and the groups' files tell.

A sandbox is known by its init, whose name is ramet-init, and by its control group, whose name tells who made it. One without
either (as_pid1, and no limits) is a process like others and not found.
"""

from __future__ import annotations

import os
from collections import namedtuple

from ramet import proc
from ramet.cgroups import files, owners
from ramet.cgroups.hierarchy import Hierarchy, hierarchies
from ramet.run.living import living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    from ramet.run.result import Usage

    class Live(NamedTuple):
        """See below."""

        pid: int
        uid: int
        caller: int | None
        group: str | None
        seconds: float
        cpu: float | None
        memory: int | None
        memory_limit: int | None
        processes: int | None
        processes_limit: int | None
        command: str
else:

    class Live(
        namedtuple(
            "Live",
            "pid uid caller group seconds cpu memory memory_limit processes processes_limit command",
        )
    ):
        """One sandbox. pid: of its init, or its first process; uid: of that; caller: the pid of who has started it; group: the name of its
        control group; seconds: since its start; cpu: seconds of CPU time; memory, memory_limit: bytes now (without a group: the
        largest process's most), and at most; processes, processes_limit: now, and at most, init not counted; command: of the payload.
        """

        __slots__ = ()


INIT = "ramet-init"
#: What the kernel writes where there is no limit: "max", or the largest number of pages.
NO_LIMIT = 1 << 62


def sandboxes() -> list[Live]:
    """All that the caller can see, the oldest first."""
    mountinfo = proc.read("/proc/self/mountinfo") or ""
    found: dict[str, Live] = {}
    for name in os.listdir("/proc"):
        one = _sandbox_of(int(name), mountinfo) if name.isdigit() else None
        if one is not None:
            key = one.group or str(one.pid)
            if key not in found or _is_init(one.pid):
                found[key] = one
    return sorted(found.values(), key=lambda one: -one.seconds)


def _is_init(pid: int) -> bool:
    # Not comm, which init sets itself, a moment after it has begun.
    return (proc.read(f"/proc/{pid}/cmdline") or "").startswith(INIT + "\0")


def _sandbox_of(pid: int, mountinfo: str) -> Live | None:
    """What this process is the first of; None for all others, and for who has just ended."""
    init, groups = _is_init(pid), _groups(pid, mountinfo)
    if not init and not groups:
        return None
    stat = proc.read(f"/proc/{pid}/stat")
    words = stat.rpartition(")")[2].split() if stat else ["X"]
    if words[0] in "ZX":
        return None
    up = float((proc.read("/proc/uptime") or "0").split()[0])
    seconds = max(0.0, up - int(words[19]) / os.sysconf("SC_CLK_TCK"))
    name = os.path.basename(groups[0][1]) if groups else None
    owner = owners.parsed(name) if name else None
    used = _used(groups)
    if "memory" not in used or "processes" not in used or "cpu" not in used:
        used = _alone(living(pid, seconds)) | used
    for key in ("processes", "processes_limit"):
        if init and used.get(key):
            used[key] -= 1
    return Live(
        pid=pid,
        uid=_uid(pid),
        caller=owner.pid if owner else int(words[1]) or None,
        group=name,
        seconds=seconds,
        command=_command(_payload(pid) if init else pid),
        cpu=used.get("cpu"),
        **{key: int(used[key]) if key in used else None for key, *_ in FILES if key != "cpu"},
    )


def _alone(used: Usage) -> dict[str, float]:
    """Without a group that counts: what /proc tells of its processes."""
    found = {"cpu": (used.cpu_user or 0) + (used.cpu_system or 0)}
    for key, number in (("memory", used.memory_peak), ("processes", used.processes_peak)):
        if number is not None:
            found[key] = number
    return found


def _uid(pid: int) -> int:
    """The files of a process that is not dumpable are root's; its status tells whose it is."""
    for line in (proc.read(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return -1


def _groups(pid: int, mountinfo: str) -> list[tuple[Hierarchy, str]]:
    """The groups of ramet's that this process is in, or in a group below: (hierarchy, directory)."""
    text = proc.read(f"/proc/{pid}/cgroup") or ""
    if f"/{owners.PREFIX}-" not in text:
        return []
    found = []
    for one in hierarchies(mountinfo, text):
        parts = (one.own or "").split("/")
        for n, part in enumerate(parts):
            if owners.parsed(part) is not None:
                found.append((one, "/".join(parts[: n + 1])))
                break
    return found


def _payload(init: int) -> int:
    """Init's first child."""
    children = (proc.read(f"/proc/{init}/task/{init}/children") or "").split()
    return int(children[0]) if children else init


def _command(pid: int) -> str:
    words = (proc.read(f"/proc/{pid}/cmdline") or "").rstrip("\0").split("\0")
    return " ".join(words) if words != [""] else (proc.read(f"/proc/{pid}/comm") or "?").strip()


#: What is asked: the file of version 1, that of version 2, and the unit of its number.
FILES = (
    ("memory", "memory.usage_in_bytes", "memory.current", 1),
    ("memory_limit", "memory.limit_in_bytes", "memory.max", 1),
    ("processes", "pids.current", "pids.current", 1),
    ("processes_limit", "pids.max", "pids.max", 1),
    ("cpu", "cpuacct.usage", "cpu.stat", 1e9),
)


def _used(groups: list[tuple[Hierarchy, str]]) -> dict[str, float]:
    """By the files that its groups have; what none of them counts is left out."""
    found: dict[str, float] = {}
    for one, path in groups:
        for key, v1, v2, unit in FILES:
            text = (proc.read(f"{path}/{v1 if one.version == 1 else v2}") or "").strip()
            if one.version == 2 and key == "cpu":
                text = str(files.flat(text).get("usage_usec", "")) + "000"
            if text.isdigit() and int(text) < NO_LIMIT:
                found[key] = int(text) / unit
    return found
