"""The end of groups: killed, removed, and swept where their caller has died; nobody else's touched."""

import os
import signal
import subprocess
import sys
import time

import pytest
from group_payloads import need_limits, ours, running, until

from needs import as_root, only
from ramet import cgroups
from ramet.cgroups import ending, files, owners

SLEEPS = "import time; print('here', flush=True); time.sleep(600)"
#: Makes others faster than a list of them can be read.
BREEDS = """if 1:
    import os, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("here", flush=True)
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
            elif os.getpid() % 3 == 0:
                os._exit(0)
        except OSError:
            pass
"""


def test_kill_ends_all_at_once(group, inside):
    """Processes that multiply, leave the session and ignore SIGTERM are all gone; before, they were there."""
    need_limits("processes")
    one = group(processes=20)
    breeds = inside(one, BREEDS)
    breeds.read()
    assert until(lambda: len(one.pids()) >= 10)
    one.kill()
    assert until(lambda: one.pids() == [])
    assert one.remove(40)


@pytest.mark.parametrize("without", ["cgroup.kill", "cgroup.kill and freezer"])
def test_kill_where_the_kernel_has_no_call_for_it(group, inside, monkeypatch, without):
    """Frozen (or unable to fork), each one signalled, thawed: the same end as by cgroup.kill."""
    need_limits("processes")
    monkeypatch.setattr(ending, "kill_by_kernel", lambda fd, name: False)
    if without != "cgroup.kill":
        monkeypatch.setattr(ending, "_freeze", lambda *_: None)
    one = group(processes=20)
    inside(one, BREEDS).read()
    assert until(lambda: len(one.pids()) >= 10)

    def gone():
        one.kill()
        return one.pids() == []

    assert until(gone)


def test_kill_reaches_what_is_frozen(group, inside):
    """A frozen process is killed too, by cgroup.kill or after a thaw."""
    one = _any_group(group)
    spot = one.unified
    only(spot is not None, "where a group of version 2 is the caller's")
    sleeps = inside(one, SLEEPS)
    sleeps.read()
    files.put(spot.fd, f"{one.name}/cgroup.freeze", "1")
    assert until(lambda: "frozen 1" in files.get(spot.fd, f"{one.name}/cgroup.events"))
    one.kill()
    assert sleeps.wait() == -signal.SIGKILL


def _any_group(group):
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    return group()


def test_frozen_by_version_1(inside):
    """A process that the freezer of version 1 holds doesn't die of SIGKILL before it is thawed; here it is."""
    spot = cgroups.find().by_controller.get("freezer")
    only(spot is not None, "where the freezer of version 1 is the caller's")
    name = owners.new_name()
    os.mkdir(name, dir_fd=spot.fd)
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        files.put(spot.fd, f"{name}/cgroup.procs", str(sleeper.pid))
        files.put(spot.fd, f"{name}/freezer.state", "FROZEN")
        assert until(lambda: files.get(spot.fd, f"{name}/freezer.state") == "FROZEN\n")
        sleeper.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            sleeper.wait(0.2)
        ending.kill_each(spot.fd, name, version=1, freeze="freezer.state")
        assert sleeper.wait(10) == -signal.SIGKILL
    finally:
        sleeper.kill()
        files.put(spot.fd, f"{name}/freezer.state", "THAWED")
        sleeper.wait()
        assert until(lambda: ending.remove(spot.fd, name))


def test_close_kills_and_removes(inside):
    """close() on a group in use: the process is killed, the directory is gone; remove() alone does neither."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    one = cgroups.make(cgroups.Limits())
    sleeps = inside(one, SLEEPS)
    sleeps.read()
    assert one.remove(0.05) is False and running(sleeps.pid)
    paths = [f"{spot.path}/{one.name}" for spot in one._made]
    assert all(map(os.path.isdir, paths))
    assert one.close(40) is True
    assert not any(map(os.path.exists, paths))
    assert sleeps.wait() == -signal.SIGKILL
    assert one.close(40) is True  # again: nothing to do


def test_groups_within_go_first(inside):
    """Groups that were made in it, two levels deep and with a process in the deepest, are killed and removed with it."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    one = cgroups.make(cgroups.Limits())
    spot = one._made[0]
    os.makedirs(f"{spot.path}/{one.name}/a/b")
    os.mkdir(f"{spot.path}/{one.name}/c")
    sleeps = inside(one, SLEEPS)
    sleeps.read()
    files.put(spot.fd, f"{one.name}/a/b/cgroup.procs", str(sleeps.pid))
    assert sleeps.pid in one.pids()
    assert one.close(40) is True
    assert not os.path.exists(f"{spot.path}/{one.name}")
    assert sleeps.wait() == -signal.SIGKILL


CALLER = """if 1:
    import sys
    sys.path[:0] = sys.argv[2:]
    from ramet import cgroups
    import os, time
    one = cgroups.make(cgroups.Limits())
    if sys.argv[1] == "busy" and os.fork() == 0:
        for spot in one._made:
            with open(f"{spot.path}/{one.name}/cgroup.procs", "w") as file:
                file.write("0")
        print(one.name, os.getpid(), flush=True)
        time.sleep(600)
    if sys.argv[1] == "empty":
        print(one.name, 0, flush=True)
    time.sleep(600)
"""


def caller(kind):
    """Another caller with a group of its own; (the process, the group's name, a process in the group)."""
    process = subprocess.Popen([sys.executable, "-c", CALLER, kind, *sys.path], stdout=subprocess.PIPE, text=True)
    name, pid = process.stdout.readline().split()
    return process, name, int(pid)


