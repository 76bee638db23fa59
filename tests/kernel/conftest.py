"""Directories that a sandbox is given."""

import os
import subprocess
from pathlib import Path

import pytest

from needs import need


def let_in(path):
    """Let others pass from /tmp down to here; pytest's own directories are closed."""
    while path.stat().st_uid == os.geteuid() and path.name:
        path.chmod(0o755)
        path = path.parent
        if path == Path("/tmp"):
            return


@pytest.fixture
def shared_dir(tmp_path_factory):
    """A directory of the caller's that others may enter and read."""
    path = tmp_path_factory.mktemp("shared")
    let_in(path)
    return path


@pytest.fixture
def open_dir(shared_dir):
    """One in which anybody may write."""
    path = shared_dir / "open"
    path.mkdir()
    path.chmod(0o777)
    return path


@pytest.fixture(scope="session")
def small_rootfs(tmp_path_factory):
    """A root of one static program and the directories that the default mounts need."""
    path = tmp_path_factory.mktemp("rootfs") / "small"
    for name in ("bin", "proc", "dev", "tmp", "etc", "data", "root"):
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name).chmod(0o755)
    let_in(path)
    busybox = next((p for p in ("/usr/bin/busybox", "/bin/busybox") if os.path.exists(p)), None)
    if (
        busybox is None
        or b"statically linked" not in subprocess.run(["file", "-L", busybox], capture_output=True).stdout
    ):
        need(False, "a static busybox: apt-get install busybox-static")
    (path / "bin/busybox").write_bytes(Path(busybox).read_bytes())
    (path / "bin/busybox").chmod(0o755)
    for name in ("sh", "ls", "cat", "id", "touch", "mount", "readlink", "echo", "test", "pwd", "rm", "mkdir", "stat"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/hostname").write_text("in-the-rootfs\n")
    (path / "data").chmod(0o777)
    return path
