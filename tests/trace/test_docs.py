"""docs/how-to/trace.md is what happens: each of its commands is run, and prints what the page shows."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from needs import as_user, need

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "trace.md"
BLOCKS = re.findall(r"```console\n\$ ramet (.*?)\n(.*?)```", PAGE.read_text(), re.S) if PAGE.exists() else []
SCRIPT = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S) if PAGE.exists() else None


def test_the_page_has_examples():
    """The control: there are blocks to run, and each shows a tree."""
    assert len(BLOCKS) >= 5 and all("process " in shown for _, shown in BLOCKS)


@as_user
@pytest.mark.parametrize(("line", "shown"), BLOCKS, ids=[line for line, _ in BLOCKS])
def test_what_the_page_shows_is_what_happens(line, shown, tmp_path):
    """The command prints the page's own text, but for process numbers and the number of files in /."""
    argv = shlex.split(line)
    program = argv[argv.index("--") + 1]
    found = shutil.which(program, path="/usr/bin:/bin")
    need(found == f"/usr/bin/{program}" and os.path.realpath("/bin") == "/usr/bin", f"/usr/bin/{program}, as on Debian")
    (tmp_path / "work.py").write_text(SCRIPT[1])
    done = subprocess.run(
        [sys.executable, "-m", "ramet", *argv],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
    )
    assert _plain(done.stdout) == _plain(shown)


def _plain(text):
    """Without what differs from run to run."""
    text = re.sub(r"^\d+$", "N", text, flags=re.M)
    return re.sub(r"(process|thread) \d+", r"\1 N", text)
