"""Limits: which of them this host holds how, and what the plan does for them."""

from __future__ import annotations

import math
import struct
from collections import namedtuple

from ramet.errors import UnsupportedError
from ramet.plan.steps import Block, Builder, Slot
from ramet.spec import Namespace
from ramet.spec.limits import RLIM_INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ramet.plan.idmap import Maps
    from ramet.plan.shape import Shape
    from ramet.spec import Sandbox

CLONE_NEWCGROUP = 0x02000000
PRIO_PROCESS, SCHED_IDLE = 0, 5
ENFORCED, DEGRADED, ABSENT = "enforced", "degraded", "absent"


class Groups(namedtuple("Groups", "entries into found missing")):
    """The control group that a sandbox of these limits gets here.

    entries: into how many hierarchies of version 1 the child moves itself; into: is it born into one of version 2.
    found: (limit, where) of those that a group holds; missing: (limit, why not, what mends it) of those that it can't.
    """

    __slots__ = ()

    @property
    def made(self) -> bool:
        """Is there a group at all?"""
        return bool(self.entries or self.into)


class Protection(namedtuple("Protection", "name state fact")):
    """One limit or protection. state: "enforced", "degraded" (held less well) or "absent"; fact: by what, or
    why not."""

    __slots__ = ()


class Held(namedtuple("Held", "rlimits affinity protections")):
    """How the limits of a sandbox are held. rlimits: besides those of the spec; affinity: CPUs, where no cpuset holds them."""

    __slots__ = ()


def hold(spec: Sandbox, groups: Groups | None, shape: Shape) -> Held:
    """Raise UnsupportedError for a limit that can't be held and may not be degraded."""
    rlimits: dict[str, int] = {}
    if spec.file_size is not None:
        rlimits["FSIZE"] = int(spec.file_size)
    if spec.open_files is not None:
        rlimits["NOFILE"] = spec.open_files
    if spec.cpu_time is not None:
        # The group's clock is looked at by the caller, who may not wait all the time. RLIMIT_CPU must not come first.
        rlimits["CPU"] = 2 * math.ceil(float(spec.cpu_time)) + 1
    protections = [Protection(name, ENFORCED, where) for name, where in (groups.found if groups else ())]
    affinity = None
    for name, why, hint in groups.missing if groups else ():
        protections.append(_instead(name, why, hint, spec, shape, rlimits))
        if name == "cpuset":
            affinity = spec.cpuset
    return Held(rlimits, affinity, tuple(protections))


def _alone(cpu_time: float | str) -> int:
    """RLIMIT_CPU where no group counts the CPU time."""
    return math.ceil(float(cpu_time)) + 1


def used_up_alone(used: float, cpu_time: float | str) -> bool:
    """Has who was killed after so much CPU time come to that RLIMIT_CPU?

    It counts by ticks, each of them whole for whoever has the CPU then, where usage is measured: beside busy neighbours its seconds
    were seen to be three quarters of one.
    """
    return used >= min(float(cpu_time), _alone(cpu_time) / 2)


def _instead(name: str, why: str, hint: str, spec: Sandbox, shape: Shape, rlimits: dict[str, int]) -> Protection:
    """The next best for a limit that no group can hold."""
    if name == "processes" and spec.processes is not None:
        own = shape.maps is not None and _one_id(shape.maps)
        if own or name in spec.allow_degraded:
            rlimits["NPROC"] = spec.processes + shape.init
            fact = "RLIMIT_NPROC, counted in the sandbox's own user namespace"
            return Protection(name, ENFORCED if own else DEGRADED, fact if own else "RLIMIT_NPROC, for each user id")
    if name not in spec.allow_degraded:
        raise UnsupportedError(
            f"can't limit {name.replace('_', ' ')}",
            fact=why,
            needs="a control group that the caller may make",
            hint=hint or f"`ramet doctor` shows what can be limited here; allow_degraded={{{name!r}}} goes on without",
        )
    if name == "memory" and spec.memory is not None:
        rlimits["AS"] = int(spec.memory)
        return Protection(name, DEGRADED, f"RLIMIT_AS, for each process by itself: {why}")
    if name == "cpu_time" and spec.cpu_time is not None:
        rlimits["CPU"] = _alone(spec.cpu_time)
        return Protection(name, DEGRADED, f"RLIMIT_CPU, for each process by itself: {why}")
    if name == "cpuset":
        return Protection(name, DEGRADED, f"sched_setaffinity(2), which the payload can undo: {why}")
    return Protection(name, ABSENT, why)


def _one_id(maps: Maps) -> bool:
    """Is there but one user id inside? The kernel counts processes for each id."""
    return len(maps.uids) == 1 and maps.uids[0].size == 1


def enter_groups(b: Builder, spec: Sandbox, groups: Groups | None) -> None:
    """Move into the group, by descriptors that the caller has opened; see cgroups(7), "0" is the writer itself.

    A new cgroup namespace has the cgroup of its maker as its root, so it can't be made by the clone.
    """
    if groups is None or not groups.made:
        return
    b.about("Sandbox limits", "enter the sandbox's control group")
    for number in range(groups.entries):
        b.call("write", entry_slot(number), "0", 1, expect=1)
    if Namespace.CGROUP in spec.namespaces:
        b.about("Sandbox.namespaces", "make a cgroup namespace")
        b.call("unshare", CLONE_NEWCGROUP)


def entry_slot(number: int) -> Slot:
    """The input that holds a descriptor to write into."""
    return Slot(f"cgroup{number}")


def limit_scheduling(b: Builder, spec: Sandbox, held: Held) -> None:
    """sched(7): how the payload competes for CPUs."""
    if spec.nice is not None:
        b.about("Sandbox.nice", f"set the nice value to {spec.nice}")
        b.call("setpriority", PRIO_PROCESS, 0, spec.nice)
    if spec.idle:
        b.about("Sandbox.idle", "run only when nobody else wants to")
        b.call("sched_setscheduler", 0, SCHED_IDLE, Block(bytes(4), text="[0]"))
    if held.affinity is not None:
        b.about("Sandbox.cpuset", f"prefer CPUs {held.affinity}")
        mask = cpu_mask(held.affinity)
        b.call("sched_setaffinity", 0, len(mask), Block(mask, text=f"[{held.affinity}]"))


def cpu_mask(text: str) -> bytes:
    """ "0-2,4" as the kernel's bit mask of 64-bit words."""
    bits = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            bits |= 1 << number
    words = max(1, (bits.bit_length() + 63) // 64)
    return struct.pack(f"<{words}Q", *(bits >> 64 * n & 2**64 - 1 for n in range(words)))


def rlimits_of(spec: Sandbox, held: Held) -> Mapping[str, tuple[int, int]]:
    """The spec's own and those that hold a limit: the lower one where there are two."""
    found = dict(spec.rlimits)
    for name, number in held.rlimits.items():
        soft, hard = found.get(name, (RLIM_INFINITY, RLIM_INFINITY))
        found[name] = (min(soft, number), min(hard, number))
    return found
