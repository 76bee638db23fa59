"""Why the kernel would refuse a clone: `check` names each reason, in words, with the errno it gives.

The rules follow the kernel's own order of checks, so the first violation's errno is the one that the
system call returns. Each names the kernel function it comes from, and where the manual tells of it, if it
does. tests/kernel/test_flag_pairs.py clones every pair of flags and holds these rules against the answer.

Pure: nothing here asks the machine. What it can't know is left out: pids that are taken (EEXIST), limits
that are reached (EAGAIN, ENOSPC, EMFILE, ENOMEM), filters and security modules that refuse on their own.
"""

from __future__ import annotations

import errno as _errno

from ramet.errors import SpecError, errno_name
from ramet.flags import CLONE, CSIGNAL, OBSOLETE_CLONE, SIGNAL_MAX, format_clone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

NEWEST = (7, 2)
"""The newest kernel whose rules are known here."""

_DETACHED = OBSOLETE_CLONE["DETACHED"]
_NEW_NAMESPACES = (
    CLONE.NEWNS
    | CLONE.NEWPID
    | CLONE.NEWNET
    | CLONE.NEWIPC
    | CLONE.NEWUTS
    | CLONE.NEWCGROUP
    | CLONE.NEWTIME
    | CLONE.EMPTY_MNTNS
)
_HIGH_SINCE = {
    CLONE.CLEAR_SIGHAND: (5, 5),
    CLONE.INTO_CGROUP: (5, 7),
    CLONE.AUTOREAP: (7, 1),
    CLONE.NNP: (7, 1),
    CLONE.PIDFD_AUTOKILL: (7, 1),
    CLONE.EMPTY_MNTNS: (7, 1),
}
_PID_NAMESPACES = 32
_PID_MAX = 1 << 22
_INT_MAX = (1 << 31) - 1
_USER_TOP = 0x7FFF_FFFF_F000


class Violation:
    """One reason for which the kernel refuses.

    errno: what the call answers if this is the first reason. reason: why, in one sentence. flags: those at
    fault. since: the kernel that began to refuse it. source: the kernel function. manual: its place there.
    """

    __slots__ = ("errno", "flags", "manual", "reason", "since", "source")

    def __init__(
        self, errno: int, reason: str, *, flags: int, since: tuple[int, ...], source: str, manual: str
    ) -> None:
        self.errno, self.reason, self.flags = errno, reason, CLONE(flags)
        self.since, self.source, self.manual = since, source, manual

    def __str__(self) -> str:
        return f"{errno_name(self.errno)}: {self.reason}"

    def __repr__(self) -> str:
        return f"<Violation {_errno.errorcode[self.errno]}, {format_clone(self.flags)}: {self.reason}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Violation) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.errno, self.reason))


class Caller:
    """What of the calling process the rules depend on. The default is root in a plain login session.

    capabilities: those that matter, in its own user namespace: CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE.
    init: it is pid 1 of its pid namespace. autoreap: it was made with CLONE_AUTOREAP.
    other_pid_ns, other_time_ns: it has called unshare or setns, and its children go to another one.
    pid_level: how deep its pid namespace lies; 0 is the outermost. pid_max: /proc/sys/kernel/pid_max.
    newuser_errno: what it gets for CLONE_NEWUSER: EPERM where the host, a chroot or unmapped ids forbid it.
    cgroup_errno: what it gets for the cgroup it names: EACCES where it may not write to it.
    machine: as uname -m gives it.
    """

    __slots__ = (
        "autoreap",
        "capabilities",
        "cgroup_errno",
        "init",
        "machine",
        "newuser_errno",
        "other_pid_ns",
        "other_time_ns",
        "pid_level",
        "pid_max",
    )

    def __init__(
        self,
        *,
        capabilities: Collection[str] = ("CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"),
        init: bool = False,
        autoreap: bool = False,
        other_pid_ns: bool = False,
        other_time_ns: bool = False,
        pid_level: int = 0,
        pid_max: int = _PID_MAX,
        newuser_errno: int = 0,
        cgroup_errno: int = 0,
        machine: str = "x86_64",
    ) -> None:
        self.capabilities, self.init, self.autoreap = frozenset(capabilities), init, autoreap
        self.other_pid_ns, self.other_time_ns = other_pid_ns, other_time_ns
        self.pid_level, self.pid_max = pid_level, pid_max
        self.newuser_errno, self.cgroup_errno, self.machine = newuser_errno, cgroup_errno, machine


