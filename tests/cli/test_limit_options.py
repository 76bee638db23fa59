"""The options of limits, the exit code of each verdict, --stats, and ramet top."""

import json
import os
import subprocess
import sys

import pytest
from test_run_on_a_terminal import Screen

from needs import only
from ramet import cgroups

PYTHON = [sys.executable, "-I", "-S", "-c"]
EAT = "x = b'x' * (100 << 20)"
SPIN = "while True: pass"


@pytest.fixture(scope="session")
def warm(warm):
    """The place, where groups are made, is open from here on, too."""
    cgroups.find()


def may(*names):
    facts = cgroups.find().facts
    for name in names:
        only(facts[name].ok, f"where the caller may limit {name} (its controller is handed to it)")


@pytest.mark.parametrize(
    ("options", "code", "exits", "status"),
    [
        ("", "pass", 0, "exited"),
        ("--memory 40M", EAT, 137, "out-of-memory"),
        ("-m 400M", EAT, 0, "exited"),
        ("--cpu-time 200ms", SPIN, 124, "cpu-time"),
        ("--timeout 200ms", SPIN, 124, "timed-out"),
        ("--output 1K --output-action kill", "while True: print('x' * 100)", 137, "output-limit"),
        ("--output 1K", "print('x' * 5000)", 0, "exited"),
        ("--pids 4", "import os; [os.fork() for _ in range(9)]", 1, "processes-limit"),
        ("--disk 1M", "open('/tmp/x', 'wb').write(b'x' * (2 << 20))", 1, "disk-limit"),
        ("-m 40M", "raise SystemExit(137)", 137, "exited"),
        ("-m 40M", "import os; os.kill(os.getpid(), 9)", 137, "signaled"),
        ("-m 40M", "import os; os.kill(os.getpid(), 15)", 143, "signaled"),
    ],
)
def test_exit_code_of_each_verdict(ramet, options, code, exits, status):
    """124 is time, 137 what was killed for a limit; else the code is the command's. With --json the verdict is in the result."""
    for option, name in (("-m", "memory"), ("--memory", "memory"), ("--cpu-time", "cpu_time"), ("--pids", "processes")):
        if option in options.split():
            may(name)
    done = ramet("run", *options.split(), "--", *PYTHON, code)
    assert done.returncode == exits, done.stderr
    told = ramet("run", "--json", *options.split(), "--", *PYTHON, code)
    result = json.loads(told.stdout)
    assert (result["status"], told.returncode) == (status, exits), result
    assert result["ended_by_limit"] == (status in ("out-of-memory", "cpu-time", "timed-out", "output-limit"))


def test_output_is_cut_for_people_too(ramet):
    """Without --json as well no more than --output passes; without the option all of it does."""
    code = "print('x' * 5000)"
    assert len(ramet("run", "--output", "1K", "--", *PYTHON, code).stdout) == 1024
    assert len(ramet("run", "--", *PYTHON, code).stdout) == 5001


def test_every_option_is_a_field(ramet):
    """Each option of limits, in docker's name where docker has one, gives the field of its name."""
    may("memory", "processes", "cpus", "cpuset", "cpu_weight", "io", "io_weight", "cpu_time")
    line = (
        "-m 64M --swap 1M --pids-limit 9 --cpus 0.5 --cpu-time 5s --cpuset-cpus 0 --cpuset-mems 0 --cpu-weight 50"
        " --io /:read=100M:write-ops=1000 --io-weight 10 --file-size 1M --open-files 20 --nice 5 --idle"
    )
    words = [word for word in line.split() if word != "--idle"]
    if not all(cgroups.find().facts[name].ok for name in ("io_weight", "swap")):
        words += ["--allow-degraded", "io_weight"]
    done = ramet("run", "--json", *words, "true")
    assert done.returncode == 0, done.stderr
    named = {one["name"]: one["state"] for one in json.loads(done.stdout)["protections"]}
    assert {"memory", "processes", "cpus", "cpu_time", "cpuset", "cpuset_mems", "cpu_weight", "io"} <= set(named)
    inside = "import os, resource as r; print(os.getpriority(0, 0), r.getrlimit(r.RLIMIT_NOFILE)[0], r.getrlimit(r.RLIMIT_FSIZE)[0])"
    said = ramet(
        "run", *["--nice", "5", "--open-files", "20", "--file-size", "1M"], "--", sys.executable, "-c", inside
    ).stdout
    assert said == f"5 20 {1 << 20}\n"
    told = ramet("run", "--idle", "cat", "/proc/self/stat").stdout  # who hardly gets a CPU should need little of it
    assert int(told.rpartition(")")[2].split()[38]) == os.SCHED_IDLE


