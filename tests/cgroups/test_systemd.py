"""Where systemd manages the groups: a scope of our own, asked for over a real bus of a systemd that is made up."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from group_payloads import PATIENCE, running, until

from needs import need, only
from ramet import cgroups
from ramet.cgroups import ending, files, systemd

USER = 65534  # nobody: a bus has to find its user in the table
#: Makes a group with limits where systemd is thought to run; says where, and who keeps the scope.
CALLER = """if 1:
    import json, sys
    sys.path[:0] = sys.argv[2:]
    from ramet import cgroups
    from ramet.cgroups import systemd
    systemd.BOOTED = "/"
    systemd.ANSWER_AT_MOST = 40
    if sys.argv[1] == "without":
        sys.modules["jeepney"] = None
    place = cgroups.find()
    two = [s.path for s in place.spots if s.version == 2]
    made = None
    if two:
        with cgroups.make(cgroups.Limits()) as group:
            made = group.unified.path
    keeper = place.keeper and place.keeper.keeper
    print(json.dumps({"two": two, "made": made, "keeper": keeper, "facts": place.facts}), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[0, USER], ids=["root", "user"])
def session(request, tmp_path_factory):
    """A group that is systemd's, the caller's leaf in it, a bus; (environ, preexec_fn, requests, directory)."""
    uid = request.param
    spot = cgroups.find().unified
    only(spot is not None and os.geteuid() == 0, "as root, where there is version 2")
    need(shutil.which("dbus-daemon"), "dbus-daemon: apt-get install dbus-daemon")
    pytest.importorskip("jeepney")
    name = f"test-systemd-{os.getpid()}.slice"
    base = f"{spot.path}/{name}"
    os.makedirs(f"{base}/session.scope")
    files.put(spot.fd, f"{name}/cgroup.subtree_control", " ".join(f"+{one}" for one in spot.controllers))
    for path in (base, *(f"{base}/{one}" for one in ("cgroup.procs", "session.scope", "session.scope/cgroup.procs"))):
        os.chown(path, uid, uid)
    directory = tmp_path_factory.mktemp("bus")
    os.chmod(directory, 0o777)
    address = f"unix:path=/tmp/ramet-bus-test-{os.getpid()}-{uid}"

    def become():
        with open(f"{base}/session.scope/cgroup.procs", "w") as file:
            file.write("0")
        be_user(uid)

    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={address}", "--print-address"],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: be_user(uid),
    )
    bus.stdout.readline()
    started = []

    def serve(**environ):
        script = os.path.join(os.path.dirname(__file__), "made_up_systemd.py")
        argv = [sys.executable, script, address, base, str(uid)]
        options = {"env": os.environ | environ, "preexec_fn": lambda: be_user(uid)}  # as a user's own systemd is
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, **options))
        assert started[-1].stdout.readline() == "ready\n"
        return started[-1].stdout

    variable = "DBUS_SESSION_BUS_ADDRESS" if uid else "DBUS_SYSTEM_BUS_ADDRESS"
    yield os.environ | {variable: address}, become, serve, base
    for process in (*started, bus):
        process.kill()
        process.wait()
        process.stdout.close()
    if os.path.exists(address.removeprefix("unix:path=")):
        os.unlink(address.removeprefix("unix:path="))
    for _ in ending.waits(5 * PATIENCE):
        if ending.remove_tree(spot.fd, name):
            return
        ending.kill_by_kernel(spot.fd, name)
    raise AssertionError("the group could not be removed")


def be_user(uid):
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def caller(environ, become, kind="with"):
    """A caller in its leaf, and what it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, kind, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        preexec_fn=become,
    )
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return process, json.loads(line)


def end(process):
    process.communicate()
    return process.returncode


def test_scope_with_delegation(session):
    """systemd is asked for a scope with Delegate=yes around a keeper; groups are made in that, and the keeper ends with the
    caller. Nobody else was moved."""
    environ, become, serve, base = session
    requests = serve()
    process, found = caller(environ, become)
    try:
        asked = json.loads(requests.readline())
        assert asked["Delegate"] is True and asked["PIDs"] == [found["keeper"]] and asked["mode"] == "fail"
        assert asked["CollectMode"] == "inactive-or-failed" and asked["name"].endswith(".scope")
        assert found["two"] == [f"{base}/{asked['name']}"] and found["made"] == found["two"][0]
        assert open(f"{found['made']}/ramet-keeper/cgroup.procs").read().split() == [str(found["keeper"])]
        own = open(f"/proc/{process.pid}/cgroup").read()
        assert own.splitlines()[-1].endswith("session.scope")
        if "memory" in cgroups.find().unified.controllers:
            assert [name for name in ("memory", "processes", "cpus", "kill") if not found["facts"][name][1]] == []
        assert running(found["keeper"])
    finally:
        assert end(process) == 0
    assert until(lambda: not running(found["keeper"]))


@pytest.mark.parametrize("kind", ["no bus", "no jeepney", "refused"])
def test_no_scope(session, kind):
    """Where there is no scope to be had, an ordinary user is told why, and what to type; root finds another place."""
    environ, become, serve, base = session
    if kind == "refused":
        serve(REFUSE="1")
    elif kind == "no bus":
        name = next(name for name in environ if name.startswith("DBUS_S") and "ramet-bus-test" in environ[name])
        environ = environ | {name: "unix:path=/nonexistent"}
    process, found = caller(environ, become, "without" if kind == "no jeepney" else "with")
    assert end(process) == 0
    if "DBUS_SYSTEM_BUS_ADDRESS" in environ:
        assert found["keeper"] is None and found["two"] and not found["two"][0].startswith(f"{base}/ramet")
        return
    assert found["two"] == []
    _, ok, why, hint = found["facts"]["pressure"]
    assert not ok and "systemd-run --user --scope -p Delegate=yes" in hint
    says = {"no bus": "ENOENT", "no jeepney": "jeepney", "refused": "not for you"}[kind]
    assert says in why, why
    assert kind != "no jeepney" or "pip install jeepney" in hint


def test_a_delegated_group_needs_no_scope(tmp_path):
    """Below a unit that systemd has marked as delegated groups may be made; below user@.service they may not."""
    spot = cgroups.find().unified
    only(spot is not None and os.geteuid() == 0, "as root, where there is version 2")
    from ramet.cgroups.place import _ours_to_divide

    name = f"test-delegated-{os.getpid()}.scope"
    user = f"user@{os.getpid()}.service"
    real, systemd.BOOTED = systemd.BOOTED, "/"
    try:
        for one in (name, user):
            os.makedirs(f"{spot.path}/{one}/in")
        path = f"{spot.path}/{name}/in"
        assert not _ours_to_divide(path)
        os.setxattr(f"{spot.path}/{name}", "user.delegate", b"1")
        assert _ours_to_divide(path)
        os.setxattr(f"{spot.path}/{user}", "user.delegate", b"1")
        assert not _ours_to_divide(f"{spot.path}/{user}/in")
        systemd.BOOTED = "/nonexistent"
        assert _ours_to_divide(spot.path)
    finally:
        systemd.BOOTED = real
        for one in (name, user):
            ending.remove_tree(spot.fd, one)