ROOT = Caller()
ORDINARY = Caller(capabilities=())
"""A user without privilege, who may make user namespaces."""


class _Call:
    """The call under judgement: what the rules look at."""

    __slots__ = (
        "caller",
        "cgroup",
        "exit_signal",
        "flags",
        "kernel",
        "old",
        "parent_tid",
        "pidfd",
        "set_tid",
        "stack",
        "stack_size",
        "tls",
    )
    caller: Caller
    cgroup: int | None
    exit_signal: int
    flags: int
    kernel: tuple[int, ...]
    old: bool
    parent_tid: int | None
    pidfd: int | None
    set_tid: Sequence[int]
    stack: int
    stack_size: int
    tls: int

    def has(self, flags: int) -> bool:
        """Are all of these set?"""
        return self.flags & flags == flags

    def refuse(
        self,
        errno: int,
        reason: str,
        flags: int,
        source: str,
        *,
        since: tuple[int, ...] = (2, 6),
        manual: str = "",
    ) -> Violation:
        return Violation(errno, reason, flags=flags, since=since, source=source, manual=manual)


def check(
    flags: int,
    *,
    exit_signal: int = 0,
    pidfd: int | None = None,
    parent_tid: int | None = None,
    stack: int = 0,
    stack_size: int = 0,
    tls: int = 0,
    set_tid: Sequence[int] = (),
    cgroup: int | None = None,
    call: str = "clone3",
    kernel: tuple[int, ...] | None = None,
    caller: Caller = ROOT,
) -> tuple[Violation, ...]:
    """Each reason for which the kernel would refuse this clone, in the kernel's order; empty if it would not.

    The fields are those of struct clone_args. pidfd and parent_tid are addresses: None for a good one of
    its own. cgroup is a descriptor, taken to be a good one; None for none. child_tid is missing since no
    value of it is refused. call is "clone3", or "clone" for the older call, whose low byte of flags is the
    exit signal.
    kernel is its version, as (6, 12, 3); by default the newest that is known here.
    """
    if call not in ("clone3", "clone"):
        raise SpecError(f"{call!r} is neither clone3 nor clone", field="call")
    if not 0 <= flags < 1 << 64:
        raise SpecError(f"{flags:#x} does not fit an unsigned 64-bit word", field="flags")
    old = call == "clone"
    if old and flags >> 32:
        raise SpecError(
            f"clone takes 32 bits, and would drop {format_clone(flags >> 32 << 32)}; clone3 takes it",
            field="flags",
        )
    asked = _Call()
    asked.flags, asked.exit_signal, asked.old = int(flags), exit_signal, old
    asked.pidfd, asked.parent_tid, asked.cgroup = pidfd, parent_tid, cgroup
    asked.stack, asked.stack_size, asked.tls, asked.set_tid = stack, stack_size, tls, set_tid
    asked.kernel, asked.caller = NEWEST if kernel is None else kernel, caller
    if old:
        asked.exit_signal = exit_signal or flags & CSIGNAL
        asked.flags = int(flags) & ~CSIGNAL
        return (*_kernel_clone(asked), *_copy_process(asked), *_copies(asked))
    return (
        *_copy_clone_args_from_user(asked),
        *_clone3_args_valid(asked),
        *_kernel_clone(asked),
        *_copy_process(asked),
        *_copies(asked),
        *_alloc_pid(asked),
        *_late(asked),
    )


def newtime_in_clone3(kernel: tuple[int, ...]) -> bool:
    """Does clone3 take CLONE_NEWTIME? Since 6.3, and in the stable series of that spring."""
    fixed = {(5, 10): 175, (5, 15): 103, (6, 1): 20, (6, 2): 7}
    release = fixed.get((kernel[0], kernel[1]))
    if release is not None and len(kernel) > 2:
        return kernel[2] >= release
    return kernel[:2] >= (6, 3)


