"""The matrix of flags and resources: measured, held against the manual, and its probes held against sabotage."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from left import cgroups, semaphores, when

from needs import since
from ramet.cli.lab_matrix import main
from ramet.errors import HelperError, SpecError
from ramet.flags import CLONE, format_clone
from ramet.lab import manual, matrix
from ramet.lab.apart import apart
from ramet.lab.resources.base import ANSWERS


@pytest.fixture(scope="module")
def found():
    return matrix.matrix()


@pytest.fixture(scope="module")
def cells(found):
    """By (flag, resource); the flag "" is none."""
    return {
        (row["flag"].removeprefix("CLONE_"), key): cell for row in found["rows"] for key, cell in row["cells"].items()
    }


#: What is known without the table of manual.py: for each resource a flag that changes the answer, and the answer without.
KNOWN = [
    ("memory", "VM", "shared", "copied"),
    ("cwd", "FS", "shared", "copied"),
    ("root", "FS", "shared", "copied"),
    ("umask", "FS", "shared", "copied"),
    ("descriptors", "FILES", "shared", "copied"),
    ("handlers", "SIGHAND", "shared", "copied"),
    ("handlers", "CLEAR_SIGHAND", "new", "copied"),
    ("undo", "SYSVSEM", "shared", "new"),
    ("io", "IO", "shared", "copied"),
    ("parent", "PARENT", "shared", "new"),
    ("parent", "THREAD", "shared", "new"),
    ("process", "THREAD", "shared", "new"),
    ("limits", "THREAD", "shared", "copied"),
    ("credentials", "NEWUSER", "new", "copied"),
    ("user_ns", "NEWUSER", "new", "shared"),
    ("mnt_ns", "NEWNS", "new", "shared"),
    ("pid_ns", "NEWPID", "new", "shared"),
    ("net_ns", "NEWNET", "new", "shared"),
    ("ipc_ns", "NEWIPC", "new", "shared"),
    ("uts_ns", "NEWUTS", "new", "shared"),
    ("cgroup_ns", "NEWCGROUP", "new", "shared"),
    ("time_ns", "NEWTIME", "new", "shared"),
    ("hostname", "NEWUTS", "copied", "shared"),
    ("sysv", "NEWIPC", "new", "shared"),
    ("mounts", "NEWNS", "copied", "shared"),
    ("network", "NEWNET", "new", "shared"),
    ("uid_map", "NEWUSER", "new", "shared"),
    ("clocks", "NEWTIME", "copied", "shared"),
    ("pids", "NEWPID", "new", "shared"),
]


@pytest.mark.parametrize(("key", "flag", "with_it", "without"), KNOWN)
def test_the_flag_changes_the_answer(cells, key, flag, with_it, without):
    """Each resource is told one thing of a child with its flag, and another of one without any."""
    assert cells[flag, key]["measured"] == with_it, cells[flag, key]["evidence"]
    assert cells["", key]["measured"] == without, cells["", key]["evidence"]


def test_each_resource_is_in_that_list(found):
    """The list above leaves out only the offset, which every child shares, and the paths, which a root cgroup hides."""
    assert {one["key"] for one in found["resources"]} - {key for key, *_ in KNOWN} == {"offset", "cgroup_view"}


def test_nothing_else_changes(cells):
    """A flag changes what it is for and nothing else: every other cell says what it says without flags."""
    company = {"SIGHAND": {"memory"}, "THREAD": {"memory", "handlers"}}
    changing = {(flag, key) for key, flag, *_ in KNOWN}
    different = {
        (flag, key)
        for (flag, key), cell in cells.items()
        if cell["measured"] != cells["", key]["measured"]
        and flag != "EMPTY_MNTNS"
        and key != "cgroup_view"
        and key not in company.get(flag, ())
    }
    assert different == changing


def test_every_flag_has_a_row(found):
    """A row for no flag and for each there is; those that this kernel refuses say why."""
    assert [row["flag"] for row in found["rows"]] == ["", *(format_clone(flag) for flag in matrix.FLAGS)]
    assert set(matrix.FLAGS) == set(CLONE)
    for row in found["rows"]:
        assert bool(row["cells"]) != bool(row["refused"])
        assert not row["cells"] or list(row["cells"]) == [one["key"] for one in found["resources"]]


def test_the_kernel_does_what_the_manual_says(found):
    """No cell differs from the manual; what could not be told is told with the reason."""
    assert matrix.differences(found) == []
    for row in found["rows"]:
        for key, cell in row["cells"].items():
            assert cell["measured"] in ANSWERS and cell["evidence"]
            assert cell["measured"] != "unknown" or key in ("limits", "clocks", "cgroup_view"), cell


def test_a_wrong_manual_is_marked(found, monkeypatch):
    """Control: a sentence of the manual turned round marks exactly its cells, in the data and on the page."""
    monkeypatch.setitem(manual.MANUAL, "memory", manual.Entry("copied", "clone(2)", {CLONE.VM: "new"}))
    wrong = matrix.matrix()
    assert {(cell["flag"], cell["resource"]) for cell in matrix.differences(wrong)} == {
        ("CLONE_VM", "memory"),
        ("CLONE_SIGHAND", "memory"),
        ("CLONE_THREAD", "memory"),
    }
    page = matrix.text(wrong)
    assert "SHARED!" in page and "SHARED!" not in matrix.text(found)
    said = "! the memory: measured shared, the manual says new (clone(2)): CLONE_VM, CLONE_SIGHAND, CLONE_THREAD."
    assert said in " ".join(page.split())


@pytest.mark.parametrize(
    ("key", "flags"),
    [
        ("memory", CLONE.VM),
        ("cwd", CLONE.FS),
        ("root", CLONE.FS),
        ("descriptors", CLONE.FILES),
        ("offset", CLONE(0)),
        ("handlers", CLONE.SIGHAND | CLONE.VM),
        ("undo", CLONE.SYSVSEM),
        ("io", CLONE.IO),
        ("limits", CLONE.THREAD | CLONE.SIGHAND | CLONE.VM),
        ("sysv", CLONE(0)),
    ],
)
def test_a_probe_that_changes_nothing_is_noticed(key, flags):
    """Control: "shared" is said because of the child's own change; a child that makes none is not called sharing."""
    found = apart("lab_sabotage", "without_write", resource=key, flags=int(flags))
    assert found["measured"] != "shared", found


