"""ramet ps's eyes: which namespaces there are, who is in them, who owns them, what keeps them alive."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import need
from ramet import _core, lowlevel
from ramet.errors import SpecError
from ramet.flags import CLONE
from ramet.host.census import Census, Namespace, _read_mountinfo, parse_kinds, take_census
from ramet.host.namespaces import KINDS, Process, command_line, read_process, read_processes

MOUNT = 40 if os.uname().machine == "aarch64" else 165
MS_BIND = 4096
RAMET = [sys.executable, "-m", "ramet"]


def lsns(*options):
    """What lsns says: namespace id: (type, processes, lowest pid, parent, owner). None if it tripped over a process
    that ended while it looked."""
    columns = ["-o", "NS,TYPE,NPROCS,PID,PNS,ONS"]
    done = subprocess.run(["lsns", "-J", *columns, *options], capture_output=True, text=True, timeout=30)
    if done.returncode:
        return None
    rows, todo = {}, json.loads(done.stdout)["namespaces"]
    while todo:
        row = todo.pop()
        todo += row.get("children", [])
        rows[row["ns"]] = (row["type"], row["nprocs"], row["pid"], row["pns"] or None, row["ons"] or None)
    return rows


def ramet_ps(*options):
    """What ramet ps says, in the same form."""
    done = subprocess.run([*RAMET, "ps", "--json", *options], capture_output=True, text=True, check=True, timeout=30)
    return {
        each["ns"]: (each["type"], each["nprocs"], each["pid"], each["parent"], each["owner"])
        for each in json.loads(done.stdout)["namespaces"]
    }


OPTIONS = [[], ["-t", "net"], ["-t", "user"], ["-t", "pid", "-t", "mnt"]]


def lasting(row):
    """What does not change as long as a namespace is there: its kind, parent and owner."""
    return row[0], *row[3:]


@pytest.mark.parametrize("options", OPTIONS)
def test_equal_to_lsns(options, waiting):
    """ramet ps and lsns at the same moment: the same namespaces, kinds, parents and owners; of what the test has made the same
    counts and lowest pids too.

    On a busy machine not even two lsns are equal: what counts is what is in two, around ours, and processes come and go in all that
    is not the test's own. One that is nobody's for a moment is looked at again, as long as it is there. The counts of all of them are
    held against each other below, where nothing else runs.
    """
    need(shutil.which("lsns"), "lsns")
    made = waiting(CLONE.NEWUSER | CLONE.NEWNET | CLONE.NEWPID | CLONE.NEWNS | CLONE.NEWUTS)
    ids = {id for id in read_process(made.pid).ids.values() if id != os.stat("/proc/self/ns/cgroup").st_ino}
    alike, differing = {}, {}
    end = time.monotonic() + 45
    while (not ids & alike.keys() or differing) and time.monotonic() < end:
        before, ours, after = lsns(*options), ramet_ps(*options), lsns(*options)
        if before is None or after is None:
            continue
        differing = {id: told for id, told in differing.items() if id in after}
        for id in before.keys() & after.keys():
            told = [
                each if id in ids or each is None else lasting(each) for each in (before[id], ours.get(id), after[id])
            ]
            if told[0] == told[1] == told[2]:
                alike[id] = ours[id]
                differing.pop(id, None)
            elif told[0] == told[2] and id not in alike:
                differing[id] = told
    assert differing == {}
    assert made.pid in [alike[id][2] for id in ids & alike.keys()]


QUIET = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[1])
from test_census import OPTIONS, lsns, ramet_ps
from ramet import lowlevel
from ramet.flags import CLONE

read, write = os.pipe()
wait = [lowlevel.Call(63 if os.uname().machine == "aarch64" else 0, read, lowlevel.Buffer(8), 1)]
kinds = [CLONE.NEWUSER | CLONE.NEWNET, CLONE.NEWNS | CLONE.NEWUTS, CLONE.NEWPID | CLONE.NEWIPC | CLONE.NEWCGROUP]
made = [lowlevel.clone3(flags, child=wait) for flags in [*kinds, CLONE.NEWUSER | CLONE.NEWTIME, CLONE(0)]]
ended = lowlevel.clone3(CLONE.NEWNET, child=[])  # a zombie
os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT | lowlevel.WALL)
print(json.dumps([[sorted(lsns(*each).items()), sorted(ramet_ps(*each).items())] for each in OPTIONS]))
"""


