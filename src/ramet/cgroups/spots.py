"""Spots: a directory of one hierarchy beneath which the caller can make groups, enter and limit them; found by trying.

A trial makes a group, enables what it can, starts a child in it and removes it again. What reading alone would say
(owners, modes, lists of controllers) is wrong under cgroup namespaces, in containers and with nsdelegate.
"""

from __future__ import annotations

import errno
import os

from ramet.cgroups import ending, files, owners
from ramet.cgroups.limits import CONTROLLER, FILES
from ramet.errors import errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROLLERS = ("memory", "pids", "cpu", "cpuset", "io")
ROOM = "ramet.cgroups.make_room() moves the caller, if it is alone there, into a group below; or start it in one"


class Refused(Exception):
    """A directory of which nothing can be made. why, hint: as a `Fact` has them."""

    def __init__(self, why: str, hint: str = "") -> None:
        self.why, self.hint = why, hint
        super().__init__(why)


class Spot:
    """One directory. Its descriptor is kept; groups are made, written and removed below it.

    controllers: those that limit groups made here. limits: the names of `Limits` (and of ABILITIES) that can be had. into: can a
    child be born in a group (CLONE_INTO_CGROUP)? Where not, it writes itself into `entry`. why: for each controller
    that can't be had here, the cause and the fix. notify: the release agent has to be turned off in each group.
    """

    __slots__ = (
        "controllers",
        "enabled",
        "entry",
        "fd",
        "identity",
        "into",
        "limits",
        "notify",
        "path",
        "version",
        "why",
    )

    def __init__(self, version: int, path: str) -> None:
        self.version, self.path = version, path
        self.controllers: frozenset[str] = frozenset()
        self.limits: frozenset[str] = frozenset()
        self.why: dict[str, tuple[str, str]] = {}
        self.enabled: list[str] = []
        self.into = self.notify = False
        self.entry = "cgroup.procs" if version == 2 else "tasks"
        self.fd = -1
        try:
            self.fd = os.open(path, files.CLOEXEC_DIRECTORY)
        except OSError as error:
            raise Refused(f"{path}: {errno_name(error.errno or 0)}") from None
        self.identity = _identity(self.fd)
        if not _there(self.fd, "cgroup.procs"):  # something is mounted over it: not ours to make directories in
            raise Refused(f"{path}/cgroup.procs: {errno_name(errno.ENOENT)}; it is no control group")

    def __repr__(self) -> str:
        return f"<Spot {self.path} v{self.version}: {' '.join(sorted(self.limits))}>"

    def still_there(self) -> bool:
        """Is the descriptor what we opened? A caller that becomes a daemon closes those it doesn't know."""
        try:
            return _identity(self.fd) == self.identity
        except OSError:
            return False

    def found_again(self) -> bool:
        """`still_there`, or opened again by its path, if that is the same directory still."""
        lost = self.fd
        if self.still_there():
            return True
        try:
            fd = os.open(self.path, files.CLOEXEC_DIRECTORY)
        except OSError:
            self.fd = -1  # the number is somebody else's now, or will be
            return False
        if _identity(fd) != self.identity or self.fd != lost:
            os.close(fd)  # another directory, or another thread was faster
            return self.still_there()
        self.fd = fd
        return True

    def close(self) -> None:
        """Close the descriptor, unless somebody else already has, and the number is theirs now."""
        if self.fd >= 0 and self.still_there():
            os.close(self.fd)
        self.fd = -1

    def __del__(self) -> None:
        """Groups outlive a place that is forgotten: the last that was made here closes it."""
        if getattr(self, "fd", -1) >= 0:
            self.close()


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def try_v1(path: str, controllers: frozenset[str]) -> Spot:
    """A spot in a hierarchy of version 1. Raises Refused."""
    spot = Spot(1, path)
    name = owners.new_name()
    try:
        _make(spot, name)
        try:
            spot.notify = (files.get_if_there(spot.fd, "notify_on_release") or "0").strip() == "1"
            if spot.notify:
                files.put(spot.fd, f"{name}/notify_on_release", "0")
            if "cpuset" in controllers:
                fill_cpuset(spot, name)
            _enter(spot, name)
            spot.controllers = controllers
            spot.limits = _writable(spot, name, controllers) | _abilities_v1(spot, name, controllers)
        finally:
            _unmake(spot, name)
    except OSError as error:
        spot.close()
        raise _surprise(path, error) from None
    except BaseException:
        spot.close()
        raise
    return spot


