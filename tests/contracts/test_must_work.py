"""The rules of the test suite itself: which skips CI accepts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = ("-q", "-rA", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=.")
TESTS = Path(__file__).parent.parent

EXAMPLE = """
from needs import need, only
def test_missing(): need(False, "a fact of this host")
def test_elsewhere(): only(False, "on another kernel")
"""


@pytest.fixture
def outcome(tmp_path):
    """Run the example with this suite's conftest; what pytest says of each test."""

    def run(**env):
        for name in ("conftest.py", "needs.py", "observed.py", "watch.py"):
            (tmp_path / name).write_text((TESTS / name).read_text())
        (tmp_path / "test_example.py").write_text(EXAMPLE)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("RAMET_", "PYTEST_"))}
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                *["-q", "-rA", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=.", "."],
            ],
            cwd=tmp_path,
            env=own | env | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # to import them takes most of the time
            capture_output=True,
            text=True,
        )
        return done.stdout

    return run


def test_missing_fact_is_a_skip_for_people_and_a_failure_in_ci(outcome):
    """A missing fact skips the test, with RAMET_MUST_WORK=1 it fails it; a test for elsewhere is skipped in both."""
    assert "2 skipped" in outcome()
    ci = outcome(RAMET_MUST_WORK="1")
    assert "1 skipped" in ci
    assert "needs a fact of this host" in ci
    assert "1 failed" in ci or "1 error" in ci