@pytest.mark.parametrize(
    "key", ["memory", "cwd", "root", "descriptors", "handlers", "io", "limits", "credentials", "user_ns"]
)
def test_a_probe_that_does_not_look_is_noticed(key):
    """Control: "copied" and "shared" are said because the child found the mark; one that does not look finds none."""
    found = apart("lab_sabotage", "without_read", resource=key, flags=0)
    assert found["measured"] in ("new", "unknown"), found


def test_kcmp_agrees(found):
    """The second witness calls the object the same where the effect says shared, and another where it does not."""
    asked = [
        (row["flag"], key, cell["kcmp"], cell["measured"])
        for row in found["rows"]
        for key, cell in row["cells"].items()
        if cell["kcmp"] is not None
    ]
    assert len(asked) > 150
    assert [each for each in asked if each[2] != (each[3] == "shared")] == []
    assert {each[2] for each in asked} == {True, False}


def test_kcmp_would_contradict():
    """Control: a kcmp that compares the caller with itself contradicts the effects."""
    cells = apart("lab_sabotage", "blind_kcmp")
    assert {key for key, cell in cells.items() if cell["kcmp"] and cell["measured"] != "shared"} == {
        *("memory", "cwd", "root", "umask", "descriptors", "handlers", "undo", "io")
    }


# Effects


def test_flags_do_what_they_are_for(found):
    """Each flag that shares nothing has its effect with it and not without; CLONE_CHILD_CLEARTID only in shared memory."""
    told = {(one["flag"], one["with"]): one for one in found["effects"]}
    odd = {key for key, one in told.items() if one["agrees"] is False}
    assert odd == {("CLONE_CHILD_CLEARTID", "")}
    assert told["CLONE_CHILD_CLEARTID", "CLONE_VM"]["agrees"] is True
    unknown = {one["flag"] for one in found["effects"] if one["agrees"] is None}
    newest = {"CLONE_AUTOREAP", "CLONE_NNP", "CLONE_PIDFD_AUTOKILL"}
    assert unknown <= newest | ({"CLONE_SETTLS"} if os.uname().machine == "aarch64" else set())


@pytest.mark.vm
@since(7, 1)
def test_the_newest_flags_do_what_they_are_for():
    """CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL have their effects; CLONE_EMPTY_MNTNS gives empty mounts."""
    effects, empty = apart("lab_sabotage", "newest_flags")
    assert {one["flag"]: one["agrees"] for one in effects} == {
        "CLONE_AUTOREAP": True,
        "CLONE_NNP": True,
        "CLONE_PIDFD_AUTOKILL": True,
    }
    assert {empty[key]["measured"] for key in ("mnt_ns", "mounts", "root", "cwd")} == {"new"}
    assert empty["hostname"]["measured"] == "shared"


def test_an_effect_that_is_none_is_noticed():
    """Control: what happens without the flag too, or never, does not agree."""
    always, never = apart("lab_sabotage", "broken_effect")
    assert (always["happens"], always["without"], always["agrees"]) == (True, True, False)
    assert (never["happens"], never["without"], never["agrees"]) == (False, False, False)


