"""Seen from inside: short ways to ask a sandbox what it looks like."""

import os
import subprocess
import sys

import pytest

import ramet

#: The id of the payload outside: never 0.
OUTSIDE_ID = 65533 if os.geteuid() == 0 else os.geteuid()

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what a privileged caller may do")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="what an ordinary caller may do")

needs_idmap = pytest.mark.xfail(
    os.geteuid() == 0,
    reason="a root caller's sources are opened by its unprivileged child; idmapped mounts (Bind.idmap) are not made yet",
)


def shell(script, sandbox=None, **fields):
    """Run a shell script in a sandbox; the whole result, as text."""
    fields.setdefault("timeout", 60)
    return ramet.run(["sh", "-c", script], sandbox, text=True, **fields)


def python(code, sandbox=None, **fields):
    """The same for Python code."""
    fields.setdefault("timeout", 60)
    return ramet.run([sys.executable, "-I", "-S", "-c", code], sandbox, text=True, **fields)


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


@pytest.fixture
def shared_dir(tmp_path_factory):
    """A directory of the caller's that others may enter and read."""
    path = tmp_path_factory.mktemp("shared")
    for above in (path, path.parent, path.parent.parent):
        if above.stat().st_uid == os.geteuid() and above != above.parent:
            above.chmod(0o755)
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
    for above in (path.parent, path.parent.parent):
        above.chmod(0o755)
    busybox = next((p for p in ("/usr/bin/busybox", "/bin/busybox") if os.path.exists(p)), None)
    if busybox is None or b"statically linked" not in subprocess.run(["file", "-L", busybox], capture_output=True).stdout:
        pytest.skip("needs a static busybox: apt-get install busybox-static")
    (path / "bin/busybox").write_bytes(open(busybox, "rb").read())
    (path / "bin/busybox").chmod(0o755)
    for name in ("sh", "ls", "cat", "id", "touch", "mount", "readlink", "echo", "test", "pwd", "rm", "mkdir", "stat"):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/hostname").write_text("in-the-rootfs\n")
    (path / "data").chmod(0o777)
    return path