def test_limits_of_a_file(ramet, folder):
    """The keys of a file are the fields; a table of io has the fields of IoLimit."""
    may("memory", "processes", "io")
    (folder / "box.toml").write_text(
        'memory = "64M"\nprocesses = 9\nopen_files = 20\noutput_action = "kill"\nallow_degraded = ["memory_high"]\n'
        '[[io]]\ndevice = "/"\nread_bytes = "100M"\n'
    )
    done = ramet("run", "--json", "--config", str(folder / "box.toml"), "true")
    assert {one["name"] for one in json.loads(done.stdout)["protections"]} >= {"memory", "processes", "io"}, done.stderr
    (folder / "box.toml").write_text('memory = "64M"\n[[io]]\ndevice = "/"\nraed_bytes = 1\n')
    done = ramet("run", "--config", str(folder / "box.toml"), "true")
    assert done.returncode == 125 and "did you mean 'read_bytes'" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("--memory 1X", "--memory 1X: '1X' is no size"),
        ("--memory 0", "--memory 0:"),
        ("--cpus many", "--cpus many: must be a number"),
        ("--pids 0", "--pids 0:"),
        ("--nice 50", "--nice 50: must be -20 to 19, not 50"),
        ("--cpuset a-b", "is no list of numbers"),
        ("--io /:raed=1", "did you mean 'read'?"),
        ("--output-action burn", "must be one of truncate, kill"),
        ("--allow-degraded memroy", "did you mean 'memory'?"),
    ],
)
def test_bad_limits(ramet, args, says):
    """A limit that makes no sense is named as it was written; nothing runs."""
    done = ramet("run", *args.split(), "true")
    assert done.returncode == 125 and says in done.stderr, done.stderr


def test_stats(ramet):
    """--stats says on stderr how it ended and what it cost; stdout is the command's alone."""
    may("memory", "processes")
    done = ramet("run", "--stats", "-m", "64M", "--pids", "9", "echo", "x")
    assert done.stdout == "x\n"
    assert "'echo' exited with 0; 0." in done.stderr and "MiB at most" in done.stderr
    eaten = ramet("run", "--stats", "-m", "40M", "--", *PYTHON, EAT)
    assert "ran out of memory" in eaten.stderr
    assert ramet("run", "echo", "x").stderr == ""


def test_a_limit_that_is_not_to_be_had(ramet):
    """125, what is missing and how to get it; --allow-degraded goes on, and --stats says without what."""
    env = {**os.environ, "RAMET_CGROUP": "/no/such/group"}
    done = ramet("run", "-m", "64M", "true", env=env)
    assert done.returncode == 125 and "can't limit memory" in done.stderr and "hint:" in done.stderr
    done = ramet("run", "-m", "640M", "--allow-degraded", "memory", "--stats", "true", env=env)
    assert done.returncode == 0 and "memory degraded" in done.stderr


# ramet top


def alive(start, *options):
    """A sandbox that lives until its stdin ends."""
    process = start("run", *options, "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"x")
    process.stdin.flush()
    assert process.stdout.read(1) == b"x"
    return process


def of(ramet, process):
    return [one for one in json.loads(ramet("top", "--json").stdout) if one["caller"] == process.pid]


def test_top_tells_of_a_limited_sandbox(ramet, start):
    """One with a group is shown with what the group counts and its limits; when it has ended it is not."""
    may("memory", "processes", "cpu_time")
    process = alive(start, "-m", "64M", "--pids", "9", "--cpu-time", "9")
    (one,) = of(ramet, process)
    assert (one["command"], one["memory_limit"], one["processes"], one["processes_limit"]) == ("cat", 64 << 20, 1, 9)
    assert 0 < one["memory"] < 64 << 20 and one["cpu"] is not None and one["seconds"] >= 0
    page = ramet("top").stdout
    row = next(line for line in page.splitlines() if f" {process.pid} " in line)
    assert row.endswith("1/9 cat") and "/64M" in row
    process.stdin.close()
    process.wait()
    assert of(ramet, process) == []


def test_top_tells_of_one_without_a_group(ramet, start):
    """One without limits is found by its init; its memory is that of its largest process."""
    process = alive(start)
    (one,) = of(ramet, process)
    assert (one["command"], one["group"], one["memory_limit"]) == ("cat", None, None)
    row = next(line for line in ramet("top").stdout.splitlines() if f" {process.pid} " in line)
    assert "~" in row and row.endswith(" cat")


@pytest.mark.parametrize("rich", [True, False])
def test_top_on_a_terminal(ramet, start, rich):
    """On a terminal the page is drawn again and again, with rich and without; q ends it, and the screen is as it was."""
    process = alive(start)
    before = (
        "" if rich else "PYTHONPATH=$(mktemp -d); echo 'raise ImportError' >$PYTHONPATH/rich.py; export PYTHONPATH;"
    )
    after = "" if rich else "rm -r $PYTHONPATH;"
    screen = Screen("top", "--every", "200ms", before=before, after=after)
    try:
        screen.resize(500, 100)  # room for all sandboxes of whoever else runs some
        screen.until(str(process.pid).encode())
        screen.seen = b""
        screen.until(str(process.pid).encode())  # again
        screen.type(b"q")
        screen.until(b"[exit 0]")
        assert b"\033[?1049l" in screen.seen
    finally:
        screen.close()


def test_top_has_heads(ramet):
    """The first line names the columns; an argument is an error."""
    assert ramet("top", "--once").stdout.splitlines()[0].split()[:3] == ["PID", "USER", "CALLER"]
    assert ramet("top", "now").returncode == 125
