"""ramet explain: flags, and the namespaces of a process."""

from __future__ import annotations

import json
import os
import signal

import pytest

from ramet import lowlevel
from ramet.errors import SpecError
from ramet.explain import (
    ProcessExplanation,
    explain,
    explain_flags,
    explain_json,
    explain_process,
    explain_text,
)
from ramet.flags import CLONE
from ramet.host.namespaces import KINDS, Process, kernel_version, read_process


def process(pid: int, parent: int, different: dict[str, int | None] | None = None) -> Process:
    """A made-up process whose namespaces are 100 but for those named."""
    ids: dict[str, int | None] = dict.fromkeys(KINDS, 100)
    return Process(pid, parent=parent, command="made up", ids=ids | (different or {}), children={})


def test_an_illegal_pair_is_explained_with_reason_and_errno() -> None:
    """CLONE_THREAD|CLONE_NEWPID: what each does, and why the kernel refuses the pair."""
    text = str(explain_flags("CLONE_THREAD|CLONE_NEWPID"))
    assert "EINVAL (Invalid argument)" in text
    assert "CLONE_THREAD needs CLONE_SIGHAND" in text and "since Linux 2.6.24" in text
    assert "refuses" not in str(explain_flags("CLONE_THREAD|CLONE_SIGHAND|CLONE_VM"))


def test_privilege_is_explained() -> None:
    """A namespace alone is for root; beside CLONE_NEWUSER it is for everybody."""
    alone, beside = explain_flags("NEWNET"), explain_flags("NEWNET|NEWUSER")
    assert "An ordinary user gets EPERM" in str(alone) and not alone.violations
    assert "from an ordinary user too" in str(beside)


def test_a_flag_too_new_for_the_kernel() -> None:
    """On an older kernel a new flag is refused, and the newest one is named that takes it."""
    text = str(explain_flags("AUTOREAP|PIDFD", kernel=(6, 18)))
    assert "Linux 6.18 refuses" in text and "Linux 7.2 takes it" in text
    assert "takes it" not in str(explain_flags("THREAD", kernel=(6, 18)))


def test_obsolete_flags_and_unknown_bits_are_explained() -> None:
    """Obsolete flags are told by name, and bits that no kernel knows are shown as such."""
    assert "obsolete" in str(explain_flags("CLONE_PID"))
    assert explain_flags("CLONE_DETACHED|VM").violations[0].errno == 22
    unknown = explain_flags("0x10000000100")
    assert unknown.unknown == 1 << 40 and "no kernel knows it" in str(unknown)
    assert unknown.flags & CLONE.VM and unknown.violations


@pytest.mark.parametrize(
    "subject",
    [
        "self",
        "0x7fffffffff",
        "0xffffffffffffff80",
        "|".join(flag.name or "" for flag in CLONE),
        "THREAD|NEWPID|PARENT|NEWUSER|SIGCHLD",
        "PID|STOPPED|DETACHED",
        "flags:0",
        "1",
    ],
)
def test_text_fits_80_columns_and_json_is_json(subject: str) -> None:
    """Whatever is explained, no line is longer than 80 columns, and the JSON form has a kind."""
    text = explain_text(subject)
    assert max(map(len, text.splitlines())) <= 80
    assert not any(line != line.rstrip() for line in text.splitlines())
    assert json.loads(json.dumps(explain_json(subject)))["kind"] in ("flags", "process")


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        ("", "each side"),
        ("CLONE_NEWPIDD", "did you mean CLONE_NEWPID"),
        ("what:1", "neither flags nor a process"),
        ("pid:x", "is no pid"),
        ("pid:99999999999", "is no pid"),
        ("2147483647", "there is no process"),
        ("0xqq", "no number"),
    ],
)
def test_rubbish_is_a_spec_error(subject: str, said: str) -> None:
    """What is neither flags nor a process raises SpecError with the reason."""
    with pytest.raises(SpecError, match=said):
        explain(subject)


