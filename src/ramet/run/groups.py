"""The control group of a sandbox with limits: what this host has for it, and making it."""

from __future__ import annotations

from functools import lru_cache

from ramet.plan.limits import Groups, entry_slot
from ramet.spec.group_limits import PROCESSES_MOST, GroupLimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.cgroups import Group, Place
    from ramet.plan.steps import Plan, Slot
    from ramet.spec import Sandbox

NONE = GroupLimits()


def groups_for(spec: Sandbox) -> Groups | None:
    """The group that a sandbox of these limits would get here. What can be had is found by trying, once for the process."""
    from ramet import cgroups

    place = cgroups.find(facts_only=True)
    known: Groups | None = place.programs.get(("groups", spec.group_limits, spec.cpu_time is None))
    if known is None:
        known = place.programs["groups", spec.group_limits, spec.cpu_time is None] = _groups(place, spec)
    return known


def _groups(place: Place, spec: Sandbox) -> Groups:
    facts = [place.facts[name] for name in _asked(spec)]
    found = tuple((fact.name, fact.found) for fact in facts if fact.ok)
    missing = tuple((fact.name, fact.found, fact.hint) for fact in facts if not fact.ok)
    if not found:
        return Groups(0, False, found, missing)
    from ramet import cgroups

    entries, into = cgroups.ways_in(_held(spec.group_limits, missing, 0), place)
    return Groups(entries, into, found, missing)


def _asked(spec: Sandbox) -> list[str]:
    names = [name for name in spec.group_limits.asked() if name not in ("swap", "idle")]
    return [*names, "cpu_time"] if spec.cpu_time is not None else names


@lru_cache(maxsize=256)
def _held(limits: GroupLimits, missing: tuple[tuple[str, str, str], ...], more: int) -> GroupLimits:
    """The limits without those that no group can hold here. more: processes of ours in it."""
    names = [name for name, *_ in missing]
    changes: dict[str, object] = {name: getattr(NONE, name) for name in (*names, "idle") if name != "cpu_time"}
    if "memory" in names:
        changes["swap"] = 0
    if limits.processes is not None and "processes" not in names:
        changes["processes"] = min(limits.processes + more, PROCESSES_MOST)
    return limits.replace(**changes)


def make(plan: Plan, *, building: bool = True) -> Group | None:
    """The group of a plan that has one. building: for a child that shares the caller's memory, and for init; else for the payload
    alone. Raises UnsupportedError, StepError; then nothing is left."""
    if plan.groups is None or not plan.groups.made:
        return None
    from ramet import cgroups

    # Init is in it too; the payload must not find one process less than it may have.
    more = int(plan.init and building)
    group = cgroups.make(_held(plan.spec.group_limits, plan.groups.missing, more), building=building)
    group.ours = more
    return group


def inputs(group: Group) -> dict[Slot, int]:
    """Its descriptors under their names in a plan."""
    return {entry_slot(number): fd for number, fd in enumerate(group.entries)}
