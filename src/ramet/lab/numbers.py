"""The numbers of the system calls that the lab makes, and its children. tests/lab/test_lab_script.py holds them against the headers."""

from __future__ import annotations

import os

#: name: (x86-64, aarch64)
NUMBERS: dict[str, tuple[int, int]] = {
    "chdir": (80, 49),
    "chroot": (161, 51),
    "clock_gettime": (228, 113),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close": (3, 57),
    "dup3": (292, 24),
    "execve": (59, 221),
    "faccessat": (269, 48),
    "fcntl": (72, 25),
    "getcwd": (79, 17),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "ioctl": (16, 29),
    "ioprio_get": (252, 31),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kill": (62, 129),
    "lseek": (8, 62),
    "mount": (165, 40),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "openat": (257, 56),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "prlimit64": (302, 261),
    "ptrace": (101, 117),
    "pwrite64": (18, 68),
    "read": (0, 63),
    "rt_sigaction": (13, 134),
    "sched_setattr": (314, 274),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "sethostname": (170, 161),
    "socket": (41, 198),
    "umask": (95, 166),
    "umount2": (166, 39),
    "uname": (63, 160),
    "write": (1, 64),
}

NR: dict[str, int] = {name: pair[os.uname().machine == "aarch64"] for name, pair in NUMBERS.items()}
