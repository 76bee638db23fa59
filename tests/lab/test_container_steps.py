"""The container that the lab builds: what its process reaches at each step."""

import os
import select
import socket
import subprocess
import sys

import pytest
from container_columns import EXPECTED, column

from needs import as_root, as_user, only
from ramet.errors import Error
from ramet.lab.container import observe
from ramet.lab.container.build import build
from ramet.lab.container.outside import Outside, session_keyring
from ramet.lab.container.stages import stages


@pytest.fixture(scope="module")
def built():
    found = build()
    assert found["stopped"] is None, found["stopped"]
    return found


@pytest.mark.parametrize("row", EXPECTED)
def test_each_door_closes_at_its_step(built, row):
    """What the process reaches of the host, of its own, or not at all is this, step by step; step 0 is the control."""
    if row == "keyring" and session_keyring() is None:
        pytest.skip("only on a kernel with key rings (CONFIG_KEYS)")
    saw = [stage["cells"][row]["saw"] for stage in built["stages"]]
    assert column(built, row) == EXPECTED[row], saw


def test_every_row_is_expected(built):
    """No row of the table goes without one of these tests."""
    counted = {"open_files", "make_processes", "reserve"}
    assert set(built["labels"]) == set(EXPECTED) | counted
    assert all(set(stage["cells"]) == set(built["labels"]) for stage in built["stages"])


def test_limits_hold_from_their_step_on(built):
    """Hundreds of files, dozens of processes and a gigabyte before the step; after it what the limits allow."""
    numbers = [int(built["stages"][n]["cells"]["open_files"]["cell"].rstrip("+")) for n in range(10)]
    assert all(number == 300 for number in numbers[:6]), numbers
    assert all(50 <= number < 64 for number in numbers[6:]), numbers
    numbers = [int(built["stages"][n]["cells"]["make_processes"]["cell"].rstrip("+")) for n in range(10)]
    assert all(number == 48 for number in numbers[:6]), numbers
    assert all(10 <= number < 24 for number in numbers[6:]), numbers
    with open("/proc/sys/vm/overcommit_memory") as file:
        only(file.read().strip() != "2", "where memory may be reserved without being there (vm.overcommit_memory)")
    cells = [built["stages"][n]["cells"]["reserve"]["cell"] for n in range(10)]
    assert cells == ["1G+"] * 6 + ["128M"] * 4


def test_every_step_changes_what_it_is_about(built):
    """Each step closes or opens something; none is there for show."""
    about = {
        "flags": "shared_memory",
        "ids": "hostname",
        "root": "files",
        "proc": "processes",
        "network": "loopback",
        "limits": "open_files",
        "rights": "mount",
        "seccomp": "keyring",
        "exec": "environment",
    }
    changed = {stage["key"]: stage["changed"] for stage in built["stages"][1:]}
    assert set(changed) == set(about)
    for key, row in about.items():
        assert row in changed[key]


def test_in_the_end_nothing_of_the_hosts_is_left(built):
    """No cell of the last step says "host"; of the first, most do."""
    last = {key for key, cell in built["stages"][-1]["cells"].items() if cell["cell"] == "host"}
    first = {key for key, cell in built["stages"][0]["cells"].items() if cell["cell"] == "host"}
    assert last == set()
    assert len(first) >= 12


def test_namespaces_as_proc_shows_them(built):
    """/proc/PID/ns, read from outside while the process is there, agrees with the flags of each step."""
    own = [{kind for kind, whose in stage["namespaces"].items() if whose == "own"} for stage in built["stages"]]
    flags = {"user", "pid", "ipc", "uts", "cgroup"}
    assert own == [set(), flags, flags, flags | {"mnt"}, flags | {"mnt"}, *[flags | {"mnt", "net"}] * 5]


@as_root
def test_who_roots_container_is(built):
    """Unmapped, root's process is nobody inside and still root outside; mapped, it is root inside and nobody outside."""
    who = [(stage["who"]["uid_inside"], stage["who"]["uid_outside"]) for stage in built["stages"]]
    assert who == [(0, 0), (65534, 0), *[(0, 65533)] * 8]


@as_user
def test_who_an_ordinary_users_container_is(built):
    """An ordinary user's process is that user outside, at every step, whoever it is inside."""
    who = [(stage["who"]["uid_inside"], stage["who"]["uid_outside"]) for stage in built["stages"]]
    me = os.geteuid()
    assert who == [(me, me), (65534, me), *[(0, me)] * 8]


def test_capabilities_come_with_the_map_and_go_with_their_step(built):
    """None without a map, all with one, none from the step on that drops them."""
    counts = [stage["who"]["capabilities"] for stage in built["stages"]]
    assert counts[1] == 0
    assert min(counts[2:7]) > 30
    assert counts[7:] == [0, 0, 0]


