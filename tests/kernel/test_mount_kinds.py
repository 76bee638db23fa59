"""Every kind of mount: what it shows inside, and that it is not there without."""

import os
import socket

import pytest
from inside import UNTIL_NAMED, Neighbour, python, said, shell

from needs import KERNEL
from ramet import (
    Bind,
    Dev,
    Directory,
    File,
    Mqueue,
    Overlay,
    Proc,
    Rootfs,
    Sandbox,
    SpecError,
    StepError,
    Symlink,
    Tmpfs,
    UnsupportedError,
)


@pytest.fixture
def source(shared_dir):
    """A directory with a file and a directory in it, for everybody to read."""
    path = shared_dir / "source"
    (path / "deep").mkdir(parents=True)
    (path / "file").write_text("content\n")
    (path / "deep/file").write_text("deeper\n")
    path.chmod(0o777)
    return path


# Bind


def test_bind_shows_the_source_read_only(source):
    """A bind shows a directory of the host with all below it, read-only, at its place; without it, it is not there."""
    look = f"cat /in/file /in/deep/file; touch /in/x; test -e {source} || echo not at its own path"
    result = shell(look, mounts=[Bind(source, "/in")])
    assert result.stdout.split() == ["content", "deeper", *["not", "at", "its", "own", "path"]]
    assert "Read-only file system" in result.stderr
    assert not (source / "x").exists()
    assert said(shell("test -e /in || echo absent")) == "absent"


@pytest.mark.parametrize("root", ["minimal", "given", "discarded"])
def test_bind_of_the_hosts_root(source, small_rootfs, root):
    """The host's own root can be bound: it is the host's, and the sandbox's does not lie over it, nor what it is made of."""
    rootfs = {"minimal": "minimal", "given": small_rootfs, "discarded": Rootfs(small_rootfs, writes="discarded")}[root]
    mounts = [Bind(source, "/tmp/in"), File("/tmp/in/file", "x"), Bind("/", "/tmp/host"), Bind("/", "/tmp/again")]
    for where in ("/tmp/host", "/tmp/again"):
        look = f"cat {where}{source}/file; cat /tmp/in/file; echo; ls -A {where}"
        content, made, *names = said(shell(look, rootfs=rootfs, mounts=mounts)).splitlines()
        assert (content, made) == ("content", "x")
        assert set(names) == set(os.listdir("/"))


def test_bind_writable_keeps_what_is_written(source):
    """With writable=True what is written inside is in the source afterwards."""
    said(shell("echo new >/in/new", mounts=[Bind(source, "/in", writable=True)]))
    assert (source / "new").read_text() == "new\n"


def test_bind_destination_defaults_to_the_source(source):
    """Without a destination the source is under its own path inside."""
    assert said(shell(f"cat {source}/file", mounts=[Bind(source)])) == "content"


def test_bind_of_a_file(source):
    """A single file can be bound, also over one that the default view has."""
    mounts = [Bind(source / "file", "/etc/hosts"), Bind(source / "file", "/new/place/file")]
    assert said(shell("cat /etc/hosts /new/place/file", mounts=mounts)).split() == ["content", "content"]
    assert "localhost" in said(shell("cat /etc/hosts"))


def test_bind_of_a_link_is_of_what_it_points_to(source):
    """A source that is a symlink is resolved once, on the host."""
    (source.parent / "link").symlink_to(source)
    assert said(shell("cat /in/file; test -L /in || echo no link", mounts=[Bind(source.parent / "link", "/in")])).split(
        "\n"
    ) == [
        "content",
        "no link",
    ]


def test_bind_relative_source(source, monkeypatch):
    """A relative source is taken from the caller's working directory when the spec is made."""
    monkeypatch.chdir(source)
    bind = Bind("deep", "/in")
    monkeypatch.chdir("/")
    assert said(shell("cat /in/file", mounts=[bind])) == "deeper"


