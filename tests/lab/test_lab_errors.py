"""Each errno of clone and clone3: produced, or told why not."""

import json
import os
from pathlib import Path

import pytest
from left import cgroups, when

from needs import KERNEL, as_root, as_user, only
from ramet.cli.lab_errors import main
from ramet.errors import HelperError, SpecError
from ramet.flags import CLONE
from ramet.lab import refusals
from ramet.lab.apart import apart
from ramet.lab.cgroups import own_cgroup

VM = os.environ.get("RAMET_VM_INSIDE") == "1"

#: clone(2), ERRORS, and what is not in it.
MANUAL = {
    *("EACCES", "EAGAIN", "EBUSY", "EEXIST", "EINVAL", "ENOMEM", "ENOSPC", "EOPNOTSUPP", "EPERM"),
    *("ERESTARTNOINTR", "EUSERS"),
}
BEYOND = {"E2BIG", "EBADF", "EFAULT", "EMFILE", "ENOENT", "ENOSYS"}


@pytest.fixture(scope="module")
def found():
    return refusals.refusals()


def by_errno(found, name):
    return [case for case in found["cases"] if case["errno"] == name]


def test_every_errno_of_the_manual_is_there(found):
    """Each errno that clone(2) lists is tried, or told why not; so are those that it does not list."""
    assert {case["errno"] for case in found["cases"]} == MANUAL | BEYOND


def test_the_kernel_answers_as_said(found):
    """Whatever was tried was answered with the errno that is said, and nothing failed to be tried."""
    assert refusals.wrong(found) == []
    assert [case for case in found["cases"] if "could not be tried" in case["not_here"]] == []
    assert sum(bool(case["agrees"]) for case in found["cases"]) > 60


#: By errno: how many are produced on any host with user namespaces, whoever runs it.
PRODUCED = {"EINVAL": 30, "ENOSPC": 10, "EPERM": 11, "EFAULT": 3, "E2BIG": 2, "ENOMEM": 1, "EMFILE": 1, "EAGAIN": 1}
ONE_EACH = ("ENOSYS", "EEXIST", "EBADF", "ERESTARTNOINTR")


@pytest.mark.parametrize("name", [*PRODUCED, *ONE_EACH])
def test_it_is_produced_for_real(found, name):
    """The errno was answered by this kernel, to root and ordinary users alike."""
    assert sum(bool(case["agrees"]) for case in by_errno(found, name)) >= PRODUCED.get(name, 1)


@as_root
@pytest.mark.parametrize("name", ["EOPNOTSUPP", "ENOENT", "EACCES"])
def test_a_cgroups_refusals_are_produced_by_root(found, name):
    """Where root can make version 2 cgroups, what they refuse is produced."""
    only(own_cgroup()[0], "where version 2 cgroups are mounted")
    assert [case["answered"] for case in by_errno(found, name)] == [name]


@as_user
def test_an_ordinary_user_is_told_why_not(found):
    """What an ordinary user can't have says what is in the way."""
    missing = {case["errno"]: case["not_here"] for case in found["cases"] if case["not_here"]}
    assert "EUSERS" in missing
    assert all(len(why) > 20 for why in missing.values())


@pytest.mark.vm
@as_root
def test_ebusy_is_produced_where_controllers_are_handed_on():
    """A cgroup with a domain controller for its children takes no process; where none is handed on, that is said."""
    if VM:  # the machine is ours: here the root cgroup may be told to hand one on
        Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    [busy] = apart("lab_sabotage", "only_errno", name="EBUSY")
    said = busy["not_here"]
    assert busy["answered"] == "EBUSY" or (not VM and ("hands no domain controller on" in said or "mounted" in said))
    assert busy["agrees"] is (True if busy["answered"] else None)


def test_each_rule_is_tried(found):
    """Every reason that ramet.rules has for EINVAL by flags, on this kernel, is among the cases."""
    reasons = {violation.reason for _, _, violation in refusals.combinations_refused()}
    assert reasons <= {case["why"] for case in by_errno(found, "EINVAL")}
    assert len(reasons) >= (15 if KERNEL < (7, 1) else 20)
    alone = {case["call"] for case in by_errno(found, "EINVAL")}
    assert any(call.startswith("clone3({flags=CLONE_SIGHAND})") for call in alone)


@pytest.mark.parametrize(
    ("named", "text", "release"),
    [
        ((6, 1, 0), "#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)", (6, 1, 158)),
        ((5, 15, 0), "Ubuntu 5.15.0-91.101-generic 5.15.131", (5, 15, 131)),
        ((6, 18, 44), "#1 SMP PREEMPT_DYNAMIC @0", (6, 18, 44)),
        ((6, 12, 3), "built with 13.2.0 on 10.0.0.1", (6, 12, 3)),
    ],
)
def test_the_stable_release_is_known(named, text, release):
    """A rule may have changed within a series: the release comes from where the distribution tells it."""
    assert refusals.stable_release(named, [text]) == release
    assert refusals.running_kernel()[:2] == KERNEL


def test_a_rule_too_many_is_noticed():
    """Control: an invented rule is tried, the kernel makes a child, and that does not agree."""
    [told] = apart("lab_sabotage", "invented_rule")
    assert told["call"].startswith("clone3({flags=CLONE_FILES})")
    assert (told["answered"], told["agrees"]) == ("a child", False)


