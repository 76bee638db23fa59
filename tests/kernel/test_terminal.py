"""Sessions, and a terminal of the sandbox's own."""

import fcntl
import os
import select
import struct
import sys
import termios

import pytest
from inside import said, shell

import ramet
from ramet import Namespace, Sandbox, SpecError


class Terminal:
    """Talk to a payload through its terminal."""

    def __init__(self, argv, **fields):
        self.process = ramet.Popen(argv, tty=True, **fields)
        self.master = self.process.terminal
        self.seen = b""

    def until(self, words):
        """Read until this has been seen; what came so far."""
        while words not in self.seen:
            assert select.select([self.master], [], [], 20)[0], f"nothing more after {self.seen!r}"
            try:
                data = os.read(self.master, 4096)
            except OSError:  # EIO: the other side is closed
                data = b""
            assert data, f"ended after {self.seen!r}"
            self.seen += data
        found, _, self.seen = self.seen.partition(words)
        return found

    def rest(self):
        """Everything until the other side is closed."""
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:
                return self.seen
            if not data:
                return self.seen
            self.seen += data

    def write(self, data):
        os.write(self.master, data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.close()


@pytest.mark.parametrize("as_pid1", [False, True])
def test_terminal_has_its_own_name(as_pid1):
    """With tty=True stdin, stdout and stderr are a terminal of the sandbox's devpts, and it is the controlling one."""
    script = (
        "tty; test -t 0 -a -t 1 -a -t 2 && echo all; ls -A /dev/pts; ps -o tty= -p $$; : </dev/tty && echo controlling"
    )
    with Terminal(["sh", "-c", script], as_pid1=as_pid1) as terminal:
        words = terminal.rest().split()
        assert terminal.process.wait(timeout=20) == 0
    assert words == [b"/dev/pts/0", b"all", b"0", b"ptmx", b"pts/0", b"controlling"]


def test_no_terminal_by_default():
    """Without tty=True there is no terminal, not even through /dev/tty, even where the caller has one."""
    result = shell("test -t 0 || test -t 1 || echo none; : </dev/tty")
    assert result.stdout == "none\n" and not result.ok


def test_terminal_needs_a_dev():
    """tty=True in a root without /dev contradicts itself."""
    with pytest.raises(SpecError, match="/dev"):
        ramet.run(["true"], tty=True, rootfs="empty")
    for fields in ({"new_session": False}, {"namespaces": Sandbox().namespaces - {Namespace.MOUNT}}):
        with pytest.raises(SpecError) as caught:
            Sandbox(tty=True, **fields)
        assert caught.value.field == "Sandbox.tty"


def test_what_is_typed_arrives():
    """What is written to the master is read by the payload, and echoed."""
    with Terminal(["sh", "-c", "read line; echo got $line"]) as terminal:
        terminal.write(b"hello\n")
        assert terminal.until(b"got hello").endswith(b"hello\r\n")


def test_ctrl_c_interrupts():
    """The interrupt character in the terminal is SIGINT for the foreground process group."""
    code = """
import sys
try:
    print("ready", flush=True)
    sys.stdin.readline()
except KeyboardInterrupt:
    print("caught", flush=True)
    sys.exit(7)
"""
    with Terminal([sys.executable, "-I", "-S", "-c", code]) as terminal:
        terminal.until(b"ready")
        terminal.write(b"\x03")
        terminal.until(b"caught")
        assert terminal.process.wait(timeout=20) == 7


def test_job_control():
    """An interactive shell has job control: a stopped job comes back to the foreground."""
    with Terminal(["sh", "-i"], env={"PS1": "$ "}) as terminal:
        terminal.until(b"$ ")
        assert b"can't access tty" not in terminal.seen
        terminal.write(b"cat\n")
        terminal.write(b"one\n")
        terminal.until(b"one\r\none")
        terminal.write(b"\x1a")
        terminal.until(b"$ ")
        terminal.write(b"jobs\n")
        terminal.until(b"Stopped")
        terminal.until(b"$ ")
        terminal.write(b"fg\n")
        terminal.until(b"fg\r\ncat\r\n")
        terminal.write(b"two\n")
        terminal.until(b"two\r\ntwo")
        terminal.write(b"\x04")
        terminal.until(b"$ ")
        terminal.write(b"exit 3\n")
        assert terminal.process.wait(timeout=20) == 3


def test_window_size():
    """The size set on the master is the payload's, and a change is a SIGWINCH."""
    script = "trap 'stty size; exit' WINCH; echo ready; while :; do read line; done"
    with Terminal(["sh", "-c", script]) as terminal:
        terminal.until(b"ready")
        fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        terminal.write(b"\n")
        assert terminal.until(b"33 77") is not None


def test_terminal_of_the_caller_is_out_of_reach():
    """The payload is in a session of its own: the caller's controlling terminal can't be opened, so nothing can be
    pushed into it (TIOCSTI)."""
    import subprocess

    code = (
        "import ramet, os\n"
        "print('mine', os.open('/dev/tty', os.O_RDWR) > 2)\n"
        "r = ramet.run(['sh', '-c', 'exec 3<>/dev/tty && echo reached'], rootfs='host', text=True)\n"
        "print('inside', r.stdout.strip() or 'refused')\n"
    )
    # script(1) gives the caller a controlling terminal
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(code)
        file.flush()
        os.chmod(file.name, 0o644)
        outer = ["script", "-qec", f"{sys.executable} {file.name}", "/dev/null"]
        done = subprocess.run(outer, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, cwd="/")
    assert done.stdout.split() == ["mine", "True", "inside", "refused"], done.stdout + done.stderr


@pytest.mark.parametrize("new_session", [True, False])
def test_new_session(new_session):
    """The payload leads a session of its own; with new_session=False it does not."""
    pid, sid = said(
        shell("cut -d' ' -f1,6 /proc/self/stat; echo; ps -o pid=,sid= -p $$", new_session=new_session)
    ).split()[-2:]
    assert (pid == sid) is new_session
