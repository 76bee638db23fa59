"""The end of a group: everything in it killed, and the group removed, those in it first."""

from __future__ import annotations

import errno
import os
from time import monotonic, sleep

from ramet.cgroups import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SIGKILL = 9
FREEZE_AT_MOST = 0.2  # s; what is not frozen by then is killed as it runs
REMOVE_AT_MOST = 2.0


def kill_by_kernel(fd: int, name: str) -> bool:
    """cgroup.kill (version 2, since Linux 5.14): all, those in groups of its own too, at once. False: not there."""
    try:
        files.put(fd, f"{name}/cgroup.kill", "1")
    except FileNotFoundError:
        return not _exists(fd, name)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a threaded group
            return False
        raise
    return True


def kill_each(fd: int, name: str, *, version: int, freeze: str | None) -> None:
    """SIGKILL to every process of the group. freeze: "cgroup.freeze" or "freezer.state", where there is one.

    Frozen, they can't make others meanwhile. Version 1 must be thawed for the signal to take effect.
    """
    groups = [*files.subgroups(fd, name), name]
    if freeze:
        _freeze(fd, name, freeze)
    try:
        for group in groups:
            _kill_listed(fd, f"{group}/{'cgroup.procs' if version == 2 else 'tasks'}")
    finally:
        if freeze:
            for group in [*groups[::-1]]:  # also what the payload has frozen itself
                _set_if_there(fd, f"{group}/{freeze}", "0" if version == 2 else "THAWED")


def _freeze(fd: int, name: str, file: str) -> None:
    _set_if_there(fd, f"{name}/{file}", "1" if file == "cgroup.freeze" else "FROZEN")
    until = monotonic() + FREEZE_AT_MOST
    while monotonic() < until:
        if file == "cgroup.freeze":
            done = "frozen 1" in (files.get_if_there(fd, f"{name}/cgroup.events") or "frozen 1")
        else:
            done = (files.get_if_there(fd, f"{name}/{file}") or "FROZEN").strip() == "FROZEN"
        if done:
            return
        sleep(0.0005)


def _set_if_there(fd: int, path: str, value: str) -> None:
    try:
        files.put(fd, path, value)
    except FileNotFoundError:
        return


def _kill_listed(fd: int, path: str) -> None:
    """By pidfds that are opened before the list is read again: a pid that is still in it was meant."""
    first = _listed(fd, path)
    pidfds: dict[int, int] = {}
    try:
        for pid in first:
            try:
                pidfds[pid] = os.pidfd_open(pid)
            except (ProcessLookupError, OSError):
                continue  # ended; or a thread, whose process is in the list too
        still = _listed(fd, path)
        for pid, pidfd in pidfds.items():
            if pid in still:
                _signal(pidfd)
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def _signal(pidfd: int) -> None:
    import signal

    try:
        signal.pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        return


def _listed(fd: int, path: str) -> set[int]:
    """0 stands for processes of other pid namespaces, which can't be named from here."""
    try:
        return {int(pid) for pid in files.get(fd, path).split()} - {0}
    except (FileNotFoundError, OSError):
        return set()


def first_listed(fd: int, path: str, most: int) -> list[int]:
    """The lowest pids of a list, which were there first (but for a counter that has begun anew)."""
    return sorted(_listed(fd, path))[:most]


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd)
    except FileNotFoundError:
        return False
    return True


def remove(fd: int, name: str) -> bool:
    """One try: is the group gone? Not while a process, or a group, is in it."""
    try:
        os.rmdir(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def remove_tree(fd: int, name: str) -> bool:
    """One try, with the groups in it, the deepest first."""
    for group in files.subgroups(fd, name):
        remove(fd, group)
    return remove(fd, name)


def waits(seconds: float) -> Iterable[None]:
    """Once now, then again and again with growing pauses, until so long after: what was killed is on its way out."""
    until, pause = monotonic() + seconds, 0.00005
    yield
    while monotonic() < until:
        sleep(pause)
        pause = min(pause * 2, 0.01)
        yield
