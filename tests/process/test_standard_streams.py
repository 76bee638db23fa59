"""stdin, stdout, stderr: as subprocess takes them."""

import io
import os
import sys

import pytest

import ramet
from ramet import DEVNULL, PIPE, STDOUT, Popen, SpecError, SpecTypeError

BOTH = ["sh", "-c", "echo out; echo err >&2"]


def test_run_captures_both_by_default():
    """run() captures stdout and stderr apart, as bytes."""
    result = ramet.run(BOTH)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")


def test_stderr_to_stdout():
    """stderr=STDOUT puts both into stdout, in order, and stderr is None."""
    result = ramet.run(BOTH, stderr=STDOUT)
    assert (result.stdout, result.stderr) == (b"out\nerr\n", None)


def test_devnull():
    """DEVNULL swallows, and reads as empty."""
    result = ramet.run(["sh", "-c", "cat; echo out; echo err >&2"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert (result.stdout, result.stderr, result.exit_code) == (None, None, 0)


def test_stdin_is_empty_by_default():
    """Without input stdin is at its end, whatever the caller's is."""
    assert ramet.run(["cat"]).stdout == b""
    with Popen(["cat"], stdout=PIPE) as box:
        assert box.stdin is None
        assert box.stdout.read() == b""


def test_files(tmp_path):
    """Open files, and their numbers, serve as streams; positions are shared, as between processes."""
    (tmp_path / "in").write_text("first\nsecond\n")
    with (
        open(tmp_path / "in", "rb") as source,
        open(tmp_path / "out", "wb") as out,
        open(tmp_path / "err", "wb") as err,
    ):
        source.read(0)
        result = ramet.run(
            ["sh", "-c", "read line; echo $line; echo err >&2"], stdin=source, stdout=out, stderr=err.fileno()
        )
        assert os.lseek(source.fileno(), 0, os.SEEK_CUR) > 0
    assert (result.stdout, result.stderr) == (None, None)
    assert (tmp_path / "out").read_text() == "first\n"
    assert (tmp_path / "err").read_text() == "err\n"


def test_one_file_for_both(tmp_path):
    """One file may be stdout and stderr."""
    with open(tmp_path / "both", "wb") as file:
        ramet.run(BOTH, stdout=file, stderr=STDOUT)
    assert (tmp_path / "both").read_text() == "out\nerr\n"


def test_inherited(capfd):
    """Popen's stdout and stderr are the caller's own unless told otherwise."""
    with Popen(BOTH) as box:
        assert (box.stdout, box.stderr) == (None, None)
        box.wait()
    assert capfd.readouterr() == ("out\n", "err\n")


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 8 << 20])
def test_communicate_both_ways(size):
    """Data of any size goes in and comes out of both streams at once, without a deadlock."""
    data = os.urandom(size)
    with Popen(["sh", "-c", "tee /dev/fd/2"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as box:
        out, err = box.communicate(data)
        assert box.wait() == 0
    assert out == data
    assert err == data


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_input_of_any_bytes(kind):
    """input= may be any object of bytes."""
    assert ramet.run(["cat"], input=kind(b"data")).stdout == b"data"


def test_input_that_is_not_read():
    """A payload that does not read its input ends the feeding, not the caller; unread input is no error."""
    result = ramet.run(["true"], input=bytes(8 << 20))
    assert result.ok
    result = ramet.run(["sh", "-c", "exec 0<&-; echo closed; exit 3"], input=bytes(8 << 20))
    assert (result.stdout, result.exit_code) == (b"closed\n", 3)


def test_text():
    """text=True decodes and encodes as UTF-8; encoding= and errors= say how else."""
    assert ramet.run(["cat"], input="ü", text=True).stdout == "ü"
    assert ramet.run(["cat"], input="ü", encoding="latin-1").stdout == "ü"
    assert ramet.run(["cat"], input="ü".encode("latin-1")).stdout == b"\xfc"
    assert ramet.run(["printf", "\\374"], errors="replace").stdout == "\ufffd"


def test_text_that_cannot_be_decoded_does_not_leak():
    """Output that is no text shows its bytes, or, with errors="strict", is a UnicodeDecodeError that leaves nothing."""
    assert ramet.run(["printf", "\\374"], text=True).stdout == "\\xfc"
    with pytest.raises(UnicodeDecodeError):
        ramet.run(["printf", "\\374"], errors="strict")


def test_unknown_encoding_runs_nothing(tmp_path):
    """An encoding that does not exist is found out before anything runs."""
    with pytest.raises((LookupError, SpecError)):
        ramet.run(["true"], encoding="no-such-encoding")


def test_popen_text_streams():
    """With text=True the streams are text files."""
    with Popen(["cat"], stdin=PIPE, stdout=PIPE, text=True) as box:
        assert isinstance(box.stdin, io.TextIOWrapper)
        box.stdin.write("zeile\n")
        box.stdin.flush()
        assert box.stdout.readline() == "zeile\n"
        assert box.stdin is box.stdin
        box.stdin.close()
        assert box.wait(timeout=20) == 0


def test_communicate_after_reading_by_hand():
    """What was read by hand is not read again; communicate takes the rest."""
    with Popen(["sh", "-c", "echo one; echo two"], stdout=PIPE) as box:
        assert box.stdout.readline() == b"one\n"
        out, _ = box.communicate()
        assert out == b"two\n"


def test_flood_is_cut_in_flat_memory():
    """Output past output= is thrown away and marked; memory stays flat while it floods, and the payload ends by itself."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = ramet.run(["head", "-c", str(256 << 20), "/dev/zero"], output="1M")
    assert result.stdout == bytes(1 << 20)
    assert result.truncated == ("stdout",)
    assert result.ok
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 << 10  # KiB


@pytest.mark.parametrize(("size", "cut"), [(999, ()), (1000, ()), (1001, ("stdout",))])
def test_output_limit_is_exact(size, cut):
    """Exactly output= bytes are no flood; one more is."""
    result = ramet.run(["head", "-c", str(size), "/dev/zero"], output=1000)
    assert (len(result.stdout), result.truncated) == (min(size, 1000), cut)


def test_each_stream_has_its_own_limit():
    """A flood on stderr does not take stdout's room."""
    result = ramet.run(["sh", "-c", "head -c 5000 /dev/zero >&2; echo fine"], output=1000)
    assert (result.stdout, len(result.stderr), result.truncated) == (b"fine\n", 1000, ("stderr",))


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("bad", [999999, "text", object(), 1.5, True, -7, io.BytesIO()])
def test_bad_streams_are_refused(name, bad):
    """What is no stream is refused by name, before anything runs."""
    with pytest.raises(SpecError) as caught:
        Popen(["true"], **{name: bad})
    assert caught.value.field == name


def test_stdout_constant_only_for_stderr():
    """STDOUT makes sense for stderr alone."""
    for name in ("stdin", "stdout"):
        with pytest.raises(SpecError, match="only for stderr"):
            Popen(["true"], **{name: STDOUT})


def test_closed_file_is_refused(tmp_path):
    """A closed file is refused by name."""
    file = open(tmp_path / "x", "wb")
    file.close()
    with pytest.raises(SpecError) as caught:
        Popen(["true"], stdout=file)
    assert caught.value.field == "stdout"


def test_input_and_stdin_contradict():
    """input= and stdin= can't both be given; input to a Popen without stdin=PIPE neither."""
    with pytest.raises(SpecError):
        ramet.run(["cat"], input=b"", stdin=PIPE)
    with Popen(["cat"]) as box, pytest.raises(SpecError):
        box.communicate(b"data")
    with pytest.raises(SpecTypeError):
        ramet.run(["cat"], input=5)


def test_dev_full_as_stdout():
    """A full device as stdout is the payload's trouble, and its exit code tells."""
    with open("/dev/full", "wb") as full:
        result = ramet.run(["cat", "/etc/passwd"], stdout=full)
    assert result.exit_code == 1
    assert b"No space left" in result.stderr


def test_reader_that_has_gone():
    """Where nobody reads a pipe any more, the payload gets SIGPIPE, as everywhere; Python's caller ignores it."""
    reader, writer = os.pipe()
    os.close(reader)
    result = ramet.run(["yes"], stdout=writer)
    os.close(writer)
    assert (result.status, result.signal) == ("signaled", 13)


CLOSED = """
import os, sys
import ramet
report = os.dup(1)
for fd in {closed}:
    os.close(fd)
r = ramet.run(["sh", "-c", "cat; echo out; echo err >&2; ls /proc/self/fd"], input=b"in")
box = ramet.Popen(["sh", "-c", "cat; echo out; echo err >&2; exit 5"])
code = box.wait(); box.close()
os.write(report, repr((r.stdout, r.stderr, code)).encode())
os._exit(0)
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
def test_caller_with_closed_streams(closed):
    """A caller that has closed some of 0 to 2 gets the same, and no stream lands on a wrong number."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", CLOSED.format(closed=closed)], stdout=PIPE, stderr=PIPE, timeout=60, cwd="/", check=False
    )
    out = done.stdout.decode().rpartition("(b")[2]
    assert "(b" + out == repr((b"inout\n0\n1\n2\n3\n", b"err\n", 5)), done.stderr.decode()


def test_a_stream_that_never_pauses_does_not_outlast_its_time():
    """The deadline holds also where there is something to read whenever one looks."""
    from time import monotonic

    from ramet.run.guard import Guard
    from ramet.run.streams import Pump

    class Streams:
        def __init__(self):
            self.ours = [None, os.open("/dev/zero", os.O_RDONLY), None]

        def close_ours(self, number):
            raise AssertionError("no end is in sight")

    streams, (never, writer) = Streams(), os.pipe()
    try:
        pump = Pump(streams, b"", 1000)
        with pytest.raises(ramet.TimeoutExpired):
            pump.run(never, monotonic() + 1, Guard(ramet.Sandbox(), None, lambda: None))
        assert pump.captures[1].value() == bytes(1000)
    finally:
        for fd in (never, writer, streams.ours[1]):
            os.close(fd)