# Where it is measured


def test_the_ground_is_told_of(found):
    """The page says as whom, and where."""
    who = "root" if os.geteuid() == 0 else f"the ordinary user {os.geteuid()}"
    assert found["ground"] == f"Measured as {who}, in a user namespace of its own; the host is out of reach."
    assert found["uid"] == os.geteuid()
    assert found["kernel"] == os.uname().release


def test_root_without_user_namespaces_measures_all_the_same():
    """Where there are no user namespaces, root measures without one."""
    found = apart("lab_sabotage", "without_user_namespaces")
    assert found["own"] is False
    assert found["row"]["hostname"]["measured"] == "copied"
    assert found["row"]["uid_map"]["measured"] == "shared"


def test_an_ordinary_user_without_user_namespaces_measures_what_needs_none():
    """An ordinary user stands on bare ground there: why is told, and what could touch the host is not measured."""
    found = apart("lab_sabotage", "without_user_namespaces_as_ordinary")
    assert found["bare"] == "unshare(CLONE_NEWUSER) answers ENOSPC (No space left on device)"
    assert found["row"]["cwd"]["measured"] == "shared"
    assert {"root", "undo", "hostname", "mounts"} & set(found["row"]) == set()
    assert {"root", "undo", "hostname", "mounts"} <= set(apart("lab_sabotage", "a_row"))


def host():
    umask = os.umask(0)
    os.umask(umask)
    return {
        "umask": umask,
        "cwd": os.getcwd(),
        "root": os.stat("/").st_ino,
        "hostname": os.uname().nodename,
        "semaphores": semaphores(),
        "handler": signal.getsignal(signal.SIGUSR1),
        "limit": resource.getrlimit(resource.RLIMIT_CORE),
        "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))],
        "devices": subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
        if Path("/sbin/ip").exists()
        else Path("/proc/net/dev").read_text().count(":"),
        "cgroups": cgroups(),
    }


def test_the_host_stays_as_it_was():
    """A measurement changes nothing of the caller or the host. (conftest compares processes, mounts, descriptors.)"""
    before = host()
    matrix.matrix()
    assert when(host, before) == before
    assert before["cgroups"] == []


# The page


def test_the_page_fits(found):
    """No line is longer than 80 columns, and each row and heading is there."""
    page = matrix.text(found)
    assert [line for line in page.splitlines() if len(line) > 80] == []
    for one in found["resources"]:
        assert one["heading"] in page
    for flag in CLONE:
        assert str(flag.name) in page
    assert "NEW" in page and "SHARED" in page


def test_the_command_prints_text_or_json(capfd):
    """`ramet lab matrix` prints the page, `--json` the data, and both succeed."""
    assert main([]) == 0
    assert capfd.readouterr().out.startswith("What a child shares with its caller, on Linux")
    assert main(["--json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["rows"]) == len(CLONE) + 1


@pytest.mark.parametrize(("argv", "said"), [(["VM"], "takes no argument"), (["--jsn"], "did you mean --json")])
def test_what_makes_no_sense_is_refused(argv, said):
    """An argument or an unknown option is answered, and nothing is measured."""
    with pytest.raises(SpecError, match=said):
        main(argv)


def test_a_probe_that_fails_is_told_of_at_once():
    """A bug in a probe ends the measurement, and the children that wait; its traceback is told. (conftest looks.)"""
    with pytest.raises(HelperError, match="ended early") as caught:
        apart("lab_sabotage", "broken_probe", seconds=20)
    assert "ZeroDivisionError" in caught.value.stderr


@pytest.mark.parametrize("key", ["hostname", "mounts", "network"])
def test_the_child_sees_what_the_caller_changes(cells, key):
    """Where CLONE_NEWUSER takes the right to change a thing, the caller does, and the child sees that it is shared."""
    assert cells["NEWUSER", key]["measured"] == "shared"
    assert cells["NEWUSER", key]["evidence"].endswith("(EPERM); the caller changes it, and the child sees that")


@pytest.mark.parametrize(("key", "flag"), [("hostname", "NEWUTS"), ("mounts", "NEWNS"), ("network", "NEWNET")])
def test_the_child_does_not_see_it_in_a_namespace_of_its_own(key, flag):
    """Control: the caller's change is not seen from a new namespace, also where the child's own change is taken away."""
    found = apart("lab_sabotage", "refused_write", resource=key, flags=int(CLONE[flag]))
    assert found["measured"] == ("new" if key == "network" else "copied"), found


def test_a_caller_with_threads_may_measure():
    """Threads, an own SIGCHLD handler and ignored signals in the caller do no harm."""
    code = (
        "import signal, threading, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "from ramet.lab.matrix import differences, matrix\n"
        "assert differences(matrix()) == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
