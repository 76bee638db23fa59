"""The system calls that plans use: their numbers and how their arguments are shown."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: name: (x86-64, aarch64, kinds of the arguments for the reader). tests/core/test_numbers.py holds them against the headers.
CALLS: Mapping[str, tuple[int, int, str]] = {
    "capset": (126, 91, "struct struct"),
    "chdir": (80, 49, "text"),
    "chroot": (161, 51, "text"),
    "close": (3, 57, "fd"),
    "close_range": (436, 436, "fd fd closerange"),
    "dup3": (292, 24, "fd fd open"),
    "execve": (59, 221, "text struct struct"),
    "execveat": (322, 281, "fd text struct struct at"),
    "fchdir": (81, 50, "fd"),
    "fcntl": (72, 25, "fd int int"),
    "fsconfig": (431, 431, "fd fsconfig text text int"),
    "fsmount": (432, 432, "fd int attr"),
    "fsopen": (430, 430, "text int"),
    "futex": (202, 98, "struct futex int int int int"),
    "getpid": (39, 172, ""),
    "ioctl": (16, 29, "fd ioctl struct"),
    "keyctl": (250, 219, "keyctl text"),
    "kill": (62, 129, "int int"),
    "landlock_add_rule": (445, 445, "fd landlock struct int"),
    "landlock_create_ruleset": (444, 444, "struct int int"),
    "landlock_restrict_self": (446, 446, "fd int"),
    "mkdirat": (258, 34, "fd text mode"),
    "mknodat": (259, 33, "fd text mode int"),
    "mount": (165, 40, "text text text ms text"),
    "mount_setattr": (442, 442, "fd text at struct int"),
    "move_mount": (429, 429, "fd text fd text move"),
    "open_tree": (428, 428, "fd text tree"),
    "openat": (257, 56, "fd text open mode"),
    "openat2": (437, 437, "fd text struct int"),
    "pivot_root": (155, 41, "text text"),
    "ppoll": (271, 73, "struct int struct int int"),
    "prctl": (157, 167, "prctl prctlarg int int int"),
    "prlimit64": (302, 261, "int rlimit struct int"),
    "read": (0, 63, "fd struct int"),
    "rt_sigprocmask": (14, 135, "sigmask struct int int"),
    "seccomp": (317, 277, "seccomp int struct"),
    "sched_setaffinity": (203, 122, "int int struct"),
    "sched_setscheduler": (144, 119, "int int struct"),
    "sendmsg": (46, 211, "fd struct int"),
    "setgroups": (116, 159, "int struct"),
    "sethostname": (170, 161, "text int"),
    "setdomainname": (171, 162, "text int"),
    "setns": (308, 268, "fd clone"),
    "setpriority": (141, 140, "int int int"),
    "setpgid": (109, 154, "int int"),
    "setresgid": (119, 149, "int int int"),
    "setresuid": (117, 147, "int int int"),
    "setsid": (112, 157, ""),
    "signalfd4": (289, 74, "fd struct int int"),
    "socket": (41, 198, "int int int"),
    "symlinkat": (266, 36, "text fd text"),
    "umask": (95, 166, "mode"),
    "umount2": (166, 39, "text umount"),
    "unshare": (272, 97, "clone"),
    "write": (1, 64, "fd text int"),
}


def numbers(machine: str) -> dict[str, int]:
    """Name to number on this machine, as os.uname().machine names it."""
    column = {"x86_64": 0, "aarch64": 1}[machine]
    return {name: entry[column] for name, entry in CALLS.items()}  # type: ignore[misc]