def test_bind_missing_source():
    """A source that does not exist is a SpecError that names it; with optional=True it is left out."""
    with pytest.raises(SpecError, match="'/nonexistent/source' does not exist") as caught:
        shell("true", mounts=[Tmpfs("/t"), Bind("/nonexistent/source", "/in")])
    assert caught.value.field == "Sandbox.mounts[1].source"
    assert (
        said(shell("test -e /in || echo absent", mounts=[Bind("/nonexistent/source", "/in", optional=True)]))
        == "absent"
    )


def test_bind_optional_and_there(source):
    """optional=True changes nothing where the source exists."""
    assert said(shell("cat /in/file", mounts=[Bind(source, "/in", optional=True)])) == "content"


def test_bind_special_files(source):
    """A FIFO and a socket can be bound like any file."""
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "sock"))
        mounts = [Bind(source / "fifo", "/fifo"), Bind(source / "sock", "/sock")]
        assert said(shell("test -p /fifo && test -S /sock && echo both", mounts=mounts)) == "both"


def test_bind_file_over_directory(source):
    """A file bound on a directory, or the other way round, is refused at that mount, with the reason."""
    with pytest.raises(StepError) as caught:
        shell("true", mounts=[Bind(source / "file", "/place"), Bind(source, "/place/x")])
    assert "Sandbox.mounts" in caught.value.origin
    with pytest.raises(StepError) as caught:
        shell("true", rootfs="host", mounts=[Bind(source / "file", "/usr")])
    assert caught.value.origin.startswith("Sandbox.mounts[0]")
    assert "directory can't be mounted on a file" in str(caught.value)


def test_bind_is_nodev(source):
    """Device files in a bind can't be opened: every bind is nodev."""
    options = said(shell("grep ' /in ' /proc/self/mounts", mounts=[Bind(source, "/in")])).split()[3].split(",")
    assert {"ro", "nosuid", "nodev"} <= set(options)


def test_bind_cannot_be_made_writable_again(source):
    """A payload that makes namespaces of its own can't undo the read-only bind in them; what it mounts itself, it can."""
    script = (
        "mount -t tmpfs -o ro none /tmp && mount -o remount,rw,bind /tmp && echo own; "
        "mount -o remount,rw,bind /in && echo undone; touch /in/x"
    )
    result = shell(f"unshare -Urm sh -c '{script}'", nested_namespaces=True, mounts=[Bind(source, "/in")])
    assert result.stdout == "own\n"
    assert not (source / "x").exists()


def test_bind_cannot_be_unmounted_to_see_below(source):
    """A mount that covers another can't be taken away in such namespaces, only what was mounted in them."""
    script = "mount --bind /etc/passwd /etc/group && umount /etc/group && echo own; umount /etc/hosts; cat /etc/hosts"
    result = shell(
        f"unshare -Urm sh -c '{script}'", nested_namespaces=True, mounts=[Bind(source / "file", "/etc/hosts")]
    )
    assert result.stdout.split() == ["own", "content"]


@pytest.mark.parametrize(
    "name", ["a b", "tab\tname", "new\nline", "q'\"uote", "back\\slash", "col:on,comma", "umläut", "\udcff\udcfe"]
)
def test_bind_odd_names(source, name):
    """Names with blanks, line ends, quotes, or that are no UTF-8 arrive byte for byte, as source and destination."""
    odd = source / name
    odd.mkdir()
    (odd / "file").write_text("odd")
    import ramet

    path = b"/in/" + os.fsencode(name)
    result = ramet.run(["cat", path + b"/file"], mounts=[Bind(odd, path)])
    assert result.stdout == b"odd"


# Tmpfs


def test_tmpfs_is_empty_and_writable():
    """A tmpfs is an empty, writable place that is not there without it."""
    assert said(shell("ls -A /t; echo x >/t/x; cat /t/x; stat -f -c %T /t", mounts=[Tmpfs("/t")])).split() == [
        "x",
        "tmpfs",
    ]
    assert not shell("echo x >/t/x").ok


