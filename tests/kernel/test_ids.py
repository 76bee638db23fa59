"""User and group ids: who the payload is inside, and who that is outside."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from inside import OUTSIDE_ID, Neighbour, as_root, as_user, said, shell

import ramet
from needs import need
from ramet import Bind, HelperError, IdMapping, Sandbox, SpecError, UnsupportedError


def status_outside(pid):
    """Uid, Gid and Groups of a process, as the caller sees them."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {line.split(":")[0]: line.split()[1:] for line in lines if ":" in line}


def test_default_ids():
    """The payload is 1000 inside by default, with no group but its own."""
    assert said(shell("id -u; id -g; id -G")).split() == ["1000", "1000", "1000"]


@pytest.mark.parametrize("uid", [0, 1, 1000, 65534, 4294967294])
def test_any_id_inside_is_the_same_one_outside(uid):
    """Whatever uid is asked for inside, outside it is the caller's own, or 65533 for a root caller: never 0."""
    with Neighbour("id -u; id -g", uid=uid, gid=uid) as box:
        assert box.lines == [str(uid), str(uid)]
        found = status_outside(box.process.pid)
        assert found["Uid"] == found["Gid"] == [str(OUTSIDE_ID)] * 4


def test_no_groups_of_the_caller():
    """No supplementary group of a root caller reaches the payload; an ordinary caller's stay unmapped."""
    with Neighbour() as box:
        groups = status_outside(box.process.pid)["Groups"]
    assert groups == ([] if os.geteuid() == 0 else [str(g) for g in sorted(os.getgroups())])
    assert "0" not in groups


def test_one_line_maps():
    """uid_map and gid_map have one line, from the asked id to the caller's."""
    maps = said(shell("cat /proc/self/uid_map /proc/self/gid_map", uid=7, gid=8)).split()
    assert maps == ["7", str(OUTSIDE_ID), "1", "8", str(OUTSIDE_ID), "1"]


def test_setgroups_is_denied_where_it_must_be():
    """An unprivileged writer of gid_map has given up setgroups; a privileged one has not."""
    assert said(shell("cat /proc/self/setgroups")) == ("allow" if os.geteuid() == 0 else "deny")


def test_file_made_inside_is_the_callers_outside(open_dir):
    """A file that the payload makes in a writable bind belongs, outside, to the id it is mapped to."""
    said(shell("echo hello >/data/new", mounts=[Bind(open_dir, "/data", writable=True)]))
    made = (open_dir / "new").stat()
    assert made.st_uid in ({OUTSIDE_ID, open_dir.stat().st_uid})
    assert (open_dir / "new").read_text() == "hello\n"


@as_root
def test_root_maps_directly():
    """A root caller's explicit ranges are written as they are: payload and groups are those ids outside."""
    lines = [IdMapping(0, 300000, 1000)]
    with Neighbour("id -u; id -G", uid=5, gid=6, groups=(7, 8), uid_mappings=lines, gid_mappings=lines) as box:
        assert box.lines == ["5", "6 7 8"]
        found = status_outside(box.process.pid)
    assert found["Uid"] == ["300005"] * 4
    assert found["Gid"] == ["300006"] * 4
    assert found["Groups"] == ["300007", "300008"]


@as_root
def test_host_root_only_when_it_is_mapped():
    """Uid 0 outside is reached by no default, only by a mapping that says so."""
    with Neighbour("id -u", uid=0, gid=0) as box:
        assert status_outside(box.process.pid)["Uid"] == [str(OUTSIDE_ID)] * 4
    line = IdMapping(0, 0)
    with Neighbour("id -u", uid=0, gid=0, uid_mappings=line, gid_mappings=line) as box:
        assert status_outside(box.process.pid)["Uid"] == ["0"] * 4


@as_root
def test_files_by_other_mapped_ids(open_dir):
    """A payload that is 0 in a range with CAP_CHOWN can give files to the range's other ids, and to no others."""
    lines = [IdMapping(0, 300000, 1000)]
    open_dir.chmod(0o777)
    result = shell(
        "touch /data/a /data/b; chown 42:43 /data/a; chown 5000:5000 /data/b || echo refused",
        uid=0,
        gid=0,
        uid_mappings=lines,
        gid_mappings=lines,
        capabilities={"chown"},
        mounts=[Bind(open_dir, "/data", writable=True, idmap=False)],
    )
    assert said(result) == "refused"
    made = (open_dir / "a").stat()
    assert (made.st_uid, made.st_gid) == (300042, 300043)
    assert (open_dir / "b").stat().st_uid == 300000


@as_user
def test_groups_need_more_than_one_mapped_group():
    """An ordinary caller with a one-line map who asks for groups is told what would map them."""
    with pytest.raises(SpecError, match="subordinate") as caught:
        shell("true", groups=(5,))
    assert caught.value.field == "Sandbox.groups"


@as_user
def test_range_that_is_not_the_callers():
    """A range that /etc/subuid does not give the caller is refused by newuidmap; its words are in the error."""
    lines = [IdMapping(0, 300000, 1000)]
    with pytest.raises(HelperError, match="newuidmap") as caught:
        shell("true", uid=0, gid=0, uid_mappings=lines, gid_mappings=lines)
    assert caught.value.argv[-3:] == ["0", "300000", "1000"]
    assert "hint: " in str(caught.value)


