"""Hazard 3 of csrc/spawn.c: the child's stack."""

import os
import re

from core_programs import NUMBERS, spawn, step

from ramet.plan.steps import Block, Slot

ZERO = Block(bytes(8))


def maps():
    with open("/proc/self/maps") as file:
        found = re.findall(r"^(\w+)-(\w+) (\S+)", file.read(), re.M)
    return [(int(low, 16), int(high, 16), mode) for low, high, mode in found]


def stack_pointer(pid):
    """Of a child stopped in a system call: the second word from the end of /proc/PID/syscall."""
    with open(f"/proc/{pid}/syscall") as file:
        return int(file.read().split()[-2], 16)


def waiting(meanwhile=lambda: None):
    """The stack pointer of a child that waits, and the mappings then."""
    ready, go = os.pipe()
    seen = []

    def look(pid, _pidfd):
        # The child may not have come to its read yet; then the file says "running", or another call.
        while True:
            with open(f"/proc/{pid}/syscall") as file:
                if file.read().split()[0] == str(NUMBERS["read"]):
                    break
        seen.append((stack_pointer(pid), maps()))
        meanwhile()
        os.write(go, b"G")

    wait = step("read", Slot("ready"), ZERO, 1, expect=1)
    spawn(wait, inputs={Slot("ready"): ready}, sync=look)
    os.close(ready)
    os.close(go)
    return seen[0]


def test_3_stack_is_the_childs_own_over_a_guard_page():
    """While it waits, the child's stack pointer lies in a private mapping with an unreadable page just below."""
    pointer, during = waiting()
    (place,) = (n for n, (low, high, _) in enumerate(during) if low <= pointer < high)
    low, _high, mode = during[place]
    guard_low, guard_high, guard_mode = during[place - 1]
    assert (mode, guard_mode) == ("rw-p", "---p")
    assert guard_high == low and guard_high - guard_low == 4096
    assert pointer - low > 32 * 1024, "less than half of it is used at the interpreter's depth"


def test_3_stack_is_kept_for_the_next_child_alone():
    """The next child has the same stack, one beside it another; however many there were, one stays."""
    first, _ = waiting()
    beside = []
    again, _ = waiting(lambda: beside.append(waiting()[0]))
    assert first == again
    assert abs(beside[0] - first) > 64 * 1024

    def guards():
        return [low for low, high, mode in maps() if mode == "---p" and high - low == 4096]

    before = guards()
    for _ in range(20):
        waiting(waiting)
    assert len(guards()) == len(before) > 0


def test_3_stack_without_address_space_is_unsupported(python):
    """With no address space left for a stack, UnsupportedError names the limit, nothing is left, and the
    next run works."""
    out = python("""
        import gc, os, resource, sys
        import ramet
        from core_programs import children, descriptors
        from ramet.errors import UnsupportedError
        assert ramet.run(["true"]).ok
        before = children(), descriptors()
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * 4096
        soft = resource.getrlimit(resource.RLIMIT_AS)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (used + 16 * 1024, soft[1]))
            ramet.run(["true"], stdout=None, stderr=None, as_pid1=True)  # which has had no child yet
        except UnsupportedError as error:
            resource.setrlimit(resource.RLIMIT_AS, soft)
            print(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, soft)
        gc.collect()
        print((children(), descriptors()) == before, ramet.run(["true"]).ok)
    """)
    assert "stack of its own" in out and "RLIMIT_AS" in out
    assert out.endswith("True True\n")
