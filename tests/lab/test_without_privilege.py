"""Where there are no user namespaces and no privilege: what is needed is said, and the part that still runs, runs."""

import json
import sys
from pathlib import Path

import pytest

import ramet

SOURCE = str(Path(ramet.__file__).parents[1])


@pytest.fixture
def inside(launch):
    """`ramet lab` in a default sandbox: no capability, and no user namespace to be had."""

    def inside(*args):
        places = dict.fromkeys([SOURCE, *([sys.prefix] if sys.prefix != sys.base_prefix else [])])
        mounts = [ramet.Bind(place) for place in places]
        done = launch(
            [sys.executable, "-m", "ramet", "lab", *args], mounts=mounts, seccomp="none", env={"PYTHONPATH": SOURCE}
        )
        return done.exit_code, done.stdout, done.stderr

    return inside


def test_what_is_needed_is_said(inside):
    """Experiment 3 names the capability, the other way, the kernel's answer, and where to read on."""
    code, page, _ = inside("pid")
    text = " ".join(page.split())
    assert code == 0
    assert "this needs CAP_SYS_ADMIN, or user namespaces: unshare(CLONE_NEWUSER) answers ENOSPC" in text
    assert "ramet doctor says what mends it" in text
    assert "can't be settled here" in text


def test_the_part_that_still_runs(inside):
    """Of experiment 3 the clone is tried, and its control run; experiment 2 is settled all the same."""
    _, told, _ = inside("pid", "directory", "--json")
    pid, directory = json.loads(told)
    assert {"who": "caller", "what": "clone3 answers", "value": "EPERM (Operation not permitted)"} in pid[
        "observations"
    ]
    assert {"getpid()", "getppid()"} <= {each["what"] for each in pid["control"]}
    assert not pid["holds"]
    assert directory["holds"]
    assert {"who": "child", "what": "mount(MS_SHARED)", "value": "EPERM"} in directory["observations"]


def test_nothing_of_the_caller_is_changed_without_ground(inside):
    """An experiment that changes mounts or names is not tried where it can't have namespaces of its own."""
    _, told, _ = inside("mount", "uts", "--json")
    for evidence in json.loads(told):
        assert [each["what"] for each in evidence["observations"]] == ["clone3 answers"]
        assert evidence["control"] == []
        assert evidence["findings"] == []


def test_all_runs_through(inside):
    """`ramet lab all` ends with 0: what can't be settled is counted, and nothing fails."""
    code, page, complaint = inside("all")
    assert (code, complaint) == (0, "")
    assert " 0 fail," in " ".join(page.split())
    assert "corrected  one working directory" in page