def _copy_clone_args_from_user(call: _Call) -> Iterator[Violation]:
    """The structure itself."""
    where = "copy_clone_args_from_user"
    if call.kernel < (5, 3):
        yield call.refuse(
            _errno.ENOSYS,
            "clone3 came with Linux 5.3",
            call.flags,
            "sys_ni_syscall",
            manual="clone(2), VERSIONS",
        )
    if call.set_tid and call.kernel < (5, 5):
        yield call.refuse(_errno.E2BIG, "the field set_tid came with Linux 5.5", 0, where)
    if call.cgroup and call.kernel < (5, 7):
        yield call.refuse(_errno.E2BIG, "the field cgroup came with Linux 5.7", 0, where)
    if len(call.set_tid) > _PID_NAMESPACES:
        yield call.refuse(
            _errno.EINVAL,
            f"set_tid names {len(call.set_tid)} pids, and pid namespaces nest {_PID_NAMESPACES} deep",
            0,
            where,
            since=(5, 5),
            manual="clone(2), ERRORS, EINVAL: set_tid",
        )
    if call.exit_signal & ~CSIGNAL:
        yield call.refuse(
            _errno.EINVAL, f"exit_signal {call.exit_signal:#x} has more than 8 bits", 0, where, since=(5, 3)
        )
    if call.has(CLONE.INTO_CGROUP) and call.cgroup is not None and not 0 <= call.cgroup <= _INT_MAX:
        yield call.refuse(
            _errno.EINVAL,
            f"cgroup {call.cgroup} is no descriptor",
            CLONE.INTO_CGROUP,
            where,
            since=(5, 7),
        )


def _clone3_args_valid(call: _Call) -> Iterator[Violation]:
    """What clone3 checks before it does what clone does too."""
    where = "clone3_args_valid"
    low = call.flags & (CSIGNAL ^ int(CLONE.NEWTIME))
    if low:
        yield call.refuse(
            _errno.EINVAL,
            f"{low:#x} is in clone's byte for the exit signal, for which clone3 has the field exit_signal",
            low,
            where,
            since=(5, 3),
        )
    if call.has(CLONE.NEWTIME) and not newtime_in_clone3(call.kernel):
        yield call.refuse(
            _errno.EINVAL,
            "clone3 takes CLONE_NEWTIME since Linux 6.3 (and 6.1.20, 5.15.103, 5.10.175), unshare since 5.6",
            CLONE.NEWTIME,
            where,
            since=(5, 3),
        )
    if call.has(_DETACHED):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_DETACHED is obsolete, and clone3 keeps its bit free",
            _DETACHED,
            where,
            since=(5, 3),
        )
    yield from _too_new(call)
    if call.has(CLONE.SIGHAND | CLONE.CLEAR_SIGHAND):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_SIGHAND shares the signal handlers, which CLONE_CLEAR_SIGHAND would take away",
            CLONE.SIGHAND | CLONE.CLEAR_SIGHAND,
            where,
            since=(5, 5),
            manual="clone(2), ERRORS, EINVAL",
        )
    siblings = call.flags & (CLONE.THREAD | CLONE.PARENT)
    if siblings and call.exit_signal:
        yield call.refuse(
            _errno.EINVAL,
            f"the child of {format_clone(siblings)} has no exit signal of its own, so exit_signal must be 0",
            siblings,
            where,
            since=(5, 3),
            manual="clone(2), The flags mask, CLONE_PARENT and CLONE_THREAD",
        )
    yield from _stack(call)


def _too_new(call: _Call) -> Iterator[Violation]:
    where = "clone3_args_valid"
    for flag, since in _HIGH_SINCE.items():
        if call.has(flag) and call.kernel < since:
            yield call.refuse(
                _errno.EINVAL,
                f"{format_clone(flag)} came with Linux {since[0]}.{since[1]}",
                flag,
                where,
                since=(5, 3),
            )
    unknown = call.flags >> 38 << 38
    if unknown:
        yield call.refuse(_errno.EINVAL, f"no kernel knows {unknown:#x}", unknown, where, since=(5, 3))


def _stack(call: _Call) -> Iterator[Violation]:
    """stack and stack_size come together; stack is the lowest byte, unlike clone's."""
    if bool(call.stack) != bool(call.stack_size):
        lone, missing = ("stack", "stack_size") if call.stack else ("stack_size", "stack")
        yield call.refuse(
            _errno.EINVAL,
            f"{lone} is given without {missing}",
            0,
            "clone3_stack_valid",
            since=(5, 5),
            manual="clone(2), ERRORS, EINVAL: stack",
        )
    elif call.stack + call.stack_size >= 1 << 63:
        yield call.refuse(_errno.EINVAL, "the stack lies outside user memory", 0, "clone3_stack_valid", since=(5, 5))


