"""`ramet lab` as a reader meets it."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from left import when

from needs import as_root, only
from ramet import lab
from ramet.cli import lab as lab_command
from ramet.cli.lab_page import evidence_text, list_text, summary_text
from ramet.lab import apart
from ramet.lab.cgroups import own_cgroup
from ramet.lab.words import show

RAMET = [sys.executable, "-m", "ramet"]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def ramet():
    """Run `ramet lab ARGS...`."""

    def ramet(*args, **more):
        return subprocess.run([*RAMET, "lab", *args], capture_output=True, text=True, timeout=60, **more)

    return ramet


def test_list(ramet):
    """`ramet lab` lists every experiment in one line, by number and name."""
    page = ramet().stdout.splitlines()
    assert len(lab.NAMES) + 2 == len(page)
    for n, (name, line) in enumerate(zip(lab.NAMES, page, strict=False), 1):
        assert [str(n), name] == line.split()[:2]
        assert all(flag.name in line for flag in list(lab.load(name).without)[:1])
        assert len(line) <= 80


def test_one(ramet):
    """`ramet lab 1` shows question, flags, program, what both saw with and without, what follows, and the manual."""
    done = ramet("1")
    assert (done.returncode, done.stderr) == (0, "")
    assert [] == [line for line in done.stdout.splitlines() if len(line) > 80 or line != line.rstrip()]
    parts = [
        "1. Do caller and child share memory?",
        "CLONE_VM | SIGCHLD",
        "def run(flags: CLONE, see: Notes) -> None:",
        "with CLONE_VM            without it",
        "the list                caller, child         != caller",
        "yes  what the child appends to a list, the caller reads",
        "With CLONE_VM there is one memory",
        '"Parent and child share memory."',
        "confirmed",
        "clone(2), CLONE_VM:",
    ]
    places = [done.stdout.index(part) for part in parts]
    assert sorted(places) == places


def test_a_name_and_a_flag(ramet):
    """A name and a flag do what the number does; several are shown one after the other."""
    assert "3. Which pid" in ramet("CLONE_NEWPID").stdout
    both = ramet("memory", "8").stdout
    assert both.index("1. Do caller") < both.index("8. What does clone answer?")


@pytest.mark.parametrize("name", lab.NAMES)
def test_pages_fit(everything, name):
    """Each page fits 80 columns, whatever was seen; with colours it is the same text."""
    evidence = everything[name]
    assert [] == [each.what for each in evidence.observations if len(each.what) > 22]
    page = evidence_text(evidence)
    assert [] == [line for line in page.splitlines() if len(line) > 80 or line != line.rstrip()]
    coloured = evidence_text(evidence, colour=True)
    assert coloured != page
    assert ESCAPE.sub("", coloured) == page


def test_all(ramet):
    """`ramet lab all` says of each in a line whether its claim is confirmed, corrected, open or failed; in plain text."""
    done = ramet("all")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [] == [line for line in lines if len(line) > 80 or "\x1b" in line]
    found = [line.split()[1:3] for line in lines if re.match(r" *\d+  ", line)]
    assert list(lab.NAMES) == [name for name, _ in found]
    assert {word for _, word in found} <= {"confirmed", "corrected", "open"}
    assert "0 fail" in " ".join(lines[-2:])


def test_an_odd_caller(ramet, tmp_path, everything):
    """Ignored and blocked signals, priorities, a umask and a directory that is gone don't change what is found."""

    def oddly():
        for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1])
        os.umask(0o777)
        os.nice(3)  # a little: at 19 it would stand still beside whatever else has both processors
        os.mkdir(gone, 0o700)
        os.chmod(gone, 0o700)
        os.chdir(gone)
        os.rmdir(gone)

    gone = str(tmp_path / "gone")
    done = ramet("all", "--json", preexec_fn=oddly)
    assert (done.returncode, done.stderr) == (0, "")
    found = {each["name"]: each["conclusion"] for each in json.loads(done.stdout)}
    found.pop("into-cgroup")  # where it can't be had, its conclusion names a path of its own
    assert found == {name: each.conclusion for name, each in everything.items() if name in found}


