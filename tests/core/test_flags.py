"""The flags: numbers, names, and the table of what they mean."""

from __future__ import annotations

import re
import subprocess
import sys
from enum import IntFlag
from pathlib import Path

import pytest

from ramet import flags as module
from ramet.errors import SpecError
from ramet.flag_facts import CLONE_FACTS, FACTS, OBSOLETE, fact_of
from ramet.flags import (
    AT,
    CLONE,
    MNT,
    MOUNT_ATTR,
    MS,
    NAMESPACE_FILES,
    NAMESPACES,
    OBSOLETE_CLONE,
    RESOLVE,
    format_clone,
    format_flags,
    kernel_name,
    parse_clone,
    parse_flags,
)
from ramet.rules import check

SIGCHLD = 17
KINDS = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, IntFlag)]
KINDS.remove(IntFlag)


def header_constants(header: str, prefix: str) -> dict[str, int]:
    """The numbers that the installed kernel headers give, by name without prefix."""
    path = Path("/usr/include/linux") / header
    if not path.exists():
        pytest.skip(f"{path} is not installed (linux-libc-dev)")
    found = {}
    for name, value in re.findall(rf"#\s*define\s+{prefix}(\w+)\s+(\S+)", path.read_text()):
        number = value.strip("()").removesuffix("ULL")
        if re.fullmatch(r"0x[0-9a-fA-F]+|[1-9]\d*", number):
            found[name] = int(number, 0)
    return found


@pytest.mark.parametrize(
    ("kind", "header", "least"),
    [(CLONE, "sched.h", 26), (MOUNT_ATTR, "mount.h", 8), (RESOLVE, "openat2.h", 6)],
)
def test_numbers_are_those_of_the_kernel_headers(kind: type[IntFlag], header: str, least: int) -> None:
    """Each number that the installed headers know is ours; control: there are so many."""
    theirs = header_constants(header, f"{kind.__name__}_")
    ours = {flag.name: int(flag) for flag in kind}
    assert {name: ours[name] for name in theirs.keys() & ours.keys()} == {
        name: theirs[name] for name in theirs.keys() & ours.keys()
    }
    assert len(theirs.keys() & ours.keys()) >= least


def test_no_clone_flag_of_the_headers_is_missing() -> None:
    """Every CLONE_ constant of the headers is a flag, or an obsolete one."""
    theirs = {name for name in header_constants("sched.h", "CLONE_") if not name.startswith("ARGS_SIZE")}
    assert theirs - {flag.name for flag in CLONE} - set(OBSOLETE_CLONE) == set()


def test_flags_of_linux_7_1_are_there() -> None:
    """The four flags of Linux 7.1 have the bits that the kernel gave them."""
    new = [CLONE.AUTOREAP, CLONE.NNP, CLONE.PIDFD_AUTOKILL, CLONE.EMPTY_MNTNS]
    assert [flag.bit_length() - 1 for flag in new] == [34, 35, 36, 37]
    assert {flag for flag in CLONE if flag.since >= (7, 0)} == set(new)


@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_has_a_row(kind: type[IntFlag]) -> None:
    """The table has a row for each flag and for nothing else; each says since when, and a sentence."""
    assert set(FACTS[kind.__name__]) == set(kind)
    for flag, fact in FACTS[kind.__name__].items():
        assert fact_of(flag) is fact
        assert fact.meaning.endswith(".") and fact.meaning[0].isupper()
        assert (1, 0) <= fact.since <= (7, 2)
        assert re.fullmatch(r"\w+\(\d\)", fact.page)


def test_equal_numbers_of_two_kinds_have_their_own_rows() -> None:
    """MS.NOSYMFOLLOW is not RESOLVE's or AT's flag of the same number."""
    assert int(MS.NOSYMFOLLOW) == int(AT.SYMLINK_NOFOLLOW)
    assert MS.NOSYMFOLLOW.meaning != AT.SYMLINK_NOFOLLOW.meaning


def test_what_the_table_excludes_the_rules_refuse() -> None:
    """A flag with what it requires is accepted; without it, or with what it excludes, refused."""
    for flag, fact in CLONE_FACTS.items():
        whole = flag | fact.requires
        if whole & CLONE.SIGHAND:
            whole |= CLONE.VM
        cgroup = 3 if flag is CLONE.INTO_CGROUP else None
        assert check(whole, cgroup=cgroup) == (), flag
        for needed in fact.requires:
            assert check(whole & ~needed, cgroup=cgroup), (flag, needed)
        for other in fact.excludes:
            assert check(whole | other | CLONE_FACTS[other].requires, cgroup=cgroup), (flag, other)


def test_what_the_table_does_not_exclude_the_rules_allow() -> None:
    """Two flags, each with what it requires, are refused only if the table excludes one."""
    for flag, fact in CLONE_FACTS.items():
        for other, others in CLONE_FACTS.items():
            whole = flag | fact.requires | other | others.requires
            excluded = any(CLONE_FACTS[each].excludes & whole for each in whole)
            assert bool(check(whole, cgroup=3)) == excluded, (flag, other)


