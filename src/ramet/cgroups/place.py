"""Place: where on this host the caller's groups are made, a spot for each controller; found once, and kept.

Where is looked, in this order, and the first that gives memory, pids and cpu (else the one that gives most) is taken:

    $RAMET_CGROUP     a path in each hierarchy, as an administrator has handed it over: "/delegated/ada"
    own               the caller's own group: as root in a root group, or on version 1
    a systemd scope   where systemd manages the tree and has not delegated this part of it: a transient scope of our own
    above             the groups above it: where the caller sits in a leaf of what is delegated to it
    below             groups in its own that belong to the caller (chown)

On a hybrid host the controllers are in hierarchies of version 1, each with its own spot; a spot in version 2's (which has
cgroup.kill, cpu.stat and pressure even without controllers) is used besides, where it can be had.
"""

from __future__ import annotations

import os
from collections import namedtuple
from time import monotonic

from ramet import proc
from ramet.cgroups import ending, files, owners, spots
from ramet.cgroups.hierarchy import Hierarchy, hierarchies
from ramet.cgroups.limits import ABILITIES, CONTROLLER, FILES
from ramet.errors import UnsupportedError, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NamedTuple

    from ramet.cgroups.spots import Spot
    from ramet.spec.group_limits import GroupLimits as Limits

    class Fact(NamedTuple):
        """See below."""

        name: str
        ok: bool
        found: str
        hint: str
else:

    class Fact(namedtuple("Fact", "name ok found hint")):
        """Can one limit (or one of `ABILITIES`) be had? found: where, or why not; hint: what mends it."""

        __slots__ = ()


#: A place that has these is looked no further for.
ESSENTIAL = ("memory", "pids", "cpu")
VARIABLE = "RAMET_CGROUP"
DELEGATION = "https://systemd.io/CGROUP_DELEGATION"
SWEEP_EVERY = 30.0  # s
SWEEP_AT_MOST = 1.0  # s for a group: what can't be killed by then is left to a later sweep
#: How many groups below the caller's own are looked at.
LOOK_BELOW_AT_MOST = 200
LOOK_BESIDE_AT_MOST = 200


class Place:
    """The spots of this process's groups. facts: a `Fact` for every limit and ability. unified: the spot in version 2's
    hierarchy, if any. by_controller: the spot that each controller's limits go to."""

    def __init__(self, found: list[Spot], why: dict[str, tuple[str, str]]) -> None:
        self.spots = found
        self.unified = next((spot for spot in found if spot.version == 2), None)
        self.by_controller = {name: spot for spot in found for name in spot.controllers}
        self.programs: dict[Any, Any] = {}  # what `group.make` does for limits it has seen
        self.swept = float("-inf")
        self.keeper: object = None  # of a scope
        self.facts = {name: self._fact(name, why) for name in (*FILES, *ABILITIES)}

    def __repr__(self) -> str:
        return f"<Place {', '.join(spot.path for spot in self.spots)}>"

    def _fact(self, name: str, why: dict[str, tuple[str, str]]) -> Fact:
        controller = CONTROLLER.get(name)
        able = [spot for spot in self.spots if name in spot.limits]
        if controller is None:
            able.sort(key=lambda spot: -spot.version)  # as `group` prefers them
        if name == "memory" and able and (refusal := _swap_escapes(able[0])):
            return Fact(name, False, *refusal)
        if able:
            return Fact(name, True, f"version {able[0].version}, {able[0].path}", "")
        if f"{name} of version 1" in why:
            return Fact(name, False, *why[f"{name} of version 1"])
        if controller in self.by_controller:
            return Fact(name, False, *_no_file(name, self.by_controller[controller]))
        if name == "kill" and self.spots:
            return Fact(name, True, "SIGKILL to each, with pids.max at 0", "")
        if controller is None:
            return Fact(name, False, *why.get("unified", ("it takes a group of version 2", "")))
        return Fact(name, False, *why.get(controller, _not_mounted(controller)))

    def missing(self, limits: Limits) -> list[Fact]:
        """The facts of those limits that can't be had here, for who wants to go on without them."""
        return [self.facts[name] for name in limits.asked() if not self.facts[name].ok]

    def require(self, limits: Limits) -> None:
        """Raise UnsupportedError for the first limit that can't be had."""
        for fact in self.missing(limits):
            raise UnsupportedError(
                f"can't limit {fact.name.replace('_', ' ')}",
                fact=fact.found,
                needs=f"a control group of the caller's with the {CONTROLLER[fact.name]} controller",
                hint=fact.hint or "`ramet doctor` shows what can be limited here",
            )

    def still_there(self) -> bool:
        """Are the descriptors those of the spots, or could they be opened again?"""
        lost = [spot for spot in self.spots if not spot.found_again()]
        return not lost

    def sweep(self) -> list[str]:
        """Kill and remove the groups that dead callers have left here; the paths of those that are gone."""
        self.swept = monotonic()
        mine = owners.own()
        found = []
        for spot in self.spots:
            for path in _where_callers_are(spot):
                try:
                    fd = os.open(path, files.CLOEXEC_DIRECTORY)
                except OSError:
                    continue  # gone meanwhile, or nothing for us to look into
                try:
                    found += [f"{path}/{name}" for name in _left(fd, mine) if _end(spot, fd, name)]
                finally:
                    os.close(fd)
        return found


