"""What a filter answers to a call: classic BPF over struct seccomp_data, as the kernel runs it (seccomp(2)). For explaining and
for tests; nothing is asked of the kernel."""

from __future__ import annotations

import struct

from ramet.bpf import ALLOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: linux/audit.h
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003}
_WORD = 2**32 - 1


def answer(programs: Sequence[bytes], machine: str, number: int, arguments: Sequence[int] = ()) -> int:
    """The action, with its data in the low 16 bits, of programs installed first to last."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number, AUDIT_ARCH[machine], 0, *(value & 2**64 - 1 for value in padded))
    found = ALLOW
    for program in reversed(programs):  # the kernel asks the youngest first; of equal answers the first counts
        one = run(program, data)
        if _rank(one) < _rank(found):
            found = one
    return found


def _rank(action: int) -> int:
    """As a signed number: KILL_PROCESS is the strictest."""
    kind = action & 0xFFFF0000
    return kind - 2**32 if kind & 0x80000000 else kind


def run(program: bytes, data: bytes) -> int:
    """One program's answer."""
    steps = list(struct.iter_unpack("<HBBI", program))
    accumulator = index = at = 0
    memory = [0] * 16
    while True:
        code, if_true, if_false, constant = steps[at]
        at += 1
        kind = code & 0x07
        if kind == 0x00:  # BPF_LD
            accumulator = _load(code, constant, data, memory)
        elif kind == 0x01:  # BPF_LDX
            index = constant if code & 0xE0 == 0 else memory[constant]
        elif kind == 0x02:  # BPF_ST
            memory[constant] = accumulator
        elif kind == 0x03:
            memory[constant] = index
        elif kind == 0x04:  # BPF_ALU
            accumulator = _compute(code, accumulator, index if code & 0x08 else constant)
        elif kind == 0x05:  # BPF_JMP
            if code & 0xF0 == 0:
                at += constant
            else:
                at += if_true if _holds(code, accumulator, index if code & 0x08 else constant) else if_false
        elif kind == 0x06:  # BPF_RET
            return accumulator if code & 0x18 == 0x10 else constant
        else:  # BPF_MISC
            accumulator, index = (index, index) if code & 0xF8 else (accumulator, accumulator)


def _load(code: int, constant: int, data: bytes, memory: list[int]) -> int:
    mode = code & 0xE0
    if mode == 0x20:  # BPF_ABS
        word: int = struct.unpack_from("<I", data, constant)[0]
        return word
    return memory[constant] if mode == 0x60 else constant if mode == 0 else len(data)


def _compute(code: int, left: int, right: int) -> int:
    operations = {
        0x00: left + right, 0x10: left - right, 0x40: left | right, 0x50: left & right, 0x60: left << (right & 31),
        0x70: left >> (right & 31), 0x80: -left, 0xA0: left ^ right,
    }  # fmt: skip
    return operations[code & 0xF0] & _WORD


def _holds(code: int, left: int, right: int) -> bool:
    return {0x10: left == right, 0x20: left > right, 0x30: left >= right, 0x40: bool(left & right)}[code & 0xF0]
