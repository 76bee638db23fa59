"""A rootfs that somebody hostile has made: no symlink in it leads a mount outside."""

import ctypes
import os
import signal
import struct
import time

import pytest
from inside import said, shell

from ramet import Bind, File, Rootfs, StepError, Tmpfs, _core
from ramet.run.learn import _open_in


@pytest.fixture
def hostile(shared_dir, small_rootfs):
    """A root of which every name can be chosen, and a place on the host that must stay untouched."""
    import shutil

    root = shared_dir / "root"
    shutil.copytree(small_rootfs, root, symlinks=True)
    victim = shared_dir / "victim"
    victim.mkdir()
    (victim / "file").write_text("the host's")
    return root, victim


def mounts_seen(rootfs, mounts):
    """Run in it and say which mounts there are."""
    return said(shell("cat /proc/self/mounts", rootfs=rootfs, mounts=mounts))


@pytest.fixture
def place(hostile):
    """Put a link at this path of the root."""
    root, victim = hostile

    def make(path, target):
        link = root / path
        if link.is_dir() and not link.is_symlink():
            link.rmdir()
        link.symlink_to(target)
        return victim

    return make


@pytest.mark.parametrize("writes", ["refused", "kept"])
@pytest.mark.parametrize("target", ["absolute", "dots", "magic root", "magic cwd", "self", "dangling"])
def test_symlink_as_a_destination_is_refused(hostile, place, target, writes):
    """A mount whose destination is a symlink is refused, wherever it leads; a directory in its place is not."""
    root, victim = hostile
    targets = {
        "absolute": str(victim),
        "dots": "../" * 12 + str(victim)[1:],
        "magic root": f"/proc/1/root{victim}",
        "magic cwd": "/proc/self/cwd",
        "self": "data",
        "dangling": "/nonexistent",
    }
    assert "none /data tmpfs" in mounts_seen(Rootfs(root, writes=writes), [Tmpfs("/data")])
    place("data", targets[target])
    with pytest.raises(StepError) as caught:
        shell("true", rootfs=Rootfs(root, writes=writes), mounts=[Tmpfs("/data")])
    assert caught.value.errno == 40  # ELOOP
    assert caught.value.origin.startswith("Sandbox.mounts[0]")
    assert "a symlink is no destination" in caught.value.hint
    assert sorted(os.listdir(victim)) == ["file"]


@pytest.mark.parametrize("kind", ["/proc", "/dev", "/tmp"])
def test_symlink_in_place_of_a_default_mount(hostile, place, kind):
    """The default mounts are no exception: /proc, /dev or /tmp as a symlink ends the start."""
    root, victim = hostile
    place(kind[1:], str(victim))
    with pytest.raises(StepError) as caught:
        shell("true", rootfs=root)
    assert caught.value.errno == 40
    assert sorted(os.listdir(victim)) == ["file"]


@pytest.mark.vm
@pytest.mark.parametrize("target", ["/usr", "../../../../../../usr", "usr", "/proc/../usr"])
def test_symlink_above_a_destination_stays_inside(hostile, place, target):
    """A symlink above a destination is resolved inside the root: the mount lands in the root's own directory of that
    name, and not in the host's."""
    root, _victim = hostile
    (root / "usr/sub").mkdir(parents=True)
    assert os.path.isdir("/usr") and not os.path.exists("/usr/sub")
    place("data", target)
    assert "none /usr/sub tmpfs" in mounts_seen(root, [Tmpfs("/data/sub")])


@pytest.fixture
def restless(tmp_path):
    """Somebody who renames something, all the time."""
    names = tmp_path / "one", tmp_path / "two"
    names[0].touch()
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            while True:
                os.rename(*names)
                os.rename(*reversed(names))
        finally:
            os._exit(1)
    yield
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def again(root, path):
    """How many of a thousand lookups in this root the kernel gives up."""
    how = struct.pack("<QQQ", os.O_PATH, 0, 0x10)
    fd, count = os.open(root, os.O_PATH), 0
    for _ in range(1000):
        try:
            os.close(_core.syscall("openat2", 437, fd, os.fsencode(path) + b"\0", how, len(how)))
        except BlockingIOError:
            count += 1
    os.close(fd)
    return count


def test_somebody_renames_meanwhile(hostile, place, restless):
    """Nobody else's renaming or mounting keeps a path with ".." from being looked up in a root, and a start from being made."""
    root, _victim = hostile
    (root / "usr/sub").mkdir(parents=True)
    place("data", "../../usr")
    deadline, met = time.monotonic() + 60, 0
    while not met and time.monotonic() < deadline:
        met = again(root, "data/sub")  # on a busy machine they seldom meet
    assert met
    for _ in range(50):
        assert "none /usr/sub tmpfs" in mounts_seen(root, [Tmpfs("/data/sub")])
    fd = os.open(root, os.O_PATH)
    found = [_open_in(fd, "data/sub") for _ in range(1000)]
    for one in (*found, fd):
        os.close(one)


