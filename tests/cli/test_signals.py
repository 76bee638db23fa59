"""Signals to `ramet run`: passed on; and if that does not end it, ended."""

import os
import signal
import subprocess
import time

import pytest


def _ready(process):
    assert process.stdout.readline() == b"ready\n"


def _run(start, script, *options):
    process = start("run", *options, "sh", "-c", script, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    _ready(process)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_the_payload_and_us_with_128_and_its_number(start, number):
    """What is sent to ramet arrives at the payload, which dies by it."""
    process = _run(start, "echo ready; exec sleep 60")
    process.send_signal(number)
    assert 128 + number == process.wait(20)


def test_payload_that_handles_the_signal_chooses_its_own_exit_code(start):
    """A trap in the payload runs, and its exit code is ours."""
    process = _run(start, "trap 'echo trapped; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    process.terminate()
    assert (process.stdout.read(), process.wait(20)) == (b"trapped\n", 7)


def test_second_signal_kills_what_ignores_the_first(start):
    """A payload that SIGINT does not end survives one, not two."""
    process = _run(start, "trap 'echo heard' INT; trap 'echo alive' USR1; echo ready; while :; do sleep 0.05; done")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == b"heard\n"  # two that nobody has looked at yet would be one
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == b"alive\n" and process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_ignored_signal_stays_ignored(start):
    """Under nohup, SIGHUP is neither passed on nor the end."""
    process = start(
        *("run", "sh", "-c", "echo ready; read line; echo alive"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    _ready(process)
    process.send_signal(signal.SIGHUP)
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.stdout.read() == b"alive\n" and process.wait(20) == 0


def test_user_signals_are_passed_on(start):
    """SIGUSR1 reaches the payload, and ends nothing by itself."""
    process = _run(start, "trap 'echo got; exit 0' USR1; echo ready; while :; do sleep 0.05; done")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.read() == b"got\n" and process.wait(20) == 0


def test_killed_ramet_leaves_nothing(start):
    """SIGKILL to ramet ends everything inside: the pipe that only the payload holds closes."""
    reader, writer = os.pipe()
    process = start("run", "sh", "-c", "echo ready; sleep 60 & exec sleep 60", stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    assert os.read(reader, 100) == b"ready\n"
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        (init,) = file.read().split()
    process.kill()
    process.wait(20)
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{init}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{init}")
    os.close(reader)
