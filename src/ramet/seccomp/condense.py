"""A shorter program that answers the same.

The kernel checks, translates and tries a program for every call when it is installed, at every start of a sandbox: 0.25 us an
instruction. libseccomp has two instructions for each call of an allow-list. But calls next to each other mostly have the same
answer, whatever their arguments; so we search among ranges of numbers, and leave to libseccomp's programs only
the calls whose arguments count. What the answers are is asked of its programs; tests hold the result against them for every call.
"""

from __future__ import annotations

import struct

from ramet.bpf import ALLOW, AT_ARCH, AT_NUMBER, JUMP, JUMP_EQUAL, JUMP_NOT_LESS, LOAD, RETURN, packed
from ramet.seccomp.simulate import AUDIT_ARCH, answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

X32, NUMBERS = 0x40000000, 2**32
REACH = 255
#: For a call whose arguments count; no action has this value.
LOOK = -1


def merged(first: bytes, vetoing: bytes) -> bytes:
    """The one after the other: where the second allows, the first is asked."""
    count = len(vetoing) // 8
    found = b""
    for place, (code, yes, no, constant) in enumerate(struct.iter_unpack("<HBBI", vetoing)):
        if code == RETURN and constant == ALLOW:
            code, yes, no, constant = JUMP, 0, 0, count - place - 1
        found += struct.pack("<HBBI", code, yes, no, constant)
    return found + first


def condensed(
    whole: Sequence[bytes], dependent: Callable[[], bytes], numbers: Collection[int], machine: str, end: int
) -> bytes | None:
    """What `whole` answers. numbers: of calls whose arguments count; dependent: makes a program for these; end: from here on to x32's, all
    calls have one answer. None where it would not be shorter, or too long for the machine's jumps."""
    wrong = answer(whole, next(name for name in AUDIT_ARCH if name != machine), 0)
    starts = [*range(end + 1), X32]
    answers = [LOOK if n in numbers else answer(whole, machine, n) for n in starts]
    ranges = [(n, one) for n, one, before in zip(starts, answers, [None, *answers], strict=False) if one != before]
    nodes = _laid(ranges)
    labels = sorted({one for _, one in ranges} - {LOOK}, key=lambda one: one & 2**32 - 1)
    head = 3 + len(nodes)  # load, compare, load; then the search
    places = {one: head + n for n, one in enumerate(labels)}
    places[LOOK] = head + len(labels) + 1  # behind them, one more for the wrong machine
    program = [
        (LOAD, 0, 0, AT_ARCH),
        (JUMP_EQUAL, 0, head + len(labels) - 2, AUDIT_ARCH[machine]),
        (LOAD, 0, 0, AT_NUMBER),
    ]
    for n, (number, above, below) in enumerate(nodes):
        here = 3 + n
        yes, no = (
            (target[1] + 3 if target[0] == "node" else places[target[1]]) - here - 1 for target in (above, below)
        )
        program.append((JUMP_NOT_LESS, yes, no, number))
    program += [(RETURN, 0, 0, one) for one in (*labels, wrong)]
    if any(max(yes, no) > REACH for _, yes, no, _ in program):
        return None
    found = packed(program) + (dependent() if numbers else b"")
    return found if len(found) < sum(map(len, whole)) else None


def _laid(ranges: list[tuple[int, int]]) -> list[tuple[int, tuple[str, int], tuple[str, int]]]:
    """A search, a node before what is below and above it: (number, where to go from it on, where below it). Balanced by how many
    calls there are on either side, since each is tried when it is installed."""
    nodes: list[tuple[int, tuple[str, int], tuple[str, int]]] = []
    last = max((number for number, _ in ranges if number < X32), default=0) + 1

    def lay(part: list[tuple[int, int]]) -> tuple[str, int]:
        if len(part) == 1:
            return ("leaf", part[0][1])
        half = (part[0][0] + min(part[-1][0], last)) / 2
        middle = min(range(1, len(part)), key=lambda n: abs(min(part[n][0], last) - half))
        here = len(nodes)
        nodes.append((part[middle][0], ("leaf", 0), ("leaf", 0)))
        below, above = lay(part[:middle]), lay(part[middle:])
        nodes[here] = (part[middle][0], above, below)
        return ("node", here)

    if len(ranges) == 1:
        ranges = [ranges[0], (1, ranges[0][1])]
    lay(ranges)
    return nodes