def test_tmpfs_size_is_enforced():
    """A write past the tmpfs's size is ENOSPC; up to it, it is not."""
    script = "head -c {} /dev/zero >/t/x && echo fits"
    assert said(shell(script.format(1 << 20), mounts=[Tmpfs("/t", size="1M")])) == "fits"
    over = shell(script.format((1 << 20) + 1), mounts=[Tmpfs("/t", size="1M")])
    assert "No space left" in over.stderr and not over.ok


def test_tmpfs_inodes_are_enforced():
    """No more files than inodes= says can be made, the root directory counted."""
    script = "touch /t/1 && touch /t/2 && echo two; touch /t/3"
    result = shell(script, mounts=[Tmpfs("/t", inodes=3)])
    assert result.stdout == "two\n" and "No space left" in result.stderr
    assert said(shell(script, mounts=[Tmpfs("/t")])) == "two"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777, 0o2750])
def test_tmpfs_mode(mode):
    """mode= is that of the tmpfs's root directory, whatever the umask."""
    assert said(shell("stat -c %a /t", mounts=[Tmpfs("/t", mode=mode)], umask=0o077)) == f"{mode:o}"


@pytest.mark.parametrize("where", ["/tmp", "/home/user", "/dev/shm"])
def test_disk_bounds_all_writable_places(where):
    """/tmp, the home directory and /dev/shm together hold no more than disk= says."""
    script = f"head -c 600000 /dev/zero >{where}/x && head -c 600000 /dev/zero >/tmp/y && echo fits"
    assert said(shell(script)) == "fits"
    over = shell(script, disk="1M")
    assert "No space left" in over.stderr and not over.ok


# Proc, Dev, Mqueue


def test_proc_at_another_place():
    """A proc can be put anywhere; the default one stays."""
    look = UNTIL_NAMED + "cat /p/1/comm /proc/1/comm"
    assert said(shell(look, mounts=[Proc("/p")])).split() == ["ramet-init"] * 2


def test_dev_has_only_the_harmless_devices():
    """/dev has the harmless devices, the links, an own devpts and shm, and nothing else; tty only where there is one."""
    names = set(said(shell("ls -A /dev")).split())
    assert names == {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "ptmx",
        "pts",
        "shm",
    }
    assert said(shell("cd /dev; stat -Lc %t:%T null zero full urandom")).split() == ["1:3", "1:5", "1:7", "1:9"]
    assert said(shell("test -r /dev/random && head -c 1 /dev/random | wc -c")) == "1"


def test_devices_work():
    """null swallows, zero gives, full refuses."""
    assert said(shell("echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 8 /dev/urandom | wc -c")).split() == [
        "3",
        "8",
    ]
    assert "No space left" in shell("cat /etc/hosts >/dev/full").stderr


def test_devpts_is_the_sandboxs_own():
    """No terminal of the host is in /dev/pts, and one opened inside has the first number."""
    code = "import os; m, s = os.openpty(); print(os.ttyname(s), sorted(os.listdir('/dev/pts')))"
    master, slave = os.openpty()
    try:
        assert said(python(code)) == "/dev/pts/0 ['0', 'ptmx']"
    finally:
        os.close(master)
        os.close(slave)


def test_shm_size():
    """shm_size= bounds /dev/shm, where semaphores and shared memory live."""
    mounts = [Dev(shm_size="1M")]
    assert not shell("head -c 1048577 /dev/zero >/dev/shm/x", mounts=mounts).ok
    assert shell("head -c 1048577 /dev/zero >/dev/shm/x").ok


def test_mqueue_is_of_the_own_ipc_namespace():
    """An mqueue shows this sandbox's queues only."""
    with Neighbour("touch /dev/mqueue/theirs", mounts=[Mqueue()]):
        assert said(shell("touch /dev/mqueue/mine; ls /dev/mqueue", mounts=[Mqueue()])) == "mine"
    assert not shell("ls /dev/mqueue").ok


# Symlink, File, Directory


