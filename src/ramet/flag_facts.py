"""What the flags mean: since which kernel, what they need, what they go with. One table for each kind.

Loaded when first asked for (`CLONE.NEWPID.since`, `ramet explain`), so that importing ramet doesn't pay.
"since" is the first release of Linus' tree that had the flag; before that, the kernel refuses or ignores it.
"""

from __future__ import annotations

from enum import IntFlag

from ramet.flags import AT, CLONE, FSMOUNT, FSOPEN, MNT, MOUNT_ATTR, MOVE_MOUNT, MS, OPEN_TREE, PIDFD, RESOLVE
from ramet.flags import PIDFD_SIGNAL as SIGNAL

_NONE = CLONE(0)


class Fact:
    """A flag's row. `needs` is the privilege; `requires` and `excludes` are flags of the same call."""

    __slots__ = ("excludes", "meaning", "needs", "page", "requires", "since")

    def __init__(
        self,
        since: tuple[int, ...],
        meaning: str,
        *,
        page: str,
        needs: str = "",
        requires: CLONE = _NONE,
        excludes: CLONE = _NONE,
    ) -> None:
        self.since, self.meaning, self.page, self.needs = since, meaning, page, needs
        self.requires, self.excludes = requires, excludes


def _clone(
    since: tuple[int, ...],
    meaning: str,
    *,
    needs: str = "",
    requires: CLONE = _NONE,
    excludes: CLONE = _NONE,
    page: str = "clone(2)",
) -> Fact:
    return Fact(since, meaning, page=page, needs=needs, requires=requires, excludes=excludes)


_C = CLONE
_ADMIN = "CAP_SYS_ADMIN in the user namespace that the child will be in (CLONE_NEWUSER beside it gives that)"

