"""`ramet run --learn`: what a program was refused, and the fewest options that let it run."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which

import pytest

from needs import need
from ramet import Sandbox, Seccomp
from ramet.run.learn import Lesson, smallest, widened, written


@pytest.fixture
def place():
    """A directory of the host that anybody may write to."""
    with tempfile.TemporaryDirectory(prefix="learn-", dir="/var/tmp") as path:
        os.chmod(path, 0o777)
        (Path(path) / "file").write_text("from the host\n")
        os.chmod(Path(path) / "file", 0o644)
        yield Path(path)


def ramet(*words):
    return subprocess.run([sys.executable, "-m", "ramet", *words], capture_output=True, text=True, timeout=120)


def learnt(*argv):
    """The command line that it found, which is then run for real; and all it said."""
    result = ramet("run", "--learn", "--", *argv)
    line = result.stderr.strip().splitlines()[-1].strip()
    assert line.startswith("ramet run"), result.stderr
    return shlex.split(line)[1:], result


def test_a_file(place):
    """A file of the host that it opens and that is not there becomes a bind; with it the program runs, without it it does not."""
    path = str(place / "file")
    words, result = learnt("sh", "-c", f"cat {path}")
    assert words[:3] == ["run", "--bind", path] and words[3] == "--"
    assert result.returncode == 1 and path in result.stderr
    assert ramet(*words).stdout == "from the host\n"
    assert ramet("run", *words[3:]).returncode == 1


def test_a_directory_to_write_to(place):
    """A directory in which it would make a file becomes a writable bind."""
    words, _ = learnt("sh", "-c", f"echo made >{place}/new")
    assert words[1:3] == ["--bind", f"{place}:rw"]
    assert not (place / "new").exists() or (place / "new").read_text() == "made\n"  # it was tried with the option, too
    assert ramet(*words).returncode == 0 and (place / "new").read_text() == "made\n"


def test_a_system_call():
    """A call that the filter refuses becomes an allowed one, and only those that it does not do without."""
    need(which("strace"), "strace: apt-get install strace")
    words, result = learnt("strace", "-o", "/dev/null", "true")
    assert words[1] == "--seccomp" and "ptrace" in words[2].split("+")
    assert "ptrace" in result.stderr and result.returncode == 0  # while it learns, nothing is refused
    assert ramet(*words).returncode == 0
    assert ramet("run", "--", "strace", "-o", "/dev/null", "true").returncode != 0


def test_a_call_that_is_refused_for_its_arguments():
    """So does one that is refused only with some arguments: the program takes a lease on a file of its own."""
    code = "import fcntl, os; fd = os.open('/tmp/own', os.O_RDONLY | os.O_CREAT); fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)"
    words, result = learnt(sys.executable, "-c", code)
    assert words[1:3] == ["--seccomp", "default+fcntl"] and result.returncode == 0
    assert ramet(*words).returncode == 0
    assert "PermissionError" in ramet("run", "--", sys.executable, "-c", code).stderr


def test_nothing():
    """A program that lacks nothing is told so; what it prints, and its exit code, are its own."""
    result = ramet("run", "--learn", "--", "sh", "-c", "echo said; exit 0")
    assert result.stdout == "said\n" and "ramet run" not in result.stderr


def test_what_cannot_be_helped():
    """A program that fails for another reason is not promised that options will help; its exit code is ours."""
    result = ramet("run", "--learn", "--", "sh", "-c", "exit 7")
    assert result.returncode == 7 and "fails too" in result.stderr


@pytest.mark.parametrize("option", ["--json", "--tty"])
def test_only_with_plain_output(option):
    """It goes with neither --json nor --tty."""
    result = ramet("run", "--learn", option, "--", "true")
    assert result.returncode == 125 and "--learn" in result.stderr


def test_the_fewest():
    """Options are left out one after the other, as long as it works without them."""
    options = [("--bind", "/a"), ("--bind", "/b:rw"), ("--net", "host"), ("--seccomp", "default+kcmp")]

    def works(box):
        return any(mount.source == "/b" and mount.writable for mount in box.mounts) and "keeps" in repr(box.env)

    box = Sandbox(env={"A": "keeps"})
    assert smallest(works, box, options) == [("--bind", "/b:rw")]
    assert smallest(lambda box: True, box, options) == []
    assert smallest(lambda box: False, box, options) is None
    assert widened(box, options).seccomp.permits("kcmp") and not isinstance(widened(box, options[:3]).seccomp, Seccomp)


def test_options_of_a_lesson():
    """Each need is one option; what lies below another is not named again; calls share one option."""
    lesson = Lesson()
    lesson.missing = {"/srv/a/b": 1, "/srv/a": 2, "/opt/x/y": 1}
    lesson.written = {"/opt/x": 1}
    lesson.connected = {"192.0.2.1 port 80": 1}
    lesson.refused = {"ptrace": 3, "kcmp": 1}
    words = ["--bind", "/opt/x:rw", "--bind", "/srv/a", "--net", "host", "--seccomp", "default+kcmp+ptrace"]
    assert written(lesson.options()) == words
