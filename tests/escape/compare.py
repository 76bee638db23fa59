"""What each probe could do outside, in ramet's default sandbox, and in bubblewrap's with sensible options: a table, as Markdown.

scripts/as-user .venv/bin/python tests/escape/compare.py > table
"""

import os
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from probed import GROUPS, control_of, lacks, probes_of  # noqa: E402 - run as a script, it has to find them first
from world import World  # noqa: E402 - the same

HEAD = "| probe | what it tries | outside | ramet | bubblewrap |\n| --- | --- | --- | --- | --- |"


def rows(world):
    """(name, sentence, outside, ramet, bubblewrap) of every probe."""
    for group in GROUPS:
        for name, probe in probes_of(group).items():
            yield (
                name,
                sentence(probe),
                outside(world, name, probe),
                said(world.ask("ramet", name)),
                bubblewrap(world, name),
            )


def sentence(probe):
    return " ".join(probe.__doc__.split()).replace("|", "\\|")


def outside(world, name, probe):
    """Where the probe is known to succeed."""
    control = control_of(world, name, probe)
    if control is None:
        return "root"
    if lacks(probe, control):
        return "absent"
    if isinstance(probe.control, dict):
        return "opened" if control["could"] else "no"
    return said(control)


def bubblewrap(world, name):
    return said(world.ask("bubblewrap", name)) if shutil.which("bwrap") else "?"


def said(answer):
    return {True: "yes", False: "no", None: "?"}[answer["could"]]


def main():
    """Print the table, and a line that counts."""
    world = World()
    try:
        found = list(rows(world))
    finally:
        world.close()
    print(HEAD)
    for row in found:
        print("| `{}` | {} | {} | {} | {} |".format(*row))
    counts = [
        f"{name} {sum(row[column] == 'yes' for row in found)}" for column, name in ((3, "ramet"), (4, "bubblewrap"))
    ]
    print(f"{len(found)} probes; get through: {', '.join(counts)}; uid {os.geteuid()}", file=sys.stderr)


if __name__ == "__main__":
    main()