def test_equal_to_lsns_where_nothing_else_runs():
    """In a pid namespace of their own the two are equal to the letter, at the first try, with zombies and all."""
    need(shutil.which("lsns") and shutil.which("unshare"), "lsns and unshare")
    alone = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"]
    argv = [*alone, sys.executable, "-c", QUIET, json.dumps(sys.path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=50)
    assert not done.returncode, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == len(OPTIONS) and len(told[0][0]) >= 15
    for theirs, ours in told:
        assert ours == theirs


def test_lsns_would_show_a_difference(waiting):
    """The control: with one more namespace, the two no longer say the same."""
    need(shutil.which("lsns"), "lsns")
    while (before := lsns("-t", "uts")) is None:
        pass
    made = waiting(CLONE.NEWUSER | CLONE.NEWUTS)
    new = read_process(made.pid).ids["uts"]
    now = ramet_ps("-t", "uts")
    # What has just ended may have had the number; the process is another.
    assert new in now and now[new] != before.get(new)


def test_a_child_is_found_with_what_is_its_own(waiting):
    """A child's new namespaces are its own, hang from ours, belong to its user namespace, and that to us."""
    made = waiting(CLONE.NEWUSER | CLONE.NEWNET | CLONE.NEWPID)
    plain = waiting(CLONE(0))
    census = take_census()
    process, us = census.processes[made.pid], census.processes[os.getpid()]
    assert census.own(process) == ("user", "pid", "net") and census.own(census.processes[plain.pid]) == ()
    user, net, pid, uts = (census.namespaces[process.ids[kind]] for kind in ("user", "net", "pid", "uts"))
    assert [each.pids for each in (user, net, pid)] == [[made.pid]] * 3 and made.pid in uts.pids
    assert (user.parent, user.owner, user.owner_uid) == (us.ids["user"], us.ids["user"], os.geteuid())
    assert net.owner == pid.owner == user.id and net.parent is None and pid.parent == us.ids["pid"]


def become_root_of_a_user_namespace():
    """In a user namespace of one's own, as its uid and gid 0."""
    uid, gid = os.geteuid(), os.getegid()
    lowlevel.unshare(CLONE.NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    return os.stat("/proc/self/ns/user").st_ino


def test_a_user_namespace_that_nobody_is_in(beside):
    """One between two others is found by its child: with no process, and ours as its parent."""

    def twice():
        middle = become_root_of_a_user_namespace()
        lowlevel.unshare(CLONE.NEWUSER)
        return middle, os.stat("/proc/self/ns/user").st_ino

    middle, inner = beside(twice)
    census = take_census()
    found = census.namespaces[middle]
    assert (found.pids, found.parent, found.owner_uid) == ([], read_process(os.getpid()).ids["user"], os.geteuid())
    assert census.kept_by_children(found) == [inner] and census.namespaces[inner].pids


def test_a_namespace_that_a_bind_mount_keeps_alive(in_child, tmp_path):
    """Bound to a file and left by its process, it is shown with no process and the file's path."""
    place = tmp_path / "a place"
    place.touch()

    def bind():
        become_root_of_a_user_namespace()
        lowlevel.unshare(CLONE.NEWNS)
        lowlevel.unshare(CLONE.NEWNET)
        id = read_process(os.getpid()).ids["net"]
        target = os.fsencode(place) + b"\0"
        _core.syscall("mount", MOUNT, b"/proc/self/ns/net\0", target, b"none\0", MS_BIND, 0)
        while_in_it = take_census().namespaces[id].pids
        lowlevel.unshare(CLONE.NEWNET)  # and so leave it
        found = take_census().namespaces[id]
        mine = read_process(os.getpid()).ids["user"]
        return [while_in_it == [os.getpid()], found.kind, found.pids, found.mounts, found.owner == mine]

    assert in_child(bind) == [True, "net", [], [str(place)], True]


def test_a_namespace_that_only_a_descriptor_keeps_alive(waiting):
    """It is found when descriptors are looked at, and only then."""
    made = waiting(CLONE.NEWUSER | CLONE.NEWIPC)
    fd = os.open(f"/proc/{made.pid}/ns/ipc", os.O_RDONLY)
    try:
        id = os.fstat(fd).st_ino
        os.kill(made.pid, 9)
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT | lowlevel.WALL)
        assert id not in take_census().namespaces
        found = take_census(descriptors=True).namespaces[id]
        assert (os.getpid(), fd) in found.descriptors and found.pids == []
    finally:
        os.close(fd)


def test_a_namespace_that_waits_for_children(in_child):
    """After unshare(CLONE_NEWTIME) nobody is in the new one; it is shown as the one for the process's children."""

    def unshared():
        lowlevel.unshare(CLONE.NEWUSER | CLONE.NEWTIME)
        us = read_process(os.getpid())
        found = take_census().namespaces[us.children["time"]]
        return [found.pids, found.awaiting == [os.getpid()], us.ids["time"] != found.id]

    assert in_child(unshared) == [[], True, True]


def test_what_may_not_be_looked_at_is_counted(in_child):
    """For an ordinary user others' processes are hidden, and nothing is said of them; its own are not."""
    other = os.getpid() if os.geteuid() == 0 else 1

    def look():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65000, 65000, 65000)
            os.setresuid(65000, 65000, 65000)
        census = take_census()
        members = {pid for each in census.namespaces.values() for pid in each.pids}
        return [other in census.hidden, other in members, os.getpid() in census.hidden, os.getpid() in members]

    assert in_child(look) == [True, False, False, True]


