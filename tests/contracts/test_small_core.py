"""What runs with rights that the payload must not get stays small enough to be read at one sitting."""

from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
#: The interpreter, the child between clone and exec, spawn, init, and every header of ours that these include; but for the bare
#: system calls. (begun.c starts the same and comes back for it later: what runs with rights is here.)
TRUSTED = ("steps.c", "steps.h", "child.c", "child.h", "spawn.c", "spawn.h", "init.c", "init.h")
BESIDE = {"core.h", "sys.h"}  # the list of what Python may call, of all topics; the raw calls
LIMIT = 1200


def lines(name):
    return len((CSRC / name).read_text().splitlines())


def test_interpreter_spawn_and_init_are_small():
    """Together they have fewer than 1,200 lines, comments included; and nothing of theirs is left out of the count."""
    included = {
        line.split('"')[1]
        for name in TRUSTED
        for line in (CSRC / name).read_text().splitlines()
        if line.startswith('#include "')
    }
    assert included - set(TRUSTED) == BESIDE
    assert sum(map(lines, TRUSTED)) < LIMIT


@pytest.mark.parametrize("name", TRUSTED)
def test_lines_are_no_longer_than_elsewhere(name):
    """The count is not kept down by long lines."""
    assert max(map(len, (CSRC / name).read_text().splitlines())) <= 130