def _where_callers_are(spot: Spot) -> list[str]:
    """This spot, and the groups beside it: another caller, now dead, may have been in one of those."""
    above = os.path.dirname(spot.path)
    if os.path.exists(f"{above}/cgroup.procs"):
        beside = [entry.path for entry in os.scandir(above) if entry.is_dir(follow_symlinks=False)]
        return [spot.path, above, *(path for path in beside[:LOOK_BESIDE_AT_MOST] if path != spot.path)]
    return [spot.path]


def _left(fd: int, mine: owners.Owner) -> Iterator[str]:
    """The names of groups of the caller's user whose owner is dead for certain."""
    for name in os.listdir(fd):
        owner = owners.parsed(name)
        if owner is None:
            continue
        try:
            whose = os.stat(name, dir_fd=fd).st_uid
        except FileNotFoundError:
            continue  # removed meanwhile, by its owner or another sweep
        if whose == os.geteuid() and owners.dead(owner, mine):
            yield name


def _end(spot: Spot, fd: int, name: str) -> bool:
    """Of one hierarchy: kill what is in it, remove it."""
    for _ in ending.waits(SWEEP_AT_MOST):
        if ending.remove_tree(fd, name):
            return True
        if spot.version == 1 or not ending.kill_by_kernel(fd, name):
            freeze = (
                "cgroup.freeze" if spot.version == 2 else "freezer.state" if "freezer" in spot.controllers else None
            )
            ending.kill_each(fd, name, version=spot.version, freeze=freeze)
    return False


def _swap_escapes(spot: Spot) -> tuple[str, str] | None:
    """Version 2 without memory.swap.max, and a swap to go to: memory would not be limited, only moved there."""
    if spot.version == 1 or "swap" in spot.limits:
        return None
    swaps = _text("/proc/swaps").splitlines()[1:]
    if not swaps:
        return None
    return "there is swap, and no memory.swap.max", "boot without swapaccount=0, or swapoff -a"


def _no_file(name: str, spot: Spot) -> tuple[str, str]:
    v1, v2 = FILES.get(name, (None, None))
    file = v1 if spot.version == 1 else v2
    return f"{spot.path}: its groups have no {file} that could be written", "a kernel with it (see its .config)"


def _no_v1(name: str) -> tuple[str, str]:
    return (
        f"version 1 has no such limit, and {CONTROLLER[name]} is bound to it",
        "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all",
    )


def _not_mounted(controller: str) -> tuple[str, str]:
    return (
        f"no hierarchy with {controller} is mounted here",
        "mount -t cgroup2 none /sys/fs/cgroup; in a container: docker run --privileged --cgroupns=private",
    )


def _text(path: str) -> str:
    return proc.read(path) or ""


_places: dict[tuple[int, int], Place] = {}


def find(*, facts_only: bool = False) -> Place:
    """The caller's place; looked for once, for each set of ids. Raises nothing: `Place.facts` say what can't be had.

    facts_only: it is not for making groups, so that its descriptors are still there need not be asked.

    Looking makes a group in each hierarchy, starts a child in it, and removes it. What dead callers left is swept.
    """
    key = os.geteuid(), os.getegid()
    place = _places.get(key)
    if place is not None and facts_only:
        return place
    if place is not None and not place.still_there():
        _places.pop(key, None)  # somebody has removed a directory of it
        place = None
    if place is None:
        place = look()
        place = _places.setdefault(key, place)  # another thread may have been faster
    if monotonic() - place.swept > SWEEP_EVERY:
        place.sweep()
    return place


