"""Resource limits by setrlimit."""

import os
import resource
import subprocess
import sys

import pytest
from inside import python, said, shell

from ramet import Sandbox, SpecError, StepError

LIMITS = "import resource as r; print(*r.getrlimit(r.RLIMIT_{}))"


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("NOFILE", 50, "50 50"),
        ("NOFILE", (40, 60), "40 60"),
        ("RLIMIT_FSIZE", 12345, "12345 12345"),
        ("stack", (1 << 20, 1 << 21), f"{1 << 20} {1 << 21}"),
        ("CPU", 30, "30 30"),
        ("AS", 1 << 32, f"{1 << 32} {1 << 32}"),
    ],
)
def test_rlimit(name, value, seen):
    """A limit is set to what was asked, for the payload only; without it the caller's stays."""
    short = name.upper().removeprefix("RLIMIT_")
    mine = resource.getrlimit(getattr(resource, f"RLIMIT_{short}"))
    assert said(python(LIMITS.format(short), rlimits={name: value})) == seen
    assert said(python(LIMITS.format(short))) == f"{mine[0]} {mine[1]}"
    assert resource.getrlimit(getattr(resource, f"RLIMIT_{short}")) == mine


def test_unlimited():
    """None is no limit."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard != resource.RLIM_INFINITY:
        pytest.skip("only with an unlimited RLIMIT_CPU in the caller")
    assert said(python(LIMITS.format("CPU"), rlimits={"CPU": None})) == "-1 -1"


def test_no_core_dumps():
    """By default a crash writes no core, whatever the caller's limit is; at a limit of 1 the kernel starts no program for it either
    (core_pattern), at 0 it would. The payload can't lower it, though it is told so; without the filter it can."""
    lower = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); "
    assert said(python(LIMITS.format("CORE"))) == "1 1"
    assert said(python(lower + LIMITS.format("CORE"))) == "1 1"
    assert said(python(lower + LIMITS.format("CORE"), seccomp="none")) == "0 0"


def test_no_core_dumps_below_a_hard_limit_of_none():
    """A caller that may have no cores, and can't raise that again, runs payloads all the same; they may have none."""
    program = "import resource, ramet; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); " + (
        "print(ramet.run(['sh', '-c', 'ulimit -Hc'], text=True, check=True).stdout, end='')"
    )
    words = ["setpriv", "--bounding-set", "-sys_resource"] if os.geteuid() == 0 else []
    done = subprocess.run([*words, sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_nofile_is_enforced():
    """The payload can't open more files than RLIMIT_NOFILE says."""
    code = "import os\ntry:\n    [os.dup(0) for _ in range(100)]\n    print('all')\nexcept OSError as e: print(e.errno)"
    assert said(python(code, rlimits={"NOFILE": 32})) == "24"
    assert said(python(code)) == "all"


FORKS = """
import os, signal
made = 0
try:
    for _ in range({tries}):
        if os.fork() == 0:
            signal.pause()
        made += 1
except BlockingIOError:
    pass
print(made, flush=True)
"""


def test_fork_bomb_is_held():
    """A payload that forks without end gets no further than RLIMIT_NPROC; everything is gone afterwards."""
    result = python(FORKS.format(tries=200), rlimits={"NPROC": 20})
    assert int(said(result)) in range(10, 20)
    assert said(python(FORKS.format(tries=30))) == "30"


def test_nproc_is_counted_for_each_sandbox():
    """The limit counts this sandbox's processes, not others of the same user: two at once both reach it."""
    from inside import Neighbour

    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 600 & done"
    limit = {"NPROC": 18}
    with Neighbour(script, rlimits=limit), Neighbour(script, rlimits=limit):
        assert int(said(python(FORKS.format(tries=200), rlimits=limit))) >= 10


def test_default_process_limit():
    """By default a sandbox may have 1024 processes."""
    assert said(python(LIMITS.format("NPROC"))) == "1024 1024"


def test_fsize_is_enforced():
    """A file can't grow past RLIMIT_FSIZE: the writer gets SIGXFSZ."""
    result = shell("head -c 100000 /dev/zero >/tmp/x", rlimits={"FSIZE": 4096})
    assert result.exit_code == 128 + 25
    assert shell("head -c 100000 /dev/zero >/tmp/x").ok


def test_cpu_time_is_enforced():
    """A payload that computes past RLIMIT_CPU is ended by SIGXCPU."""
    result = python("while True: pass", rlimits={"CPU": (1, 30)})
    assert (result.status, result.signal) == ("signaled", 24)


def test_address_space_is_enforced():
    """An allocation past RLIMIT_AS fails."""
    code = "try:\n    bytearray(1 << 29)\n    print('got it')\nexcept MemoryError: print('refused')"
    assert said(python(code, rlimits={"AS": 1 << 28})) == "refused"
    assert said(python(code)) == "got it"


def test_above_the_callers_hard_limit():
    """An ordinary caller can't raise a limit above its own hard one: an error that names field and reason."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY:
        pytest.skip("only with a finite hard RLIMIT_NOFILE in the caller")
    with pytest.raises(StepError) as caught:
        shell("true", rlimits={"NOFILE": hard + 1})
    assert caught.value.origin == "Sandbox.rlimits['NOFILE']"
    assert "hard limit" in caught.value.hint


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"NOFILES": 1}, "no such limit"),
        ({"NOFILE": (2, 1)}, "above the hard"),
        ({"NOFILE": -1}, "must be 0 to"),
        ({"NOFILE": 2**64}, "must be 0 to"),
        ({"NOFILE": 1.5}, "must be an integer"),
        ({"NOFILE": True}, "must be an integer"),
        ({"NOFILE": (1, 2, 3)}, "soft, hard"),
        ([("NOFILE", 1)], "must be a mapping"),
    ],
)
def test_bad_limits(bad, why):
    """A limit that makes no sense is refused when the spec is made, and named."""
    with pytest.raises(SpecError, match=why) as caught:
        Sandbox(rlimits=bad)
    assert caught.value.field.startswith("Sandbox.rlimits")
    assert os.getpid()
