"""What tests of limits ask of the host: what this caller may limit, and what is left."""

import os
import time
from pathlib import Path

from needs import SLOW, only
from ramet import cgroups

#: Every hostile payload, so many times.
ROUNDS = 100 if SLOW else 2
#: Emulated machines are ten times slower.
PATIENCE = 10 if os.environ.get("RAMET_VM_INSIDE") else 1


def may(*names):
    """Go on only where the caller may hold a sandbox to these limits: everywhere for root, else where groups were handed to it."""
    facts = cgroups.find().facts
    for name in names:
        only(facts[name].ok, f"where the caller may limit {name} (its controller is handed to it)")


def groups_of(pid):
    """Every group that this process has made, in any hierarchy that is mounted here."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] in ("cgroup", "cgroup2"):
            for directory, names, _ in os.walk(words[4]):
                found.update(f"{directory}/{name}" for name in names if name.startswith(f"ramet-{pid}-"))
    return found


def swept(pid):
    """Does a sweep leave no group of this dead caller? It gives what it kills a second to go, and takes up the rest the next time."""
    return until(lambda: cgroups.sweep() is not None and not groups_of(pid))


def processes_with(word):
    """The pids of all processes of the host that have this among their arguments."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word.encode() in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue  # it has ended
    return found


def until(condition, seconds=40):
    """Wait for something that others bring about; its value."""
    end = time.monotonic() + seconds * PATIENCE
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.002)
    return found
