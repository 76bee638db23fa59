"""Where there are no user namespaces and no privilege: what is needed is said, and the part that still runs, runs."""

import json
import sys
from pathlib import Path

import pytest

import ramet
from ramet.lab import matrix as lab_matrix

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


def test_the_matrix_leaves_out_what_needs_namespaces(inside):
    """`ramet lab matrix` says what is missing, and measures what needs no namespace; with namespaces it measures more."""
    code, told, _ = inside("matrix", "--json")
    found = json.loads(told)
    measured = {each["key"] for each in found["resources"]}
    assert code == 0
    assert "unshare(CLONE_NEWUSER) answers ENOSPC" in found["ground"]
    assert {"memory", "cwd", "umask", "descriptors", "handlers", "io", "parent", "user_ns"} <= measured
    assert measured & {"root", "undo", "hostname", "sysv", "mounts", "network", "uid_map"} == set()
    rows = {row["flag"]: row for row in found["rows"]}
    assert rows["CLONE_FS"]["cells"]["cwd"]["measured"] == "shared"
    assert rows[""]["cells"]["cwd"]["measured"] == "copied"
    assert rows["CLONE_NEWUTS"]["refused"].startswith("EPERM: ")
    assert [cell for row in found["rows"] for cell in row["cells"].values() if cell["agrees"] is False] == []
    with_namespaces = {each["key"] for each in lab_matrix.matrix()["resources"]}
    assert {"root", "undo", "hostname", "mounts"} <= with_namespaces
    page = inside("matrix")[1]
    assert "`ramet doctor` says what is missing." in " ".join(page.split())
    assert max(map(len, page.splitlines())) <= 80


def test_compare_still_times(inside):
    """`ramet lab compare` measures what needs no namespace, and times every way but the one that makes some."""
    code, told, _ = inside("compare", "--sizes", "0", "--json")
    found = json.loads(told)
    assert code == 0
    cells = {way["key"]: way["cells"] for way in found["ways"]}
    assert cells["pthread"]["cwd"]["measured"] == "shared"
    assert cells["fork"]["cwd"]["measured"] == "copied"
    assert cells["container"] == {}
    ways = {way["key"]: way for way in found["latency"]["ways"]}
    assert ways["fork"]["seconds"][0] > 0
    assert (ways["container"]["seconds"], ways["container"]["refused"]) == ([None], ["ENOSPC"])


def test_errors_that_need_no_privilege_are_produced(inside):
    """Of `ramet lab errors` the illegal combinations are tried; what needs privilege says so, and nothing is wrong."""
    code, told, _ = inside("errors", "--json")
    cases = {(case["call"], case["situation"]): case for case in json.loads(told)["cases"]}
    assert code == 0
    for call in ("clone3({flags=CLONE_SIGHAND}), and clone likewise", "clone3({flags=0, exit_signal=65})"):
        assert (cases[call, ""]["answered"], cases[call, ""]["not_here"]) == ("EINVAL", "")
    privileged = cases["clone3({flags=CLONE_SYSVSEM|CLONE_NEWIPC}), and clone likewise", ""]
    assert (privileged["answered"], privileged["agrees"]) == ("", None)
    assert "there is no user namespace to try it in" in privileged["not_here"]
    assert [case for case in cases.values() if case["agrees"] is False] == []
