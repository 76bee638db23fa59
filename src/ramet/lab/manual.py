"""What the manual says of each resource and each flag: the table that the measurements are held against.

Ours, from the sentences of the pages named. "own" is where a page says no more than that the child has one of its
own: a copy and a new one both agree with it.
"""

from __future__ import annotations

from ramet.flags import CLONE

OWN, SHARED, COPIED, NEW = "own", "shared", "copied", "new"


class Entry:
    """One resource. without: none of the flags; flags: what each makes of it, the first that is there counts.

    executed: what a program that the child executes finds, if not the same. page: where it is written.
    """

    __slots__ = ("executed", "flags", "page", "without")

    def __init__(self, without: str, page: str, flags: dict[CLONE, str], executed: str = "") -> None:
        self.without, self.page, self.flags, self.executed = without, page, flags, executed

    def answer(self, flags: int, *, executed: bool = False) -> str:
        """For a child made with these flags."""
        if executed and self.executed:
            return self.executed
        return next((answer for flag, answer in self.flags.items() if flags & flag), self.without)


_C = CLONE


def _namespace(flag: CLONE, page: str, *more: CLONE) -> Entry:
    return Entry(SHARED, page, {flag: NEW} | dict.fromkeys(more, NEW))


MANUAL: dict[str, Entry] = {
    "memory": Entry(COPIED, "clone(2), CLONE_VM", {_C.VM: SHARED}, executed=NEW),
    "cwd": Entry(COPIED, "clone(2), CLONE_FS", {_C.FS: SHARED, _C.EMPTY_MNTNS: NEW}),
    "root": Entry(COPIED, "clone(2), CLONE_FS", {_C.FS: SHARED, _C.EMPTY_MNTNS: NEW}),
    "umask": Entry(COPIED, "clone(2), CLONE_FS", {_C.FS: SHARED}),
    "descriptors": Entry(COPIED, "clone(2), CLONE_FILES", {_C.FILES: SHARED}),
    "offset": Entry(SHARED, "clone(2), CLONE_FILES", {}),
    "handlers": Entry(
        COPIED, "clone(2), CLONE_SIGHAND, CLONE_CLEAR_SIGHAND", {_C.SIGHAND: SHARED, _C.CLEAR_SIGHAND: NEW}, NEW
    ),
    "undo": Entry(NEW, "clone(2), CLONE_SYSVSEM", {_C.SYSVSEM: SHARED}),
    "io": Entry(OWN, "clone(2), CLONE_IO", {_C.IO: SHARED}),
    "parent": Entry(NEW, "clone(2), CLONE_PARENT, CLONE_THREAD", {_C.PARENT: SHARED, _C.THREAD: SHARED}),
    "process": Entry(NEW, "clone(2), CLONE_THREAD", {_C.THREAD: SHARED}),
    "limits": Entry(COPIED, "getrlimit(2), pthreads(7)", {_C.THREAD: SHARED}),
    "credentials": Entry(COPIED, "credentials(7), user_namespaces(7)", {_C.NEWUSER: NEW}, executed=NEW),
    "user_ns": _namespace(_C.NEWUSER, "clone(2), CLONE_NEWUSER"),
    "mnt_ns": _namespace(_C.NEWNS, "clone(2), CLONE_NEWNS", _C.EMPTY_MNTNS),
    "pid_ns": _namespace(_C.NEWPID, "clone(2), CLONE_NEWPID"),
    "net_ns": _namespace(_C.NEWNET, "clone(2), CLONE_NEWNET"),
    "ipc_ns": _namespace(_C.NEWIPC, "clone(2), CLONE_NEWIPC"),
    "uts_ns": _namespace(_C.NEWUTS, "clone(2), CLONE_NEWUTS"),
    "cgroup_ns": _namespace(_C.NEWCGROUP, "clone(2), CLONE_NEWCGROUP"),
    "time_ns": _namespace(_C.NEWTIME, "time_namespaces(7)"),
    "hostname": Entry(SHARED, "clone(2), CLONE_NEWUTS", {_C.NEWUTS: COPIED}),
    "sysv": Entry(SHARED, "ipc_namespaces(7)", {_C.NEWIPC: NEW}),
    "mounts": Entry(SHARED, "mount_namespaces(7)", {_C.EMPTY_MNTNS: NEW, _C.NEWNS: COPIED}),
    "network": Entry(SHARED, "network_namespaces(7)", {_C.NEWNET: NEW}),
    "uid_map": Entry(SHARED, "user_namespaces(7)", {_C.NEWUSER: NEW}),
    "clocks": Entry(SHARED, "time_namespaces(7)", {_C.NEWTIME: COPIED}),
    "pids": Entry(SHARED, "pid_namespaces(7)", {_C.NEWPID: NEW}),
    "cgroup_view": Entry(SHARED, "cgroup_namespaces(7)", {_C.NEWCGROUP: NEW, _C.INTO_CGROUP: NEW}),
}


def agrees(measured: str, manual: str) -> bool | None:
    """Is what was measured what the manual says? None where nothing could be measured."""
    if measured == "unknown":
        return None
    return measured in (COPIED, NEW) if manual == OWN else measured == manual