def test_a_failed_one_is_seen():
    """The control: a conclusion that does not hold is FAILS in the list, "no" on its page, and exit code 1."""
    from ramet.cli.lab import exit_code

    sound = lab.run("memory")
    broken = lab.run("memory", flags=0)
    assert "  1  memory          FAILS" in summary_text([sound, broken], 1.0)
    assert "1 confirm what was claimed, 0 correct it, 1 fail." in " ".join(summary_text([sound, broken], 1.0).split())
    page = evidence_text(broken)
    assert "no   what the child appends to a list, the caller reads" in page
    assert "is not so here" in " ".join(page.split())
    assert (0, 1) == (exit_code([sound]), exit_code([sound, broken]))


def test_json(ramet):
    """--json gives the evidence of one as an object and of several as a list; and the list of all there are."""
    one = json.loads(ramet("--json", "memory").stdout)
    assert one["holds"] is True
    assert one["source"].startswith("def run(")
    assert {"who": "caller", "what": "the C int", "value": 42} in one["observations"]
    assert {"who": "caller", "what": "the C int", "value": 0} in one["control"]
    assert {"caller", "child", "control", "own"} == set(one["namespaces"])
    assert ["memory", "answer"] == [each["name"] for each in json.loads(ramet("1", "8", "--json").stdout)]
    listed = json.loads(ramet("--json").stdout)
    assert list(lab.NAMES) == [each["name"] for each in listed]
    assert listed[0]["flags"] == "CLONE_VM|SIGCHLD"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["memry"], "did you mean memory?"),
        (["99"], "there are experiments 1 to"),
        (["1", "all"], "stands alone"),
        (["matrixx"], "did you mean matrix?"),
        (["1", "matrix"], "hint: ramet lab matrix"),
        (["--jsn", "1"], "did you mean --json?"),
        (["-o"], "needs a value"),
        (["-o", "/proc/no/such", "1"], "cannot write to /proc/no/such: ENOENT"),
        (["-o", "/", "1"], "cannot write to /: EISDIR"),
    ],
)
def test_refused(ramet, args, said):
    """A wrong word, number, option or place to write to is refused before anything runs, with 125."""
    done = ramet(*args)
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelled_name_makes_no_file(ramet, tmp_path):
    """What is refused leaves no file behind."""
    assert ramet("-o", str(tmp_path / "page"), "memry").returncode == 125
    assert list(tmp_path.iterdir()) == []


def test_full_disk(ramet):
    """Where the output does not fit, that is an error."""
    assert "cannot write to /dev/full: ENOSPC" in ramet("-o", "/dev/full").stderr


def test_output_file(ramet, tmp_path):
    """-o writes the page to a file in place of what was there, without colours."""
    file = tmp_path / "page.txt"
    file.write_text("x" * 100_000)
    done = ramet("-o", str(file), "8")
    assert (done.returncode, done.stdout) == (0, "")
    assert file.read_text().startswith("8. What does clone answer?")
    assert "x" * 100 not in file.read_text()


def test_help(ramet):
    """--help names the options and the lab's other commands, within 80 columns."""
    page = ramet("--help").stdout
    assert [] == [line for line in page.splitlines() if len(line) > 80]
    for word in ("--json", "--output", "matrix", "compare", "errors", "container", "exit codes"):
        assert word in page


def on_a_terminal(args, **environment):
    """What `ramet lab ARGS...` writes to a terminal."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environment
    process = subprocess.Popen([*RAMET, "lab", *args], stdin=other, stdout=other, stderr=other, env=env)
    os.close(other)
    said = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:
            break  # the last one to have it open is gone
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait(timeout=60) == 0
    return said.decode()


def test_terminal():
    """On a terminal there are colours and, for several, a bar that is wiped away; NO_COLOR keeps colours away."""
    said = on_a_terminal(["1", "8"])
    assert "[" + "." * 30 + "]  0 of 2  memory" in said
    assert "[" + "#" * 15 + "." * 15 + "]  1 of 2  answer" in said
    assert "\x1b[32myes" in said
    assert said.rfind(" of 2") < said.rfind("\r\x1b[K") < said.index("1. Do caller")
    assert "\x1b[32m" not in on_a_terminal(["8"], NO_COLOR="1")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["at the start", "in an experiment"])
def test_interrupted(number, moment):
    """Ctrl-C ends `ramet lab all` with 130 and without a word. So ended or killed, all that it had started ends too."""
    process = subprocess.Popen([*RAMET, "lab", "all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    worker = None
    while time.monotonic() < deadline:
        worker = worker or next((pid for pid in children(process.pid) if b"ramet.lab.worker" in command_of(pid)), None)
        if worker and (moment == "at the start" or children(worker)):
            break
    assert worker
    process.send_signal(number)
    assert (b"", b"") == process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert when(lambda: session(worker), []) == []


@pytest.mark.timeout(200)
def test_interrupted_with_a_file_open(monkeypatch, tmp_path):
    """What an experiment has written is gone when it is ended in the middle; until then it is there."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([*RAMET, "lab", *["files"] * 30], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not (written := files_below(tmp_path) & {"example.txt"}) and time.monotonic() < deadline:
            pass
        process.send_signal(number)
        process.communicate(timeout=60)
        assert written
        assert when(lambda: os.listdir(tmp_path), []) == []


