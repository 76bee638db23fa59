"""The tutorial: every block of every page runs, and says what the page shows."""

import os
import re
from pathlib import Path

import pytest
from pages import FENCE, Broken, Page, blocks_of, matches

import ramet
from needs import only

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial"
PAGES = sorted(TUTORIAL.glob("*.md"))


@pytest.fixture
def directory(tmp_path):
    """A working directory that others may enter: a root caller's payload is another user outside."""
    path = tmp_path
    while path.owner() == tmp_path.owner() and path != Path("/tmp") and path.name:
        path.chmod(0o755)
        path = path.parent
    return tmp_path


def root_is_lent(directory):
    """Is root's own directory, with writes discarded, the payload's to write to? An ordinary user's always is."""
    for name in ("bin", "lib", "lib64", "usr", "proc", "dev", "tmp", "data"):
        (directory / "probe" / name).mkdir(parents=True)
    binds = [ramet.Bind(f"/{name}", optional=True) for name in ("usr", "bin", "lib", "lib64")]
    rootfs = ramet.Rootfs(str(directory / "probe"), writes="discarded")
    (directory / "probe/data/file").touch()
    return ramet.run(["rm", "-r", "/data"], rootfs=rootfs, mounts=binds).ok


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_runs(path, directory):
    """Each Python block and each command of the page runs, and says what the page shows."""
    if os.geteuid() == 0 and "discarded" in path.read_text():
        elsewhere = "as an ordinary user, where the file system has no idmapped mounts"
        only(root_is_lent(directory), elsewhere)
    with Page(path, directory) as page:
        ran = page.run()
    wanted = sum(block.kind in ("python", "console") for block in page.blocks)
    assert ran >= wanted > 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "it said\n1"),
        ("```python\nprint(1)\n```\n", "it said\n1"),
        ("```python\nx = 1\n```\n\n```text\n1\n```\n", "the page shows\n1"),
        ("```python\nimport nothing_like_that\n```\n", "ModuleNotFoundError"),
        ("```python\nimport os\nos._exit(3)\n```\n", "the interpreter ended"),
        ("```console\n$ echo a\nb\n```\n", "it said\na"),
        ("```console\n$ no-such-command\n```\n", "it said\nsh:"),
        ("```console\n$ echo a\na\n$ echo b\nc\n```\n", "echo b"),
    ],
)
def test_a_broken_block_fails(text, why, directory):
    """The control: a block that raises, says something else, or says nothing where something is shown breaks the page."""
    path = directory / "broken.md"
    path.write_text(f"# A page\n\n{text}")
    with Page(path, directory) as page, pytest.raises(Broken, match=re.escape(why)) as caught:
        page.run()
    assert f"{path}:4" in str(caught.value)


def test_blocks_of_a_page_share_their_names_and_files(directory):
    """Python blocks run in one interpreter, and commands in its directory; what is only shown is not run."""
    path = directory / "page.md"
    path.write_text(
        "```python\nname = 'x'\n```\n\nthen\n\n```python\nopen(name, 'w').write('y\\n')\nprint(name)\n```\n\n```text\nx\n```\n\n"
        "```console\n$ cat x\ny\n```\n\nmore\n\n```text\nnot run\n```\n\n```toml\nx =\n```\n"
    )
    with Page(path, directory) as page:
        assert page.run() == 3


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("a\n", "a\n\n", True),
        ("a ... c\n", "a b\nb c\n", True),
        ("a.c\n", "abc\n", False),
        ("a ...\n", "b a x\n", False),
        ("", "\n", True),
        ("", "x\n", False),
    ],
)
def test_what_dots_stand_for(shown, said, same):
    """Three dots stand for anything, one dot for itself, and nothing shown means nothing said."""
    assert matches(shown, said) is same


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_blocks_fit_a_terminal(path):
    """No line of a block is longer than 80 characters."""
    blocks = blocks_of(path.read_text())
    assert [line for block in blocks for line in block.source.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    """Each relative link of a page names a file that is there; the index names every page."""
    links = re.findall(r"\]\(([^)#]+)", FENCE.sub("", path.read_text()))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
    if path.name == "README.md":
        assert {page.name for page in PAGES} <= {path.name, *links}
