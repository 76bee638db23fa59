"""Group: one control group (on a hybrid host one in each hierarchy that its limits need), from making to removal."""

from __future__ import annotations

import errno
import os
from time import sleep

from ramet.cgroups import ending, files, owners, reading, spots
from ramet.cgroups import limits as limit_files
from ramet.cgroups import place as places
from ramet.errors import StepError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.cgroups.limits import Write
    from ramet.cgroups.place import Place
    from ramet.cgroups.reading import Events, Usage
    from ramet.cgroups.spots import Spot
    from ramet.spec.group_limits import GroupLimits as Limits

#: Processes of a group whose first has just exec'd: init, the payload, and a few that it may have made since.
AT_START = 8
EXEC_AT_MOST, BLIND_WAIT = 1.0, 0.002  # s
STALE = (errno.ENOENT, errno.EBADF, errno.ENOTDIR, errno.ENODEV)


class _Program:
    """What is done for some limits at some place: worked out once."""

    __slots__ = ("arming", "cpuset", "disarming", "spots", "unified", "writes")

    def __init__(self, place: Place, limits: Limits) -> None:
        place.require(limits)
        needed = [place.by_controller[limit_files.CONTROLLER[name]] for name in limits.asked()]
        if place.unified is not None:
            needed.append(place.unified)
        else:
            needed += [place.by_controller[name] for name in ("cpuacct",) if name in place.by_controller]
            if limits.processes is None and "freezer" in place.by_controller:
                needed.append(place.by_controller["freezer"])
        self.spots: list[Spot] = list(dict.fromkeys(needed))
        if not self.spots:
            raise UnsupportedError("a control group can't be made", fact=_why(place), needs="a place for it",
                                   hint=place.facts["memory"].hint)  # fmt: skip
        self.unified = place.unified
        version_of = {name: spot.version for name, spot in place.by_controller.items()}
        has = frozenset(name for spot in self.spots for name in spot.limits)
        devices = {one.device: _device(one.device) for one in limits.io}
        self.writes: list[tuple[Spot, Write]] = [
            (place.by_controller[write.controller], write)
            for write in limit_files.writes(limits, version_of, has, devices)
        ]
        self.disarming, self.arming = _held_back(limits, place.by_controller.get("memory"))
        # Version 1 lets nobody in before both are set; asked for or not.
        self.cpuset = [spot for spot in self.spots if spot.version == 1 and "cpuset" in spot.controllers]


def _held_back(limits: Limits, spot: Spot | None) -> tuple[list[tuple[Spot, Write]], list[tuple[Spot, Write]]]:
    """(what is written instead of, or after, the memory limit, so that it kills nobody; what makes it kill).

    Version 1 can be told not to kill: then a system call fails (ENOMEM), and who touches a page waits. Version 2 has no such
    file, so there its soft limit holds until the hard one is written; who grows beyond that is stopped for a while.
    """
    if limits.memory is None or spot is None:
        return [], []
    memory = str(limits.memory)
    if spot.version == 1:
        first, then = [("memory.oom_control", "1")], [("memory.oom_control", "0")]
    else:
        first, then = [], [("memory.max", memory)]
        if limits.memory_high is None:
            first, then = [("memory.high", memory)], [*then, ("memory.high", "max")]
    as_writes = [[(spot, limit_files.Write("memory", "memory", *one)) for one in each] for each in (first, then)]
    return as_writes[0], as_writes[1]


def _why(place: Place) -> str:
    return place.facts["memory"].found


def ways_in(limits: Limits, place: Place) -> tuple[int, bool]:
    """Into how many of such a group's directories the child would write itself, and whether it would be born into one."""
    spots_of = _Program(place, limits).spots
    return sum(not spot.into for spot in spots_of), any(spot.into for spot in spots_of)


def make(limits: Limits, place: Place | None = None, *, building: bool = False) -> Group:
    """A group with these limits, empty. Raises UnsupportedError for one that can't be had here, StepError where the kernel
    refuses a value; then nothing is left. place: default the caller's (`find`).

    building: a child that shares the caller's memory comes in first, and it is not killed for lack of memory until `Group.opened`: the
    kernel kills everybody who shares the memory of the one that it chooses (__oom_kill_process() in mm/oom_kill.c), so the caller.
    """
    for again in (False, True):
        where = place or places.find()
        program = where.programs.get(limits)
        if program is None:
            program = _Program(where, limits)
            if not limits.io and len(where.programs) < 256:  # a path may be another device's tomorrow
                where.programs[limits] = program
        group = Group(where, program, limits, building=building)
        try:
            group._make()
            return group
        except OSError as error:
            group.close()
            if isinstance(error, StepError) or again or place is not None or error.errno not in STALE:
                raise
            places.forget()  # somebody has removed our place, or moved what it was in
        except BaseException:
            group.close()
            raise
    raise AssertionError("not reached")


