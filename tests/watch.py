"""What ends a suite that hangs where no signal is heard, and says at which test.

pytest-timeout raises by SIGALRM, of which a thread that waits in the core with every signal blocked never hears. So it is another
process, nobody's child, that kills.
"""

import os
import select
import signal
import time

PATIENCE = 900  # seconds: more than any test's own timeout


class Watched:
    """A plugin of pytest: the watcher is told of each test that begins."""

    def __init__(self, patience=PATIENCE):
        reader, self.writer = os.pipe()
        watched = os.pidfd_open(os.getpid())
        if between := os.fork():
            os.close(reader)
            os.close(watched)
            os.waitpid(between, 0)
            return
        try:
            os.setsid()
            if not os.fork():
                os.close(self.writer)
                _watch(reader, watched, patience)
        finally:
            os._exit(0)

    def pytest_runtest_logstart(self, nodeid):
        os.write(self.writer, nodeid.encode() + b"\n")

    def pytest_unconfigure(self):
        os.close(self.writer)


def _watch(reader, watched, patience):
    at, since = b"before the first test", time.monotonic()
    while time.monotonic() - since < patience:
        ready = select.select([reader, watched], [], [], 1)[0]
        said = os.read(reader, 65536) if reader in ready else b""
        if watched in ready or (reader in ready and not said):  # it has ended, or is about to
            return
        if said:
            at, since = said.split(b"\n")[-2], time.monotonic()
    os.write(2, b"\n\nkilled, since nothing happened for %d s:\n  %s\n" % (patience, at))
    signal.pidfd_send_signal(watched, signal.SIGKILL)
