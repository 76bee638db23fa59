"""Fixtures for the tests of faults."""

import pytest
from hosts import state

import ramet


@pytest.fixture
def nothing_left():
    """After the test this process is as before: children, zombies, descriptors, mounts, mask, directory,
    umask."""
    ramet.run(["true"])  # what is kept: init's memfd, and a pidfd of this process
    before = state()
    yield
    assert state() == before
