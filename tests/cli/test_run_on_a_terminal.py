"""`ramet run -t`: a terminal of the sandbox's own, and the caller's as it was afterwards."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest


class Screen:
    """A terminal with ramet at its other side, as a terminal emulator has it."""

    def __init__(self, *args, before="", after=""):
        self.seen = b""
        command = f'{before} "$0" -m ramet "$@"; code=$?; {after} echo "[exit $code]"'
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv("/bin/bash", ["bash", "-c", command, sys.executable, *args])

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, keys):
        os.write(self.master, keys)

    def until(self, text, seconds=50):
        """Everything seen until this text has appeared."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not appear in {self.seen!r}")
            try:
                self.seen += os.read(self.master, 1 << 16)
            except OSError:
                raise AssertionError(f"the end came before {text!r}: {self.seen!r}") from None
        return self.seen

    def close(self):
        os.close(self.master)
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)


@pytest.fixture
def screen(works):
    screens = []

    def make(*args, **more):
        screens.append(Screen(*args, **more))
        return screens[-1]

    yield make
    for one in screens:
        one.close()


def test_terminal_is_the_sandboxs_own(screen):
    """The payload's tty is of its own devpts, its three streams are it, and none of the caller's is to be seen."""
    s = screen("run", "-t", "sh", "-c", "tty; ls -1 /dev/pts; for n in 0 1 2; do readlink /proc/$$/fd/$n; done")
    seen = s.until(b"[exit 0]").split()
    assert [b"/dev/pts/0", b"0", b"ptmx", *[b"/dev/pts/0"] * 3] == seen[:6]


def test_without_t_there_is_no_terminal(screen):
    """Run from a terminal but without -t, the payload has pipes."""
    s = screen("run", "sh", "-c", "tty; [ -t 1 ] || echo none")
    assert b"none" in s.until(b"[exit 0]")


def test_window_size_from_the_first_moment_and_as_it_changes(screen):
    """The payload finds the caller's window size at its first look, and hears of a new one."""
    script = "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    s = screen("run", "-t", "sh", "-c", script, before="stty rows 33 columns 101;")
    assert b"33 101\r\n" in s.until(b"ready")
    s.resize(40, 90)
    assert b"40 90\r\n" in s.until(b"[exit 0]")


def test_keys_reach_the_payload_control_c_too(screen):
    """Ctrl-C is a key: it interrupts the payload by its own terminal, and ramet ends with 130."""
    s = screen("run", "-t", "sh", "-c", "echo ready; exec sleep 60")
    s.until(b"ready")
    s.type(b"\x03")
    s.until(b"[exit 130]")


def test_lines_are_edited_and_echoed_once(screen):
    """What is typed is echoed by the sandbox's terminal alone; Ctrl-D ends the input."""
    s = screen("run", "-t", "sh", "-c", "echo ready; cat")
    s.until(b"ready")
    s.type(b"hellx\x7fo\n\x04")
    assert s.until(b"[exit 0]").startswith(b"ready\r\nhellx\b \bo\r\nhello\r\n[exit 0]")


@pytest.mark.parametrize(
    ("script", "send", "code"),
    [
        ("echo ready; read x; exit 3", b"\n", b"3"),
        ("echo ready; kill -KILL $$", b"", b"137"),
        ("echo ready; exec sleep 60", b"\x03", b"130"),
        ("/nonexistent", b"", b"127"),
    ],
)
def test_callers_terminal_is_as_it_was(screen, script, send, code):
    """After each way to end, the caller's terminal has the settings it had."""
    s = screen("run", "-t", "sh", "-c", script, before="stty -g;", after="echo; stty -g;")
    if b"ready" in script.encode():
        s.until(b"ready")
    s.type(send or b"")
    lines = s.until(b"[exit " + code + b"]").split()
    settings = [line for line in lines if line.count(b":") > 20]
    assert len(settings) == 2 and settings[0] == settings[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_callers_terminal_is_as_it_was_after_a_signal(screen, number):
    """A signal to ramet ends the payload, and gives the terminal back."""
    s = screen("run", "-t", "sh", "-c", "echo ready; exec sleep 60", before="stty -g;", after="echo; stty -g;")
    s.until(b"ready")
    with open(f"/proc/{s.pid}/task/{s.pid}/children") as file:
        (ramet,) = file.read().split()
    os.kill(int(ramet), number)
    lines = s.until(b"[exit %d]" % (128 + number)).split()
    settings = [line for line in lines if line.count(b":") > 20]
    assert len(settings) == 2 and settings[0] == settings[1]


def test_timeout_with_a_terminal(screen):
    """The time limit holds, and the terminal comes back."""
    s = screen("run", "-t", "--timeout", "0.3", "sleep", "60")
    s.until(b"[exit 124]")


def test_input_that_is_no_terminal(works):
    """-t with a pipe as stdin: the input is typed, and its end is typed as Ctrl-D, also within a line."""
    for text in (b"line\n", b"no newline"):
        argv = [sys.executable, "-m", "ramet", "run", "-t", "sh", "-c", "stty -echo; echo ready; cat"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\r\n"
        out, _ = process.communicate(text, timeout=20)
        assert text.strip() == out.strip() and process.returncode == 0


def test_gone_screen_hangs_up(works):
    """When nobody reads the terminal's output any more, the payload gets SIGHUP."""
    line = '"$0" -m ramet run -t yes </dev/null | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["y", "129"], done


def test_term_is_passed_on(works):
    """With -t the payload gets the caller's TERM; without it TERM is dumb."""
    env = os.environ | {"TERM": "screen-256color"}
    argv = [sys.executable, "-m", "ramet", "run"]
    for more, expected in (["-t"], "screen-256color"), ([], "dumb"):
        done = subprocess.run(
            [*argv, *more, "sh", "-c", "echo $TERM"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
        )
        assert expected == done.stdout.strip()
