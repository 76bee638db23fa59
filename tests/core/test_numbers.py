"""What is written down twice of each machine, here and in the kernel's headers: numbers, flags and layouts."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from needs import need
from ramet.plan.calls import CALLS, numbers
from ramet.run.probes import NUMBERS as PROBED

CSRC = Path(__file__).parents[2] / "csrc"


def compiler(machine):
    """A C compiler that reads this machine's headers."""
    name = "cc" if machine == os.uname().machine else f"{machine}-linux-gnu-gcc"
    need(shutil.which(name), f"{name}: scripts/setup test installs what Debian has")
    return name


def in_headers(machine, names):
    """Name to number, as <asm/unistd.h> of this machine says; without those that it does not know."""
    source = "#include <asm/unistd.h>\n" + "".join(f"{name}: __NR_{name}\n" for name in names)
    done = subprocess.run(
        [compiler(machine), "-E", "-P", "-x", "c", "-"], input=source, capture_output=True, text=True, check=True
    )
    # (3024 + 16) is how some headers write a number.
    lines = (line.partition(": ") for line in done.stdout.splitlines() if ": " in line)
    return {name: int(number) for name, _, number in lines if number.strip().isdigit()}


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@MACHINES
def test_numbers_are_those_of_the_headers(machine):
    """Each call that plans and probes make has, on each machine, the number of that machine's own headers."""
    ours = numbers(machine) | {name: pair[machine == "aarch64"] for name, pair in PROBED.items()}
    assert set(CALLS) < set(ours)
    assert in_headers(machine, ours) == ours


def test_headers_of_the_machines_differ():
    """What the numbers are held against is two different sets of headers, and neither knows a call that is none."""
    names = ("close", "clone3", "no_such_call")
    assert in_headers("x86_64", names) == {"close": 3, "clone3": 435}
    assert in_headers("aarch64", names) == {"close": 57, "clone3": 435}


#: Structures of csrc, and the kernel's own of the same layout.
LAYOUTS = {
    "struct kernel_sigaction": ("struct sigaction", "asm/signal.h", "sys.h"),
    "struct kernel_clone_args": ("struct clone_args", "linux/sched.h", "sys.h"),
    "struct usage": ("struct rusage", "sys/resource.h", "init.c"),
    "struct signal_info": ("struct signalfd_siginfo", "sys/signalfd.h", "init.c"),
    "struct poll_fd": ("struct pollfd", "poll.h", "init.c"),
}


def compiles(machine, source):
    argv = [compiler(machine), "-x", "c", f"-I{CSRC}", "-fsyntax-only", "-"]
    return subprocess.run(argv, input=source, text=True, capture_output=True, check=False)


@MACHINES
@pytest.mark.parametrize("ours", LAYOUTS)
def test_layouts_are_those_of_the_headers(machine, ours):
    """A structure that csrc declares itself is, on each machine, as large as the headers' own; one word more is not."""
    theirs, header, where = LAYOUTS[ours]
    source = f"#include <stddef.h>\n#include <{header}>\n#include <{where}>\n"
    same = compiles(machine, source + f'_Static_assert(sizeof({ours}) == sizeof({theirs}), "size");\n')
    assert same.returncode == 0, same.stderr
    longer = f'struct longer {{ {ours} head; long word; }};\n_Static_assert(sizeof(struct longer) == sizeof({theirs}), "size");\n'
    assert "static assertion failed" in compiles(machine, source + longer).stderr


@MACHINES
def test_mask_of_a_disposition_is_where_the_kernel_reads_it(machine):
    """The signal mask is the last word of a kernel_sigaction, after a restorer, on both machines; it is not the third."""
    source = "#include <asm/signal.h>\n#include <stddef.h>\n#include <sys.h>\n_Static_assert({} == {}, {!r});\n"
    mine, theirs = "offsetof(struct kernel_sigaction, mask)", "offsetof(struct sigaction, sa_mask)"
    same = compiles(machine, source.format(mine, theirs, "x").replace("'", '"'))
    assert same.returncode == 0, same.stderr
    assert compiles(machine, source.format(mine, 16, "x").replace("'", '"')).returncode
