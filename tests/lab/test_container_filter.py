"""The lab's seccomp filter: refuses what it names, lets the rest go on."""

import ctypes
import os
import struct

import pytest

import ramet
from ramet.lab.container.filter import REFUSED, program, refusing
from ramet.lab.container.interpreter import container_python

TRY = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(number):
    ctypes.set_errno(0)
    libc.syscall(number, -1, -1, -1, -1, -1, -1)
    return ctypes.get_errno()
print(json.dumps([errno_of(int(word)) for word in sys.argv[1:]]))
"""
EPERM = 1
ARM = os.uname().machine == "aarch64"


def errnos(names, filtered):
    """What each call answers, with arguments that are wrong for all of them."""
    import json

    python = container_python()
    argv = [python, "-I", "-S", "-c", TRY, *(str(REFUSED[name][ARM]) for name in names)]
    return dict(
        zip(
            names,
            json.loads(ramet.run(refusing(argv, python) if filtered else argv, seccomp="none", check=True).stdout),
            strict=True,
        )
    )


def test_what_is_named_is_refused():
    """Every call of the list gets EPERM; without the filter at least those that need no right get something else."""
    names = list(REFUSED)
    assert errnos(names, True) == dict.fromkeys(names, EPERM)
    without = errnos(names, False)
    assert {name for name in ("ptrace", "process_vm_readv", "add_key", "keyctl") if without[name] == EPERM} == set()


def test_what_is_not_named_goes_on():
    """The program behind the filter runs as it would without one."""
    python = container_python()
    argv = [python, "-I", "-S", "-c", "import os; print(os.getppid() > 0, open('/proc/self/status').read())"]
    said = ramet.run(refusing(argv, python), seccomp="none", text=True, check=True).stdout
    assert said.startswith("True")
    assert "Seccomp:\t2" in said


def simulate(code, number, arch):
    """Run the filter by hand: what it answers to one call."""
    lines = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
    data = {0: number, 4: arch}
    at = accumulator = 0
    while True:
        kind, if_true, if_false, value = lines[at]
        at += 1
        if kind == 0x20:
            accumulator = data[value]
        elif kind == 0x06:
            return value
        else:
            holds = accumulator == value if kind == 0x15 else accumulator >= value
            at += if_true if holds else if_false


ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
X86, AARCH64 = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(("machine", "arch", "other"), [("x86_64", X86, AARCH64), ("aarch64", AARCH64, X86)])
def test_the_program_by_hand(machine, arch, other):
    """Named numbers are refused, others allowed, another architecture's calls end the process; x32's too."""
    code = program((101, 250), machine)
    assert [simulate(code, number, arch) for number in (101, 250, 0, 249, 102)] == [REFUSE, REFUSE, ALLOW, ALLOW, ALLOW]
    assert simulate(code, 0, other) == KILL
    assert simulate(code, 101 | 0x40000000, arch) == (KILL if machine == "x86_64" else ALLOW)


def test_the_numbers_are_this_machines():
    """Each name of the list has the number that this kernel knows it by, as far as ramet's own table has it."""
    from ramet.plan.calls import CALLS

    assert ctypes.sizeof(ctypes.c_long) == 8
    for name, numbers in REFUSED.items():
        if name in CALLS:
            assert CALLS[name][0] == numbers[0]


def test_another_machine_is_refused():
    """A machine whose numbers are not known gets no filter at all, rather than a wrong one."""
    with pytest.raises(ValueError, match="riscv64"):
        program((1,), "riscv64")
