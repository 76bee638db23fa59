"""`ramet lab --html` as a command: where it writes, what it refuses, and before what."""

import os
import signal
import subprocess
import sys
import time

import pytest

from needs import as_user

RAMET = [sys.executable, "-m", "ramet", "lab"]


@pytest.fixture
def ramet():
    """Run `ramet lab ARGS...`."""

    def ramet(*args, **more):
        return subprocess.run([*RAMET, *args], capture_output=True, text=True, timeout=60, **more)

    return ramet


def test_a_page_of_what_was_named(ramet, tmp_path):
    """With names, the page has those experiments and parts alone; it says nothing besides, and ends with 0."""
    file = tmp_path / "report.html"
    done = ramet("--html", str(file), "memory", "CLONE_NEWPID", "errors")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = file.read_text("utf-8")
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert text.rstrip().endswith("</html>")
    assert 'id="experiment-memory"' in text
    assert 'id="experiment-pid"' in text
    assert 'id="experiment-net"' not in text
    assert '<section id="errors"' in text
    assert '<section id="matrix"' not in text


def test_to_stdout(ramet):
    """- is stdout: the page and nothing else."""
    done = ramet("--html", "-", "memory")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert done.stdout.count("</html>") == 1


def test_a_longer_page_is_replaced(ramet, tmp_path):
    """A file that was there holds the new page and nothing of the old one, and has kept its mode."""
    file = tmp_path / "report.html"
    file.write_text("x" * 2_000_000)
    file.chmod(0o600)
    assert ramet("--html", str(file), "8").returncode == 0
    assert "xxxx" not in file.read_text("utf-8")
    assert file.read_text("utf-8").rstrip().endswith("</html>")
    assert file.stat().st_mode & 0o777 == 0o600


STARTED = "it has started a process\n"


@pytest.fixture
def telling(tmp_path_factory):
    """An environment in which Python says when it starts a process."""
    folder = tmp_path_factory.mktemp("telling")
    hook = f'lambda event, _: event == "subprocess.Popen" and sys.stderr.write({STARTED!r})'
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.addaudithook({hook})\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--html", "/proc/no/such"], "cannot write to /proc/no/such: ENOENT"),
        (["--html", "/"], "cannot write to /: EISDIR"),
        (["--html", ""], "cannot write to : ENOENT"),
        (["--html"], "needs a value: --html FILE"),
        (["--html", "x.html", "--json"], "goes with neither --json nor --output"),
        (["--html", "x.html", "-o", "y"], "goes with neither --json nor --output"),
        (["--html", "x.html", "memry"], "did you mean memory?"),
        (["--html", "x.html", "all", "memory"], "stands alone"),
        (["--html", "x.html", "--sizes", "no"], "--sizes[0]"),
        (["--html", "x.html", "--sizes", "8000G"], "cannot hold these sizes at once"),
        (["--html", "x.html", "--sizes", "1M", "memory"], "is about the part compare"),
        (["--sizes", "1M"], "goes with --html"),
    ],
)
def test_refused(ramet, tmp_path, telling, args, said):
    """What can't work is refused before anything is measured, with 125, and leaves no file."""
    done = ramet(*args, cwd=tmp_path, env=telling)
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert STARTED not in done.stderr
    assert [] == list(tmp_path.iterdir())


def test_a_measurement_would_be_told(ramet, tmp_path, telling):
    """The control: what measures starts a process, and that is told."""
    done = ramet("--html", "x.html", "memory", cwd=tmp_path, env=telling)
    assert (done.returncode, done.stderr) == (0, STARTED)


@as_user
def test_a_folder_of_somebody_elses(ramet):
    """An ordinary user who may not write there is told so before anything is measured."""
    done = ramet("--html", "/usr/report.html")
    assert (done.returncode, done.stdout) == (125, "")
    assert "cannot write to /usr/report.html: EACCES" in done.stderr


def test_a_full_disk(ramet):
    """Where the page does not fit, that is an error."""
    assert "cannot write to /dev/full: ENOSPC" in ramet("--html", "/dev/full", "8").stderr


@pytest.mark.parametrize("before", [None, "what was there"])
def test_interrupted(tmp_path, before):
    """Ctrl-C while it measures ends it with 130: a file of its own making goes, one that was there is as it was."""
    file = tmp_path / "report.html"
    if before is not None:
        file.write_text(before)
    process = subprocess.Popen([*RAMET, "--html", str(file), "all"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and not _children(process.pid):
        time.sleep(0.01)
    assert file.exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (file.read_text() if file.exists() else None) == before


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_reader_gone(tmp_path):
    """Who stops reading stdout ends it quietly."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RAMET, "--html", "-", "8"], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_dangling_link(ramet, tmp_path):
    """Through a link that leads nowhere yet, the page is made where it leads; if it is not made, the link stays."""
    link = tmp_path / "link.html"
    link.symlink_to(tmp_path / "report.html")
    assert ramet("--html", str(link), "8").returncode == 0
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert link.is_symlink()
