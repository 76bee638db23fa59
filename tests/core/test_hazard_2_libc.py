"""Hazard 2 of csrc/spawn.c: libc in the child. What runs there refers to nothing of libc's."""

import re
import shutil
import struct
import subprocess
import sysconfig
from pathlib import Path

import pytest

import ramet

HERE = Path(ramet.__file__).parent
BUILD = HERE.parents[1] / "build" / sysconfig.get_config_var("SOABI")


def tool(*argv):
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def objects(names):
    found = {name: next(BUILD.glob(f"libinterpreter.a.p/*{name}.c.o"), None) for name in names}
    if None in found.values():
        pytest.skip(f"no objects in {BUILD}: scripts/build-inplace makes them")
    return [str(path) for path in found.values()]


def symbols(paths):
    """Defined and undefined symbols of some objects."""
    defined, undefined = set(), set()
    for line in tool("nm", *paths).splitlines():
        if found := re.match(r"^[0-9a-f ]* ([A-Za-z]) (\S+)$", line):
            (undefined if found[1] == "U" else defined).add(found[2])
    return defined, undefined


def test_2_libc_child_refers_to_no_symbol_but_its_own():
    """The objects that run between clone and exec need no symbol that they do not define themselves."""
    defined, undefined = symbols(objects(("steps", "child")))
    assert {"run_steps", "child_main", "program_check"} <= defined
    assert undefined - defined - {"_GLOBAL_OFFSET_TABLE_"} == set()


def test_2_libc_control_the_callers_side_does():
    """The same look at the caller's side finds what it uses of libc, so an empty answer means something."""
    found = next(BUILD.glob("_core*.p/*spawn.c.o"), None)
    if found is None:
        pytest.skip(f"no objects in {BUILD}: scripts/build-inplace makes them")
    _defined, undefined = symbols([str(found)])
    assert {"waitid", "waitpid"} <= undefined


def test_2_libc_child_does_not_touch_thread_local_storage():
    """No instruction of the child's goes through the segment register that points to the caller's TLS."""
    code = tool("objdump", "-d", "--no-show-raw-insn", *objects(("steps", "child")))
    assert "syscall" in code or "svc" in code
    assert not re.search(r"%fs:|tpidr_el0", code)


def test_2_libc_init_is_static():
    """init has no interpreter and no dynamic section: nothing is loaded or resolved when it starts."""
    image = (HERE / "_init").read_bytes()
    assert image[:5] == b"\x7fELF\x02"
    kind, *_ = struct.unpack_from("<H", image, 16)
    table, size, count = *struct.unpack_from("<Q", image, 32), *struct.unpack_from("<HH", image, 54)
    headers = {struct.unpack_from("<I", image, table + n * size)[0] for n in range(count)}
    assert kind == 2  # ET_EXEC
    assert 1 in headers  # PT_LOAD
    assert not headers & {2, 3, 7}  # PT_DYNAMIC, PT_INTERP, PT_TLS
    python = Path("/proc/self/exe").read_bytes()  # where libpython is a library of its own, it is not large either
    python_kind, *_ = struct.unpack_from("<H", python, 16)
    table, size, count = *struct.unpack_from("<Q", python, 32), *struct.unpack_from("<HH", python, 54)
    assert python_kind in (2, 3)
    assert {struct.unpack_from("<I", python, table + n * size)[0] for n in range(count)} & {2, 3}
