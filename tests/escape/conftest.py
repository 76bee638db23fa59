"""One world for all probes."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from world import World

from needs import need


@pytest.fixture(scope="session")
def world():
    """A host with secrets, a victim, and a caller that starts probes."""
    made = World()
    yield made
    made.close()


@pytest.fixture(scope="session")
def attacker(tmp_path_factory):
    """attacker.c as a static program, in a directory that others may enter."""
    need(shutil.which("cc"), "a C compiler")
    folder = Path(tempfile.mkdtemp(prefix="escape-attacker-", dir="/var/tmp"))
    folder.chmod(0o755)
    source = Path(__file__).parent / "attacker.c"
    subprocess.run(["cc", "-O1", "-static", "-o", folder / "attacker", source], check=True)
    (folder / "attacker").chmod(0o755)
    yield folder / "attacker"
    shutil.rmtree(folder)
