"""Processes and their streams."""

import os

import pytest

from observed import children
from ramet.run import ahead


def descriptors():
    """The numbers of this process's open descriptors, but for the one that lists them and namespaces made ahead."""
    ahead.forget()
    return set(os.listdir("/proc/self/fd"))


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