def forget() -> None:
    """Forget every place that was found, for a caller that was moved, or to whom more was delegated.

    Groups that were made there go on, and keep it open until the last of them is dropped.
    """
    _places.clear()


def sweep() -> list[str]:
    """Kill and remove what dead callers left in this caller's place; the paths of what is gone.

    Only groups of the caller's own user, whose owner, by pid and start time, is dead for certain. `find` does it too.
    """
    return find().sweep()


def look(mountinfo: str | None = None, own_groups: str | None = None) -> Place:
    """Look for a place now. The two texts stand for /proc/self/mountinfo and /proc/self/cgroup."""
    known = hierarchies(
        _text("/proc/self/mountinfo") if mountinfo is None else mountinfo,
        _text("/proc/self/cgroup") if own_groups is None else own_groups,
    )
    found: list[Spot] = []
    why: dict[str, tuple[str, str]] = {}
    keeper = None
    bound_to_v1 = {name for one in known for name in one.controllers}
    for name, (file_of_v1, _) in FILES.items():
        if file_of_v1 is None and CONTROLLER[name] in bound_to_v1:
            why[f"{name} of version 1"] = _no_v1(name)  # no place will do: said before a hint is followed in vain
    for one in known:
        if one.version == 1 and not one.controllers & {*spots.CONTROLLERS, "cpuacct", "freezer"}:
            continue  # net_cls and the like limit nothing of ours
        try:
            if one.version == 2:
                spot, keeper = _look_v2(one, bound_to_v1)
                why.update({name: reason for name, reason in spot.why.items() if name not in why})
            else:
                spot = _first(one, lambda path, names=one.controllers: spots.try_v1(path, names))  # type: ignore[misc]
            found.append(spot)
        except spots.Refused as refused:
            names = one.controllers or {*spots.CONTROLLERS, "unified"} - bound_to_v1
            why.update({name: (refused.why, refused.hint or _delegate(one, known)) for name in names})
    place = Place(found, why)
    place.keeper = keeper
    return place


def _first(one: Hierarchy, attempt: Callable[[str], Spot]) -> Spot:
    """The first directory that works. Raises Refused with the reason of the first, which is the caller's own."""
    first: spots.Refused | None = None
    for path in candidates(one):
        try:
            return attempt(path)
        except spots.Refused as refused:
            first = first or refused
    raise first or _nothing_shown(one)


def _nothing_shown(one: Hierarchy) -> spots.Refused:
    return spots.Refused(
        f"the caller's own group is outside of what {one.mount} shows",
        f"in the caller's cgroup namespace: mount -t cgroup{'2' if one.version == 2 else ''} none {one.mount}",
    )


def candidates(one: Hierarchy) -> Iterator[str]:
    """Directories worth a try, in order."""
    named = os.environ.get(VARIABLE)
    if named:
        yield os.path.normpath(f"{one.mount}/{named}")
        return
    if one.own is None:
        return
    yield one.own
    above = one.own
    while above != one.mount and above.startswith(one.mount):
        above = os.path.dirname(above)
        yield above
    if os.geteuid() != 0:
        yield from _owned_below(one.own)
        yield from _owned_below(one.mount)


def _owned_below(path: str) -> Iterator[str]:
    """Groups below that belong to the caller; not below those, and not for ever."""
    waiting, seen = [path], 0
    while waiting and seen < LOOK_BELOW_AT_MOST:
        try:
            entries = sorted(os.scandir(waiting.pop(0)), key=lambda entry: entry.name)
        except OSError:
            continue  # not ours to look into, or gone
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False) or owners.parsed(entry.name):
                continue
            seen += 1
            if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                yield entry.path
            else:
                waiting.append(entry.path)


