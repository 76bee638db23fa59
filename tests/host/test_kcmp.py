"""kcmp(2): what two processes share, and that "both have none" is not taken for it."""

import errno
import os

import pytest

from ramet import _core, lowlevel
from ramet.flags import CLONE
from ramet.host.kcmp import APART, NEITHER, SHARED, UNKNOWN, compare

ARM = os.uname().machine == "aarch64"
READ, IOPRIO_SET = (63, 30) if ARM else (0, 251)
ALONE = {"VM": APART, "FS": APART, "FILES": APART, "SIGHAND": APART, "SYSVSEM": NEITHER, "IO": NEITHER}


def related(flags):
    """What a child made with these flags and its caller share. To be called in a process with nothing of its own yet:
    CLONE_SYSVSEM gives the caller an undo list."""
    read, write = os.pipe()
    made = lowlevel.clone3(flags, child=[lowlevel.Call(READ, read, lowlevel.Buffer(8), 1)])
    found = compare(os.getpid(), made.pid)
    os.write(write, b"x")
    made.wait()
    assert found.why == 0
    return found.relations


def test_a_child_made_without_flags_shares_nothing(in_child):
    """As after fork: everything is apart, and of what neither has, nothing is shared."""
    assert in_child(related, CLONE(0)) == ALONE


@pytest.mark.parametrize("name", ["VM", "FS", "FILES", "SYSVSEM"])
def test_each_flag_shares_what_it_says(in_child, name):
    """With one flag, that one thing is shared, and the rest is as it was without it."""
    assert in_child(related, CLONE[name]) == ALONE | {name: SHARED}


def test_handlers_are_shared_with_memory(in_child):
    """CLONE_SIGHAND, which needs CLONE_VM."""
    assert in_child(related, CLONE.VM | CLONE.SIGHAND) == ALONE | {"VM": SHARED, "SIGHAND": SHARED}


def test_an_undo_list_of_ones_own_is_not_neither(in_child):
    """Where one of the two has an undo list, they are apart, not both without."""

    def then_without():
        related(CLONE.SYSVSEM)
        return related(CLONE(0))

    assert in_child(then_without) == ALONE | {"SYSVSEM": APART}


def test_an_io_context_that_is_not_there_is_not_shared(in_child):
    """CLONE_IO shares the caller's I/O context if it has one; if not, there is none to share."""

    def with_context():
        without = [related(CLONE.IO)["IO"], related(CLONE(0))["IO"]]
        _core.syscall("ioprio_set", IOPRIO_SET, 1, 0, 2 << 13 | 4)  # a priority makes a context
        return [*without, related(CLONE.IO)["IO"], related(CLONE(0))["IO"]]

    # With a priority of the caller's, its children have contexts of their own: then "neither" can't be told from
    # "shared", and is not claimed to be either.
    assert in_child(with_context) == [NEITHER, NEITHER, UNKNOWN, APART]


def test_a_process_and_itself():
    """All is shared with oneself."""
    assert set(compare(os.getpid(), os.getpid()).relations.values()) == {SHARED}


def test_what_may_not_be_compared_is_unknown(in_child):
    """Without the right to ptrace, kcmp's errno is told and nothing is claimed."""
    other = os.getpid() if os.geteuid() == 0 else 1

    def look():
        if os.geteuid() == 0:
            os.setresuid(65000, 65000, 65000)
        found = compare(os.getpid(), other)
        return [sorted(set(found.relations.values())), found.why]

    assert in_child(look) == [[UNKNOWN], errno.EPERM]


def test_a_process_that_is_gone():
    """ESRCH, as kcmp says."""
    assert compare(os.getpid(), 2**22 + 1).why == errno.ESRCH