def _kernel_clone(call: _Call) -> Iterator[Violation]:
    where = "kernel_clone"
    if call.has(CLONE.PIDFD | CLONE.PARENT_SETTID) and (
        call.old or (call.pidfd is not None and call.pidfd == call.parent_tid)
    ):
        why = "clone returns both through parent_tid" if call.old else "both are to be written to one place"
        yield call.refuse(
            _errno.EINVAL,
            f"CLONE_PIDFD and CLONE_PARENT_SETTID: {why}",
            CLONE.PIDFD | CLONE.PARENT_SETTID,
            where,
            since=(5, 2),
            manual="clone(2), ERRORS, EINVAL: CLONE_PIDFD",
        )
    # clone took any number before 7.1 (and, since the summer of 2026, stable series older than that)
    if SIGNAL_MAX < call.exit_signal <= CSIGNAL and (not call.old or call.kernel >= (7, 1)):
        yield call.refuse(_errno.EINVAL, f"there is no signal {call.exit_signal}", 0, where, since=(5, 3))


def _copy_process(call: _Call) -> Iterator[Violation]:
    """The combinations, before anything is made."""
    where = "copy_process"
    for ours, why in (
        (CLONE.NEWNS, "the root directory that CLONE_FS shares belongs to the caller's mount namespace"),
        (
            CLONE.EMPTY_MNTNS,
            "the root directory that CLONE_FS shares belongs to the caller's mount namespace",
        ),
        (CLONE.NEWUSER, "root in its own user namespace could change the caller's root directory"),
    ):
        if call.has(ours | CLONE.FS):
            yield call.refuse(
                _errno.EINVAL,
                f"{format_clone(ours)} can't go with CLONE_FS: {why}",
                ours | CLONE.FS,
                where,
                since={CLONE.NEWNS: (2, 4, 19), CLONE.NEWUSER: (3, 9)}.get(ours, (7, 1)),
                manual="" if ours is CLONE.EMPTY_MNTNS else "clone(2), ERRORS, EINVAL",
            )
    yield from _shared_memory(call)
    if call.has(CLONE.PARENT) and call.caller.init:
        yield call.refuse(
            _errno.EINVAL,
            "the caller is pid 1 of its pid namespace: nobody would reap the sibling that CLONE_PARENT makes",
            CLONE.PARENT,
            where,
            since=(2, 6, 32),
            manual="clone(2), ERRORS, EINVAL: CLONE_PARENT",
        )
    yield from _thread_in_other_namespace(call)
    if call.has(CLONE.PIDFD | _DETACHED):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_DETACHED is kept free beside CLONE_PIDFD",
            CLONE.PIDFD | _DETACHED,
            where,
            since=(5, 2),
            manual="clone(2), ERRORS, EINVAL: CLONE_PIDFD",
        )
    if call.has(CLONE.PIDFD | CLONE.THREAD) and call.kernel < (6, 9):
        yield call.refuse(
            _errno.EINVAL,
            "a pidfd stands for one thread only since Linux 6.9",
            CLONE.PIDFD | CLONE.THREAD,
            where,
            since=(5, 2),
            manual="clone(2), ERRORS, EINVAL: CLONE_PIDFD",
        )
    yield from _autoreap(call)


def _shared_memory(call: _Call) -> Iterator[Violation]:
    where = "copy_process"
    if call.has(CLONE.THREAD) and not call.has(CLONE.SIGHAND):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_THREAD needs CLONE_SIGHAND: the threads of a process have one table of signal handlers",
            CLONE.THREAD,
            where,
            since=(2, 5, 35),
            manual="clone(2), ERRORS, EINVAL: CLONE_THREAD",
        )
    if call.has(CLONE.SIGHAND) and not call.has(CLONE.VM):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_SIGHAND needs CLONE_VM: a shared handler is an address in shared memory",
            CLONE.SIGHAND,
            where,
            since=(2, 6, 0),
            manual="clone(2), ERRORS, EINVAL: CLONE_SIGHAND",
        )


