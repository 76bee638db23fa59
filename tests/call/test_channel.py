"""The channel out of a sandbox, and who writes nonsense on it."""

from __future__ import annotations

import fcntl
import logging
import os
import pickle
import resource
import socket
import struct
import threading
import time

import numpy
import pytest

import ramet
from needs import need
from ramet import cgroups, isolated
from ramet.call import channel
from ramet.call.channel import Broken, Reader, mapped, sealed, send
from ramet.run import trays


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


def test_a_middling_array_is_mapped():
    """Below a mebibyte a buffer comes as a mapping of what the function has written and sealed; writing to it changes a copy."""
    array = numpy.arange(60_000)
    found = isolated(lambda: array * 2)()
    assert (found == array * 2).all()
    with open("/proc/self/maps") as maps:
        assert "memfd:ramet-value" in maps.read()
    found[0] = 5
    del found


# Large buffers, by the pipe


@pytest.fixture
def no_trays(monkeypatch):
    """By the pipe also what would lie in a tray."""
    monkeypatch.setattr(trays, "_ground_kept", lambda: None)


def several():
    """More than a pipe holds, of all sizes: less than a page, no whole number of pages, none at all."""
    rng = numpy.random.default_rng(1)
    sizes = (100_000, 65_536, 3 << 20, (5 << 20) + 12_345, 70_001)
    return [rng.integers(0, 255, size, numpy.uint8) for size in sizes]


def check_several(**fields):
    wanted = several()
    found = isolated(lambda: [*several(), b"x" * (2 << 20), numpy.zeros(0)], **fields)()
    assert all((one == other).all() for one, other in zip(found, wanted, strict=False))
    assert found[5] == b"x" * (2 << 20)
    assert found[6].shape == (0,)
    with open("/proc/self/maps") as maps:
        assert "memfd:ramet-value" not in maps.read()
    found[3][:] = 7  # memory of the caller's own
    assert (found[3] == 7).all()


def test_large_buffers(no_trays):
    """From a mebibyte on together, buffers come by the pipe, each whole and each as it was; they are the caller's own memory then."""
    check_several()


def test_a_pipe_that_may_not_be_larger(monkeypatch, no_trays):
    """Where a user's pipes may hold no more, a small one will do."""
    monkeypatch.setattr(channel, "PIPE_SIZE", 4096)
    check_several()
    monkeypatch.setattr(channel, "PIPE_SIZE", 1 << 62)  # F_SETPIPE_SZ fails
    check_several()


def test_without_vmsplice(no_trays):
    """A policy that denies vmsplice(2) gets the bytes written instead."""
    check_several(seccomp=ramet.Seccomp.default().deny("vmsplice"))
    check_several(seccomp=ramet.Seccomp.default().deny("vmsplice", errno="ENOSYS"))


def test_large_values_count_once():
    """A value counts once for the function's memory limit, not a second time on its way out; twice as much does not fit."""
    try:
        need(cgroups.find().facts["memory"].ok, "a control group that limits memory")
        give = isolated(lambda size: numpy.ones(size, numpy.uint8), memory="160M")
        found = give(100 << 20)
        assert found.nbytes == found.sum() == 100 << 20
        with pytest.raises(ramet.MemoryLimitError):
            give(200 << 20)
    finally:
        cgroups.forget()


