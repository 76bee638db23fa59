"""The page about pools: every block of it runs, and says what the page shows."""

from pathlib import Path

from pages import Page

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "pool.md"


def test_every_block_of_the_page_runs(tmp_path):
    """Each Python block of docs/how-to/pool.md runs, and prints what stands below it; test_tutorial.py has the control."""
    with Page(PAGE, tmp_path) as page:
        ran = page.run()
    assert ran == sum(block.kind == "python" for block in page.blocks) > 5
