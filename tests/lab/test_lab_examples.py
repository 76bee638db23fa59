"""The six experiments as stand-alone scripts: each says what it is there to show."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "1_memory": [
        r"child: +\d+ \['caller', 'child'\]",
        r"caller: \d+ \['caller', 'child'\]",
        r"fork: \['caller', 'child'\]$",
    ],
    "2_directory": [
        r"with CLONE_FS: the caller is in /, umask 077",
        r"without CLONE_FS: the caller is in /usr, umask 022",
        r"not privileged: [1-9]",
        r"mount, privileged: +0$",
    ],
    "3_pid": [r"child: pid 1 and parent 0", r"still (?!1$)\d+", r"fresh /proc 1$", r"caller: pid (?!1$)\d+"],
    "4_files": [r"without CLONE_FILES: Bad file", r"with CLONE_FILES, reads by its descriptor: Hello$"],
    "5_net": [
        r"has a socket, and \[\(1, 'lo'\)\]",
        r"127.0.0.1 of the caller: Network is unreachable",
        r"127.0.0.1 of the caller: reached$",
    ],
    "6_mount": [r"/ private\ncaller: \S+ does not see it", r"/ shared\ncaller: \S+ sees it$"],
}


@pytest.mark.parametrize("name", SAID)
def test_example(name):
    """It runs on its own, as root and as anybody, and prints what it is there to show, in that order."""
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    at = 0
    for pattern in SAID[name]:
        found = re.compile(pattern, re.MULTILINE).search(done.stdout, at)
        assert found, f"{pattern!r} is not in, or not in this order:\n{done.stdout}"
        at = found.start()


def test_all_six_are_there():
    """There is one script for each of the six, and no other numbered one."""
    assert sorted(SAID) == sorted(path.stem for path in EXAMPLES.glob("[0-9]*.py"))
