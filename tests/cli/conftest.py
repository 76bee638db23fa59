"""The command line as its users meet it: a process with arguments, streams and an exit code."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

RAMET = [sys.executable, "-m", "ramet"]


@pytest.fixture(scope="session")
def works():
    """The default sandbox, or a skip that names what is missing; with RAMET_MUST_WORK=1 a failure."""
    done = subprocess.run([*RAMET, "run", "/bin/true"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        reason = f"no sandbox here: {done.stderr.strip()}"
        (pytest.fail if os.environ.get("RAMET_MUST_WORK") == "1" else pytest.skip)(reason)


@pytest.fixture
def ramet(works):
    """Run `ramet ARGS...`; stdout and stderr as text."""

    def invoke(*args, input="", **more):
        return subprocess.run(
            [*RAMET, *args],
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
            errors="surrogateescape",
            **more,
        )

    return invoke


@pytest.fixture
def start(works):
    """Start `ramet ARGS...` and go on; killed at the end of the test."""
    started = []

    def invoke(*args, **more):
        process = subprocess.Popen([*RAMET, *args], **more)
        started.append(process)
        return process

    yield invoke
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # what the killed process had not read


@pytest.fixture
def folder():
    """A directory that every user may enter: a root caller's payload is another user outside.

    Not in /tmp, which other tests watch for what a sandbox could have left.
    """
    path = Path(tempfile.mkdtemp(prefix="ramet-cli-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