def test_a_step_shows_the_calls_it_adds(built):
    """The system calls listed are those that this step's plan has and the one before has not."""
    calls = {stage["key"]: [call for one in stage["new_calls"] for call in one["calls"]] for stage in built["stages"]}
    assert "pivot_root" in calls["root"]
    assert "pivot_root" not in calls["proc"] + calls["network"] + calls["limits"]
    assert calls["network"].count("ioctl") == 1
    assert calls["limits"] == ["prlimit64"] * len(calls["limits"]) != []
    assert calls["rights"].count("prctl") > 30
    assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"} <= set(calls["seccomp"])


def test_the_default_sandbox_is_the_last_step(built):
    """With no field at all ramet does all of that, but for the user's name and two limits."""
    default = built["default"]
    assert default["only_here"] == ["limit RLIMIT_NOFILE", "limit RLIMIT_AS"]
    assert default["only_there"] == []
    assert (default["uid_here"], default["uid_there"]) == (0, 1000)


def test_it_is_plain_data(built):
    """The whole result goes through JSON and comes back the same."""
    import json

    assert json.loads(json.dumps(built)) == built


TOKEN_ROWS = {"processes", "files", "private", "shared_memory", "environment", "descriptor", "memory", "loopback", "abstract"}  # fmt: skip


def test_only_the_hosts_own_token_counts(monkeypatch):
    """The control of "host": where the token found is not the one expected, no row says so, though all is open."""
    with Outside() as outside:
        told = outside.told
        monkeypatch.setattr(outside, "told", lambda ids: told(ids) | {"token": "another-token-altogether"})
        first = stages({"RAMET_LAB_SECRET": outside.token})[0]
        cells = observe.observe(first, outside)["cells"]
    assert {row for row in TOKEN_ROWS if cells[row]["cell"] == "host"} == set()
    assert cells["interfaces"]["cell"] == "host"


def test_a_signal_counts_when_it_has_arrived(monkeypatch):
    """That a process could be signalled is believed when that process says so, not when kill returned 0."""
    with Outside() as outside:
        first = stages({})[0]
        assert observe.observe(first, outside)["cells"]["signal"]["cell"] == "host"
        monkeypatch.setattr(outside, "signal_arrived", lambda: False)
        assert observe.observe(first, outside)["cells"]["signal"]["cell"] == "own"


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize(
    ("script", "why"),
    [("import time; time.sleep(60)", "has not answered within"), ("raise SystemExit", "ended before it had begun")],
)
def test_a_probe_that_does_not_answer(step, script, why, monkeypatch):
    """A probe that hangs or ends is told of, and nothing of it is left; by clone3 as by Popen."""
    monkeypatch.setattr(observe, "source", lambda name: script)
    if "sleep" in script:
        monkeypatch.setattr(observe, "_PATIENCE", 0.5)
    with Outside() as outside, pytest.raises(Error, match=why):
        observe.observe(stages({})[step], outside)


def host():
    """What building containers could have changed."""
    interfaces = {}
    for _, name in socket.if_nameindex():
        for what in ("flags", "mtu", "address"):
            with open(f"/sys/class/net/{name}/{what}") as file:
                interfaces[name, what] = file.read()
    with open("/proc/self/status") as file:
        status = file.readlines()
    with open("/proc/self/mountinfo") as mounts:
        return {
            "hostname": os.uname().nodename,
            "interfaces": interfaces,
            "mounts and their propagation": mounts.read(),
            "cwd": os.getcwd(),
            "umask": [line for line in status if line.startswith("Umask")],
            "ids": os.getresuid() + os.getresgid(),
            "environment": dict(os.environ),
            "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")},
        }


def test_the_host_is_as_it_was(monkeypatch):
    """Host name, interfaces, mounts, propagation, shared memory, files, cwd, umask and namespaces are as before."""
    made = []

    class Remembered(Outside):
        def __exit__(self, *error):
            made.append((self.folder, str(self._places["segment"]), os.path.exists(self.folder)))
            super().__exit__(*error)

    monkeypatch.setattr("ramet.lab.container.build.Outside", Remembered)
    before = host()
    build()
    assert host() == before
    [(folder, segment, was_there)] = made
    assert was_there
    assert not os.path.exists(folder)
    with open("/proc/sysvipc/shm") as file:
        assert segment not in {line.split()[1] for line in file}


def test_a_killed_caller_leaves_nothing():
    """Of a caller that is killed with SIGKILL neither the process outside nor its files are left."""
    script = "import os, time\nfrom ramet.lab.container.outside import Outside\n"
    script += "with Outside() as it: print(it.folder, it._places['pid'], flush=True); time.sleep(60)"
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    folder, pid = caller.stdout.readline().split()
    neighbour = os.pidfd_open(int(pid))
    assert sorted(os.listdir(folder)) == ["for-everybody", "private"]
    caller.kill()
    caller.wait()
    caller.stdout.close()
    assert select.select([neighbour], [], [], 20)[0]
    os.close(neighbour)
    assert not os.path.exists(folder)


def test_the_lookout_sees_changes():
    """The control: another umask and another directory are seen."""
    before, old = host(), os.umask(0o027)
    here = os.getcwd()
    os.chdir("/usr")
    try:
        after = host()
    finally:
        os.umask(old)
        os.chdir(here)
    assert {key for key in before if before[key] != after[key]} == {"cwd", "umask"}
