"""What a start costs does not grow with the descriptors that the caller has, those of its idle sandboxes among them."""

import os

import pytest

import ramet
from ramet import _core
from ramet.descriptors import ASIDE, aside
from ramet.plan.encode import encode
from ramet.plan.life import DESCRIPTORS_END, own_descriptors
from ramet.plan.steps import Block, Builder, Slot, Stage
from ramet.run import ahead

CLONE_FILES, CLEAR_SIGHAND = 0x400, 1 << 32
WAITS = Slot("waits")


@pytest.fixture
def highest(monkeypatch):
    """The highest descriptor that each child was given, those that make namespaces ahead too."""
    found = []

    def spied(real, inputs_of):
        def call(*args, **more):
            found.append(max(value for _, value in inputs_of(*args)))
            return real(*args, **more)

        return call

    monkeypatch.setattr(_core, "spawn", spied(_core.spawn, lambda program, inputs, *rest: inputs))
    monkeypatch.setattr(_core, "begin", spied(_core.begin, lambda program, inputs, *rest: inputs))
    return found


def test_idle_sandboxes_leave_the_low_numbers_free(highest):
    """With 150 of them, who hold more than ASIDE descriptors, what a start passes on lies below ASIDE."""
    idle = [ramet.Popen(["sleep", "1000"], stdout=ramet.DEVNULL, stderr=ramet.DEVNULL) for _ in range(150)]
    try:
        assert len(os.listdir("/proc/self/fd")) > ASIDE
        del highest[:]
        for _ in range(3):
            assert ramet.run(["/bin/true"]).ok
        assert len(highest) >= 3 and max(highest) <= ASIDE, highest
    finally:
        for one in idle:
            one.close()


@pytest.mark.parametrize("leaves", [True, False])
def test_a_child_copies_what_lies_below(leaves):
    """A child that leaves the table at its first step has what lies below the given number. (The control: one that does not has all.)"""
    reader, writer = os.pipe()
    high = [os.dup(reader) for _ in range(300)]
    b = Builder()
    if leaves:
        own_descriptors(b)
    b.about("test", "wait")
    b.call("read", WAITS, Block(bytes(8), text="byte"), 1, expect=1)
    encoded = encode(Stage("child", tuple(b.steps)), os.uname().machine)
    given = {WAITS: reader, DESCRIPTORS_END: high[0]}
    inputs = [(offset, given[slot]) for slot, offset in encoded.offsets.items() if slot in given]
    seen = []

    def look(pid, pidfd):
        asks = f"/proc/{pid}/fd"
        while leaves and str(high[-1]) in os.listdir(asks):
            pass
        seen.extend(map(int, os.listdir(asks)))
        os.write(writer, b"G")

    found = _core.spawn(encoded.blob, inputs, CLEAR_SIGHAND | CLONE_FILES, sync=look)
    os.waitid(os.P_PIDFD, found[1], os.WEXITED | 0x40000000)
    os.close(found[1])
    assert (max(seen) < high[0]) is leaves
    assert reader in seen
    for fd in (*high, reader, writer):
        os.fstat(fd)  # the child has closed none of ours
        os.close(fd)


def test_aside():
    """A descriptor is moved, close-on-exec, and the old number is free; where none from ASIDE on can be had it stays."""
    import resource

    fd = os.open("/dev/null", os.O_RDONLY)
    moved = aside(fd)
    assert moved >= ASIDE and not os.get_inheritable(moved)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    os.close(moved)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (ASIDE, hard))
    try:
        assert aside(fd) == fd
        assert ramet.run(["/bin/true"]).ok
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(fd)
        ahead.forget()