def test_namespaces_are_the_eight() -> None:
    """The eight namespace flags are those whose name begins with NEW, and each has its file in /proc."""
    assert set(NAMESPACES) == {flag for flag in CLONE if (flag.name or "").startswith("NEW")}
    assert set(NAMESPACE_FILES) == set(NAMESPACES) and len(NAMESPACES) == 8
    assert all(Path("/proc/self/ns", name).exists() for name in NAMESPACE_FILES.values())


@pytest.mark.parametrize(
    ("given", "flags", "exit_signal"),
    [
        ("CLONE_VM|CLONE_NEWPID", CLONE.VM | CLONE.NEWPID, 0),
        ("VM | newpid", CLONE.VM | CLONE.NEWPID, 0),
        ("0x10900", CLONE.THREAD | CLONE.SIGHAND | CLONE.VM, 0),
        ("CLONE_VM|SIGCHLD", CLONE.VM, SIGCHLD),
        ("SIGHAND|SIGUSR1", CLONE.SIGHAND, 10),
        ("0x111", CLONE.VM, SIGCHLD),
        (0x111, CLONE.VM, SIGCHLD),
        ("0x80", CLONE.NEWTIME, 0),
        ("0x91", CLONE.NEWTIME, SIGCHLD),
        ("256|17", CLONE.VM, SIGCHLD),
        ("0", CLONE(0), 0),
        (1 << 37, CLONE.EMPTY_MNTNS, 0),
        ("0x8000000000", CLONE(1 << 39), 0),
    ],
)
def test_clone_flags_are_parsed(given: str | int, flags: CLONE, exit_signal: int) -> None:
    """Names with or without CLONE_, in any case, numbers, and a signal make flags and exit signal."""
    assert parse_clone(given) == (flags, exit_signal)
    assert isinstance(parse_clone(given)[0], CLONE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("CLONE_NEWPIDS", "did you mean CLONE_NEWPID?"),
        ("newnett", "did you mean CLONE_NEWNET?"),
        ("CLONE_STOPPED", "obsolete"),
        ("", "on each side"),
        ("VM||FS", "on each side"),
        ("0x1g", "no number"),
        ("-1", "64-bit"),
        (-1, "64-bit"),
        (1 << 64, "64-bit"),
        ("SIGCHLD|SIGUSR1", "two exit signals"),
        ("SIGNONSENSE", "no flag"),
    ],
)
def test_rubbish_is_refused_with_the_nearest_name(given: str | int, said: str) -> None:
    """What is no flag is a SpecError that says why, and the nearest name where there is one."""
    with pytest.raises(SpecError, match=re.escape(said)) as caught:
        parse_clone(given, field="Sandbox.flags")
    assert caught.value.field == "Sandbox.flags"


def test_other_kinds_are_parsed_and_refuse_unknown_bits() -> None:
    """Mount flags are parsed alike, under either name; bits that no flag has are refused."""
    assert parse_flags(MS, "MS_BIND|rec") == MS.BIND | MS.REC
    assert parse_flags(MS, 0x5000) == MS.BIND | MS.REC
    assert parse_flags(MNT, "UMOUNT_NOFOLLOW|DETACH") == parse_flags(MNT, "MNT_NOFOLLOW|DETACH") == MNT(10)
    with pytest.raises(SpecError, match="0x4000000"):
        parse_flags(MS, 1 << 26)


@pytest.mark.parametrize(
    ("flags", "exit_signal", "text"),
    [
        (CLONE.VM | CLONE.NEWPID, SIGCHLD, "CLONE_VM|CLONE_NEWPID|SIGCHLD"),
        (0, SIGCHLD, "SIGCHLD"),
        (0, 0, "0"),
        (CLONE.VM, 65, "CLONE_VM|65"),
        (CLONE.VM | 1 << 40, 0, "CLONE_VM|0x10000000000"),
        (CLONE.NEWTIME | CLONE.EMPTY_MNTNS, 0, "CLONE_NEWTIME|CLONE_EMPTY_MNTNS"),
    ],
)
def test_clone_flags_are_written_as_strace_does(flags: int, exit_signal: int, text: str) -> None:
    """Names in the order of their bits, the exit signal last, what has no name in hexadecimal."""
    assert format_clone(flags, exit_signal) == text


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_numbers_are_inverse(kind: type[IntFlag]) -> None:
    """Parsing what was written gives the same flags, for each and for all together."""
    everything = kind(0)
    for flag in kind:
        assert parse_flags(kind, format_flags(flag)) == flag
        assert parse_flags(kind, kernel_name(flag)) == flag
        everything |= flag
    assert parse_flags(kind, format_flags(everything)) == everything


def test_obsolete_flags_are_told_apart() -> None:
    """The obsolete flags have rows of their own, and two of their bits mean something else today."""
    assert set(OBSOLETE) == set(OBSOLETE_CLONE)
    assert OBSOLETE_CLONE["PID"] == CLONE.PIDFD and OBSOLETE_CLONE["STOPPED"] == CLONE.NEWCGROUP


def test_importing_the_flags_is_light() -> None:
    """Importing flags, rules and lowlevel loads neither the facts nor anything heavy."""
    script = (
        "import sys; before = set(sys.modules); import ramet.flags, ramet.rules, ramet.lowlevel\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "ramet.flags" in loaded
    heavy = {"typing", "dataclasses", "inspect", "signal", "re", "ctypes", "mmap", "ramet.flag_facts"}
    assert heavy & set(loaded) == set()
