"""Hazard 7 of csrc/spawn.c: clone3 refused by a container's seccomp filter, made real in a process of its
own."""

import os

from core_programs import failed, spawn, step, succeeded

#: Installs a filter that answers clone3 with ERRNO: struct sock_filter and sock_fprog by hand, see
#: seccomp(2).
FILTER = """
import ctypes, os, struct
from ramet import _core
from core_programs import NUMBERS
def install(errno):
    clone3 = 435  # on every machine
    code = b"".join(struct.pack("<HBBI", *one) for one in (
        (0x20, 0, 0, 0),             # load the call's number
        (0x15, 0, 1, clone3),        # is it clone3?
        (0x06, 0, 0, 0x50000 | errno),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),    # SECCOMP_RET_ALLOW
    ))
    held = ctypes.create_string_buffer(code)
    program = struct.pack("<H6xQ", len(code) // 8, ctypes.addressof(held))
    prctl = NUMBERS["prctl"]
    _core.syscall("prctl", prctl, 38, 1, 0, 0, 0)
    _core.syscall("prctl", prctl, 22, 2, program, 0, 0)
def clone3_says():
    try:
        _core.syscall("clone3", 435, 0, 0)
    except OSError as error:
        return error.errno
import ramet
def answers(*argv, **more):
    try:
        return ramet.run(argv, text=True, **more).stdout.strip()
    except ramet.StepError as error:
        return (error.stage, error.errno, error.call.split("(")[0])
"""


def test_7_kernel_answers_enosys_falls_back_to_clone(python):
    """Where clone3 is ENOSYS, clone(2) makes the same sandbox, with init, without, and by joining."""
    out = python(
        FILTER
        + """
before = clone3_says()
install(38)
print(before, clone3_says())
print(answers("echo", "ran"), answers("echo", "alone", as_pid1=True))
print(answers("sh", "-c", "echo $$", as_pid1=True))
print(sorted(answers("ls", "/proc/self/fd").split()))
box = ramet.Popen(["sleep", "1000"], as_pid1=True)
print(answers("hostname", namespaces=(), join=[ramet.Join(kind, pid=box.pid) for kind in ("user", "uts")]))
box.close()
"""
    )
    assert out.splitlines() == ["22 38", "ran alone", "1", "['0', '1', '2', '3']", "ramet"]


def test_7_kernel_answers_eperm_is_a_verdict(python):
    """Where clone3 is EPERM, that is the answer: no second try by another way."""
    out = python(
        FILTER
        + """
print(answers("echo", "ran"))
install(1)
print(clone3_says(), answers("echo", "ran"))
"""
    )
    assert out.splitlines() == ["ran", "1 ('clone', 1, 'clone3')"]


def test_7_kernel_answers_clone_can_be_asked_for():
    """clone3=False goes by clone(2) from the start, with the same results and failures."""
    assert succeeded(spawn(step("chdir", "/"), clone3=False))
    assert spawn(step("chdir", "/nonexistent"), clone3=False) == failed(0, 2)
    assert succeeded(spawn(step("chdir", "/"), clone3=False, join=[step("chdir", "/")]))
    assert succeeded(spawn(step("chdir", "/"), clone3=False, sync=lambda pid, pidfd: os.fstat(pidfd)))


def test_7_kernel_answers_what_only_clone3_can_say_is_einval():
    """A flag above 32 bits that clone(2) has no room for is refused, not dropped."""
    autoreap = 1 << 34
    assert spawn(step("chdir", "/"), clone3=False, flags=autoreap) == failed(0, 22, stage=2)