def test_symlink_file_directory():
    """Links, files and directories are made as told, and are not there without."""
    mounts = [
        File("/made/file", b"con\0tent", mode=0o640),
        Directory("/made/dir", mode=0o750),
        Symlink("/made/link", "file"),
    ]
    script = "stat -c %a /made/file /made/dir; readlink /made/link; wc -c </made/link"
    assert said(shell(script, mounts=mounts, umask=0o077)).split() == ["640", "750", "file", "8"]
    assert not shell("test -e /made").ok


def test_file_in_the_root_cannot_be_changed():
    """A file made in the read-only root is read-only, one in /tmp is not."""
    mounts = [File("/etc/motd", "x\n"), File("/tmp/mine", "x\n")]
    result = shell("echo y >>/tmp/mine; cat /tmp/mine; echo y >>/etc/motd", mounts=mounts)
    assert result.stdout == "x\ny\n" and "Read-only file system" in result.stderr


def test_big_file():
    """A file's content may be large."""
    content = os.urandom(1 << 16) * 64
    import hashlib

    found = said(shell("sha256sum </big", mounts=[File("/big", content)]))
    assert found.split()[0] == hashlib.sha256(content).hexdigest()


def test_symlink_target_is_kept_as_it_is():
    """A symlink's target is not checked or changed: it is followed inside."""
    assert said(shell("readlink /l; cat /l", mounts=[Symlink("/l", "../../etc/../etc/hosts")])).startswith(
        "../../etc/../etc/hosts\n127.0.0.1"
    )


# Overlay


def layers(base, *names):
    """One directory a name, each with a file of its own and one that all have."""
    made = []
    for name in names:
        path = base / name
        path.mkdir()
        (path / f"only-{len(made)}").write_bytes(os.fsencode(name))
        (path / "same").write_text(f"{len(made)}\n")
        made.append(path)
    return made


def test_overlay_shows_all_topmost_first(shared_dir):
    """Of several lower directories all files are seen, and the first has the last word."""
    lower = layers(shared_dir, "a", "b", "c")
    assert said(shell("ls /o; cat /o/same", mounts=[Overlay("/o", lower)])).split() == [
        "only-0",
        "only-1",
        "only-2",
        "same",
        "0",
    ]
    assert said(shell("cat /o/same", mounts=[Overlay("/o", lower[::-1])])) == "2"


def test_overlay_throws_away(shared_dir):
    """Without upper what is written is seen inside, and gone afterwards; the lower directories are untouched."""
    (lower,) = layers(shared_dir, "a")
    lower.chmod(0o777)
    box = Sandbox(mounts=[Overlay("/o", [lower])])
    assert said(shell("echo new >/o/new; rm /o/same; ls /o", box)).split() == ["new", "only-0"]
    assert sorted(os.listdir(lower)) == ["only-0", "same"]
    assert said(shell("ls /o", box)).split() == ["only-0", "same"]


def test_overlay_keeps(shared_dir, open_dir):
    """With upper and work what is written is in upper afterwards; the lower directory is untouched."""
    (lower,) = layers(shared_dir, "a")
    for name in ("upper", "work"):
        (open_dir / name).mkdir()
        (open_dir / name).chmod(0o777)
    overlay = Overlay("/o", [lower], upper=open_dir / "upper", work=open_dir / "work")
    said(shell("echo new >/o/new", mounts=[overlay]))
    assert (open_dir / "upper/new").read_text() == "new\n"
    assert sorted(os.listdir(lower)) == ["only-0", "same"]
    assert said(shell("cat /o/new", mounts=[overlay])) == "new"