def fill_cpuset(spot: Spot, name: str, given: tuple[str, ...] = ()) -> None:
    """Version 1 lets nobody into a group without CPUs and memory nodes (ENOSPC), and a new one has none.

    given: those of the two files that are written otherwise.
    """
    try:
        for file in ("cpuset.cpus", "cpuset.mems"):
            if file not in given:
                files.put(spot.fd, f"{name}/{file}", files.get(spot.fd, file.replace(".", ".effective_")).strip())
    except OSError as error:
        raise Refused(
            f"{spot.path} has no CPUs or memory nodes of its own: {errno_name(error.errno or 0)}",
            f"as root: cat {spot.path}/../cpuset.cpus >{spot.path}/cpuset.cpus; the same for cpuset.mems",
        ) from None


def try_v2(path: str, wanted: tuple[str, ...] = CONTROLLERS) -> Spot:
    """A spot in the hierarchy of version 2. Raises Refused; a controller that can't be enabled is one `why` more."""
    spot = Spot(2, path)
    name = owners.new_name()
    try:
        _make(spot, name)
        try:
            on = _enable(spot, name, wanted)
            _enter(spot, name)
            spot.controllers = frozenset(on)
            spot.limits = _writable(spot, name, spot.controllers) | _abilities_v2(spot, name)
        except BaseException:
            disable(spot)
            raise
        finally:
            _unmake(spot, name)
    except OSError as error:
        spot.close()
        raise _surprise(path, error) from None
    except BaseException:
        spot.close()
        raise
    return spot


def _surprise(path: str, error: OSError) -> Refused:
    """A file that every group has can't be read or written: a security module, or the group was removed meanwhile."""
    return Refused(f"{path}: {error.filename or 'write'}: {errno_name(error.errno or 0)}")


def _enable(spot: Spot, name: str, wanted: tuple[str, ...]) -> list[str]:
    """Which of the wanted controllers the groups below have, after an attempt to give them all.

    All or none where there are processes in the group itself: memory and io are refused, while pids, cpu and cpuset are
    not, but make it the root of a threaded tree, in which the groups below are "domain invalid" and let nobody in.
    """
    known = files.get(spot.fd, "cgroup.controllers").split()
    on = files.get(spot.fd, "cgroup.subtree_control").split()
    for controller in wanted:
        if controller in on:
            continue
        if controller not in known:
            spot.why[controller] = _not_handed_down(spot.path, controller)
            continue
        try:
            files.put(spot.fd, "cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            spot.why[controller] = _not_enabled(spot.path, controller, error.errno or 0)
        else:
            spot.enabled.append(controller)
    threaded = (files.get_if_there(spot.fd, f"{name}/cgroup.type") or "").strip() == "domain invalid"
    if spot.enabled and (threaded or any("EBUSY" in why for why, _ in spot.why.values())):
        spot.why.update({one: _not_enabled(spot.path, one, errno.EBUSY) for one in spot.enabled})
        disable(spot)
    return [controller for controller in wanted if controller in on or controller in spot.enabled]


def disable(spot: Spot) -> None:
    """Take back what a trial has enabled, where the spot is not chosen."""
    for controller in spot.enabled:
        try:
            files.put(spot.fd, "cgroup.subtree_control", f"-{controller}")
        except OSError:
            continue  # somebody has begun to use it meanwhile
    spot.enabled = []


def _not_handed_down(path: str, controller: str) -> tuple[str, str]:
    above = os.path.dirname(path.rstrip("/"))
    if os.path.exists(f"{above}/cgroup.subtree_control"):
        return (
            f"{path}/cgroup.controllers has no {controller}",
            f"as root: echo +{controller} >{above}/cgroup.subtree_control (and so in each group above it)",
        )
    return (
        f"{path}/cgroup.controllers has no {controller}",
        "it is bound to version 1, off (cgroup_disable=), or not handed down to this container",
    )


def _not_enabled(path: str, controller: str, number: int) -> tuple[str, str]:
    why = f"+{controller} to {path}/cgroup.subtree_control: {errno_name(number)}"
    if number == errno.EBUSY:
        return (
            f"{why}: there are processes in that group itself",
            ROOM,
        )
    if number in (errno.EACCES, errno.EPERM):
        return why, f"as root: chown {os.geteuid()} {path}/cgroup.subtree_control"
    return why, ""


def _make(spot: Spot, name: str) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=spot.fd)
    except OSError as error:
        raise Refused(*_not_made(spot, error.errno or 0)) from None


