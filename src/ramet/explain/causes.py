"""Why a call of clone's family fails, where the flags alone don't tell: limits, rights, and the state of things.

`check_unshare` does for unshare(2) what `ramet.rules.check` does for clone: it names each reason that the flags
themselves give. `other_causes` has the rest: what an errno of each call can come from besides.
"""

from __future__ import annotations

import errno as _errno

from ramet.flags import CLONE, format_clone
from ramet.rules import ROOT, Violation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ramet.rules import Caller

UNSHARED = (
    CLONE.THREAD | CLONE.FS | CLONE.NEWNS | CLONE.SIGHAND | CLONE.VM | CLONE.FILES | CLONE.SYSVSEM | CLONE.NEWUTS
    | CLONE.NEWIPC | CLONE.NEWNET | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWCGROUP | CLONE.NEWTIME
)  # fmt: skip
"""What unshare takes."""
_NAMESPACES = CLONE.NEWNS | CLONE.NEWUTS | CLONE.NEWIPC | CLONE.NEWNET | CLONE.NEWPID | CLONE.NEWCGROUP | CLONE.NEWTIME
_ALONE = CLONE.THREAD | CLONE.SIGHAND | CLONE.VM | CLONE.NEWUSER


def check_unshare(flags: int, *, caller: Caller = ROOT, threads: int = 1) -> tuple[Violation, ...]:
    """Each reason for which unshare would refuse these flags, in the kernel's order. Pure.

    threads: how many the caller has.
    """
    return tuple(_unshare(CLONE(flags), caller, threads))


def _unshare(flags: CLONE, caller: Caller, threads: int) -> Iterator[Violation]:
    unknown = flags & ~UNSHARED
    if unknown:
        yield Violation(
            _errno.EINVAL,
            f"unshare can't do {format_clone(unknown)}",
            flags=unknown,
            since=(2, 6, 16),
            source="check_unshare_flags",
            manual="unshare(2), ERRORS, EINVAL",
        )
    if flags & _ALONE and threads > 1:
        yield Violation(
            _errno.EINVAL,
            f"{format_clone(flags & _ALONE)} is for a process of one thread, and this one has {threads}",
            flags=flags & _ALONE,
            since=(2, 6, 16),
            source="check_unshare_flags",
            manual="unshare(2), ERRORS, EINVAL",
        )
    if flags & CLONE.NEWUSER and caller.newuser_errno:
        yield Violation(
            caller.newuser_errno,
            "no user namespace for this caller: the host forbids it, or a chroot, or its ids are unmapped",
            flags=CLONE.NEWUSER,
            since=(3, 8),
            source="create_user_ns",
            manual="unshare(2), ERRORS, EPERM",
        )
    new = flags & _NAMESPACES
    if new and not flags & CLONE.NEWUSER and "CAP_SYS_ADMIN" not in caller.capabilities:
        yield Violation(
            _errno.EPERM,
            f"{format_clone(new)} needs CAP_SYS_ADMIN; with CLONE_NEWUSER beside it an ordinary user may",
            flags=new,
            since=(2, 6, 16),
            source="unshare_nsproxy_namespaces",
            manual="unshare(2), ERRORS, EPERM",
        )
    if flags & CLONE.NEWPID and caller.other_pid_ns:
        yield Violation(
            _errno.EINVAL,
            "the caller's children go to another pid namespace already, and no new one can be made in that",
            flags=CLONE.NEWPID,
            since=(3, 8),
            source="copy_pid_ns",
            manual="",
        )


_ANY = CLONE(0)
_MAKES = _NAMESPACES | CLONE.NEWUSER | CLONE.EMPTY_MNTNS