def test_id_that_no_line_maps():
    """A uid that the mappings don't cover is refused by the spec, and the field named."""
    with pytest.raises(SpecError) as caught:
        Sandbox(uid=5, uid_mappings=[IdMapping(0, 1000)])
    assert caught.value.field == "Sandbox.uid"


def has_subordinate_ids():
    """Does this user have lines in /etc/subuid and /etc/subgid?"""
    try:
        owners = {str(os.geteuid()), pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:
        owners = {str(os.geteuid())}

    def has(path):
        try:
            return any(line.split(":")[0] in owners for line in open(path, encoding="ascii"))
        except OSError:
            return False

    return has("/etc/subuid") and has("/etc/subgid")


SUBORDINATE = {"uid_mappings": "subordinate", "gid_mappings": "subordinate"}

#: In a mount namespace of its own with an /etc/subuid of its own: the host's is untouched. Run by unshare(1).
WITH_SUBUIDS = r"""
set -eu
mount --make-rprivate /
dir=$(mktemp -d) && trap 'rm -rf $dir' EXIT
chmod 755 $dir
cp /etc/passwd /etc/group $dir/
grep -q '^rametsub:' $dir/passwd || echo 'rametsub:x:64999:64999::/:/bin/sh' >>$dir/passwd
grep -q '^rametsub:' $dir/group || echo 'rametsub:x:64999:' >>$dir/group
printf 'rametsub:700000:65536\nroot:800000:65536\n' | tee $dir/subuid >$dir/subgid
chmod 644 $dir/*
for file in passwd group subuid subgid; do
    [ -e /etc/$file ] || exit 77
    mount --bind $dir/$file /etc/$file
done
"$@"
"""

INNER = """
import sys, ramet
sub = dict(uid_mappings="subordinate", gid_mappings="subordinate")
result = ramet.run(["sh", "-c", "cat /proc/self/uid_map; id -u; id -G"], text=True, **sub, **eval(sys.argv[1]))
print(result.stdout, result.stderr)
box = ramet.Popen(["cat"], stdin=ramet.PIPE, **sub, **eval(sys.argv[1]))
print("outside", [l for l in open(f"/proc/{box.pid}/status") if l[:4] in ("Uid:", "Grou")])
box.close()
"""


def run_with_subuids(user, fields, tmp_path):
    """Run INNER as root or as an ordinary user whose subordinate ids are known, host files untouched."""
    script = tmp_path / "with_subuids"
    script.write_text(WITH_SUBUIDS)
    become = [] if user == "root" else ["setpriv", "--reuid", "64999", "--regid", "64999", "--clear-groups"]
    command = ["unshare", "-m", "sh", str(script), *become, sys.executable, "-c", INNER, repr(fields)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    if done.returncode == 77:
        need(False, "/etc/subuid and /etc/subgid to exist: apt-get install uidmap")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@as_root
def test_subordinate_ids_of_an_ordinary_user(tmp_path):
    """An ordinary user with a line in /etc/subuid gets 65536 ids through newuidmap; the payload is itself outside."""
    words = run_with_subuids("rametsub", {"groups": (5,)}, tmp_path)
    assert words[:9] == ["0", "700000", "1000", "1000", "64999", "1", "1001", "701001", "64535"]
    assert words[9:12] == ["1000", "1000", "5"]
    outside = " ".join(words[words.index("outside") :])
    assert outside.count("64999") == 4
    assert "700005" in outside


@as_root
def test_subordinate_ids_of_root(tmp_path):
    """For a root caller "subordinate" maps root's line of /etc/subuid, and the payload is still not 0 outside."""
    words = run_with_subuids("root", {"groups": (5,)}, tmp_path)
    assert words[:9] == ["0", "800000", "1000", "1000", "65533", "1", "1001", "801001", "64535"]
    outside = " ".join(words[words.index("outside") :])
    assert outside.count("65533") == 4
    assert "800005" in outside


@pytest.mark.skipif(not has_subordinate_ids(), reason="only with a line in /etc/subuid and /etc/subgid")
def test_subordinate_ids_here():
    """A user who has subordinate ids can have the groups, and the ids, that they make."""
    assert said(shell("id -u; id -G; wc -l < /proc/self/uid_map", groups=(5,), **SUBORDINATE)).split() == [
        "1000",
        "1000",
        "5",
        "3",
    ]


@pytest.mark.skipif(has_subordinate_ids(), reason="only without a line in /etc/subuid and /etc/subgid")
def test_no_subordinate_ids():
    """Without a line in /etc/subuid "subordinate" is an error that names the file and the command to run."""
    with pytest.raises(UnsupportedError, match="/etc/subuid has no line") as caught:
        shell("true", **SUBORDINATE)
    assert "usermod --add-subuids" in caught.value.hint


def test_ids_survive_as_pid1():
    """Without init the payload has the same ids."""
    assert said(shell("id -u; id -g", uid=12, gid=13, as_pid1=True)).split() == ["12", "13"]


def test_setuid_files_give_nothing(open_dir):
    """A set-uid file in a bind changes nothing: every bind is nosuid."""
    import shutil

    program = open_dir / "id"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    line = said(shell("/data/id -u", mounts=[Bind(open_dir, "/data")], no_new_privs=False))
    assert line == "1000"
    mounts = said(shell("grep ' /data ' /proc/self/mounts", mounts=[Bind(open_dir, "/data")]))
    assert "nosuid" in mounts and "nodev" in mounts
    assert ramet.run(["true"]).ok
