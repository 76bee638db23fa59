"""The table of calls, and the filter made of it: pure, held against the kernel's headers and a machine of our own."""

import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

from needs import need
from ramet.trace.calls import (
    AARCH64,
    ALLOW,
    ARM,
    CALLS,
    FOLLOWED,
    I386,
    INSTALLING,
    INSTALLS,
    NAMES,
    TRACE,
    X86_64,
    filter_program,
    table,
)

CSRC = Path(__file__).parents[2] / "csrc"
COLUMNS = {X86_64: 1, AARCH64: 2, I386: 3, ARM: 4}


def answer(program, arch, number, first=0):
    """What the filter says to a call; a machine for the four operations that it is made of."""
    data = struct.pack("=IIQQ", number, arch, 0, first)
    code = list(struct.iter_unpack("=HBBI", program))
    at, word = 0, 0
    for _ in code:  # it only jumps forward
        operation, if_equal, if_not, operand = code[at]
        if operation == 0x06:
            return operand
        if operation == 0x20:
            word = struct.unpack_from("=I", data, operand)[0]
        else:
            assert operation == 0x15
            at += if_equal if word == operand else if_not
        at += 1
    raise AssertionError("the filter does not end")


@pytest.mark.parametrize("machine", FOLLOWED)
def test_the_filter_stops_at_these_calls_and_at_no_others(machine):
    """Of all numbers of both architectures of a machine, those of the table stop; all others run at full speed."""
    program = filter_program(machine)
    for arch in FOLLOWED[machine]:
        ours = {number for (of, number) in NAMES if of == arch}
        installing = {row[COLUMNS[arch]] for row in INSTALLS.values()}
        stopped = {number for number in range(600) if answer(program, arch, number, first=99) == TRACE}
        assert stopped == ours and not ours & installing
        assert ours >= {CALLS["clone3"][COLUMNS[arch]], CALLS["execve"][COLUMNS[arch]]}


@pytest.mark.parametrize("machine", FOLLOWED)
def test_the_filter_stops_who_installs_one_and_who_does_so_only(machine):
    """prctl and seccomp stop with the argument that installs a filter, and with no other."""
    program = filter_program(machine)
    for arch in FOLLOWED[machine]:
        for name, row in INSTALLS.items():
            number = row[COLUMNS[arch]]
            found = {first for first in range(100) if answer(program, arch, number, first) == TRACE}
            assert found == {INSTALLING[name]}


def test_the_filter_lets_other_architectures_be():
    """Numbers mean nothing without their architecture: of a foreign one nothing stops."""
    program = filter_program("x86_64")
    assert answer(program, X86_64, 56) == TRACE
    assert {answer(program, AARCH64, number) for number in range(600)} == {ALLOW}


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", X86_64), ("aarch64", AARCH64)])
def test_the_numbers_are_those_of_the_headers(machine, arch):
    """Each call has, on each machine, the number that the machine's own headers give it, or does not exist there."""
    compiler = "cc" if machine == os.uname().machine else f"{machine}-linux-gnu-gcc"
    need(subprocess.run(["which", compiler], capture_output=True).returncode == 0, compiler)
    ours = {name: row[COLUMNS[arch]] for name, row in (CALLS | INSTALLS).items()}
    assert in_headers(compiler, ours, "asm/unistd.h") == {name: n for name, n in ours.items() if n is not None}


def test_the_numbers_of_32_bit_programs_are_those_of_the_headers():
    """i386's numbers are those of <asm/unistd_32.h>, and differ from the machine's own."""
    need(os.uname().machine == "x86_64", "the headers of x86-64")
    ours = {name: row[COLUMNS[I386]] for name, row in (CALLS | INSTALLS).items()}
    assert in_headers("cc", ours, "asm/unistd_32.h") == ours
    assert ours["clone"] != CALLS["clone"][COLUMNS[X86_64]]


def in_headers(compiler, names, header):
    """Name to number, of those that the header knows."""
    source = f"#include <{header}>\n" + "".join(f"{name}: __NR_{name}\n" for name in names)
    done = subprocess.run(
        [compiler, "-E", "-P", "-x", "c", "-"], input=source, capture_output=True, text=True, check=True
    )
    lines = (line.partition(": ") for line in done.stdout.splitlines() if ": " in line)
    return {name: int(number) for name, _, number in lines if number.strip().isdigit()}


def test_the_kinds_are_those_of_the_c_core():
    """The numbers of the kinds, and the size of a row, are what csrc/trace.h says."""
    text = re.search(r"enum trace_call_kind \{(.*?)\}", (CSRC / "trace.h").read_text(), re.S)[1]
    kinds = re.findall(r"^\s*CALL_(\w+)", text, re.M)
    assert kinds == ["PLAIN", "CLONE", "CLONE3", "UNSHARE", "SETNS", "EXECVE", "EXECVEAT", "SECCOMP", "PRCTL"]
    from ramet.trace import calls

    assert [getattr(calls, kind) for kind in kinds] == list(range(1, len(kinds) + 1))
    rows = list(struct.iter_unpack("=IIHH", table("x86_64")))
    assert (X86_64, 59, calls.EXECVE, 8) in rows and (I386, 11, calls.EXECVE, 4) in rows
    assert {arch for arch, *_ in rows} == {X86_64, I386}
