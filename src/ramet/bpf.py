"""Classic BPF as seccomp's filters are written in it: instructions, the places of struct seccomp_data, answers. See seccomp(2).

An instruction is (operation, lines to skip if true, if false, constant).
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: linux/bpf_common.h
LOAD, JUMP, JUMP_EQUAL, JUMP_NOT_LESS, RETURN = 0x20, 0x05, 0x15, 0x35, 0x06
AT_NUMBER, AT_ARCH, AT_FIRST_ARGUMENT = 0, 4, 16
#: linux/seccomp.h
KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW = (
    *(0x80000000, 0x00000000, 0x00030000, 0x00050000, 0x7FC00000, 0x7FF00000, 0x7FFC0000),
    0x7FFF0000,
)


def packed(program: Iterable[tuple[int, int, int, int]]) -> bytes:
    """An array of struct sock_filter."""
    return b"".join(struct.pack("<HBBI", *line) for line in program)
