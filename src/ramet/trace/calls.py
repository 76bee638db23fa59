"""The calls that are followed: their numbers on each architecture, and the seccomp filter that stops a tracee at them.

Pure. The numbers are held against the kernel's headers by tests/trace/test_calls.py.
"""

from __future__ import annotations

import struct

from ramet.bpf import ALLOW, AT_ARCH, AT_FIRST_ARGUMENT, AT_NUMBER, JUMP_EQUAL, LOAD, RETURN, TRACE, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

X86_64, AARCH64, I386, ARM = 0xC000_003E, 0xC000_00B7, 0x4000_0003, 0x4000_0028
"""AUDIT_ARCH_*, by which the kernel says whose numbers a call uses."""

ARCHES = {X86_64: "x86_64", AARCH64: "aarch64", I386: "i386", ARM: "arm"}
FOLLOWED = {"x86_64": (X86_64, I386), "aarch64": (AARCH64, ARM)}
"""What a process on this machine may call by: its own numbers, and those of its 32-bit programs."""

_COLUMNS = {X86_64: 0, AARCH64: 1, I386: 2, ARM: 3}
_POINTER = {X86_64: 8, AARCH64: 8, I386: 4, ARM: 4}

#: csrc/trace.h has the kinds.
PLAIN, CLONE, CLONE3, UNSHARE, SETNS, EXECVE, EXECVEAT, SECCOMP, PRCTL = range(1, 10)

#: name: kind, then the numbers by column; arm64 has neither fork nor vfork.
CALLS: dict[str, tuple[int, int | None, int | None, int, int]] = {
    "clone": (CLONE, 56, 220, 120, 120),
    "clone3": (CLONE3, 435, 435, 435, 435),
    "fork": (PLAIN, 57, None, 2, 2),
    "vfork": (PLAIN, 58, None, 190, 190),
    "unshare": (UNSHARE, 272, 97, 310, 337),
    "setns": (SETNS, 308, 268, 346, 375),
    "execve": (EXECVE, 59, 221, 11, 11),
    "execveat": (EXECVEAT, 322, 281, 358, 387),
}
#: A filter of the tracee's own may hide calls from ours, so its installing is watched (csrc/trace.c, 4).
INSTALLS: dict[str, tuple[int, int | None, int | None, int, int]] = {
    "seccomp": (SECCOMP, 317, 277, 354, 383),
    "prctl": (PRCTL, 157, 167, 172, 172),
}
#: The first argument that installs one: SECCOMP_SET_MODE_FILTER, PR_SET_SECCOMP.
INSTALLING = {"seccomp": 1, "prctl": 22}

NAMES = {
    (arch, row[1 + column]): name
    for name, row in CALLS.items()
    for arch, column in _COLUMNS.items()
    if row[1 + column] is not None
}
"""(architecture, number) to name."""


def _numbers(rows: dict[str, tuple[int, int | None, int | None, int, int]], arch: int) -> Iterator[tuple[str, int]]:
    for name, row in rows.items():
        number = row[1 + _COLUMNS[arch]]
        if number is not None:
            yield name, number


def table(machine: str) -> bytes:
    """The rows for csrc/trace.c, an array of struct trace_call."""
    return b"".join(
        struct.pack("=IIHH", arch, number, (CALLS | INSTALLS)[name][0], _POINTER[arch])
        for arch in FOLLOWED[machine]
        for name, number in _numbers(CALLS | INSTALLS, arch)
    )


# The filter: a program for the kernel's BPF machine, which looks at struct seccomp_data.


def filter_program(machine: str) -> bytes:
    """The filter: all calls are allowed, and those of the table stop for the tracer; an array of struct sock_filter."""
    program: list[tuple[int, str, str, int]] = [(LOAD, "", "", AT_ARCH)]
    arches = FOLLOWED[machine]
    program += [(JUMP_EQUAL, f"arch {arch}", "", arch) for arch in arches]
    labels: dict[str, int] = {}
    program.append((RETURN, "", "", ALLOW))
    for arch in arches:
        labels[f"arch {arch}"] = len(program)
        program.append((LOAD, "", "", AT_NUMBER))
        program += [(JUMP_EQUAL, "trace", "", number) for _, number in _numbers(CALLS, arch)]
        program += [(JUMP_EQUAL, name, "", number) for name, number in _numbers(INSTALLS, arch)]
        program.append((RETURN, "", "", ALLOW))
    for name, first in INSTALLING.items():
        labels[name] = len(program)
        program += [(LOAD, "", "", AT_FIRST_ARGUMENT), (JUMP_EQUAL, "trace", "", first), (RETURN, "", "", ALLOW)]
    labels["trace"] = len(program)
    program.append((RETURN, "", "", TRACE))
    return _assembled(program, labels)


def _assembled(program: Sequence[tuple[int, str, str, int]], labels: dict[str, int]) -> bytes:
    """(operation, label if equal, label if not, operand) to machine code; no label is the next line."""

    def distance(at: int, label: str) -> int:
        return labels[label] - at - 1 if label else 0

    return packed(
        (operation, distance(at, equal), distance(at, unequal), operand)
        for at, (operation, equal, unequal, operand) in enumerate(program)
    )