#: errno: (with any of these flags, the cause). For what makes a process.
_CLONE: dict[int, list[tuple[CLONE, str]]] = {
    _errno.EAGAIN: [
        (_ANY, "the user has as many processes as RLIMIT_NPROC allows (CAP_SYS_RESOURCE or CAP_SYS_ADMIN is exempt)"),
        (_ANY, "the cgroup, or one above it, has as many as its pids.max allows"),
        (_ANY, "the machine has as many as kernel.threads-max or kernel.pid_max allows"),
    ],
    _errno.ENOMEM: [
        (_ANY, "the kernel has no memory for it"),
        (_ANY, "the pid namespace that the caller's children go to has lost its pid 1, and takes nobody any more"),
    ],
    _errno.ENOSPC: [
        (_MAKES, "a limit in /proc/sys/user/max_*_namespaces is reached, here or in a user namespace above"),
        (CLONE.NEWUSER | CLONE.NEWPID, "user and pid namespaces nest at most 32 deep"),
    ],
    _errno.EUSERS: [(CLONE.NEWUSER, "before Linux 4.9: user namespaces nest too deep, or too many (ENOSPC today)")],
    _errno.EPERM: [
        (CLONE.NEWUSER, "the host forbids user namespaces (kernel.unprivileged_userns_clone, AppArmor, another LSM)"),
        (CLONE.NEWUSER, "the caller is in a chroot, or its uid or gid is not mapped in its user namespace"),
        (_ANY, "a seccomp filter refuses the call with EPERM"),
    ],
    _errno.EINVAL: [
        (CLONE.THREAD | CLONE.NEWPID, "unshare or setns has sent the caller's children to another pid namespace"),
        (CLONE.PARENT, "the caller is pid 1 of its pid namespace"),
        (_ANY, "the stack is misaligned (aarch64: 16 bytes), or a field that the line doesn't show is wrong"),
    ],
    _errno.EEXIST: [(_ANY, "a pid in set_tid is taken in its pid namespace")],
    _errno.EBUSY: [(CLONE.INTO_CGROUP, "the cgroup has controllers enabled for its children, so nobody may be in it")],
    _errno.EOPNOTSUPP: [(CLONE.INTO_CGROUP, "the cgroup is in the domain invalid state: cgroup.type says so")],
    _errno.EACCES: [(CLONE.INTO_CGROUP, "the caller may not write to the cgroup's cgroup.procs")],
    _errno.EBADF: [(CLONE.INTO_CGROUP, "the field cgroup is no open descriptor of a version 2 cgroup")],
    _errno.EMFILE: [(CLONE.PIDFD, "no descriptor is free for the pidfd: RLIMIT_NOFILE")],
    _errno.ENFILE: [(CLONE.PIDFD, "no open file is free for the pidfd: fs.file-max")],
    _errno.EFAULT: [(_ANY, "the structure, or what its fields point to, is outside of the caller's memory")],
    _errno.E2BIG: [(_ANY, "the structure is longer than this kernel knows, and what it doesn't know is not zero")],
    _errno.ENOSYS: [
        (_ANY, "a seccomp filter hides the call, so that libc falls back to clone (containers do)"),
        (_ANY, "the kernel is older than the call: clone3 came with Linux 5.3"),
    ],
}
_UNSHARE: dict[int, list[tuple[CLONE, str]]] = {
    _errno.EINVAL: [
        (_ALONE, "the caller has more than one thread"),
        (CLONE.NEWPID, "its children go to another pid namespace already: unshare(CLONE_NEWPID) works once"),
        (_ANY, "this kernel was built without that kind of namespace"),
    ],
    **{number: _CLONE[number] for number in (_errno.EPERM, _errno.ENOSPC, _errno.EUSERS)},
    _errno.ENOMEM: [(_ANY, "the kernel has no memory for it")],
    _errno.ENOSYS: [(_ANY, "a seccomp filter hides the call")],
}
_SETNS: dict[int, list[tuple[CLONE, str]]] = {
    _errno.EINVAL: [
        (_ANY, "the descriptor is no namespace, or one of another kind than the second argument says"),
        (CLONE.NEWUSER, "it is the user namespace that the caller is in already"),
        (CLONE.NEWUSER | CLONE.NEWTIME, "the caller has more than one thread"),
        (CLONE.NEWNS | CLONE.NEWUSER, "the caller shares root and current directory with somebody (CLONE_FS)"),
        (CLONE.NEWPID, "it is neither the caller's pid namespace nor one below it"),
        (_ANY, "the descriptor is a pidfd, and the second argument is 0: it must say which namespaces"),
    ],
    _errno.EPERM: [
        (_ANY, "it needs CAP_SYS_ADMIN in the user namespace that owns the one to be joined"),
        (~CLONE.NEWUSER & _MAKES, "and CAP_SYS_ADMIN in the caller's own user namespace"),
        (CLONE.NEWNS, "for a mount namespace also CAP_SYS_CHROOT in the caller's own user namespace"),
        (_ANY, "with a pidfd: the right to ptrace the process"),
        (_ANY, "a seccomp filter refuses the call with EPERM"),
    ],
    _errno.EBADF: [(_ANY, "the first argument is no open descriptor")],
    _errno.ESRCH: [(_ANY, "the descriptor is a pidfd, and its process has ended")],
    _errno.ENOMEM: [(_ANY, "the kernel has no memory for it")],
    _errno.ENOSYS: [(_ANY, "a seccomp filter hides the call")],
}


def other_causes(call: str, errno: int, flags: int) -> list[str]:
    """What this errno can come from, besides what the flags say; empty if none is known."""
    table = {"unshare": _UNSHARE, "setns": _SETNS}.get(call, _CLONE)
    every = call == "setns" and not flags  # it may be any kind
    return [cause for needed, cause in table.get(errno, []) if not needed or every or flags & needed]