def _thread_in_other_namespace(call: _Call) -> Iterator[Violation]:
    where = "copy_process"
    others = call.flags & (CLONE.NEWUSER | CLONE.NEWPID)
    if call.has(CLONE.THREAD) and others:
        yield call.refuse(
            _errno.EINVAL,
            f"the threads of a process are in one user and one pid namespace: no {format_clone(others)}",
            CLONE.THREAD | others,
            where,
            since=(2, 6, 24),
            manual="clone(2), ERRORS, EINVAL: CLONE_NEWPID, CLONE_NEWUSER",
        )
    if call.has(CLONE.THREAD) and call.caller.other_pid_ns:
        yield call.refuse(
            _errno.EINVAL,
            "the caller's children go to another pid namespace (unshare, setns), where a thread can't follow",
            CLONE.THREAD,
            where,
            since=(3, 8),
            manual="clone(2), ERRORS, EINVAL: CLONE_THREAD",
        )
    one_memory = call.flags & (CLONE.THREAD | CLONE.VM)
    if one_memory and call.caller.other_time_ns and (5, 6) <= call.kernel < (6, 2):
        yield call.refuse(
            _errno.EINVAL,
            "the caller's children go to another time namespace, whose clocks shared memory can't show",
            one_memory,
            where,
            since=(5, 6),
        )


def _autoreap(call: _Call) -> Iterator[Violation]:
    where = "copy_process"
    autoreap = CLONE.AUTOREAP
    for other, why in (
        (CLONE.THREAD, "a thread leaves nothing to reap"),
        (CLONE.PARENT, "only one's own child can be reaped by the kernel"),
    ):
        if call.has(autoreap | other):
            yield call.refuse(
                _errno.EINVAL,
                f"CLONE_AUTOREAP can't go with {format_clone(other)}: {why}",
                autoreap | other,
                where,
                since=(7, 1),
            )
    if call.has(autoreap) and call.exit_signal:
        yield call.refuse(
            _errno.EINVAL,
            "a child with CLONE_AUTOREAP sends no signal when it ends, so exit_signal must be 0",
            autoreap,
            where,
            since=(7, 1),
        )
    if call.has(CLONE.PARENT) and call.caller.autoreap:
        yield call.refuse(
            _errno.EINVAL,
            "the caller was made with CLONE_AUTOREAP, so its parent doesn't wait for siblings of it",
            CLONE.PARENT,
            where,
            since=(7, 1),
        )
    if call.has(CLONE.NNP | CLONE.THREAD):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_NNP can't go with CLONE_THREAD: a thread has its process's credentials",
            CLONE.NNP | CLONE.THREAD,
            where,
            since=(7, 1),
        )
    yield from _autokill(call)


def _autokill(call: _Call) -> Iterator[Violation]:
    where = "copy_process"
    autokill = CLONE.PIDFD_AUTOKILL
    if not call.has(autokill):
        return
    for needed, why in (
        (CLONE.PIDFD, "it is the pidfd's closing that kills"),
        (CLONE.AUTOREAP, "whoever closed the pidfd can't wait for the child any more"),
    ):
        if not call.has(needed):
            yield call.refuse(
                _errno.EINVAL,
                f"CLONE_PIDFD_AUTOKILL needs {format_clone(needed)}: {why}",
                autokill,
                where,
                since=(7, 1),
            )
    if call.has(CLONE.THREAD):
        yield call.refuse(
            _errno.EINVAL,
            "CLONE_PIDFD_AUTOKILL can't go with CLONE_THREAD: a kill ends the whole process",
            autokill | CLONE.THREAD,
            where,
            since=(7, 1),
        )
    if not call.has(CLONE.NNP) and "CAP_SYS_ADMIN" not in call.caller.capabilities:
        yield call.refuse(
            _errno.EPERM,
            "CLONE_PIDFD_AUTOKILL needs CAP_SYS_ADMIN or CLONE_NNP: exec may make the child privileged",
            autokill,
            where,
            since=(7, 1),
        )


