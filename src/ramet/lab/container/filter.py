"""A seccomp filter of a few lines, to show what one does.

It is a list of refused calls, which is the wrong way round for protection: what was forgotten is allowed. The filter to
rely on comes with ramet's default profile, as a list of allowed ones; where a Sandbox has that, `refusing` here, and the
step of stages.py that calls it, is what it replaces.
"""

from __future__ import annotations

import os

from ramet.bpf import ALLOW, AT_ARCH, AT_NUMBER, ERRNO, JUMP_EQUAL, JUMP_NOT_LESS, KILL_PROCESS, LOAD, RETURN, packed
from ramet.lab.container.inside import source

_EPERM = 1
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

#: Refused here, by name: number on x86-64, on aarch64. Doors to other processes, to key rings, and to young kernel code.
REFUSED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}


def program(numbers: tuple[int, ...], machine: str) -> bytes:
    """Classic BPF: kill what is of another architecture, EPERM for these numbers, all else goes on."""
    if machine not in _ARCH:
        raise ValueError(f"no number of {machine} is known here")
    code = [
        (LOAD, 0, 0, AT_ARCH),
        (JUMP_EQUAL, 1, 0, _ARCH[machine]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, AT_NUMBER),
    ]
    if machine == "x86_64":  # its x32 calls have the same architecture and numbers of their own
        code += [(JUMP_NOT_LESS, 0, 1, _X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    for number in numbers:
        code += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | _EPERM)]
    code.append((RETURN, 0, 0, ALLOW))
    return packed(code)


def refusing(argv: list[str], python: str, names: tuple[str, ...] = tuple(REFUSED)) -> list[str]:
    """The command line that installs the filter in its own process, then becomes argv. Needs no_new_privs."""
    machine = os.uname().machine
    numbers = tuple(REFUSED[name][machine == "aarch64"] for name in names)
    code = program(numbers, machine).hex()
    return [python, "-I", "-S", "-c", source("install_filter.py"), code, *argv]
