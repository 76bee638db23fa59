"""Why the kernel refused a call, where that is known. Pure; ramet.rules has the combinations of clone's flags."""

from __future__ import annotations

import errno as E

from ramet.flags import CLONE
from ramet.rules import ORDINARY, ROOT, Caller, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ramet.trace.tree import Call, Task

_LIMIT = "a limit on namespaces is reached: /proc/sys/user/max_*_namespaces, or 32 of them nested"
_NOT_HERE = "this kernel has no such call, or a seccomp filter says so"
_ONE_THREAD = CLONE.NEWUSER | CLONE.THREAD | CLONE.SIGHAND | CLONE.VM
_UNSHARABLE = (
    CLONE.FS | CLONE.FILES | CLONE.SYSVSEM | CLONE.NEWNS | CLONE.NEWCGROUP | CLONE.NEWUTS | CLONE.NEWIPC
    | CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWNET | CLONE.NEWTIME | CLONE.THREAD | CLONE.SIGHAND | CLONE.VM
)  # fmt: skip

_MAKING = {
    E.EAGAIN: "too many processes or threads: RLIMIT_NPROC, the cgroup's pids.max, or kernel.threads-max",
    E.ENOSPC: _LIMIT,
    E.EUSERS: _LIMIT,
    E.ENOMEM: "no memory; or pid 1 of the pid namespace for its children has ended, and nothing can follow it",
    E.ENOSYS: _NOT_HERE,
}
#: (call, errno): one sentence.
_REASONS = {
    **{(name, number): text for name in ("clone", "clone3", "fork", "vfork") for number, text in _MAKING.items()},
    ("unshare", E.ENOSPC): _LIMIT,
    ("unshare", E.EUSERS): _LIMIT,
    ("unshare", E.ENOSYS): _NOT_HERE,
    ("setns", E.EBADF): "no open descriptor has this number",
    ("setns", E.EPERM): "needs CAP_SYS_ADMIN in the user namespace that owns the other, and in the caller's own",
    ("setns", E.EINVAL): "the descriptor stands for no namespace of this kind, or for one that it can't enter from here"
    " (its own user namespace; with several threads, another user namespace)",
    ("setns", E.ESRCH): "the process of the pidfd has ended",
    (
        "execve",
        E.EACCES,
    ): "no regular file, or no right to execute it or to pass a directory above it, or mounted noexec",
    ("execve", E.ENOEXEC): "in no format that the kernel knows, and without a #! line",
    ("execve", E.E2BIG): "arguments and environment are larger than the kernel takes",
    ("execve", E.ETXTBSY): "the file is open for writing",
}


def explain_refusals(tasks: Iterable[Task], kernel: tuple[int, ...]) -> None:
    """Give every failed call of these its reason."""
    for task in tasks:
        for call in task.calls:
            if call.errno:
                call.reason = reason(call, kernel)


def reason(call: Call, kernel: tuple[int, ...]) -> str | None:
    """One sentence, or None."""
    found = None
    if call.name in ("clone", "clone3") and call.flags is not None:
        found = _by_the_rules(call, kernel)
    elif call.name == "unshare":
        found = _unshare(call)
    return found or _REASONS.get((call.name.removesuffix("at"), call.errno))


def _by_the_rules(call: Call, kernel: tuple[int, ...]) -> str | None:
    """The first rule that gives this errno: to root; else to an ordinary user; else where user namespaces are forbidden."""
    other = call.task.others_pid
    callers = (
        Caller(capabilities=ROOT.capabilities, other_pid_ns=other),
        Caller(capabilities=ORDINARY.capabilities, other_pid_ns=other),
        Caller(capabilities=(), other_pid_ns=other, newuser_errno=call.errno, cgroup_errno=call.errno),
    )
    fields = call.fields
    if not 0 <= int(call.flags or 0) < 1 << 64:
        return None
    for caller in callers:
        for violation in check(
            int(call.flags or 0),
            exit_signal=call.exit_signal,
            pidfd=fields.get("pidfd") if fields else None,
            parent_tid=fields.get("parent_tid") if fields else None,
            stack=fields.get("stack", 0),
            stack_size=fields.get("stack_size", 0),
            tls=fields.get("tls", 0),
            cgroup=fields.get("cgroup") if call.flags and call.flags & CLONE.INTO_CGROUP else None,
            call=call.name,
            kernel=kernel,
            caller=caller,
        ):
            if violation.errno == call.errno:
                return violation.reason
    return None


def _unshare(call: Call) -> str | None:
    flags = call.flags or CLONE(0)
    unknown = flags & ~_UNSHARABLE
    if call.errno == E.EINVAL and unknown:
        return f"unshare takes namespaces, CLONE_FS, CLONE_FILES, CLONE_SYSVSEM: not {int(unknown):#x}"
    if call.errno == E.EINVAL and flags & _ONE_THREAD:
        return "only a process with one thread may do that"
    if call.errno == E.EINVAL and call.task.others_pid and flags & CLONE.NEWPID:
        return "its children go to another pid namespace already"
    if call.errno != E.EPERM:
        return None
    if flags & CLONE.NEWUSER:
        return "no user namespace for this caller: the host forbids it, or a chroot, or its ids are unmapped"
    return "needs CAP_SYS_ADMIN; with CLONE_NEWUSER beside it an ordinary user may"