CLONE_FACTS: dict[CLONE, Fact] = {
    _C.VM: _clone((2, 0), "One address space for caller and child: what one writes or maps, the other sees."),
    _C.FS: _clone(
        (2, 0),
        "Caller and child share root directory, current directory and umask.",
        excludes=_C.NEWNS | _C.NEWUSER | _C.EMPTY_MNTNS,
    ),
    _C.FILES: _clone((2, 0), "One descriptor table for caller and child: what one opens or closes, both do."),
    _C.SIGHAND: _clone(
        (2, 0),
        "Caller and child share one table of signal handlers; masks and pending signals stay their own.",
        requires=_C.VM,
        excludes=_C.CLEAR_SIGHAND,
    ),
    _C.PIDFD: _clone(
        (5, 2),
        "The caller gets a pidfd, a descriptor that stands for the child and never for another process.",
    ),
    _C.PTRACE: _clone((2, 2), "If the caller is being traced, its tracer traces the child as well."),
    _C.VFORK: _clone((2, 2), "The calling thread sleeps until the child has called execve or has ended."),
    _C.PARENT: _clone(
        (2, 3, 12),
        "The child's parent is the caller's: the two are siblings, and the caller can't wait for it.",
        excludes=_C.AUTOREAP,
    ),
    _C.THREAD: _clone(
        (2, 4),
        "The child is a thread of the caller's process: same pid, no exit signal, nothing to wait for.",
        requires=_C.SIGHAND | _C.VM,
        excludes=_C.NEWUSER | _C.NEWPID | _C.AUTOREAP | _C.NNP | _C.PIDFD_AUTOKILL,
    ),
    _C.NEWNS: _clone(
        (2, 4, 19),
        "The child gets a copy of the mount table as its own; shared mounts still pass changes on.",
        needs=_ADMIN,
        excludes=_C.FS,
        page="mount_namespaces(7)",
    ),
    _C.SYSVSEM: _clone(
        (2, 5, 10), "Caller and child share one list of System V semaphore undo values.", excludes=_C.NEWIPC
    ),
    _C.SETTLS: _clone((2, 5, 32), "The child's thread-local storage is at the address in the field tls."),
    _C.PARENT_SETTID: _clone(
        (2, 5, 49), "The kernel writes the child's thread id to parent_tid in the caller's memory."
    ),
    _C.CHILD_CLEARTID: _clone(
        (2, 5, 49),
        "When the child leaves the memory, the kernel zeroes child_tid there and wakes a futex on it.",
    ),
    _C.UNTRACED: _clone((2, 5, 46), "A tracer of the caller can't force CLONE_PTRACE on this child."),
    _C.CHILD_SETTID: _clone((2, 5, 49), "The kernel writes the child's thread id to child_tid in the child's memory."),
    _C.NEWCGROUP: _clone(
        (4, 6),
        "The child's cgroup is the root of all it sees in /proc/PID/cgroup and in cgroup mounts.",
        needs=_ADMIN,
        page="cgroup_namespaces(7)",
    ),
    _C.NEWUTS: _clone(
        (2, 6, 19),
        "The child gets a host name and NIS domain name of its own, copied from the caller's.",
        needs=_ADMIN,
        page="uts_namespaces(7)",
    ),
    _C.NEWIPC: _clone(
        (2, 6, 19),
        "The child gets System V IPC objects and POSIX message queues of its own, none at first.",
        needs=_ADMIN,
        excludes=_C.SYSVSEM,
        page="ipc_namespaces(7)",
    ),
    _C.NEWUSER: _clone(
        (3, 8),
        "The child gets user and group ids of its own and all capabilities over what it makes from then on.",
        needs="nothing, unless the host forbids it; the caller's ids must be mapped, and it not in a chroot",
        excludes=_C.FS | _C.THREAD,
        page="user_namespaces(7)",
    ),
    _C.NEWPID: _clone(
        (2, 6, 24),
        "The child is pid 1 of a new numbering; when it ends, the kernel kills everything in there.",
        needs=_ADMIN,
        excludes=_C.THREAD,
        page="pid_namespaces(7)",
    ),
    _C.NEWNET: _clone(
        (2, 6, 24),
        "The child gets a network of its own: at first only a loopback device, and that is down.",
        needs=_ADMIN,
        page="network_namespaces(7)",
    ),
    _C.IO: _clone((2, 6, 25), "Caller and child share an I/O context: the scheduler counts them as one."),
    _C.NEWTIME: _clone(
        (5, 6),
        "The child gets offsets of its own for the monotonic and boot-time clocks.",
        needs=_ADMIN,
        page="time_namespaces(7)",
    ),
    _C.CLEAR_SIGHAND: _clone(
        (5, 5),
        "Signals with a handler in the caller get their default action; ignored ones stay ignored.",
        excludes=_C.SIGHAND,
    ),
    _C.INTO_CGROUP: _clone(
        (5, 7),
        "The child starts in the version 2 cgroup that the descriptor in the field cgroup stands for.",
        needs="write permission for that cgroup's cgroup.procs, and for that of the nearest common ancestor",
    ),
    _C.AUTOREAP: _clone(
        (7, 1),
        "The child leaves no zombie and sends no signal; its exit status is read through the pidfd.",
        excludes=_C.THREAD | _C.PARENT,
    ),
    _C.NNP: _clone(
        (7, 1),
        "The child starts with no_new_privs set: no exec gives it privileges that it doesn't have.",
        excludes=_C.THREAD,
    ),
    _C.PIDFD_AUTOKILL: _clone(
        (7, 1),
        "The kernel kills the child when the last copy of the pidfd that clone3 returned is closed.",
        needs="CAP_SYS_ADMIN in the caller's user namespace, or CLONE_NNP beside it",
        requires=_C.PIDFD | _C.AUTOREAP,
        excludes=_C.THREAD,
    ),
    _C.EMPTY_MNTNS: _clone(
        (7, 1),
        "The child gets a mount table of one empty, unwritable root; implies CLONE_NEWNS.",
        needs=_ADMIN,
        excludes=_C.FS,
        page="mount_namespaces(7)",
    ),
}


class Obsolete:
    """A flag that is gone: in which kernel it came and in which it went, and what became of it."""

    __slots__ = ("meaning", "since", "until")

    def __init__(self, since: tuple[int, ...], until: tuple[int, ...], meaning: str) -> None:
        self.since, self.until, self.meaning = since, until, meaning


OBSOLETE: dict[str, Obsolete] = {
    "PID": Obsolete(
        (2, 0),
        (2, 5, 16),
        "it gave the child the caller's own pid; gone since Linux 2.5.16, and CLONE_PIDFD has its bit",
    ),
    "DETACHED": Obsolete(
        (2, 5, 32),
        (2, 6, 2),
        "it made a thread that sends no signal when it ends, as CLONE_THREAD does since Linux 2.6.2; "
        "clone ignores the bit unless CLONE_PIDFD is there, clone3 refuses it",
    ),
    "STOPPED": Obsolete(
        (2, 6, 0),
        (2, 6, 38),
        "it started the child stopped; gone since Linux 2.6.38, and CLONE_NEWCGROUP has its bit",
    ),
}