def _look_v2(one: Hierarchy, bound_to_v1: set[str]) -> tuple[Spot, object]:
    """The best spot, and the keeper of the scope it is in, if it is one. Raises Refused."""
    wanted = tuple(name for name in spots.CONTROLLERS if name not in bound_to_v1)
    essential = {name for name in ESSENTIAL if name in wanted}
    best: Spot | None = None
    first: spots.Refused | None = None
    scoped = False
    for path in candidates(one):
        if not scoped and not _ours_to_divide(path):
            scoped = True
            try:
                spot, keeper = _scope(one, wanted)
            except spots.Refused as refused:
                first = first or refused
                if os.geteuid() != 0:
                    break  # the tree is systemd's: a group made behind its back loses its limits when it likes
            else:
                if best is not None:
                    spots.disable(best)
                    best.close()
                return spot, keeper
        try:
            spot = spots.try_v2(path, wanted)
        except spots.Refused as refused:
            first = first or refused
            continue
        if essential <= spot.controllers:
            if best is not None:
                spots.disable(best)
                best.close()
            return spot, None
        if best is None or len(spot.controllers) > len(best.controllers):
            best, spot = spot, best
            if best is not None and spot is not None:
                best.why = spot.why | best.why
        if spot is not None:
            spots.disable(spot)
            spot.close()
    if best is None:
        raise first or _nothing_shown(one)
    return best, None


def _ours_to_divide(path: str) -> bool:
    """May groups be made here without systemd? Where there is none, or below a unit with Delegate=yes.

    Not directly in user@UID.service: systemd's own user manager is who that is delegated to.
    """
    from ramet.cgroups import systemd

    if not systemd.running() or os.environ.get(VARIABLE):
        return True
    while path not in ("/", ""):
        if systemd.delegated(path):
            return not os.path.basename(path).startswith("user@")
        path = os.path.dirname(path)
    return False


def _scope(one: Hierarchy, wanted: tuple[str, ...]) -> tuple[Spot, object]:
    """A spot in a transient scope of our own. Raises Refused."""
    from ramet.cgroups import systemd

    scope = systemd.scope(one.mount)
    try:
        return spots.try_v2(scope.path, wanted), scope
    except BaseException:
        scope.end()
        raise


def _delegate(one: Hierarchy, known: list[Hierarchy]) -> str:
    """What an administrator, or the user, does so that the caller has a place in this hierarchy."""
    from ramet.cgroups import systemd

    if one.version == 2 and systemd.running():
        return "systemd-run --user --scope -p Delegate=yes COMMAND (without --user as root)"
    who = os.geteuid()
    if one.version == 1:
        useful = {*spots.CONTROLLERS, "cpuacct", "freezer"} - {"cpuset"}
        meant = [other for other in known if other is one or other.controllers & useful]
        mounts = " ".join(other.mount for other in meant)
        lines = [f"for d in {mounts}; do mkdir -p $d/user-{who} && chown {who} $d/user-{who}; done"]
        for mount in (other.mount for other in meant if "cpuset" in other.controllers):
            lines.append(f"for f in cpuset.cpus cpuset.mems; do cat {mount}/$f >{mount}/user-{who}/$f; done")
        return "\n".join(["as root:", *lines])
    group = f"{one.mount}/user-{who}"
    there = _text(f"{one.mount}/cgroup.controllers").split()
    handed = " ".join(f"+{name}" for name in ESSENTIAL if name in there)
    enable = f"; echo {handed} >../cgroup.subtree_control" if handed else ""
    return (
        f"as root:\nmkdir -p {group}/caller; cd {group}{enable}\n"
        f"chown {who} . cgroup.procs cgroup.subtree_control caller caller/cgroup.procs\n"
        "echo PID-OF-THE-CALLER >caller/cgroup.procs"
    )


def make_room() -> str:
    """Move the calling process, and no other, from its group of version 2 into a new one below; the path of that.

    That group can then hand its controllers down, unless there are other processes in it. It is left when the caller ends, and
    swept by the next caller. Raises UnsupportedError where that is not allowed.
    """
    one = next(
        (h for h in hierarchies(_text("/proc/self/mountinfo"), _text("/proc/self/cgroup")) if h.version == 2), None
    )
    if one is None or one.own is None:
        raise UnsupportedError(
            "can't make room", fact="the caller's group of version 2 is not shown", needs="cgroup2 mounted"
        )
    name = owners.new_name()
    try:
        fd = os.open(one.own, files.CLOEXEC_DIRECTORY)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
            try:
                files.put(fd, f"{name}/cgroup.procs", "0")
            except BaseException:
                ending.remove(fd, name)
                raise
        finally:
            os.close(fd)
    except OSError as error:
        raise UnsupportedError(
            "can't move the caller into a group below its own",
            fact=f"{one.own}: {errno_name(error.errno or 0)}",
            needs="a group that is the caller's",
            hint=_delegate(one, [one]),
        ) from None
    forget()
    return f"{one.own}/{name}"