class Group:
    """A group that was made by `make`.

    name: of its directories. into: a descriptor for clone3's CLONE_INTO_CGROUP, or None. entries: descriptors to each of which
    the child writes "0" as its first steps, and so enters; none on a host with version 2 alone. limits: what it was made with.
    starved: had it reached its memory limit before that could kill? Then it was refused memory in other ways. ours: how many
    processes in it are ramet's own, which `usage` and `account` leave out; for who makes it to set.
    """

    __slots__ = (
        "_building",
        "_made",
        "_owner",
        "_place",
        "_program",
        "_watch",
        "entries",
        "into",
        "limits",
        "name",
        "ours",
        "starved",
    )

    def __init__(self, place: Place, program: _Program, limits: Limits, *, building: bool) -> None:
        self._place, self._program, self.limits, self._building = place, program, limits, building
        self.name = owners.new_name()
        self.starved = False
        self.ours = 0
        self._owner = os.getpid()  # a fork copies this object, and dropping the copy must not end the group
        self._made: list[Spot] = []
        self._watch: int | None = None
        self.into: int | None = None
        self.entries: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<Group {self.name} in {', '.join(spot.path for spot in self._made)}>"

    def _make(self) -> None:
        name, program = self.name, self._program
        for spot in program.spots:
            os.mkdir(name, 0o755, dir_fd=spot.fd)
            self._made.append(spot)
            if spot.notify:
                files.put(spot.fd, f"{name}/notify_on_release", "0")
        for spot in program.cpuset:
            spots.fill_cpuset(spot, name, tuple(write.file for where, write in program.writes if where is spot))
        for spot, write in program.writes:
            if not (self._building and write.file == "memory.max"):
                self._write(spot, write)
        for spot, write in program.disarming if self._building else ():
            self._write(spot, write)
        for spot in program.spots:
            if spot.into:
                self.into = os.open(name, files.CLOEXEC_DIRECTORY, dir_fd=spot.fd)
            else:
                entry = os.open(f"{name}/{spot.entry}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=spot.fd)
                self.entries = (*self.entries, entry)

    def _write(self, spot: Spot, write: Write) -> None:
        try:
            files.put(spot.fd, f"{self.name}/{write.file}", write.value)
        except OSError as error:
            raise _refused(spot, write, self.limits, error.errno or 0) from None

    def opened(self) -> None:
        """The child is inside, and has exec'd: close the descriptors by which it came in; the memory limit may kill from now on."""
        self._close_ways_in()
        if self._building:
            self._building = False
            self._wait_for_exec()
            self.starved = reading.starved(self)
            for spot, write in self._program.arming:
                self._write(spot, write)

    def adopt(self, pid: int) -> None:
        """Move a process in, which stands still and is the caller's; then close the ways in. Raises OSError."""
        data = str(pid).encode()
        for entry in self.entries:
            os.write(entry, data)
        if self.into is not None:
            fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.into)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)
        self._close_ways_in()

    def _wait_for_exec(self) -> None:
        """Until nobody in it has our memory; see csrc/shares.c. Only the first two can have it: the others are their children."""
        from ramet import _core

        spot = self.spot_of("memory")
        if spot is None or not self._program.arming:
            return
        for pid in ending.first_listed(spot.fd, f"{self.name}/cgroup.procs", AT_START):
            for _ in ending.waits(EXEC_AT_MOST):
                try:
                    if not _core.shares_memory(pid):
                        break
                except OSError:
                    sleep(BLIND_WAIT)  # it can't be asked here; the kernel takes microseconds
                    break

    def _close_ways_in(self) -> None:
        fds = self.entries if self.into is None else (*self.entries, self.into)
        self.entries, self.into = (), None
        for fd in fds:
            os.close(fd)

    def spot_of(self, controller: str) -> Spot | None:
        """Where this controller's files of the group are, or None where the group is not in its hierarchy."""
        spot = self._place.by_controller.get(controller)
        return spot if spot in self._made else None

    @property
    def unified(self) -> Spot | None:
        """Where the files of version 2 are that every group has, or None."""
        return self._program.unified if self._program.unified in self._made else None

    # What happened in it

    def events(self) -> Events:
        """The kernel's evidence of limits that were hit; now, or after the end."""
        return reading.events(self)

    def usage(self) -> Usage:
        """What it has used; now, or after the end, before `close`."""
        return reading.usage(self)

    def account(self) -> tuple[int, int, Usage]:
        """After the end: processes killed for lack of memory, forks refused, and the usage without what is in it now. By fewer
        files than `events` and `usage` take."""
        return reading.account(self)

    def cpu_usec(self) -> int:
        """Microseconds of CPU time that everything in it has used, ended processes too. 8 us; to be polled for cpu_time."""
        return reading.cpu_usec(self)

    def pids(self) -> list[int]:
        """The processes in it and in groups below it, as the caller's pid namespace numbers them."""
        found: set[int] = set()
        for spot in self._made:
            for group in (self.name, *files.subgroups(spot.fd, self.name)):
                found |= ending._listed(spot.fd, f"{group}/cgroup.procs")
        return sorted(found)

    def intact(self) -> list[str]:
        """The limits that no longer hold since somebody else has changed or disabled them (an outer manager); [] is well."""
        return reading.changed(self, self._program.writes)

    def watch_memory(self) -> tuple[int, int] | None:
        """(descriptor, poll events): it becomes so when the group runs out of memory, before the kill is over.

        Version 2: memory.events, POLLPRI; call `events` before the next poll. Version 1: an eventfd, POLLIN; where only the largest
        process dies (there is no memory.oom.group), it is for the caller to `kill` the rest. None without memory. Closed by `close`.
        """
        if self._watch is None and (spot := self.spot_of("memory")) is not None:
            self._watch = reading.watch_memory(spot, self.name)
        if self._watch is None:
            return None
        return self._watch, 2 if self.spot_of("memory").version == 2 else 1  # type: ignore[union-attr]

    # Its end

    def kill(self) -> None:
        """SIGKILL to all that is in it, groups below it too. What is in uninterruptible sleep dies when it wakes up."""
        for spot in self._made:
            if spot.version == 2 and ending.kill_by_kernel(spot.fd, self.name):
                if len(self._made) == 1 or not self.pids():
                    return
                break
        self._kill_each()

    def _kill_each(self) -> None:
        pids = self.spot_of("pids")
        if pids is not None:
            try:
                files.put(pids.fd, f"{self.name}/pids.max", "0")  # nobody forks away
            except FileNotFoundError:
                return  # removed: nobody is in it
        for spot in self._made:
            freeze = (
                "cgroup.freeze" if spot.version == 2 else "freezer.state" if "freezer" in spot.controllers else None
            )
            ending.kill_each(spot.fd, self.name, version=spot.version, freeze=freeze)

    def remove(self, seconds: float = ending.REMOVE_AT_MOST) -> bool:
        """Remove it, and groups that were made in it; waits so long for what was killed to be gone. Is it?

        Kills nothing: with processes in it, False after that time.
        """
        for _ in ending.waits(seconds):
            self._made = [
                spot
                for spot in self._made
                if not ending.remove(spot.fd, self.name) and not ending.remove_tree(spot.fd, self.name)
            ]
            if not self._made:
                return True
        return False

    def close(self, seconds: float = ending.REMOVE_AT_MOST) -> bool:
        """Close the descriptors; kill what is still in it; remove it. Is it gone? If not, a later sweep tries again,
        once this process has ended. Does nothing in a fork of the process that made it but to close."""
        self._close_ways_in()
        if self._watch is not None:
            fd, self._watch = self._watch, None
            os.close(fd)
        if self._owner != os.getpid():
            return False
        for spot in self._made:
            spot.found_again()  # the caller may have closed all descriptors that it does not know
        if not self._made or self.remove(0):
            return True
        for _ in ending.waits(seconds):
            self.kill()
            if self.remove(min(seconds, 0.05)):
                return True
        return False

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refused(spot: Spot, write: Write, limits: Limits, number: int) -> StepError:
    hint = None
    if write.limit == "cpus" and number == errno.EINVAL:
        hint = f"a group above {spot.path} has less: version 1 allows none below it more"
    elif write.limit.startswith("cpuset"):
        what = "mems" if write.limit == "cpuset_mems" else "cpus"
        hint = f"{spot.path}/cpuset.{f'effective_{what}' if spot.version == 1 else f'{what}.effective'} says which there are"
    elif write.limit == "io" and number == errno.ENODEV:
        hint = "it takes a whole disk that has a queue of its own, neither a partition nor tmpfs"
    elif number == errno.EBUSY and write.limit == "memory":
        hint = "there are already more pages in it than that"
    return StepError(
        f"limit {write.limit.replace('_', ' ')}",
        errno=number,
        call=f'write("{spot.path}/.../{write.file}", "{write.value}")',
        origin=f"Limits.{write.limit} = {getattr(limits, write.limit)!r}",
        stage="caller",
        hint=hint,
    )


def _device(path: str) -> str:
    """ "254:0" of a block device, or of the disk that a path's file system is on."""
    import stat

    try:
        found = os.stat(path)
    except OSError as error:
        raise StepError(
            "find a device to limit",
            errno=error.errno or 0,
            call=f"stat({path!r})",
            origin="IoLimit.device",
            stage="caller",
        ) from None
    number = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    major, minor = os.major(number), os.minor(number)
    sysfs = f"/sys/dev/block/{major}:{minor}"
    if os.path.exists(f"{sysfs}/partition"):
        with open(f"{os.path.realpath(sysfs)}/../dev", encoding="ascii") as file:
            return file.read().strip()
    return f"{major}:{minor}"
