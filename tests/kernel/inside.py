"""Seen from inside: short ways to ask a sandbox what it looks like."""

import os
import sys

import ramet
from needs import as_root as as_root
from needs import as_user as as_user

#: The id of the payload outside: never 0.
OUTSIDE_ID = 65533 if os.geteuid() == 0 else os.geteuid()


def shell(script, sandbox=None, **fields):
    """Run a shell script in a sandbox; the whole result, as text."""
    fields.setdefault("timeout", 60)
    return ramet.run(["sh", "-c", script], sandbox, text=True, **fields)


def python(code, sandbox=None, **fields):
    """The same for Python code."""
    fields.setdefault("timeout", 60)
    return ramet.run([sys.executable, "-I", "-S", "-c", code], sandbox, text=True, **fields)


#: For a shell: wait until init has its name, which it takes when the payload runs already. Before, it is called what the caller is.
UNTIL_NAMED = "until grep -qx ramet-init /proc/1/comm; do sleep 0.01; done; "


def said(result):
    """What it printed, where it went well."""
    assert result.ok, f"{result}: {result.stdout}{result.stderr}"
    return result.stdout.strip()


class Neighbour:
    """A sandbox that is there while a test looks at it: says "ready", goes on until its stdin ends."""

    def __init__(self, script="", **fields):
        self.process = ramet.Popen(
            ["sh", "-c", f"{script}\necho ready; read line; exit 0"],
            stdin=ramet.PIPE,
            stdout=ramet.PIPE,
            text=True,
            **fields,
        )
        self.lines = []
        while (line := self.process.stdout.readline().strip()) != "ready":
            assert line, "it ended before it was ready"
            self.lines.append(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.close()
