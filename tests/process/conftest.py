"""Processes and their streams."""

import os

import pytest

from ramet.run import ahead


def descriptors():
    """The numbers of this process's open descriptors, but for the one that lists them and namespaces made ahead."""
    ahead.forget()
    return set(os.listdir("/proc/self/fd"))


def children():
    """Pids of this process's children, zombies too."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                found += file.read().split()
        except OSError:
            continue  # the thread has ended
    return found


@pytest.fixture(autouse=True)
def nothing_left():
    """No test of this folder leaves a descriptor or a child."""
    import gc

    import ramet

    ramet.run(["true"])  # what is opened once for a process is open now
    gc.collect()
    before = descriptors(), children()
    yield
    gc.collect()
    assert (descriptors(), children()) == before
