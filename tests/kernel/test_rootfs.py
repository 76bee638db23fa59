"""The root of the sandbox's file system: minimal, empty, the host's, a directory."""

import errno
import os
from pathlib import Path

import pytest
from inside import as_root, as_user, said, shell

import ramet
from ramet import Bind, CommandError, Directory, File, Rootfs, Sandbox, SpecError, StepError, Tmpfs
from ramet.host.facts import facts
from ramet.run import prepared

MINIMAL = {"bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr"}


def test_minimal_holds_only_what_programs_need():
    """The default root has the programs, and nothing else of the host, not even the names of its directories."""
    import sys

    entries = set(said(shell("ls -A /")).split())
    python = {prefix.split("/")[1] for prefix in (sys.prefix, sys.base_prefix)}
    assert entries <= MINIMAL | python
    assert {"usr", "etc", "proc", "dev", "tmp", "home"} <= entries


@pytest.mark.parametrize(
    "path", ["/root", "/var", "/run", "/srv", "/mnt", "/boot", "/sys", "/etc/shadow", "/etc/ssh", "/etc/sudoers"]
)
def test_minimal_leaves_out_the_hosts_own(path):
    """What is personal or secret on the host is not there by default; rootfs="host" shows that the probe would see it."""
    if not os.path.lexists(path):
        pytest.skip(f"only where the host has {path}")
    below = [prefix for prefix, _ in facts().python if prefix.startswith(path + "/")]
    if below:  # the way to the running Python, and nothing beside it
        inside = said(shell(f"find {path} -path {below[0]} -prune -o -print"))
        assert all(below[0].startswith(line) for line in inside.split())
        return
    assert said(shell(f"test -e {path} || echo absent")) == "absent"
    assert said(shell(f"test -e {path} && echo there", rootfs="host")) == "there"


def test_home_of_the_host_is_not_there():
    """/home holds the sandbox's own empty home directory and nothing of the host's."""
    assert said(shell("ls -A /home; ls -A ~; echo $HOME")).split() == ["user", "/home/user"]


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/usr/x", "/dev/x", "/home/x", "/proc/x"])
def test_minimal_is_read_only(path):
    """Nothing can be made in the default root, nor in /dev; /tmp and the home directory are writable."""
    assert not shell(f"echo x >{path}").ok
    said(shell("echo x >/tmp/x && echo x >~/x && echo x >/dev/shm/x"))


def test_minimal_has_made_passwd_and_group():
    """/etc/passwd and /etc/group are made for the payload, not copied from the host."""
    passwd = said(shell("cat /etc/passwd", uid=4711))
    assert "user:x:4711:4711:" in passwd
    assert len(passwd.splitlines()) == 3
    assert said(shell("id -un", uid=4711)) == "user"


def test_minimal_runs_the_running_python():
    """The interpreter that calls ramet works inside under its own path."""
    import sys

    result = ramet.run([sys.executable, "-c", "import sys, json; print(sys.prefix)"], text=True)
    assert said(result) == sys.prefix


def test_running_python_is_read_only():
    """The running Python's prefix can be read inside, not changed."""
    import sys

    where = sys.prefix
    assert not shell(f"touch {where}/ramet-was-here").ok
    assert not os.path.exists(f"{where}/ramet-was-here")


def test_empty_has_nothing(small_rootfs):
    """rootfs="empty" holds what mounts= puts into it, and no defaults."""
    busybox = Bind(small_rootfs / "bin/busybox", "/busybox")
    listing = ramet.run(["/busybox", "ls", "-A", "/"], rootfs="empty", mounts=[busybox], text=True)
    assert said(listing) == "busybox"


def test_empty_without_the_command():
    """In an empty root the command is not found: exit code 127, and the hint says that it exists outside."""
    with pytest.raises(CommandError) as caught:
        ramet.run(["/usr/bin/true"], rootfs="empty")
    assert caught.value.exit_code == 127
    assert "exists outside" in caught.value.hint


def test_host_root_is_the_hosts_read_only():
    """rootfs="host" shows the host's root, and nothing in it can be changed."""
    inside = set(said(shell("ls -A /", rootfs="host")).split())
    assert set(os.listdir("/")) <= inside
    for path in ("/x", "/etc/x", "/var/tmp/x", "/usr/x"):
        result = shell(f"touch {path}", rootfs="host")
        assert "Read-only file system" in result.stderr
        assert not os.path.lexists(path)


def test_host_root_has_its_own_proc_dev_and_tmp():
    """With the host's root /proc, /dev and /tmp are still the sandbox's own."""
    script = "ls -A /tmp | wc -l; set -- /proc/[0-9]*; echo $#; test -e /dev/kmsg || echo no kmsg"
    # init and the shell, which counts them itself: the sides of a pipeline start in no order
    assert said(shell(script, rootfs="host")).splitlines() == ["0", "2", "no kmsg"]


def test_host_root_still_refuses_secrets():
    """The payload in the host's root is an ordinary user there: /etc/shadow and root's home stay closed."""
    if os.geteuid() == 0:
        assert Path("/etc/shadow").read_text(encoding="utf-8")
    assert "Permission denied" in shell("cat /etc/shadow", rootfs="host").stderr


