"""SECURITY.md: each promise names tests, and these are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)[2:]


def is_there(name):
    """Is there such a test: written down in that file, or made there of a probe?"""
    file, _, function = name.partition("::")
    path = TESTS / file
    if not path.is_file():
        return False
    if re.search(rf"^def {function}\(", path.read_text(), re.MULTILINE):
        return True
    if not (found := re.search(r'made_of\("(\w+)"\)', path.read_text())):
        return False
    probes = (TESTS / "escape/probes" / f"{found[1]}.py").read_text()
    return re.search(rf"^def {function.removeprefix('test_')}\(", probes, re.MULTILINE) is not None


def test_every_promise_names_tests_that_are_there():
    """Every row of the table of promises names two tests at least, and each of these exists; one that does not is noticed."""
    assert len(ROWS) > 10
    for promise, _, cell in ROWS:
        names = re.findall(r"`(\S+)`", cell)
        assert len(names) >= 2, promise
        for name in names:
            assert is_there(name), f"{promise}: {name}"
    assert not is_there("escape/test_files.py::test_that_is_not_there")
    assert not is_there("escape/test_nothing.py::test_secret_by_its_path")


def test_open_channels_of_the_threat_model_are_in_security_md():
    """What the page on concepts calls open by its name of a call, SECURITY.md names too."""
    concepts = (TESTS.parent / "docs/concepts/threat-model.md").read_text()
    open_part = concepts.partition("## What is not promised, ever")[2].partition("\n## ")[0]
    calls = set(re.findall(r"\b(\w+)\(\d\)", open_part))
    assert calls
    assert [call for call in calls if f"{call}(" not in PAGE] == []
