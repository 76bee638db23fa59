"""What a failed launch must leave as it was, and what is left of a caller that was killed."""

import os
import signal
import subprocess
import sys
from time import monotonic

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a test's own Python has this folder only
from observed import children, descriptors

MARK = "ramet-fault-test"


def mounts():
    with open("/proc/self/mountinfo") as file:
        return file.read()


def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def state():
    """Everything of this process that a launch may disturb."""
    return children(), descriptors(), mounts(), mask(), os.getcwd(), os.umask(os.umask(0o22))


def processes(mark):
    """Pids of living processes with this text among their arguments, other than ours; not zombies."""
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if mark.encode() in file.read():
                    found.add(int(name))
        except OSError:
            continue
    return found


def alive(pid):
    """Is there such a process, and no mere zombie? An orphan's zombie is the host's pid 1's to reap, in its
    own time."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=40.0):
    """Poll a condition that nothing signals: that processes which are not our children are gone. The last
    value."""
    deadline = monotonic() + seconds
    while not (value := condition()) and monotonic() < deadline:
        os.sched_yield()
        signal.sigtimedwait([], 0.005)
    return value


class Caller:
    """A Python process that may be killed; it says a line when it is ready."""

    def __init__(self, code, *args, **more):
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            cwd=os.path.dirname(__file__),
            text=True,
            **more,
        )
        self.pid = self.process.pid

    def line(self):
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
