"""Relayed streams: as they come, as much as there is, in bounded memory, and an end for every reader's end."""

import os
import resource
import select
import subprocess
import sys
import time

BIG = 200 << 20


def test_output_streams_before_the_end(start):
    """A line is ours as soon as it is written, while the payload still runs."""
    process = start("run", "sh", "-c", "echo first; cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"first\n"
    assert process.poll() is None
    process.stdin.write(b"echoed\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"echoed\n"
    process.stdin.close()
    assert process.wait(20) == 0


def test_200_mb_pass_through_with_flat_memory(works):
    """All of it arrives, and ramet's own memory does not grow with it."""
    # The measurer is a process of its own: its children are ramet (and the payload) alone.
    measure = """if 1:
        import os, resource, subprocess, sys
        argv = [sys.executable, "-m", "ramet", "run", "head", "-c", sys.argv[1], "/dev/zero"]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        size = 0
        while data := os.read(process.stdout.fileno(), 1 << 20):
            size += len(data)
        assert process.wait() == 0
        print(size, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    """
    found = {}
    for size in (1, BIG):
        done = subprocess.run([sys.executable, "-c", measure, str(size)], capture_output=True, text=True, timeout=120)
        arrived, found[size] = map(int, done.stdout.split())
        assert arrived == size
    assert found[BIG] - found[1] < 8 << 10  # KiB


def test_input_streams_through_both_ways(works):
    """20 MB in by stdin, and out again, byte for byte."""
    data = os.urandom(1 << 20) * 20
    done = subprocess.run([sys.executable, "-m", "ramet", "run", "cat"], input=data, capture_output=True, timeout=120)
    assert done.stdout == data and done.returncode == 0


def test_payload_that_does_not_read_does_not_hang_us(works):
    """More input than pipes hold, to a payload that closes stdin, or ends: ramet ends too."""
    for script in ("exec <&-; exit 5", "exit 5"):
        argv = [sys.executable, "-m", "ramet", "run", "sh", "-c", script]
        with open("/dev/zero", "rb") as endless:
            assert subprocess.run(argv, stdin=endless, timeout=30).returncode == 5


def test_payload_that_ends_while_our_stdin_stays_open(start):
    """A stdin that nobody closes does not keep us."""
    process = start("run", "true", stdin=subprocess.PIPE)
    assert process.wait(20) == 0


def test_gone_reader_ends_the_relay_quietly(works):
    """`ramet run yes | head -1`: no message; the payload meets SIGPIPE, as it would without us."""
    line = '"$0" -m ramet run yes | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("y\n141\n", "")


def test_full_disk_is_reported(works):
    """stdout that takes nothing: the error is named, and the exit code is ramet's own."""
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-m", "ramet", "run", "echo", "lost"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert done.stderr == "ramet: cannot write to stdout: ENOSPC (No space left on device)\n"
    assert done.returncode == 125


def test_full_disk_is_reported_for_our_own_text_too(works):
    """`ramet plan` to a full disk says so."""
    with open("/dev/full", "wb") as full:
        argv = [sys.executable, "-m", "ramet", "plan", "true"]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert "ramet: cannot write to stdout: ENOSPC" in done.stderr and done.returncode == 125


def test_reader_that_does_not_read_does_not_hold_up_the_time_limit(start):
    """stdout blocked: --timeout still ends the sandbox, and what is left can be read."""
    reader, writer = os.pipe()
    process = start("run", "--timeout", "3", "sh", "-c", "yes & exec sleep 60", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    assert select.select([reader], [], [], 50)[0]  # the payload has begun to write, and nobody reads
    deadline = time.monotonic() + 50
    while _children(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _children(process.pid)
    size = 0
    while data := os.read(reader, 1 << 16):
        size += len(data)
    os.close(reader)
    assert size >= 1 << 16  # as much as the pipe holds: it was blocked
    assert process.wait(20) == 124


def _children(pid):
    """Of a process that nobody has waited for yet."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_slow_reader_of_one_stream_does_not_hold_up_the_other(start):
    """stdout blocked by its reader: stderr still arrives."""
    reader, writer = os.pipe()
    script = "yes & sleep 0.2; echo seen >&2; exec sleep 60"
    process = start("run", "sh", "-c", script, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.stderr.readline() == b"seen\n"
    os.close(reader)


def test_nonblocking_streams_of_the_caller(works):
    """Streams that somebody made non-blocking are relayed whole, and left as they are."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    argv = [sys.executable, "-m", "ramet", "run", "head", "-c", "1000000", "/dev/zero"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE)
    assert not os.get_blocking(writer)
    os.close(writer)
    size = 0
    while data := os.read(reader, 1000):
        size += len(data)
    os.close(reader)
    assert size == 1000000 and process.communicate(timeout=20)[1] == b""


def test_descriptors_do_not_run_out(works):
    """With hardly any descriptors left, the answer names the shortage, and nothing stays behind."""

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))

    argv = [sys.executable, "-m", "ramet", "run", "true"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, preexec_fn=few, timeout=30)
    assert done.returncode == 125 and "EMFILE (Too many open files)" in done.stderr
    assert "Traceback" not in done.stderr