def _copies(call: _Call) -> Iterator[Violation]:
    """copy_creds, copy_namespaces and copy_thread, in this order."""
    caller = call.caller
    if call.has(CLONE.NEWUSER) and caller.newuser_errno:
        yield call.refuse(
            caller.newuser_errno,
            "no user namespace for this caller: the host forbids it, or a chroot, or its ids are unmapped",
            CLONE.NEWUSER,
            "create_user_ns",
            since=(3, 8),
            manual="clone(2), ERRORS, EPERM: CLONE_NEWUSER",
        )
    new = call.flags & _NEW_NAMESPACES
    if new and not call.has(CLONE.NEWUSER) and "CAP_SYS_ADMIN" not in caller.capabilities:
        yield call.refuse(
            _errno.EPERM,
            f"{format_clone(new)} needs CAP_SYS_ADMIN; with CLONE_NEWUSER beside it an ordinary user may",
            new,
            "copy_namespaces",
            manual="clone(2), ERRORS, EPERM",
        )
    if call.has(CLONE.NEWIPC | CLONE.SYSVSEM):
        yield call.refuse(
            _errno.EINVAL,
            "the semaphores whose undo list CLONE_SYSVSEM shares can't be reached from a new IPC namespace",
            CLONE.NEWIPC | CLONE.SYSVSEM,
            "copy_namespaces",
            since=(2, 6, 25),
            manual="clone(2), ERRORS, EINVAL",
        )
    if call.has(CLONE.NEWPID) and caller.other_pid_ns:
        yield call.refuse(
            _errno.EINVAL,
            "the caller's children go to another pid namespace already, and no new one can be made in that",
            CLONE.NEWPID,
            "copy_pid_ns",
            since=(3, 8),
        )
    if call.has(CLONE.SETTLS) and caller.machine == "x86_64" and call.tls >= _USER_TOP:
        yield call.refuse(_errno.EPERM, f"tls {call.tls:#x} lies outside user memory", CLONE.SETTLS, "do_arch_prctl_64")


def _alloc_pid(call: _Call) -> Iterator[Violation]:
    if not call.set_tid:
        return
    where = "alloc_pid"
    levels = call.caller.pid_level + 1 + (1 if call.has(CLONE.NEWPID) else 0)
    if levels < len(call.set_tid) <= _PID_NAMESPACES:
        yield call.refuse(
            _errno.EINVAL,
            f"set_tid names {len(call.set_tid)} pids, and the child is in {levels} pid namespaces",
            0,
            where,
            since=(5, 5),
            manual="clone(2), ERRORS, EINVAL: set_tid",
        )
    for depth, pid in enumerate(call.set_tid):
        first = depth == 0 and call.has(CLONE.NEWPID)
        if not 1 <= pid < call.caller.pid_max:
            yield call.refuse(
                _errno.EINVAL, f"{pid} is no pid (1 to {call.caller.pid_max - 1})", 0, where, since=(5, 5)
            )
        elif first and pid != 1:
            yield call.refuse(
                _errno.EINVAL,
                f"the first process of a pid namespace is pid 1, not {pid}",
                CLONE.NEWPID,
                where,
                since=(5, 5),
                manual="clone(2), ERRORS, EINVAL: set_tid",
            )
        allowed = {"CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"}
        if call.kernel < (5, 9):
            allowed = {"CAP_SYS_ADMIN"}
        owned = first and call.has(CLONE.NEWUSER)
        if not owned and not allowed & call.caller.capabilities:
            yield call.refuse(
                _errno.EPERM,
                f"choosing pid {pid} needs CAP_CHECKPOINT_RESTORE over that pid namespace",
                0,
                where,
                since=(5, 5),
                manual="clone(2), ERRORS, EPERM: set_tid",
            )


def _late(call: _Call) -> Iterator[Violation]:
    """The pidfd and the cgroup, when the child is all but made."""
    if call.has(CLONE.PIDFD) and call.pidfd == 0:
        yield call.refuse(
            _errno.EFAULT,
            "there is nowhere to write the pidfd to: the field pidfd is an address, and 0",
            CLONE.PIDFD,
            "copy_process",
            since=(5, 2),
        )
    if not call.has(CLONE.INTO_CGROUP):
        return
    if call.cgroup is None:
        yield call.refuse(
            _errno.EBADF,
            "CLONE_INTO_CGROUP needs the descriptor of a version 2 cgroup in the field cgroup",
            CLONE.INTO_CGROUP,
            "cgroup_css_set_fork",
            since=(5, 7),
            manual="clone(2), The flags mask, CLONE_INTO_CGROUP",
        )
    elif call.caller.cgroup_errno:
        yield call.refuse(
            call.caller.cgroup_errno,
            "the caller may not put a process into this cgroup: it needs write permission for cgroup.procs",
            CLONE.INTO_CGROUP,
            "cgroup_css_set_fork",
            since=(5, 7),
            manual="clone(2), ERRORS, EACCES",
        )
