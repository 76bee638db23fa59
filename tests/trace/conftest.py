"""Running `ramet trace` as a command, and a C program that does what is hard to follow."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from needs import need

RAMET = [sys.executable, "-m", "ramet"]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """program.c, compiled: a list to which the word is added."""
    need(shutil.which("cc"), "a C compiler")
    folder = tmp_path_factory.mktemp("program")
    folder.chmod(0o755)
    source = Path(__file__).with_name("program.c")
    subprocess.run(
        ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", folder / "program", source, "-lpthread"], check=True
    )
    return str(folder / "program")


class Seen:
    """What `ramet trace --json` told. done: the finished process; tasks: of the JSON."""

    def __init__(self, done, text):
        self.done, self.json = done, json.loads(text)
        self.tasks = self.json["tasks"]
        self.root = self.tasks[0]

    def calls(self, name=None):
        """All calls, of every task; or those of one name."""
        return [call for task in self.tasks for call in task["calls"] if name in (None, call["call"])]

    def children(self, task, kind="process"):
        """The tasks of this kind that a task has made."""
        made = [self.tasks[call["child"]] for call in task["calls"] if call.get("child") is not None]
        return [child for child in made if child["kind"] == kind]


@pytest.fixture
def traced(tmp_path):
    """Trace a command: what was seen, as JSON. The command's own output is captured."""

    def run(*argv, options=(), before=(), **more):
        path = tmp_path / "trace.json"
        command = [*before, *RAMET, "trace", "--json", "-o", str(path), *options, "--", *argv]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL, **more)
        assert path.exists() and path.stat().st_size, done.stderr
        return Seen(done, path.read_text())

    return run


@pytest.fixture
def ramet_trace():
    """Run `ramet trace ARGS...` to its end."""

    def run(*args, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([*RAMET, "trace", *args], capture_output=True, text=True, timeout=50, **more)

    return run
