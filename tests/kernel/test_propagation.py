"""Mounts do not spread, neither way."""

import os
import subprocess
import sys

import pytest
from inside import Neighbour, as_root, said, shell


def mounts_of(pid="self"):
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def test_mounts_inside_are_not_the_callers():
    """All the sandbox's mounts are its own: the caller's table is the same before, while it runs and after."""
    before = mounts_of()
    with Neighbour() as box:
        assert mounts_of() == before
        assert mounts_of(box.process.pid) != before
    assert mounts_of() == before


def test_no_mount_inside_has_a_peer():
    """No mount inside is shared with or a slave of any other: nothing of the host's propagates in later."""
    found = said(shell("cat /proc/self/mountinfo"))
    assert " / / " in found
    assert "shared:" not in found
    assert "master:" not in found


OUTER = """
import os, subprocess, sys, ramet
place = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
subprocess.run(["mount", "--make-shared", place], check=True)
os.mkdir(place + "/sub"); os.chmod(place, 0o755)
assert "shared:" in open("/proc/self/mountinfo").read()
box = ramet.Popen(["sh", "-c", "echo ready; read line; cat /in/sub/late; grep -c shared: /proc/self/mountinfo"],
    mounts=[ramet.Bind(place, "/in")], stdin=ramet.PIPE, stdout=ramet.PIPE, text=True)
assert box.stdout.readline() == "ready\\n"
subprocess.run(["mount", "-t", "tmpfs", "none", place + "/sub"], check=True)
open(place + "/sub/late", "w").write("late")
print("outside:", open(place + "/sub/late").read())
box.stdin.write("go\\n"); box.stdin.flush()
print("inside:", box.stdout.read().strip())
"""


@as_root
def test_shared_mount_of_the_host(tmp_path):
    """Where the host's mount is shared, what is mounted there later is seen outside and not inside."""
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", OUTER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.stdout.split() == ["outside:", "late", "inside:", "0"], done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["/", "/tmp"])
def test_mount_inside_stays_inside(path):
    """What a payload with namespaces of its own mounts is seen by nobody else."""
    before = mounts_of()
    script = "unshare -Urm sh -c 'mount -t tmpfs ramet-probe /tmp && grep -c ramet-probe /proc/self/mounts'"
    assert said(shell(script, nested_namespaces=True)) == "1"
    assert mounts_of() == before