def test_slash_is_the_hosts_root():
    """rootfs="/" means "host"."""
    assert Sandbox(rootfs="/").rootfs == "host"


def test_given_directory_is_the_root(small_rootfs):
    """rootfs=DIRECTORY makes it the root: its programs, its files, with /proc, /dev and /tmp of the sandbox's own."""
    found = said(
        shell(
            "cat /etc/hostname; ls -d /proc/self; ls /dev/null; echo x >/tmp/x; test -e /usr || echo no usr",
            rootfs=small_rootfs,
        )
    )
    assert found.split("\n") == ["in-the-rootfs", "/proc/self", "/dev/null", "no usr"]


def test_writes_refused(small_rootfs):
    """By default a given root is read-only, even where its modes would allow writing."""
    result = shell("echo x >/data/x", rootfs=Rootfs(small_rootfs))
    assert "Read-only file system" in result.stderr
    assert os.listdir(small_rootfs / "data") == []


def test_writes_discarded(small_rootfs):
    """writes="discarded": what is written can be read inside, and is gone afterwards."""
    rootfs = Rootfs(small_rootfs, writes="discarded")
    assert said(shell("echo x >/data/x; cat /data/x", rootfs=rootfs)) == "x"
    assert os.listdir(small_rootfs / "data") == []
    assert not shell("cat /data/x", rootfs=rootfs).ok


def test_writes_kept(small_rootfs):
    """writes="kept": what is written stays in the directory itself."""
    said(shell("echo x >/data/kept", rootfs=Rootfs(small_rootfs, writes="kept")))
    try:
        assert (small_rootfs / "data/kept").read_text() == "x\n"
    finally:
        (small_rootfs / "data/kept").unlink()


def test_mount_places_are_made_where_writes_are_discarded(small_rootfs):
    """With writes="discarded" a missing mount place is made for the run; the directory stays as it is."""
    before = sorted(os.listdir(small_rootfs))
    mounts = [Tmpfs("/new/deep"), File("/etc/made", "content\n"), Directory("/other")]
    rootfs = Rootfs(small_rootfs, writes="discarded")
    found = said(shell("cat /etc/made; test -d /new/deep && test -d /other && echo both", rootfs=rootfs, mounts=mounts))
    assert found.split() == ["content", "both"]
    assert sorted(os.listdir(small_rootfs)) == before


def test_missing_mount_place_in_a_read_only_root(small_rootfs):
    """With writes refused a missing mount place is an error that names the mount and the way out."""
    with pytest.raises(StepError, match="discarded") as caught:
        shell("true", rootfs=small_rootfs, mounts=[Tmpfs("/new")])
    assert caught.value.origin.startswith("Sandbox.mounts[0]")
    assert not (small_rootfs / "new").exists()


def test_missing_rootfs():
    """A root that does not exist is refused before anything runs."""
    with pytest.raises(SpecError, match="does not exist") as caught:
        shell("true", rootfs="/nonexistent/rootfs")
    assert caught.value.field == "Sandbox.rootfs.path"


def test_rootfs_that_is_a_file(tmp_path):
    """A root that is no directory is refused, and named."""
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SpecError, match="is not a directory") as caught:
        shell("true", rootfs=str(file))
    assert caught.value.field == "Sandbox.rootfs.path"


@as_user
def test_rootfs_in_a_private_directory_of_the_user(tmp_path):
    """An ordinary caller's own 0700 directories are in nobody's way: the payload is the caller, outside."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("mine")
    assert said(shell("cat /p/file", mounts=[Bind(private, "/p")])) == "mine"


@as_root
@pytest.mark.parametrize("writable", [False, True])
def test_bind_from_a_private_directory_of_root(tmp_path, writable):
    """A root caller can bind what lies below directories that only root may enter."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    given = private / "given"
    given.mkdir()
    given.chmod(0o755)
    (given / "file").write_text("shown")
    (given / "file").chmod(0o644)
    assert said(shell("cat /p/file", mounts=[Bind(given, "/p", writable=writable)])) == "shown"


@as_root
def test_writes_discarded_where_ids_cannot_be_mapped(small_rootfs, monkeypatch):
    """On a file system without idmapped mounts (tmpfs before Linux 6.3) a discarded root is shown as it is, to be
    read; with them, what its owner may write, the payload may."""
    rootfs = Rootfs(small_rootfs, writes="discarded")
    script = "echo x >/data/x && cat /data/x; touch /bin/new && echo as the owner"
    assert said(shell(script, rootfs=rootfs)).split("\n") == ["x", "as the owner"]
    clone = prepared._clone

    def refusing(real, attributes, namespace):
        if namespace is not None:
            raise OSError(errno.EINVAL, "Invalid argument", "mount_setattr")
        return clone(real, attributes, namespace)

    monkeypatch.setattr(prepared, "_clone", refusing)
    assert said(shell("cat /etc/hostname; touch /bin/new 2>&- || echo not ours", rootfs=rootfs)).split("\n") == [
        "in-the-rootfs",
        "not ours",
    ]
