"""Where groups are mounted and where the caller sits, read from texts of other hosts. Pure."""

import pytest

from ramet.cgroups.hierarchy import Hierarchy, hierarchies, unescaped
from ramet.cgroups.place import candidates

V2 = "30 21 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def only_one(mountinfo, groups):
    (found,) = hierarchies(mountinfo, groups)
    return found


def test_version_2_alone():
    """The caller's directory is the mount's with the path of the 0:: line."""
    found = only_one(V2, "0::/user.slice/session-1.scope\n")
    assert found == Hierarchy(2, frozenset(), "/sys/fs/cgroup", "/sys/fs/cgroup/user.slice/session-1.scope", True)
    assert only_one(V2, "0::/\n").own == "/sys/fs/cgroup"


def test_hybrid():
    """Every hierarchy of version 1 with its controllers, version 2 besides, and systemd's named one not at all."""
    mounts = (
        "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "32 30 0:28 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n"
        "33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    found = hierarchies(mounts, "3:blkio:/a\n2:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/d\n")
    assert [(one.version, set(one.controllers), one.own) for one in found] == [
        (1, {"cpu", "cpuacct"}, "/sys/fs/cgroup/cpu,cpuacct/b"),
        (1, {"io"}, "/sys/fs/cgroup/blkio/a"),
        (2, set(), "/sys/fs/cgroup/unified/d"),
    ]


def test_container_without_a_namespace():
    """Its own group is bound over the mount point: the path is told from outside, the mount's root says how much of it."""
    mount = "30 21 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    found = only_one(mount, "4:memory:/docker/abc\n")
    assert found.own == "/sys/fs/cgroup/memory" and not found.writable
    assert only_one(mount, "4:memory:/docker/abc/in\n").own == "/sys/fs/cgroup/memory/in"
    assert only_one(mount, "4:memory:/docker/abcd\n").own is None


def test_outside_of_the_namespace():
    """In a cgroup namespace whose mounts came from outside, or that the caller was moved out of, it has no path."""
    assert only_one(V2, "0::/../other\n").own is None
    assert only_one(V2.replace(" / /sys", " /.. /sys"), "0::/\n").own is None


def test_several_mounts_of_one_hierarchy():
    """The one that shows the caller's group wins, then the one that is writable; whatever their order."""
    read_only = V2.replace("/sys/fs/cgroup rw", "/mnt ro")
    elsewhere = V2.replace(" / /sys/fs/cgroup", " /other /elsewhere")
    for mounts in (V2 + read_only + elsewhere, elsewhere + read_only + V2):
        assert only_one(mounts, "0::/a\n").mount == "/sys/fs/cgroup"
    assert only_one(elsewhere + read_only, "0::/a\n").mount == "/mnt"


def test_escaped_paths():
    r"""A mount point with a space is written \040."""
    assert unescaped(r"/my\040groups\134x") == "/my groups\\x"
    assert only_one(V2.replace("/sys/fs/cgroup", r"/my\040groups"), "0::/a\n").own == "/my groups/a"


def test_nothing_is_mounted():
    """No line, no hierarchy."""
    assert hierarchies("21 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "0::/\n") == []


def test_candidates(monkeypatch, tmp_path):
    """The caller's group, those above it up to the mount; only $RAMET_CGROUP where that is set; nothing if not shown."""
    monkeypatch.delenv("RAMET_CGROUP", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "a/b").mkdir(parents=True)
    one = Hierarchy(2, frozenset(), str(tmp_path), f"{tmp_path}/a/b", True)
    assert list(candidates(one)) == [f"{tmp_path}/a/b", f"{tmp_path}/a", f"{tmp_path}"]
    assert list(candidates(one._replace(own=None))) == []
    monkeypatch.setenv("RAMET_CGROUP", "/given")
    assert list(candidates(one)) == [f"{tmp_path}/given"]


def test_candidates_below(monkeypatch, tmp_path):
    """An ordinary user's directories below come last, the outermost of each; others', and groups of ours, do not."""
    import os

    monkeypatch.delenv("RAMET_CGROUP", raising=False)
    real = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: real or 0)
    (tmp_path / "own/mine/inner").mkdir(parents=True)
    (tmp_path / "own/ramet-1-2-3-4").mkdir()
    one = Hierarchy(1, frozenset({"pids"}), f"{tmp_path}/own", f"{tmp_path}/own", True)
    from ramet.cgroups.place import _owned_below

    assert list(_owned_below(one.own)) == [f"{tmp_path}/own/mine"]
    monkeypatch.setattr("os.geteuid", lambda: real + 12345)
    assert list(_owned_below(one.own)) == []
    assert list(candidates(one)) == [f"{tmp_path}/own"]


@pytest.mark.parametrize("line", ["", "garbage", "30 21 0:26 / /x rw", "30 21 0:26 / /x rw - tmpfs tmpfs rw"])
def test_other_lines(line):
    """Lines that are not about control groups, or are nothing, are passed over."""
    assert hierarchies(line, "0::/\n") == []
