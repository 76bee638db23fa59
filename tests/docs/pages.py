"""Pages of documentation as programs: their blocks, run in order, and what they say compared with what the page shows.

    ```python     runs, in one interpreter for the whole page; a ```text block right after it is what it prints
    ```console    lines that begin with "$ " are commands for sh; what follows each is what it prints, errors included
    ```text       after something else than a python block, and any other language: only shown

"..." in what is shown stands for anything. Trailing spaces and empty lines at the end do not count.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: The interpreter of a page: reads blocks as lines of JSON, runs each, says how it ended. Nothing else of it is in the
#: way of the page's own code: no threads, no handlers, stdin at its end.
DRIVER = """
import json, os, sys, traceback
blocks = os.fdopen(os.dup(0))
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
page = {"__name__": "__main__"}
for line in blocks:
    name, at, source = json.loads(line)
    try:
        exec(compile("\\n" * at + source, name, "exec"), page)
        ended = "ran"
    except BaseException:
        traceback.print_exc()
        ended = "failed"
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"\\n\\0{ended}\\n".encode())
"""


class Block:
    """One fenced block. line: of its first line in the page; shown: what it says, where the page tells."""

    def __init__(self, kind, source, line, shown=None):
        self.kind, self.source, self.line, self.shown = kind, source, line, shown


class Broken(AssertionError):
    """A block did not run, or said something else than the page shows."""


def blocks_of(text):
    """The blocks of a page, in order; a text block that tells what a python block prints is part of that."""
    found, last_end = [], None
    for match in FENCE.finditer(text):
        kind, body = match.groups()
        line = text.count("\n", 0, match.start(2)) + 1
        follows = last_end is not None and not text[last_end : match.start()].strip()
        if kind == "text" and follows and found and found[-1].kind == "python":
            found[-1].shown = body
        else:
            found.append(Block(kind, body, line))
        last_end = match.end()
    return found


def commands_of(block):
    """(command, what it prints) of each command of a console block."""
    parts = re.split(r"^\$ (.*)\n", block.source, flags=re.MULTILINE)
    assert not parts[0].strip(), f"line {block.line}: output before the first command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def matches(shown, said):
    """Is it what is shown? "..." stands for anything."""
    wanted, got = (
        "\n".join(line.rstrip() for line in text.rstrip().split("\n")) for text in (shown.replace("\r", ""), said)
    )
    return re.fullmatch(".*?".join(re.escape(part) for part in wanted.split("...")), got, re.DOTALL) is not None


class Page:
    """A page being run, in a directory of its own."""

    def __init__(self, path, directory):
        self.path, self.directory = Path(path), directory
        self.blocks = blocks_of(self.path.read_text())
        # The commands of this very checkout and interpreter; a terminal 80 columns wide that isn't one.
        commands = os.path.dirname(sys.executable)
        self.environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "COLUMNS": "80", "LC_ALL": "C"}
        self.environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.python = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=self.environment,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.python.stdin.close()
        self.python.stdout.close()
        self.python.wait(50)

    def run(self):
        """Every block, in order; how many ran. Broken names the line of the first that is not as shown."""
        ran = 0
        for block in self.blocks:
            if block.kind == "python":
                self._check(block.line, block.shown, self._python(block))
                ran += 1
            elif block.kind == "console":
                for command, shown in commands_of(block):
                    self._check(block.line, shown, self._shell(command), command)
                    ran += 1
        return ran

    def _python(self, block):
        self.python.stdin.write(json.dumps([str(self.path), block.line - 1, block.source]).encode() + b"\n")
        self.python.stdin.flush()
        said = b""
        while not (line := self.python.stdout.readline()).startswith(b"\0"):
            if not line:
                raise Broken(f"{self.path}:{block.line}: the interpreter ended\n{said.decode()}")
            said += line
        if line != b"\0ran\n":
            raise Broken(f"{self.path}:{block.line}: the block raised\n{said.decode()}")
        return said.decode().removesuffix("\n")

    def _shell(self, command):
        done = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=self.environment,
            timeout=60,
        )
        return done.stdout

    def _check(self, line, shown, said, command=""):
        if not matches(shown or "", said):
            what = f" {command}" if command else ""
            raise Broken(f"{self.path}:{line}:{what}\n--- the page shows\n{shown or ''}\n--- it said\n{said}")