def test_symlink_above_that_leads_nowhere_inside(hostile, place):
    """Where the parent's target exists only on the host, nothing is made and the start ends."""
    root, victim = hostile
    (victim / "sub").mkdir()
    place("data", str(victim))
    with pytest.raises(StepError) as caught:
        shell("true", rootfs=root, mounts=[Tmpfs("/data/sub")])
    assert caught.value.origin.startswith("Sandbox.mounts[0]")


@pytest.mark.parametrize("name", ["self/root", "1/root", "self/cwd", "self/fd/0"])
def test_magic_links_above_a_destination_are_refused(hostile, name):
    """A magic link of /proc above a destination is not followed."""
    root, victim = hostile
    (victim / "sub").mkdir()
    with pytest.raises(StepError) as caught:
        shell("true", rootfs=root, mounts=[Tmpfs(f"/proc/{name}{victim}/sub")])
    assert caught.value.errno in (2, 20, 40, 13)
    assert caught.value.origin.startswith("Sandbox.mounts[0]")


def test_files_made_through_links_stay_inside(hostile, place):
    """A File below a symlink is not written to the host."""
    root, victim = hostile
    place("data", str(victim))
    with pytest.raises(StepError):
        shell("true", rootfs=Rootfs(root, writes="kept"), mounts=[File("/data/new", "x")])
    assert sorted(os.listdir(victim)) == ["file"]


def test_links_in_a_bind(shared_dir, small_rootfs):
    """What a hostile bind holds is treated as a hostile root: a symlink in it is no destination."""
    bound = shared_dir / "bound"
    bound.mkdir()
    (bound / "link").symlink_to("/etc")
    with pytest.raises(StepError) as caught:
        shell("true", mounts=[Bind(bound, "/in"), Tmpfs("/in/link")])
    assert caught.value.errno == 40
    assert said(shell("readlink /in/link", mounts=[Bind(bound, "/in")])) == "/etc"


def test_rootfs_given_by_a_link(shared_dir, small_rootfs):
    """The root itself may be named by a symlink of the caller's: it is resolved once, before anything starts."""
    (shared_dir / "link").symlink_to(small_rootfs)
    assert said(shell("cat /etc/hostname", rootfs=shared_dir / "link")) == "in-the-rootfs"


@pytest.mark.vm
@pytest.mark.parametrize("root", ["minimal", "given", "kept", "discarded"])
@pytest.mark.parametrize("as_pid1", [False, True])
def test_dot_dot_of_any_mount_is_the_root(small_rootfs, open_dir, root, as_pid1):
    """However the root is made, and whatever was needed for that: ".." leads to it and to nothing that lay over it."""
    rootfs = root if root == "minimal" else Rootfs(small_rootfs, writes="refused" if root == "given" else root)
    bound = open_dir / "bound"
    bound.mkdir()
    (bound / "file").touch()
    mounts = [Bind(bound, "/tmp/in"), File("/tmp/in/file", "from the store\n")]
    look = "cat /tmp/in/file; for d in / /.. /dev/.. /dev/../.. /tmp/in/../../..; do cd $d; stat -c %d:%i .; stat -c %d:%i /; done"
    words, *roots = said(shell(look, rootfs=rootfs, mounts=mounts, as_pid1=as_pid1)).splitlines()
    assert words == "from the store"
    assert len(roots) == 10 and len(set(roots)) == 1
    seen = said(shell("cd /dev/..; ls -A", rootfs=rootfs, mounts=mounts, as_pid1=as_pid1)).split()
    assert "lost+found" not in seen and "var" not in seen and {"dev", "tmp"} <= set(seen)


def test_dot_dot_from_the_root_is_the_root(small_rootfs):
    """After the start /.. is the new root, and the old one is nowhere."""
    assert said(
        shell("ls -d /../../etc/hostname; cd /..; pwd; grep -c ' / ' /proc/self/mountinfo", rootfs=small_rootfs)
    ).split()[:2] == [
        "/../../etc/hostname",
        "/",
    ]


def test_workdir_through_links(hostile, place):
    """A workdir that is a symlink is followed inside; /proc/self/fd/N is refused even where it would lead out."""
    root, _victim = hostile
    place("data", "/etc")
    assert said(shell("cat hostname", rootfs=root, workdir="/data")) == "in-the-rootfs"
    for number in (*range(3, 20), 100):
        with pytest.raises(StepError, match="enter the working directory") as caught:
            shell("true", rootfs=root, workdir=f"/proc/self/fd/{number}")
        assert caught.value.errno in (2, 40)