@pytest.mark.parametrize("kind", ["empty", "busy"])
def test_sweep_removes_what_a_dead_caller_left(kind):
    """A living caller's group is let alone; once it is SIGKILLed the group is swept, and what is in it killed."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    process, name, pid = caller(kind)
    try:
        mine = {path for path in ours() if path.endswith(name)}
        assert mine
        assert not set(cgroups.sweep()) & mine and mine <= ours()
        assert kind == "empty" or running(pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    # Or that of another caller on this machine was faster. One sweep gives what it kills a second to go.
    assert until(lambda: cgroups.sweep() is not None and not mine & ours())
    assert kind == "empty" or until(lambda: not running(pid))


def test_a_zombie_is_dead():
    """A caller that has ended and waits to be reaped doesn't keep its group."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    process, name, _ = caller("empty")
    mine = {path for path in ours() if path.endswith(name)}
    process.kill()
    try:
        assert mine and until(lambda: not running(process.pid))
        assert until(lambda: cgroups.sweep() is not None and not mine & ours())
        assert os.path.exists(f"/proc/{process.pid}")  # still to be reaped
    finally:
        process.wait()
        process.stdout.close()


def test_sweep_leaves_everybody_elses():
    """Not swept: one of another pid namespace, one whose name says nothing, our own; and the same of a dead pid is."""
    place = cgroups.find()
    only(place.spots, "where any hierarchy is the caller's")
    spot = place.spots[0]
    mine = owners.own()
    ended = subprocess.Popen(["true"])
    ended.wait()
    foreign = [
        f"ramet-{ended.pid}-1-1234.5678-1",
        f"ramet-{mine.pid}-{mine.start}-{mine.domain}-999999",
        f"ramet-{ended.pid}-1-{mine.domain}",
        f"ramet-test-{mine.pid}",
    ]
    theirs = f"ramet-{ended.pid}-1-{mine.domain}-1"
    made = []
    try:
        for name in [*foreign, theirs]:
            os.mkdir(name, dir_fd=spot.fd)
            made.append(name)
        cgroups.sweep()  # or that of another caller on this machine was faster
        assert not os.path.exists(f"{spot.path}/{theirs}")
        assert [name for name in foreign if not os.path.isdir(f"{spot.path}/{name}")] == []
    finally:
        for name in made:
            ending.remove(spot.fd, name)


@as_root
def test_sweep_leaves_another_users():
    """A dead pid's group that belongs to somebody else is left to them."""
    spot = cgroups.find().spots[0]
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = f"ramet-{ended.pid}-1-{owners.own().domain}-1"
    os.mkdir(name, dir_fd=spot.fd)
    try:
        os.chown(name, 65000, 65000, dir_fd=spot.fd)
        assert f"{spot.path}/{name}" not in cgroups.sweep() and os.path.isdir(f"{spot.path}/{name}")
        os.chown(name, 0, 0, dir_fd=spot.fd)
        cgroups.sweep()  # or that of another caller on this machine was faster
        assert not os.path.exists(f"{spot.path}/{name}")
    finally:
        ending.remove(spot.fd, name)


def test_a_pid_that_was_given_again():
    """The same pid with another start time is somebody else: the owner is dead. With the same it is alive."""
    mine = owners.own()
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        start = owners._start(open(f"/proc/{sleeper.pid}/stat").read())
        assert owners.dead(owners.Owner(sleeper.pid, start - 1, mine.domain), mine)
        assert not owners.dead(owners.Owner(sleeper.pid, start, mine.domain), mine)
        assert not owners.dead(owners.Owner(sleeper.pid, start - 1, "1.2"), mine)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_leader_that_left_its_threads():
    """A process whose first thread has ended while another runs looks like a zombie, and is alive."""
    code = """if 1:
        import ctypes, threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        print("here", flush=True)
        ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[__import__("os").uname().machine], 0)
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        assert until(lambda: open(f"/proc/{process.pid}/stat").read().rpartition(")")[2].split()[0] == "Z")
        start = owners._start(open(f"/proc/{process.pid}/stat").read())
        assert not owners.dead(owners.Owner(process.pid, start, owners.own().domain), owners.own())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_fork_leaves_its_parents_groups(inside):
    """In a fork, close() of the parent's group closes descriptors and no more; the parent's then works as before."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    one = cgroups.make(cgroups.Limits())
    path = f"{one._made[0].path}/{one.name}"
    child = os.fork()
    if child == 0:
        os._exit(5 if one.close() is False and os.path.isdir(path) else 6)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    assert os.path.isdir(path)
    assert one.close(40) is True and not os.path.exists(path)


def test_a_fork_makes_groups_of_its_own_name():
    """After a fork, groups are named after the fork: a sweep would otherwise take the parent's death for its own."""
    name = owners.new_name()
    assert owners.parsed(name).pid == os.getpid()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, owners.new_name().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert owners.parsed(os.read(reader, 200).decode()).pid == child
    os.close(reader)
    os.close(writer)


def test_close_waits_no_longer_than_told(group):
    """With a process that can't be killed close gives up in time, and says so."""
    only(cgroups.find().spots, "where any hierarchy is the caller's")
    one = cgroups.make(cgroups.Limits())
    within = f"{one._made[0].path}/{one.name}/in"
    os.mkdir(within)
    real = ending.remove
    try:
        ending.remove = lambda fd, name: False if name.endswith("/in") else real(fd, name)
        begin = time.monotonic()
        assert one.close(0.2) is False
        assert time.monotonic() - begin < 30
    finally:
        ending.remove = real
    assert one.close(40) is True and not os.path.exists(within)