def test_numbers_are_pids_unless_said_otherwise() -> None:
    """A decimal number is a pid; flags: makes it flags."""
    assert explain_json("1")["kind"] == "process"
    assert explain_json("flags:256")["names"] == "CLONE_VM"
    assert explain_json(f"pid:{os.getpid()}")["pid"] == os.getpid()


def test_own_namespaces_are_those_that_differ_from_the_parents() -> None:
    """Compared with its parent and with the caller, each kind is shared, its own, or not to be seen."""
    processes = {
        10: process(10, 9, {"net": 200, "pid": 201, "uts": None}),
        9: process(9, 1, {"user": 300}),
        5: process(5, 1),
    }
    found = explain_process(10, read=processes.__getitem__, caller_pid=5)
    assert found.own == ("user", "pid", "net")
    assert found.apart_from_caller == ("pid", "net")
    told = found.as_dict()["namespaces"]
    assert told["uts"] == {"id": None, "to_parent": "?", "to_caller": "?"}
    assert "hidden" in str(found) and "Apart from you: pid, net." in str(found)


def test_a_parent_that_is_gone_is_not_compared_with() -> None:
    """A parent that ended, or lies outside the pid namespace, leaves the column empty."""

    def read(pid: int) -> Process:
        if pid == 9:
            raise SpecError("there is no process 9", field="pid")
        return process(pid, 9)

    found = explain_process(10, read=read, caller_pid=10)
    assert found.parent is None and found.own == ()
    assert found.as_dict()["namespaces"]["net"]["to_parent"] == "?"


def test_a_real_child_has_the_namespaces_it_was_given() -> None:
    """A child made with CLONE_NEWUSER|CLONE_NEWNET|CLONE_NEWPID is explained to have just these."""
    read, write = os.pipe()
    flags = CLONE.NEWUSER | CLONE.NEWNET | CLONE.NEWPID
    blocked = lowlevel.Call(63 if os.uname().machine == "aarch64" else 0, read, lowlevel.Buffer(8), 1)
    made = lowlevel.clone3(flags, child=[blocked])
    try:
        found = explain(str(made.pid))
        assert isinstance(found, ProcessExplanation)
        assert found.own == found.apart_from_caller == ("user", "pid", "net")
    finally:
        os.write(write, b"x")
        made.wait()
        os.close(read)
        os.close(write)


def test_namespaces_for_children_are_told() -> None:
    """After unshare(CLONE_NEWPID) the process keeps its pid namespace, and its children live in another."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            lowlevel.unshare(CLONE.NEWUSER | CLONE.NEWPID)
            inner = os.fork()  # its pid 1: the namespace exists while this one lives
            if inner == 0:
                signal.pause()
            told = read_process(os.getpid())
            os.write(write, json.dumps([told.ids["pid"], told.children.get("pid")]).encode())
            os.kill(inner, signal.SIGKILL)
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        own, later = json.load(file)
    os.waitpid(child, 0)
    assert own == read_process(os.getpid()).ids["pid"]
    assert later is not None and later != own


def test_names_of_processes_may_hold_anything(tmp_path: object) -> None:
    """A command with spaces and parentheses in its name does not disturb the reading of its parent."""
    root = str(tmp_path)
    os.makedirs(f"{root}/7")
    with open(f"{root}/7/stat", "w") as file:
        file.write("7 (a b) S) (x) S 42 7 7 0 -1 4194304 0\n")
    found = read_process(7, proc=root)
    assert (found.parent, found.command) == (42, "a b) S) (x")
    assert set(found.ids.values()) == {0}
    with pytest.raises(SpecError, match="no process 8"):
        read_process(8, proc=root)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.12.3", (6, 12, 3)),
        ("6.1.0-18-amd64", (6, 1, 0)),
        ("7.2.12+deb13-amd64", (7, 2, 12)),
        ("5.15-rc1", (5, 15)),
        ("weird", ()),
    ],
)
def test_kernel_versions_are_read_from_the_release(release: str, version: tuple[int, ...]) -> None:
    """The leading numbers of the release, up to three, are the version."""
    assert kernel_version(release) == version
    assert kernel_version() >= (5, 3)
