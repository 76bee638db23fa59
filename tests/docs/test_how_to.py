"""How-to pages whose every block runs, and says what the page shows."""

import importlib.util
from pathlib import Path

import pytest
from pages import Page

from needs import need

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
#: The pages, and what they need besides ramet.
PAGES = {"functions": ["msgspec", "numpy"], "many-machines": ["distributed"]}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", PAGES)
def test_every_block_of_a_how_to_runs(name, tmp_path):
    """Each Python block and each command of the page runs, and says what the page shows."""
    for library in PAGES[name]:
        need(importlib.util.find_spec(library), library)
    with Page(HOW_TO / f"{name}.md", tmp_path) as page:
        ran = page.run()
    assert ran == sum(block.kind in ("python", "console") for block in page.blocks)
    assert ran > 0
