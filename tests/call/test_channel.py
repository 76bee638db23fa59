"""The channel out of a sandbox, and who writes nonsense on it."""

from __future__ import annotations

import fcntl
import os
import pickle
import resource
import socket
import struct

import numpy
import pytest

import ramet
from ramet import isolated
from ramet.call import channel
from ramet.call.channel import Broken, Reader, mapped, sealed, send


@pytest.fixture
def ends():
    """A socket of the caller's, and one of the sandbox's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def frames_of(ours, most=1 << 20):
    reader = Reader(ours, most)
    try:
        found = []
        while True:
            frames, ended = reader.take()
            found += frames
            if ended or sum(len(frame.data) for frame in found) >= 4:
                return found
    finally:
        while reader._fds:
            os.close(reader._fds.pop())


def test_a_frame_and_its_buffers(ends):
    """A frame comes whole, with its buffers; they can be written to, and the sealed original stays."""
    ours, theirs = ends
    send(theirs, channel.VALUE, b"data", [b"a" * 5000, bytearray(b"b" * 10)])
    [frame] = frames_of(ours)
    assert (frame.kind, bytes(frame.data)) == (channel.VALUE, b"data")
    assert [bytes(one) for one in frame.buffers] == [b"a" * 5000, b"b" * 10]
    frame.buffers[0][0] = 7
    assert frame.buffers[0][0] == 7


@pytest.mark.parametrize(
    "data",
    [
        b"A" * 100,
        channel.HEADER.pack(b"XXXX", 0, 1),
        channel.HEADER.pack(channel.VALUE, 0, 1 << 40),
        channel.HEADER.pack(channel.VALUE, 1 << 30, 0),
        channel.HEADER.pack(channel.VALUE, 1, 0),
    ],
    ids=["noise", "kind", "length", "count", "no-descriptor"],
)
def test_bytes_that_are_no_frame(ends, data):
    """A header that can't be is refused at once, before anything is kept for it."""
    ours, theirs = ends
    theirs.send(data)
    with pytest.raises(Broken):
        frames_of(ours)


def test_what_may_come_is_all_frames_together(ends):
    """Many small messages are limited as one large one is."""
    ours, theirs = ends
    for _ in range(3):
        theirs.send(channel.HEADER.pack(channel.LOG, 0, 400) + bytes(400))
    with pytest.raises(Broken, match="a message of 400 bytes, where 200 may come"):
        frames_of(ours, 1000)


def not_sealed():
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(fd, b"x")
    return fd


def shrinkable():
    fd = not_sealed()
    fcntl.fcntl(fd, channel.F_ADD_SEALS, 0x8 | 0x4)
    return fd


def with_holes():
    fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.truncate(fd, 1 << 19)
    fcntl.fcntl(fd, channel.F_ADD_SEALS, channel.SEALS)
    return fd


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: os.open("/dev/zero", os.O_RDONLY), "no memfd"),
        (lambda: os.open(__file__, os.O_RDONLY), "no memfd"),
        (not_sealed, "not sealed"),
        (shrinkable, "not sealed"),
        (with_holes, "holes"),
        (lambda: sealed(bytes(2 << 20)), "2097152 bytes, where 1048576 may come"),
        (lambda: sealed(b""), "0 bytes"),
    ],
    ids=["device", "file", "not-sealed", "shrinkable", "holes", "large", "empty"],
)
def test_only_sealed_memory_is_mapped(make, why):
    """A descriptor that could change under the caller, or is no memory at all, is refused; a sealed one is mapped."""
    fd = make()
    try:
        with pytest.raises(Broken, match=why):
            mapped(fd, 1 << 20)
    finally:
        os.close(fd)
    good = sealed(b"x")
    assert bytes(mapped(good, 1)) == b"x"
    os.close(good)


