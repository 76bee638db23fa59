"""masked_paths and readonly_paths."""

import pytest
from inside import said, shell

from ramet import Bind, Sandbox, SpecError, StepError


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/cpuinfo"])
def test_masked_file_is_empty(path):
    """A masked file reads as empty; without the mask it has content."""
    assert said(shell(f"wc -c <{path}", masked_paths=[path])) == "0"
    assert int(said(shell(f"cat {path} | wc -c"))) > 0


@pytest.mark.parametrize("path", ["/etc/alternatives", "/proc/sys/kernel"])
def test_masked_directory_is_empty_and_read_only(path):
    """A masked directory is empty and nothing can be made in it; without the mask it has entries."""
    script = f"set -- {path}/*; test -e $1 && echo entries; echo x >{path}/x"
    masked = shell(script, masked_paths=[path])
    assert masked.stdout == "" and not masked.ok
    assert "entries" in shell(script).stdout


def test_masked_path_that_is_not_there():
    """Masking what does not exist is no error: it is as hidden as was asked."""
    assert said(shell("echo fine", masked_paths=["/nonexistent", "/nonexistent/deeper", "/proc/none"])) == "fine"


def test_mask_on_a_bind(shared_dir):
    """A path inside a bind can be masked; its sibling stays readable, and the host's file is untouched."""
    for name in ("secret", "public"):
        (shared_dir / name).write_text(name)
    box = Sandbox(mounts=[Bind(shared_dir, "/in")], masked_paths=["/in/secret"])
    assert said(shell("cat /in/secret /in/public", box)) == "public"
    assert (shared_dir / "secret").read_text() == "secret"


def test_mask_cannot_be_taken_away():
    """In namespaces of the payload's own a mask is locked."""
    script = "unshare -Urm sh -c 'umount /etc/passwd; wc -c </etc/passwd'"
    assert shell(script, nested_namespaces=True, masked_paths=["/etc/passwd"]).stdout.strip() == "0"


def test_mask_through_a_link_is_refused(small_rootfs):
    """A masked path whose name is a symlink would mask nothing that was meant: refused, and named."""
    with pytest.raises(StepError, match="mask /bin/cat"):
        shell("true", rootfs=small_rootfs, masked_paths=["/bin/cat"])


def test_readonly_path_in_a_writable_bind(open_dir):
    """A read-only path in a writable bind can't be written, its surroundings can."""
    (open_dir / "frozen").mkdir()
    (open_dir / "frozen").chmod(0o777)
    box = Sandbox(mounts=[Bind(open_dir, "/in", writable=True)], readonly_paths=["/in/frozen"])
    result = shell("echo a >/in/free && echo free; echo a >/in/frozen/x", box)
    assert result.stdout == "free\n" and "Read-only file system" in result.stderr
    said(shell("echo a >/in/frozen/x", mounts=box.mounts))


def test_readonly_file(open_dir):
    """A single file can be read-only."""
    (open_dir / "file").write_text("old")
    (open_dir / "file").chmod(0o666)
    box = Sandbox(mounts=[Bind(open_dir, "/in", writable=True)], readonly_paths=["/in/file"])
    assert "Read-only" in shell("echo new >/in/file", box).stderr
    assert (open_dir / "file").read_text() == "old"


def test_readonly_path_that_is_not_there():
    """A read-only path that does not exist is no error."""
    assert said(shell("echo fine", readonly_paths=["/tmp/none", "/none/at/all"])) == "fine"


def test_readonly_proc_sys():
    """/proc/sys can be made read-only for a payload with capabilities, as container runtimes do."""
    script = "echo 1 >/proc/sys/net/ipv4/ip_forward"
    rights = {"uid": 0, "gid": 0, "capabilities": {"NET_ADMIN", "SYS_ADMIN"}}
    assert "Read-only file system" in shell(script, readonly_paths=["/proc/sys"], **rights).stderr
    said(shell(script, **rights))


@pytest.mark.parametrize("field", ["masked_paths", "readonly_paths"])
def test_covered_paths_are_checked(field):
    """Relative paths, those with .. and the root itself are refused by index."""
    for bad in ("etc", "/a/../b", "/"):
        with pytest.raises(SpecError) as caught:
            Sandbox(**{field: ["/fine", bad]})
        assert caught.value.field == f"Sandbox.{field}[1]"