def _not_made(spot: Spot, number: int) -> tuple[str, str]:
    why = f"mkdir in {spot.path}: {errno_name(number)}"
    if number == errno.EROFS:
        return (
            f"{why}: it is mounted read-only, as containers have it",
            "start the container with its cgroups writable: docker run --privileged --cgroupns=private,\n"
            "podman run --security-opt unmask=/sys/fs/cgroup; or run ramet outside it",
        )
    if number == errno.EAGAIN:
        return (
            f"{why}: cgroup.max.descendants or cgroup.max.depth is reached",
            f"remove groups below {spot.path}, or raise them",
        )
    return why, ""


def _unmake(spot: Spot, name: str) -> None:
    for _ in ending.waits(ending.REMOVE_AT_MOST):
        if ending.remove(spot.fd, name):
            return


def _enter(spot: Spot, name: str) -> None:
    """A child goes in, in the way in which payloads will, and ends. Raises Refused."""
    from ramet import lowlevel
    from ramet.flags import CLONE

    shared = CLONE.VM | CLONE.VFORK  # the cost doesn't depend on the caller's size
    if spot.version == 2:
        group = os.open(f"{name}", files.CLOEXEC_DIRECTORY, dir_fd=spot.fd)
        try:
            with lowlevel.clone3(shared, exit_signal=0, pidfd=True, cgroup=group, child=[]) as child:
                child.wait()
            spot.into = True
            return
        except OSError as error:
            # ENOSYS: a container's filter hides clone3. EINVAL, E2BIG: before Linux 5.7.
            if error.errno not in (errno.ENOSYS, errno.EINVAL, errno.E2BIG):
                raise Refused(*_not_entered(spot, "clone3(CLONE_INTO_CGROUP)", error.errno or 0)) from None
        finally:
            os.close(group)
    try:
        entry = os.open(f"{name}/{spot.entry}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=spot.fd)
    except OSError as error:
        raise Refused(*_not_entered(spot, f'open("{spot.entry}")', error.errno or 0)) from None
    try:
        call = lowlevel.Call(64 if os.uname().machine == "aarch64" else 1, entry, b"0", 1)
        with lowlevel.clone(shared, exit_signal=0, pidfd=True, child=[call]) as child:
            child.wait()
            (result,) = child.results
    finally:
        os.close(entry)
    if result != 1:
        raise Refused(*_not_entered(spot, f'write("{spot.entry}", "0")', -result))


def _not_entered(spot: Spot, call: str, number: int) -> tuple[str, str]:
    why = f"a child into a group below {spot.path}: {call}: {errno_name(number)}"
    if number == errno.EOPNOTSUPP:
        return f"{why}: it is threaded", ROOM
    if number == errno.EACCES and spot.version == 2:
        return (
            f"{why}: the caller's own group is not below one of which it may write cgroup.procs",
            "start the caller inside of what is delegated to it",
        )
    if number == errno.EINVAL and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        # cpu_cgroup_can_attach() in the kernel, where real time is shared out by group
        return f"{why}: the caller runs in real time, of which such a group has no share", "chrt --other --pid 0 PID"
    return why, ""


def _writable(spot: Spot, name: str, controllers: frozenset[str]) -> frozenset[str]:
    """The limits whose file can be opened for writing."""
    found = set()
    for limit, (v1, v2) in FILES.items():
        file = v1 if spot.version == 1 else v2
        if file is None or CONTROLLER[limit] not in controllers:
            continue
        try:
            os.close(os.open(f"{name}/{file}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=spot.fd))
        except OSError:
            continue
        found.add(limit)
    return frozenset(found)


def _abilities_v1(spot: Spot, name: str, controllers: frozenset[str]) -> frozenset[str]:
    found = set()
    if files.get_if_there(spot.fd, f"{name}/cpuacct.usage") is not None:
        found.add("cpu_time")
    if "freezer" in controllers:
        found.add("kill")
    return frozenset(found)


def _abilities_v2(spot: Spot, name: str) -> frozenset[str]:
    tests: Mapping[str, tuple[str, ...]] = {
        "cpu_time": ("cpu.stat",),
        "kill": ("cgroup.kill", "cgroup.freeze"),
        "pressure": ("cpu.pressure",),
    }
    return frozenset(
        ability for ability, names in tests.items() if any(_there(spot.fd, f"{name}/{file}") for file in names)
    )


def _there(fd: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=fd)
    except OSError:
        return False
    return True