def test_reader_gone():
    """Who stops reading ends it quietly."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RAMET, "lab"], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def files_below(folder):
    """Names, also while folders come and go."""
    return {name for _, _, names in os.walk(folder) for name in names}


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()
    except OSError:
        return []  # it has ended


def session(leader):
    """The processes of this session that have not ended."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, _, its_session = file.read().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has ended
        if its_session == leader and state != "Z":
            found.append(pid)
    return found


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_values_for_people():
    """Booleans are yes and no, lists have no brackets, nothing is -."""
    assert ["yes", "no", "-", "a, 1", "none", "7"] == [show(each) for each in (True, False, None, ["a", 1], [], 7)]


def test_what_a_page_shows_steers_no_terminal(ramet, tmp_path):
    """The control of the escapes: the list and the pages hold nothing that is not printable."""
    text = list_text([lab.load(name) for name in lab.NAMES]) + ramet("6").stdout
    assert [] == [line for line in text.splitlines() if not line.isprintable()]


IN_ORDER = """
import sys, tempfile
from contextlib import nullcontext
from ramet.cli.lab import EndedInOrder
with EndedInOrder() if sys.argv[1] == "in order" else nullcontext(), tempfile.TemporaryDirectory() as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_in_order(monkeypatch, tmp_path, number):
    """SIGTERM and SIGHUP end `ramet lab` like Ctrl-C: its files are removed, which they are not without `EndedInOrder`."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for how, status, left in (("in order", 128 + number, False), ("at once", -number, True)):
        process = subprocess.Popen(
            [sys.executable, "-c", IN_ORDER, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with process:
            folder = process.stdout.readline().strip()
            process.send_signal(number)
            assert process.wait(20) == status
        assert os.path.isdir(folder) == left


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(monkeypatch, number):
    """What the caller ignores, as under nohup, does not end `ramet lab`; afterwards every handler is as before."""
    monkeypatch.setattr(signal, "getsignal", lambda each: signal.SIG_IGN if each == number else signal.SIG_DFL)
    set_to = {}
    monkeypatch.setattr(signal, "signal", lambda each, handler: set_to.setdefault(each, []).append(handler))
    with lab_command.EndedInOrder():
        assert set(set_to) == {signal.SIGTERM, signal.SIGHUP} - {number}
    assert [handlers[-1] for handlers in set_to.values()] == [signal.SIG_DFL]


STUCK = """
import os, sys, time
from ramet.lab import worker
from ramet.lab.experiments import into_cgroup
real = into_cgroup.own_cgroup
def own_cgroup(pid):
    if pid != os.getpid():
        os.write(2, (into_cgroup.NAME + "-%d\\n" % os.getpid()).encode())
        time.sleep(60)
    return real(pid)
into_cgroup.own_cgroup = own_cgroup
sys.exit(worker.main())
"""


@as_root
def test_interrupted_with_a_cgroup_made():
    """The cgroup of an experiment that is ended in the middle is removed; until then it is there."""
    only(own_cgroup()[0], "where version 2 cgroups are mounted")
    request = json.dumps([{"name": "into-cgroup", "flags": None}])
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, request, str(os.getpid())],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        path = os.path.join(own_cgroup()[0], process.stderr.readline().strip())
        assert os.path.isdir(path)
        process.terminate()
        assert process.wait(20) == 1
    assert not os.path.exists(path)


def test_what_has_ended_by_itself_can_be_ended():
    """After Ctrl-C a measurement may have ended and been waited for, when its process group is to be killed."""
    process = subprocess.Popen(["true"], process_group=0)
    process.wait(20)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    apart._end(process)