def test_a_flood_of_descriptors(ends):
    """More descriptors than a frame can have are refused, and none stays open."""
    ours, theirs = ends
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        for _ in range(3):
            socket.send_fds(theirs, [b"x" * 100], [fd] * 200)
        with pytest.raises(Broken):
            frames_of(ours)
    finally:
        os.close(fd)


# From inside a sandbox


def channels():
    """The function's own channel, found as somebody hostile would."""
    found = [number for number in range(3, 256) if os.path.exists(f"/proc/self/fd/{number}")]
    sockets = [number for number in found if os.readlink(f"/proc/self/fd/{number}").startswith("socket:")]
    return [socket.socket(fileno=os.dup(number)) for number in sockets]


def test_noise_instead_of_a_result():
    """A function that writes nonsense on the channel gets a ResultError, and the caller no value."""

    def noise():
        for found in channels():
            found.sendall(b"A" * 100_000)
        return 1

    with pytest.raises(ramet.ResultError, match="the sandbox sent what is no result: bytes that are no frame"):
        isolated(noise)()


def test_ten_gigabytes_instead_of_a_result():
    """A function that writes without end is hung up on; the caller's memory does not grow with it."""

    def flood():
        [found] = channels()
        data = channel.HEADER.pack(channel.LOG, 0, 1 << 20) + bytes(1 << 20)
        wrote = 0
        try:
            while wrote < 10 << 30:
                found.sendall(data)
                wrote += len(data)
        except OSError:
            print(wrote, flush=True)
        os._exit(0)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = isolated(flood, results_max="32M").run()
    assert isinstance(result.exception, ramet.ResultError)
    assert int(result.stdout) < 100 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_two_results():
    """A function that tells two results has told none."""

    def twice():
        [found] = channels()
        found.sendall(channel.HEADER.pack(channel.VALUE, 0, 1) + b"\x01")
        return 2

    with pytest.raises(ramet.ResultError, match="a second result"):
        isolated(twice)()


class Bomb:
    def __reduce__(self):
        return os.putenv, ("RAMET_BOMB", "1")


def test_nothing_is_unpickled():
    """A pickle that a function sends, as one in results="pickle" would be, is refused and not loaded."""
    data = pickle.dumps(Bomb())

    def send_pickle():
        [found] = channels()
        found.sendall(channel.HEADER.pack(channel.PICKLED, 0, len(data)) + data)

    with pytest.raises(ramet.ResultError, match="a pickle, which nobody asked for"):
        isolated(send_pickle)()
    assert isolated(lambda: {1: Own()}, results="pickle")()[1].value == 5


class Own:
    def __init__(self):
        self.value = 5


def test_a_value_that_is_told_and_then_not_returned():
    """What was told counts only if the function has returned: not if it was ended for its time."""
    import time

    def liar():
        [found] = channels()
        found.sendall(channel.HEADER.pack(channel.VALUE, 0, 1) + b"\x01")
        time.sleep(60)

    with pytest.raises(ramet.TimeLimitError):
        isolated(liar, timeout=0.5)()


def test_a_result_that_is_too_large():
    """A value larger than results_max is refused inside, with both sizes; a smaller one comes."""
    array = numpy.zeros(1 << 18)
    assert isolated(lambda: array, results_max="4M")().nbytes == 2 << 20
    with pytest.raises(ramet.ResultError, match="results_max is 1048576") as caught:
        isolated(lambda: array, results_max="1M")()
    assert caught.value.result.exit_code == 1


def test_large_arrays_are_mapped():
    """A large array comes as a mapping of what the function has written: the caller reads its message, and no more."""
    array = numpy.arange(4_000_000)
    found = isolated(lambda: array * 2)()
    assert (found == array * 2).all()
    with open("/proc/self/maps") as maps:
        assert "memfd:ramet-value" in maps.read()
    found[0] = 5
    del found


def test_the_header_is_as_documented():
    """kind, count, length: sixteen bytes."""
    assert channel.HEADER.size == struct.calcsize("<4sIQ") == 16
