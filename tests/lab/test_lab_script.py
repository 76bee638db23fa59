"""The list of calls that every kind of child makes, and the numbers of those calls."""

import os
import subprocess

import pytest

from needs import need
from ramet import lowlevel
from ramet.lab.numbers import NUMBERS
from ramet.lab.script import Script, Seen, dump, dump_script, load, load_script, of_plain, run_here
from ramet.lowlevel import Buffer, Result


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_headers(machine):
    """Each call of the lab has, on each machine, the number of that machine's own headers."""
    import shutil

    compiler = "cc" if machine == os.uname().machine else f"{machine}-linux-gnu-gcc"
    need(shutil.which(compiler), f"{compiler}: scripts/setup test installs what Debian has")
    source = "#include <asm/unistd.h>\n" + "".join(f"{name}: __NR_{name}\n" for name in [*NUMBERS, "no_such_call"])
    done = subprocess.run(
        [compiler, "-E", "-P", "-x", "c", "-"], input=source, capture_output=True, text=True, check=True
    )
    lines = dict(line.split(": ") for line in done.stdout.splitlines() if ": " in line)
    assert lines.pop("no_such_call") == "__NR_no_such_call"
    assert {name: int(number) for name, number in lines.items()} == {
        name: pair[machine == "aarch64"] for name, pair in NUMBERS.items()
    }


def example(fd):
    script = Script()
    script.add("getpid")
    opened = script.add("openat", -100, b"/proc/self/comm", os.O_RDONLY, 0)
    script.add("read", Result(opened), Buffer(16), 16)
    script.add("close", Result(opened))
    script.add("close", 9999)
    script.add("pwrite64", fd, b"written", 7, 0)
    return script


@pytest.fixture
def file():
    fd = os.memfd_create("script")
    yield fd
    os.close(fd)


def check(seen, pid):
    assert seen.result(0) == pid
    assert seen.text(2, 1).strip() == open("/proc/self/comm").read().strip()
    assert seen.result(4) == -9  # EBADF: the errno, negative, and the list goes on
    assert seen.result(5) == 7
    assert seen.result(6) < 0  # never made


def test_a_plain_child_and_python_make_the_same_calls(file):
    """The same script tells the same from a clone and from Python, results and buffers; only the pid differs."""
    script = example(file)
    check(run_here(script), os.getpid())
    made = lowlevel.clone3(child=script.calls)
    made.wait()
    check(of_plain(script, made), made.pid)
    assert os.pread(file, 9, 0) == b"written"


def test_what_was_seen_goes_through_a_pipe(file):
    """As bytes and back it says the same; of a child that died first, nothing was made."""
    check(load(dump(run_here(example(file)))), os.getpid())
    assert load(b"").result(0) < 0
    assert Seen((), {}).output(0, 0) == b""


def test_a_script_goes_through_an_argument(file):
    """As text and back it is the same script."""
    check(run_here(load_script(dump_script(example(file)))), os.getpid())