def made_up(pid, parent, **different):
    ids = dict.fromkeys(KINDS, 100) | different
    return Process(pid, parent=parent, command="made up", ids=ids, children={})


def test_own_needs_both_to_be_seen():
    """What can't be read is neither own nor shared."""
    parent, child = made_up(1, 0, net=None), made_up(2, 1, net=7, ipc=8, uts=None)
    census = Census({1: parent, 2: child}, {}, caller=parent)
    assert census.own(child) == ("ipc",) and not census.comparable(child) and census.hidden == [1, 2]
    assert census.own(parent) == () and census.parent_of(parent) is None


def test_mountinfo_is_read_as_it_is_written(tmp_path):
    """Paths come in octal where they hold blanks; only nsfs counts; /proc's hidepid is told."""
    file = tmp_path / "mountinfo"
    file.write_text(
        "1 2 0:4 net:[4026532000] /run/a\\040b\\134c rw shared:1 - nsfs nsfs rw\n"
        "1 2 0:4 / /run/net:[1] rw - tmpfs tmpfs rw\n"
        "1 2 0:4 / /proc rw,nosuid - proc proc rw,hidepid=invisible\n"
    )
    assert _read_mountinfo(str(file), "/proc") == ([(4026532000, "net", "/run/a b\\c")], "invisible")
    file.write_text("1 2 0:4 / /proc rw,nosuid - proc proc rw\n")
    assert _read_mountinfo(str(file), "/proc") == ([], "")
    assert _read_mountinfo(str(tmp_path / "none"), "/proc") == ([], "")


def test_no_proc(tmp_path):
    """Without /proc there is an error that says so, not an empty list."""
    with pytest.raises(SpecError, match="shows no process"):
        read_processes(proc=str(tmp_path))


def test_kinds_by_name():
    """Kinds come in the usual order, under the kernel's names; what is none is answered with the nearest."""
    assert parse_kinds("net, mount,user", "-t") == ("user", "mnt", "net")
    assert parse_kinds("network", "-t") == ("net",)
    with pytest.raises(SpecError, match="did you mean 'cgroup'"):
        parse_kinds("cgruop", "-t")
    with pytest.raises(SpecError):
        parse_kinds("", "-t")


def test_command_lines(waiting):
    """Arguments as the process shows them; its short name where it has none, as kernel threads."""
    us = read_process(os.getpid())
    assert "pytest" in command_line(us)
    assert command_line(made_up(2**22 + 1, 1)) == "made up"
    assert Namespace(1, "net").pids == []


def test_a_zombie_is_not_hidden(waiting):
    """One that has ended is in hardly any namespace; that is not for want of a right to look, and not called so."""
    made = waiting(CLONE.NEWUSER | CLONE.NEWNET)
    assert read_process(made.pid).ids["net"]
    os.kill(made.pid, 9)
    os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT | lowlevel.WALL)
    census = take_census()
    zombie = census.processes[made.pid]
    assert (zombie.state, zombie.ids["net"], zombie.hidden) == ("Z", 0, ()) and made.pid not in census.hidden
    assert made.pid not in [pid for each in census.namespaces.values() if each.kind == "net" for pid in each.pids]


def test_the_user_is_the_effective_one(in_child):
    """Also of a process that may not be dumped, whose files in /proc/PID are root's."""

    def undumpable():
        prctl, set_dumpable = (167 if os.uname().machine == "aarch64" else 157), 4
        _core.syscall("prctl", prctl, set_dumpable, 0, 0, 0, 0)
        return [read_process(os.getpid()).uid, os.stat(f"/proc/{os.getpid()}/environ").st_uid]

    uid, owner = in_child(undumpable)
    assert uid == os.geteuid() and owner == 0