CALLS = [
    *("flags 0", "a pidfd", "set_tid [1] of a new namespace", "a brother", "a thread", "the older call"),
    *(flag.name for flag in CLONE if flag.name.startswith("NEW")),
]


@pytest.mark.parametrize("name", CALLS)
def test_without_its_situation_the_call_makes_a_child(name):
    """Control: the calls that were refused in some situation are not refused outside it."""
    assert apart("lab_sabotage", "unrefused", name=name) == ["a child", ""]


@pytest.mark.parametrize(
    ("kind", "answered", "not_here"),
    [
        ("a child", "a child", ""),
        ("another errno", "EINVAL", ""),
        ("another call", "", "could not be tried: a system call: EBADF"),
        ("the set-up", "", "could not be tried: /nonexistent: ENOENT"),
        ("dies", "", "died"),
        ("wrong program", "", "could not be tried: ZeroDivisionError"),
    ],
)
def test_a_wrong_case_is_told_of(kind, answered, not_here):
    """Control: a call that is not refused, or refused otherwise, does not agree; what fails before it is not counted."""
    [told] = apart("lab_sabotage", "cases", kind=kind)
    assert told["answered"] == answered
    assert not_here in told["not_here"] and bool(not_here) == bool(told["not_here"])
    assert told["agrees"] is (None if not_here else False)


def test_the_host_stays_as_it_was():
    """Nothing is left: no cgroup, no semaphore, and the limits of the caller are its own."""

    def host():
        return {
            "cgroups": cgroups(),
            "limits": Path("/proc/self/limits").read_text(),
            "pid_max": Path("/proc/sys/kernel/pid_max").read_text(),
            "namespaces": [Path(f"/proc/sys/user/max_{kind}_namespaces").read_text() for kind in ("user", "net")],
            "own cgroups": Path("/proc/self/cgroup").read_text(),
        }

    before = host()
    refusals.refusals()
    assert when(host, before) == before
    assert before["cgroups"] == []


@as_root
def test_a_killed_measurement_leaves_nothing():
    """One that takes too long is killed with all it started, and its cgroup is removed."""
    only(own_cgroup()[0], "where version 2 cgroups are mounted")
    marker = f"linger-{os.getpid()}"  # a name has 15 characters
    with pytest.raises(HelperError, match="took more than 1"):
        apart("lab_sabotage", "linger", seconds=1.5, marker=marker)
    assert when(lambda: lingering(marker), []) == []
    assert when(cgroups, []) == []


def lingering(marker):
    """Processes of that name which have not ended."""
    return [stat for stat in map(_text, Path("/proc").glob("[0-9]*/stat")) if marker in stat and ") Z " not in stat]


def _text(path):
    try:
        return path.read_text()
    except OSError:
        return ""


# The page


def test_the_page_fits(found):
    """No line is longer than 80 columns, each errno has its words, and the sum is told."""
    page = refusals.text(found)
    assert [line for line in page.splitlines() if len(line) > 80] == []
    assert "ENOSPC (No space left on device)" in page and "EOPNOTSUPP (Operation not supported)" in page
    assert "tried were answered as said" in page and "not here:" in page


def test_the_command_prints_text_or_json(capfd):
    """`ramet lab errors` prints all, with an errno's name that one alone, with --json the data."""
    assert main([]) == 0
    assert "EUSERS" in capfd.readouterr().out
    assert main(["eagain"]) == 0
    page = capfd.readouterr().out
    assert "EAGAIN (Resource temporarily unavailable)" in page and "EINVAL" not in page
    assert main(["EBADF", "--json"]) == 0
    assert {case["errno"] for case in json.loads(capfd.readouterr().out)["cases"]} == {"EBADF"}


def test_a_wrong_answer_is_shown_and_fails(found, monkeypatch, capfd):
    """Control: an answer that is not the one said is marked on the page, and the command's exit code tells."""
    broken = json.loads(json.dumps(found))
    broken["cases"][0].update(answered="EPERM", agrees=False)
    monkeypatch.setattr(refusals, "refusals", lambda: broken)
    assert main([]) == 1
    page = capfd.readouterr().out
    assert "! the kernel answered EPERM" in page
    assert "EINVAL expected, EPERM answered" in " ".join(page.split())


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["EAGIAN"], "did you mean EAGAIN"),
        (["42"], "is no errno's name"),
        (["ENOTTY"], "never return it"),
        (["EPERM", "EINVAL"], "takes one errno"),
        (["--jason"], "did you mean --json"),
    ],
)
def test_what_makes_no_sense_is_refused(argv, said):
    """Names that are none, or that clone never returns, are answered."""
    with pytest.raises(SpecError, match=said):
        main(argv)


@pytest.mark.parametrize("name", ["matrix", "compare", "errors"])
def test_the_help_fits(name, capfd):
    """--help of each of the three commands tells its usage, within 80 columns."""
    from importlib import import_module

    assert import_module(f"ramet.cli.lab_{name}").main(["--help"]) == 0
    page = capfd.readouterr().out
    assert page.startswith(f"usage: ramet lab {name}")
    assert [line for line in page.splitlines() if len(line) > 80] == []
