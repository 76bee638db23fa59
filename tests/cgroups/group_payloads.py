"""Processes inside of groups, and what of them can be seen from outside."""

import os
import select
import signal
import sys
import time

from needs import only
from ramet import cgroups, lowlevel
from ramet.cgroups import owners
from ramet.cgroups.limits import CONTROLLER

MIB = 1 << 20
PYTHON = [sys.executable, "-I", "-S", "-c"]
#: Emulated machines are ten times slower than this one.
PATIENCE = 10 if os.environ.get("RAMET_VM_INSIDE") else 1


def ours():
    """Every group of ramet's in any hierarchy that is mounted here."""
    found = set()
    for line in open("/proc/self/mountinfo", encoding="utf-8"):
        words = line.split()
        if words[words.index("-") + 1] in ("cgroup", "cgroup2"):
            for directory, names, _ in os.walk(words[4]):
                found.update(f"{directory}/{name}" for name in names if name.startswith("ramet-"))
    return found


def somebody_elses(path):
    """Is it the group of a caller that lives, and is neither this process nor begun by it?"""
    owner = owners.parsed(os.path.basename(path))
    if owner is None or owners.dead(owner, owners.own()):
        return False
    pid = owner.pid
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return False  # has just ended; look again
    return pid != os.getpid()


def need_limits(*names):
    """Go on only where groups with these limits are the caller's to make: everywhere for root, and handed over."""
    facts = cgroups.find().facts
    for name in names:
        only(facts[name].ok, f"where the caller may limit {name} ({CONTROLLER.get(name, 'a group')} is handed to it)")


class Inside:
    """A process in a group: born in it, or by writing itself into each hierarchy, as ramet's payloads are."""

    def __init__(self, group, argv):
        self.group = group
        reader, writer = os.pipe()
        flags = {} if group is None or group.into is None else {"cgroup": group.into}
        child = lowlevel.clone3(exit_signal=signal.SIGCHLD, pidfd=True, allow_threads=True, **flags)
        if child.pid == 0:
            try:
                for entry in group.entries if group else ():
                    os.write(entry, b"0")
                os.dup2(writer, 1)
                os.setsid()
                os.execv(argv[0], argv)
            finally:
                os._exit(99)
        os.close(writer)
        self.child, self.pid, self.reader = child, child.pid, reader

    def read(self, size=4096, seconds=30):
        """What it says next; an error, rather than to hang."""
        ready, _, _ = select.select([self.reader], [], [], seconds * PATIENCE)
        assert ready, "it said nothing"
        return os.read(self.reader, size)

    def wait(self, seconds=30):
        """Its end: exit code, or minus the signal. Its output is in `output`."""
        try:
            status = self.child.wait(seconds * PATIENCE)
        except BaseException:
            os.kill(self.pid, signal.SIGKILL)
            self.child.wait()
            raise
        finally:
            self.child.close()
        os.set_blocking(self.reader, False)
        try:
            self.output = os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            self.output = ""  # somebody else has it open still
        os.close(self.reader)
        return os.waitstatus_to_exitcode(status)


def until(condition, seconds=40):
    """Wait for something that others bring about; its value."""
    end = time.monotonic() + seconds * PATIENCE
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return found


def running(pid):
    """Is there such a process, and no zombie?"""
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
