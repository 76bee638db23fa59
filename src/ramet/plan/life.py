"""Dying with the caller: the first steps of every child, and again whenever its credentials changed."""

from __future__ import annotations

import struct

from ramet.plan.steps import Block, Builder, Ptr, Slot

PR_SET_PDEATHSIG = 1
SIGKILL = 9
POLLIN = 1
LAST_FD = 2**32 - 1
CLOSE_RANGE_UNSHARE = 2
SOL_SOCKET, SCM_RIGHTS, MSG_NOSIGNAL = 1, 1, 0x4000

#: Input: a pidfd of the caller. Readable when the caller is dead.
CALLER = Slot("caller")
#: Input: one more than the highest descriptor that is passed in.
DESCRIPTORS_END = Slot("descriptors_end")


def die_with_caller(b: Builder) -> None:
    """Ask for the signal, then look whether the caller was dead already; in this order there is no gap.

    The pidfd, not getppid(2), which is 0 in a new pid namespace; and not only the end of a pipe, of which
    other children of the caller may hold a copy.
    """
    b.about("caller", "tie the sandbox's life to the caller's")
    b.call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    b.call("ppoll", _polled(b), 1, Block(bytes(16), text="{0, 0}"), 0, 0, expect=0)


def _polled(b: Builder) -> Block:
    for step in b.steps:
        if step.call == "ppoll":
            block = step.args[0]
            assert isinstance(block, Block)
            return block
    return Block(CALLER, struct.pack("<hh", POLLIN, 0), text="{caller, POLLIN}")


def own_descriptors(b: Builder) -> None:
    """Leave the caller's table of descriptors, which the clone has shared, for a copy of its lower part: a clone that copied all of it
    would take 0.1 ms for each thousand that the caller has, the next one again, and closing them as long."""
    b.about("descriptors", "leave the caller's descriptors, with those passed in")
    b.call("close_range", DESCRIPTORS_END, LAST_FD, CLOSE_RANGE_UNSHARE)


def keep_only(b: Builder, *descriptors: Slot) -> None:
    """These, as 0 and so on, and nothing else of the caller's: the end of a pipe, say, that a payload waits for."""
    b.about("descriptors", "keep none of the caller's")
    for number, slot in enumerate(descriptors):
        b.call("dup3", slot, number, 0)
    b.call("close_range", len(descriptors), LAST_FD, 0)


def wait_for_caller(b: Builder, control: int, doing: str) -> None:
    """Say that we are there, and stop until the caller has done its part. One that lets go instead ends us."""
    b.about("caller", doing)
    b.call("write", control, b"R", 1, expect=1)
    b.call("read", control, Block(bytes(8), text='""'), 1, expect=1)


def hand_over(b: Builder, control: int | Slot, descriptor: Slot, name: str) -> None:
    """Send a descriptor to the caller: `ramet.run.control.receive_descriptor`. See unix(7). name: what the plan calls it."""
    rights = Block(struct.pack("<Qii", 20, SOL_SOCKET, SCM_RIGHTS), descriptor, bytes(4))
    vector = Block(Ptr(b"T"), struct.pack("<Q", 1))
    header = Block(
        bytes(16),
        Ptr(vector),
        struct.pack("<Q", 1),
        Ptr(rights),
        struct.pack("<QQ", 24, 0),
        text=f"{{SCM_RIGHTS, [{name}]}}",
    )
    b.call("sendmsg", control, header, MSG_NOSIGNAL)
