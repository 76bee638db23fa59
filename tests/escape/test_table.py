"""docs/security.md says of every probe what came out; here it is held against what comes out now."""

import re
from pathlib import Path

from compare import said, sentence
from probed import GROUPS, probes_of

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (\w+|\?) \| (\w+|\?) \| (\w+|\?) \|$", re.MULTILINE)


def test_the_table_has_every_probe():
    """The table lists every probe with its sentence, in order, and no other."""
    probes = {name: sentence(probe) for group in GROUPS for name, probe in probes_of(group).items()}
    assert [(row[0], row[1]) for row in ROW.findall(PAGE)] == list(probes.items())


def test_ramets_column_is_what_comes_out_now(world):
    """What the table says of ramet is what a fresh run says."""
    told = {row[0]: row[3] for row in ROW.findall(PAGE)}
    fresh = {name: said(world.ask("ramet", name)) for group in GROUPS for name in probes_of(group)}
    assert told == fresh
    assert set(fresh.values()) == {"yes", "no"}


def test_the_sums_are_those_of_the_table():
    """The figures in the text above the table are the table's own."""
    table = ROW.findall(PAGE)
    for column, name in ((3, "ramet"), (4, "bubblewrap")):
        through = sum(row[column] == "yes" for row in table)
        assert f"{through} of {len(table)} get through {name}" in " ".join(PAGE.split())


def test_every_row_is_read():
    """No row of the page is in a form that these tests pass over."""
    assert len(ROW.findall(PAGE)) == PAGE.count("\n| `")