def _rows(page: str, rows: dict[IntFlag, tuple[tuple[int, ...], str]]) -> dict[IntFlag, Fact]:
    return {flag: Fact(since, meaning, page=page) for flag, (since, meaning) in rows.items()}


FACTS: dict[str, dict[IntFlag, Fact]] = {
    "CLONE": dict(CLONE_FACTS.items()),
    "MS": _rows(
        "mount(2)",
        {
            MS.RDONLY: ((1, 0), "Nothing can be written through the mount."),
            MS.NOSUID: ((1, 0), "Set-user-ID bits and file capabilities have no effect on exec."),
            MS.NODEV: ((1, 0), "Device files can't be opened."),
            MS.NOEXEC: ((1, 0), "Programs can't be executed from it."),
            MS.SYNCHRONOUS: ((1, 0), "Each write waits for the disk."),
            MS.REMOUNT: ((1, 0), "Changes the options of what is mounted already."),
            MS.MANDLOCK: ((1, 1, 51), "Allows mandatory locks, until Linux 5.15 took those away."),
            MS.DIRSYNC: ((2, 5, 19), "Each change of a directory waits for the disk."),
            MS.NOSYMFOLLOW: ((5, 10), "Symbolic links on it are not followed."),
            MS.NOATIME: ((1, 1, 43), "Reading doesn't update access times."),
            MS.NODIRATIME: ((1, 3, 49), "Reading directories doesn't update their access times."),
            MS.BIND: ((2, 4, 0), "Makes a file or directory visible in a second place."),
            MS.MOVE: ((2, 4, 18), "Moves a mount to another place in one act."),
            MS.REC: ((2, 4, 11), "With a bind or a change of propagation: everything mounted below as well."),
            MS.SILENT: ((2, 6, 12), "Keeps some of the file system's messages out of the kernel log."),
            MS.POSIXACL: ((2, 6, 15), "The file system keeps POSIX access control lists; set by the kernel."),
            MS.UNBINDABLE: ((2, 6, 15), "Private, and can't be bound elsewhere."),
            MS.PRIVATE: ((2, 6, 15), "Mounts below it are neither passed on nor received."),
            MS.SLAVE: ((2, 6, 15), "Mounts below it are received from its peers, and not passed on."),
            MS.SHARED: ((2, 6, 15), "Mounts below it are passed on to its peers, and received from them."),
            MS.RELATIME: ((2, 6, 20), "Updates the access time once a day, or after a change; the default."),
            MS.I_VERSION: ((2, 6, 24), "The file system counts the changes of each inode."),
            MS.STRICTATIME: ((2, 6, 30), "Each read updates the access time."),
            MS.LAZYTIME: ((4, 0), "Keeps changes of times in memory until something else is written."),
        },
    ),
    "MOUNT_ATTR": _rows(
        "mount_setattr(2)",
        {
            MOUNT_ATTR.RDONLY: ((5, 2), "Nothing can be written through the mount."),
            MOUNT_ATTR.NOSUID: ((5, 2), "Set-user-ID bits and file capabilities have no effect on exec."),
            MOUNT_ATTR.NODEV: ((5, 2), "Device files can't be opened."),
            MOUNT_ATTR.NOEXEC: ((5, 2), "Programs can't be executed from it."),
            MOUNT_ATTR.NOATIME: ((5, 2), "Reading doesn't update access times."),
            MOUNT_ATTR.STRICTATIME: ((5, 2), "Each read updates the access time."),
            MOUNT_ATTR.NODIRATIME: ((5, 2), "Reading directories doesn't update their access times."),
            MOUNT_ATTR.IDMAP: ((5, 12), "Shows owners through the id maps of a given user namespace."),
            MOUNT_ATTR.NOSYMFOLLOW: ((5, 14), "Symbolic links on it are not followed."),
        },
    ),
    "OPEN_TREE": _rows(
        "open_tree(2)",
        {
            OPEN_TREE.CLONE: ((5, 2), "The descriptor holds a copy of the mount, attached nowhere."),
            OPEN_TREE.NAMESPACE: (
                (7, 0),
                "The descriptor is a new mount namespace with a copy of the mount.",
            ),
            OPEN_TREE.CLOEXEC: ((5, 2), "The descriptor is closed on exec."),
        },
    ),
    "MOVE_MOUNT": _rows(
        "move_mount(2)",
        {
            MOVE_MOUNT.F_SYMLINKS: ((5, 2), "Follows a symbolic link at the end of the source path."),
            MOVE_MOUNT.F_AUTOMOUNTS: ((5, 2), "Triggers an automount at the end of the source path."),
            MOVE_MOUNT.F_EMPTY_PATH: ((5, 2), "The source is the descriptor itself, its path is empty."),
            MOVE_MOUNT.T_SYMLINKS: ((5, 2), "Follows a symbolic link at the end of the target path."),
            MOVE_MOUNT.T_AUTOMOUNTS: ((5, 2), "Triggers an automount at the end of the target path."),
            MOVE_MOUNT.T_EMPTY_PATH: ((5, 2), "The target is the descriptor itself, its path is empty."),
            MOVE_MOUNT.SET_GROUP: ((5, 15), "Moves nothing: puts the target into the source's peer group."),
            MOVE_MOUNT.BENEATH: ((6, 5), "Attaches below the target's topmost mount, which stays on top."),
        },
    ),
    "AT": _rows(
        "openat(2)",
        {
            AT.SYMLINK_NOFOLLOW: ((2, 6, 16), "A symbolic link at the end of the path is not followed."),
            AT.SYMLINK_FOLLOW: ((2, 6, 18), "A symbolic link at the end of the path is followed."),
            AT.NO_AUTOMOUNT: ((2, 6, 38), "Nothing is automounted at the end of the path."),
            AT.EMPTY_PATH: ((2, 6, 39), "An empty path means the descriptor itself."),
            AT.RECURSIVE: ((5, 2), "The whole tree of mounts below the path as well."),
            AT.EXECVE_CHECK: ((6, 14), "Asks execveat only whether it would execute the file."),
        },
    ),
    "RESOLVE": _rows(
        "openat2(2)",
        {
            RESOLVE.NO_XDEV: ((5, 6), "The walk may not enter another mount."),
            RESOLVE.NO_MAGICLINKS: ((5, 6), "The walk may not go through links such as /proc/PID/fd/N."),
            RESOLVE.NO_SYMLINKS: ((5, 6), "The walk may not go through any symbolic link."),
            RESOLVE.BENEATH: ((5, 6), "The walk may not leave the starting directory."),
            RESOLVE.IN_ROOT: ((5, 6), "The walk takes the starting directory for its root."),
            RESOLVE.CACHED: ((5, 12), "The walk fails rather than wait for a disk."),
        },
    ),
    "MNT": _rows(
        "umount2(2)",
        {
            MNT.FORCE: ((2, 1, 116), "Gives up requests under way; for network file systems."),
            MNT.DETACH: ((2, 4, 11), "Takes it out of the tree now, and frees it when nothing uses it."),
            MNT.EXPIRE: ((2, 6, 8), "Marks it; unmounts it at the second call if not used between."),
            MNT.NOFOLLOW: ((2, 6, 34), "A symbolic link as the target is not followed."),
        },
    ),
    "FSOPEN": _rows("fsopen(2)", {FSOPEN.CLOEXEC: ((5, 2), "The descriptor is closed on exec.")}),
    "FSMOUNT": _rows(
        "fsmount(2)",
        {
            FSMOUNT.CLOEXEC: ((5, 2), "The descriptor is closed on exec."),
            FSMOUNT.NAMESPACE: ((7, 1), "The descriptor is a new mount namespace holding the mount."),
        },
    ),
    "PIDFD": _rows(
        "pidfd_open(2)",
        {
            PIDFD.THREAD: ((6, 9), "The pidfd stands for one thread, not for a process."),
            PIDFD.NONBLOCK: ((5, 10), "While the process runs, waitid on the pidfd answers EAGAIN."),
        },
    ),
    "PIDFD_SIGNAL": _rows(
        "pidfd_send_signal(2)",
        {
            SIGNAL.THREAD: ((6, 9), "The signal goes to that one thread."),
            SIGNAL.THREAD_GROUP: ((6, 9), "The signal goes to the whole process."),
            SIGNAL.PROCESS_GROUP: ((6, 9), "The signal goes to the process group that the process leads."),
        },
    ),
}
"""The rows by the name of their kind: flags of two kinds with one value are equal, and would be one key."""


def fact_of(flag: IntFlag) -> Fact:
    """The row of one named flag. KeyError for a combination, or for bits without a name."""
    return FACTS[type(flag).__name__][flag]