@pytest.mark.parametrize(
    "name", ["co:lon", "com,ma", "back\\slash", "all:of,them\\", 'quo"te', "bl ank", "e=qual", "\\,x", ":", "\udcff"]
)
def test_overlay_odd_names(shared_dir, open_dir, name):
    """Characters that mean something in overlay's options are only characters in a path: lower, upper and work."""
    (shared_dir / "l").mkdir()
    lower = layers(shared_dir / "l", name, "plain")
    for place in ("u", "w"):
        (open_dir / place).mkdir()
        (open_dir / place / name).mkdir()
        (open_dir / place / name).chmod(0o777)
    overlay = Overlay("/o", lower, upper=open_dir / "u" / name, work=open_dir / "w" / name)
    if "," in name and KERNEL < (6, 5):
        with pytest.raises(UnsupportedError, match="a comma in its path"):
            shell("true", mounts=[overlay])
        return
    assert said(shell("cat /o/same /o/only-1; echo x >/o/new", mounts=[overlay])).split() == ["0", "plain"]
    assert (open_dir / "u" / name / "new").exists()
    assert said(shell("cat /o/same", mounts=[Overlay("/o", lower)])) == "0"


def test_overlay_counts_against_disk(shared_dir):
    """What is thrown away is bounded by disk= while it is there."""
    (lower,) = layers(shared_dir, "a")
    script = "head -c 2000000 /dev/zero >/o/x && echo fits"
    assert said(shell(script, mounts=[Overlay("/o", [lower])])) == "fits"
    over = shell(script, mounts=[Overlay("/o", [lower])], disk="1M")
    assert "No space left" in over.stderr and not over.ok


def test_overlay_missing_lower(shared_dir):
    """A lower directory that is missing, or a file, is named by its index."""
    (lower,) = layers(shared_dir, "a")
    for bad, why in (("/nonexistent", "does not exist"), (lower / "same", "is not a directory")):
        with pytest.raises(SpecError, match=why) as caught:
            shell("true", mounts=[Overlay("/o", [lower, bad])])
        assert caught.value.field == "Sandbox.mounts[0].lower[1]"


# Order


def test_order_is_the_users(source):
    """Mounts are made in the order given: a later one can lie in an earlier one, and covers what is below it."""
    inner_last = [Tmpfs("/a"), Bind(source, "/a/b")]
    assert said(shell("ls /a /a/b", mounts=inner_last)).split() == ["/a:", "b", "/a/b:", "deep", "file"]
    inner_first = inner_last[::-1]
    assert said(shell("ls -A /a; echo end", mounts=inner_first)) == "end"


def test_hiding_is_noted(source):
    """A plan says when a later mount hides an earlier one, and says nothing otherwise."""
    import ramet

    hiding = ramet.Popen(["true"], mounts=[Bind(source, "/a/b"), Tmpfs("/a")])
    plain = ramet.Popen(["true"], mounts=[Tmpfs("/a"), Bind(source, "/a/b")])
    assert hiding.plan.notes == (
        "Sandbox.mounts[1] hides Sandbox.mounts[0]: it comes later and covers a place above it",
    )
    assert plain.plan.notes == ()
    hiding.close()
    plain.close()


@pytest.mark.parametrize("where", ["/tmp", "/home/user", "/etc/passwd", "/dev", "/proc", "/usr", "/etc"])
def test_a_users_mount_replaces_the_default_one(where, source):
    """Where the user puts something of their own, the default is not made at all, so it can't be found below."""
    import ramet

    thing = source / "file" if where == "/etc/passwd" else source
    with ramet.Popen(["/bin/true"], mounts=[Bind(source, "/unrelated")]) as before:
        before.wait()
    plan = ramet.run.__globals__["plan_for"](["true"], Sandbox(mounts=[Bind(thing, where)]))
    origins = [step.origin for stage in plan.stages.values() for step in stage.steps]
    defaults = [o for o in origins if o.startswith("default") and (f"{where}'" in o or o == f"default view: {where}")]
    assert defaults == []


def test_dev_replaced(source):
    """With a /dev of the user's own there is no default /dev."""
    assert said(shell("echo /dev/*", mounts=[Bind(source, "/dev")])) == "/dev/deep /dev/file"


def test_duplicate_destinations():
    """Two mounts with one destination are refused: one would hide the other."""
    with pytest.raises(SpecError, match="already the destination") as caught:
        Sandbox(mounts=[Tmpfs("/a"), Tmpfs("/a//")])
    assert caught.value.field == "Sandbox.mounts[1].destination"
