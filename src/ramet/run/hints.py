"""What to do about a failed step: one table keyed by call and errno. A hint states only what the facts show."""

from __future__ import annotations

import errno as E
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ramet.plan.steps import Plan, Step


def hint_for(call: str, errno: int, step: Step | None, plan: Plan | None) -> str | None:
    """The hint for this failure, or None."""
    for row_call, row_errno, applies, text in TABLE:
        if row_call == call and row_errno == errno:
            found = applies(step, plan)
            if found is not None:
                return text.format(found) if isinstance(found, str) else text
    return None


def _always(step: Step | None, plan: Plan | None) -> bool:
    return True


def _sysctl(name: str, value: str) -> Callable[[Step | None, Plan | None], bool | None]:
    """Applies where a sysctl has this value now."""

    def applies(step: Step | None, plan: Plan | None) -> bool | None:
        try:
            with open("/proc/sys/" + name, encoding="ascii") as file:
                return True if file.read().strip() == value else None
        except OSError:
            return None

    return applies


def _in_a_sandbox(step: Step | None, plan: Plan | None) -> bool | None:
    """Applies where this is a function's process, or pid 1 is ramet's init: a function may be called before its init is started."""
    from ramet.run import fork

    if fork.settled:
        return True
    try:
        # Not comm, which init sets itself, and maybe later than a payload looks.
        with open("/proc/1/cmdline", encoding="utf-8", errors="replace") as file:
            return True if file.read().startswith("ramet-init\0") else None
    except OSError:
        return None


def _outside_only(step: Step | None, plan: Plan | None) -> str | None:
    """The command, where the host has it and the sandbox has not."""
    import shutil

    if plan is None:
        return None
    name = plan.command.argv[0]
    found = name if "/" in name and os.path.exists(name) else shutil.which(name) if "/" not in name else None
    if found is None:
        return None
    return os.path.realpath(found)


def _sizes(step: Step | None, plan: Plan | None) -> str | None:
    """How big arguments and environment are."""
    if plan is None:
        return None
    words = [os.fsencode(word) for word in plan.command.argv]
    words += [os.fsencode(f"{name}={value}") for name, value in plan.spec.env.items() if value is not None]
    total, longest = sum(len(word) + 1 for word in words), max(len(word) + 1 for word in words)
    return f"arguments and environment are {total} bytes, the longest of them {longest}"


def _not_dumpable(step: Step | None, plan: Plan | None) -> bool | None:
    """Applies to the maps of a caller whose files in /proc are root's, since it changed its ids."""
    try:
        owner = os.stat("/proc/self/uid_map").st_uid
    except OSError:
        return None
    return True if step is not None and step.origin == "Sandbox.uid_mappings" and owner != os.geteuid() else None


def _overlay(step: Step | None, plan: Plan | None) -> bool | None:
    """Applies to the making of an overlay."""
    return True if step is not None and ("Overlay" in step.origin or "rootfs" in step.origin) else None


def _named_by_path(step: Step | None, plan: Plan | None) -> bool | None:
    """Applies to a command that was not looked for along PATH."""
    return True if plan is not None and "/" in plan.command.argv[0] else None


def _mount_destination(step: Step | None, plan: Plan | None) -> bool | None:
    return True if step is not None and step.origin.startswith(("Sandbox.mounts", "default")) else None


#: call, errno, when it applies, what to do. "{}" is what the test of applicability found.
TABLE: tuple[tuple[str, int, Callable[[Step | None, Plan | None], bool | str | None], str], ...] = (
    (
        "clone3",
        E.ENOSPC,
        _sysctl("user/max_user_namespaces", "0"),
        "user.max_user_namespaces is 0; as root: sysctl user.max_user_namespaces=15000",
    ),
    ("clone3", E.ENOSPC, _always, "a limit on namespaces is reached: user.max_*_namespaces, or 32 levels of nesting"),
    (
        "clone3",
        E.EPERM,
        _sysctl("kernel/unprivileged_userns_clone", "0"),
        "kernel.unprivileged_userns_clone is 0; as root: sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "clone3",
        E.EPERM,
        _in_a_sandbox,
        "this is inside of a sandbox, which forbids new namespaces; nested_namespaces=True of that one allows them",
    ),
    (
        "clone3",
        E.EPERM,
        _always,
        "new namespaces are refused, as in a container or a chroot; `ramet doctor` finds out why",
    ),
    ("clone3", E.EAGAIN, _always, "too many processes: RLIMIT_NPROC or the cgroup's pids.max is reached"),
    ("clone3", E.ENOMEM, _always, "no memory for another process, or the pid namespace has lost its init"),
    (
        "caller",
        E.ENOENT,
        _in_a_sandbox,
        "this is inside of a sandbox, where ramet's own files can't be seen; mounts=[Bind(...)] of that one shows them",
    ),
    ("caller", E.EMFILE, _always, "the caller has as many descriptors open as RLIMIT_NOFILE allows"),
    ("caller", E.EINVAL, _always, "RLIMIT_NOFILE is too low: ramet keeps its own descriptors at 64 and above"),
    ("caller", E.ENFILE, _always, "the host has as many files open as fs.file-max allows"),
    (
        "openat",
        E.EACCES,
        _not_dumpable,
        "the caller is not dumpable, as after setuid(2), so its files in /proc are root's; prctl(PR_SET_DUMPABLE, 1) changes that",
    ),
    (
        "write",
        E.EPERM,
        _sysctl("kernel/apparmor_restrict_unprivileged_userns", "1"),
        "kernel.apparmor_restrict_unprivileged_userns is 1 on this host; `ramet doctor` prints the profile that allows it",
    ),
    (
        "fsmount",
        E.EPERM,
        lambda step, plan: True if step and "Proc" in step.origin else None,
        "the host's /proc is masked, as inside a container; without its own /proc the sandbox can't start here",
    ),
    (
        "fsconfig",
        E.EINVAL,
        _overlay,
        "overlayfs takes no directory, in a user namespace, that has other mounts below it; the kernel's log says more",
    ),
    ("openat2", E.ELOOP, _mount_destination, "a symlink is no destination for a mount; name what it points to"),
    (
        "openat2",
        E.ENOENT,
        _mount_destination,
        'the destination does not exist and can\'t be made in a read-only root; Rootfs(path, writes="discarded") can',
    ),
    ("openat2", E.ENOENT, _always, "the path does not exist inside the sandbox"),
    ("mkdirat", E.EROFS, _always, "the place is read-only inside; make the directory in the source beforehand"),
    ("symlinkat", E.EROFS, _always, "the place is read-only inside; put the link into the source beforehand"),
    ("move_mount", E.EINVAL, _mount_destination, "a directory can't be mounted on a file, nor a file on a directory"),
    (
        "execve",
        E.ENOENT,
        _outside_only,
        "{} exists outside; if it is not visible inside, or its interpreter is not, bind it",
    ),
    (
        "execve",
        E.ENOENT,
        _named_by_path,
        "the file, or the interpreter that it names (#! line or ELF loader), does not exist inside",
    ),
    ("execve", E.ENOEXEC, _always, "not a program for this machine, and no #! line"),
    (
        "execve",
        E.EACCES,
        _always,
        "not executable by the payload's user: see the mode of the file and of the directories above it",
    ),
    (
        "execve",
        E.E2BIG,
        _sizes,
        "{}; the kernel takes 128 KiB each, about 2 MiB together: pass data by stdin or a file",
    ),
    ("prlimit64", E.EPERM, _always, "above the caller's own hard limit; `ulimit -Ha` shows it"),
    ("read", E.EPROTO, _always, "the caller gave up while the ids were being mapped"),
)