@pytest.fixture
def heard():
    """What comes to a logger of this name, and goes no further."""
    found = []

    class Handler(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    logger, handler = logging.getLogger("ramet.test.heard"), Handler()
    logger.addHandler(handler)
    logger.propagate = False
    yield found
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_function_that_still_speaks(heard, no_trays):
    """A thread of the function's that logs, and uses memory, while the value is on its way disturbs neither frames nor buffers: they are
    kept until the process has ended."""

    spoken = threading.Event()

    def speak():
        while True:
            logging.getLogger("ramet.test.heard").error("late")
            spoken.set()
            bytearray(range(256)) * 400  # of a size that malloc uses again at once

    def give():
        threading.Thread(target=speak, daemon=True).start()
        spoken.wait()
        return [numpy.full(100_000, 7, numpy.uint8) for _ in range(100)]

    for _ in range(3):
        assert all((one == 7).all() for one in isolated(give)())
    assert heard


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([(channel.POUR, b"")], "buffers that can't be"),
        ([(channel.POUR, b"1234567")], "buffers that can't be"),
        ([(channel.POUR, bytes(8 * 251))], "buffers that can't be"),
        ([(channel.POUR, struct.pack("<QQ", 1 << 63, 1 << 63))], "where .* may come"),
        ([(channel.POUR, struct.pack("<Q", 1 << 20))], "where .* may come"),
        ([(channel.POUR, struct.pack("<Q", 10)), (channel.POUR, struct.pack("<Q", 10))], "buffers that can't be"),
        ([(channel.POUR, struct.pack("<Q", 10)), (channel.MORE, b""), (channel.VALUE, b"x")], "before its buffers"),
    ],
    ids=["none", "odd", "many", "overflow", "large", "twice", "early"],
)
def test_nonsense_about_the_pipe(ends, frames, match):
    """Sizes that can't be, or are more than may come, are refused before memory is taken; a value has its buffers, or is none."""
    ours, theirs = ends
    read, write = os.pipe2(os.O_NONBLOCK)
    try:
        for kind, data in frames:
            theirs.sendall(channel.HEADER.pack(kind, 0, len(data)) + data)
        reader = Reader(ours, 10_000, read)
        with pytest.raises(Broken, match=match):
            reader.take()
        theirs.sendall(channel.HEADER.pack(channel.POUR, 0, 8) + struct.pack("<Q", 10))
        with pytest.raises(Broken, match="a pipe that is not there"):
            Reader(ours, 10_000).take()
    finally:
        os.close(read)
        os.close(write)


def test_words_of_more_with_nothing_there(ends):
    """Thousands of times "more", and nothing in the pipe, cost nothing and block nobody; what comes after them is taken."""
    ours, theirs = ends
    read, write = os.pipe2(os.O_NONBLOCK)
    try:
        reader = Reader(ours, 10_000, read)
        theirs.sendall(channel.HEADER.pack(channel.MORE, 0, 0) * 5000)
        theirs.sendall(channel.HEADER.pack(channel.POUR, 0, 8) + struct.pack("<Q", 3))
        theirs.sendall(channel.HEADER.pack(channel.MORE, 0, 0))
        assert reader.take() == ([], False)
        os.write(write, b"abcdef")  # more than was said
        theirs.sendall(channel.HEADER.pack(channel.MORE, 0, 0) + channel.HEADER.pack(channel.VALUE, 0, 1) + b"x")
        [frame], ended = reader.take()
        assert ([bytes(one) for one in frame.buffers], bytes(frame.data), ended) == ([b"abc"], b"x", False)
    finally:
        os.close(read)
        os.close(write)


def test_hanging_up_on_a_full_pipe(heard, no_trays):
    """A function that has more to send than may come, and waits for room in the pipe, learns that nobody takes it: it ends."""

    def many():
        for _ in range(100):
            logging.getLogger("ramet.test.heard").error("x" * 10_000)
        return numpy.zeros(4 << 20, numpy.uint8)

    with pytest.raises(ramet.ResultError, match=r"where \d+ may come"):
        isolated(many, results_max=(4 << 20) + 1000)()
    assert heard


def test_a_pipe_that_never_fills():
    """A function that promises a buffer and does not send it runs out of its time, and the caller does not wait any longer."""

    def liar():
        for fd in range(3, 100):
            try:
                found = socket.socket(fileno=os.dup(fd))
            except OSError:
                continue
            found.sendall(channel.HEADER.pack(channel.POUR, 0, 8) + struct.pack("<Q", 1 << 29))
            found.sendall(channel.HEADER.pack(channel.MORE, 0, 0))
            time.sleep(60)

    with pytest.raises(ramet.TimeLimitError):
        isolated(liar, timeout=0.5)()


def test_the_header_is_as_documented():
    """kind, count, length: sixteen bytes."""
    assert channel.HEADER.size == struct.calcsize("<4sIQ") == 16
