"""Fixtures for the tests of the core."""

import subprocess
import sys
import textwrap

import pytest
from core_programs import children, descriptors
from hypothesis import settings

# No database: the sources may not be the test user's to write to. A failure prints how to have it again.
settings.register_profile("ramet", database=None, print_blob=True)
settings.load_profile("ramet")


@pytest.fixture
def python():
    """Run Python code in a process of its own, where it may ruin what it likes; its standard output."""

    def run(code, *args, timeout=200, **more):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *args],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=__file__.rpartition("/")[0],
            check=False,
            **more,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def nothing_left():
    """After the test this process has the children and descriptors it had before (and those ramet keeps by
    design)."""
    import ramet

    ramet.run(["true"])  # what is kept: init's memfd, and a pidfd of this process
    before = children(), descriptors()
    yield
    assert (children(), descriptors()) == before
