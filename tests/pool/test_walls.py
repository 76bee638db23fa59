"""The sandbox of a copy: the walls of any sandbox, and nothing of the zygote, of the pool, or of another copy within reach."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from buds import Budding

import ramet
from ramet import isolated


@pytest.fixture(scope="module", params=["kept ready", "by a bud"])
def pool(request):
    """Copies of both kinds."""
    made = ramet.Pool(["numpy"], size=2, spare=2, timeout=30) if request.param == "kept ready" else None
    with made or Budding(["numpy"], size=2, spare=0, timeout=30) as pool:
        yield pool


def status():
    with open("/proc/self/status") as file:
        found = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    names = (
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Uid",
        "Gid",
        "SigBlk",
        "SigIgn",
        "SigCgt",
    )
    kept = {name: found[name] for name in names} | {"filters": int(found["Seccomp_filters"])}
    return kept | {name: int(kept[name], 16) & ~(3 << 31) for name in ("SigIgn", "SigCgt")}  # without libc's own two


def test_the_walls_are_those_of_any_sandbox(pool):
    """Capabilities, no_new_privs, filter, ids and signals are what a function in a sandbox of its own has."""
    theirs, own = pool.run(status), isolated(status)()
    assert theirs.pop("filters") == own.pop("filters") + 1  # and the zygote's
    assert theirs == own


def mounts():
    with open("/proc/self/mountinfo") as file:
        found = [line.split() for line in file]
    return {line[4]: (line[line.index("-") + 1], "ro" in line[5].split(",")) for line in found if line[4] != "/"}


def test_the_view_is_that_of_any_sandbox(pool):
    """The same places are there with the same rights; and ramet itself, where that would not be shown."""
    theirs, own = pool.run(mounts), isolated(mounts)()
    added = os.path.dirname(ramet.__file__)
    theirs.pop(added, None)
    for where, (_, readonly) in own.items():
        assert where in theirs
        assert theirs[where][1] >= readonly, where
    assert set(theirs) <= set(own)


def test_each_kind_of_namespace_is_its_own(pool):
    """No namespace is the caller's, or another copy's that is there at the same time: when one is gone its number may be given again."""

    def look(seconds=0):
        kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
        begin = time.monotonic()
        time.sleep(seconds)
        return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}, begin, time.monotonic()

    deadline = time.monotonic() + 60
    while True:
        with ThreadPoolExecutor(2) as threads:
            (first, *ours), (second, *theirs) = threads.map(ramet.Pool.run, [pool] * 2, [look] * 2, [0.2] * 2)
        if max(ours[0], theirs[0]) < min(ours[1], theirs[1]):
            break
        assert time.monotonic() < deadline
    caller, _, _ = look()
    for kind in first:
        assert len({first[kind], second[kind], caller[kind]}) == 3, kind


def test_nobody_else_is_there(pool):
    """/proc shows init and itself; the numbers of the zygote and of other copies mean nobody."""

    def look():
        seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        refused = []
        for pid in (*range(2, 50), *range(990, 3000)):
            if pid == os.getpid():
                continue
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                refused.append(pid)
        return seen, os.getpid(), len(refused)

    deadline = time.monotonic() + 30
    while True:
        seen, own, refused = pool.run(look)
        if seen == [1, own] or time.monotonic() > deadline:
            break  # init takes a moment to reap who has made the copy of a bud
    assert seen == [1, own]
    assert refused >= 2057


def test_init_is_out_of_reach(pool):
    """Init can't be read, traced or killed from inside."""

    def touch():
        found = []
        for name in ("mem", "environ", "maps", "fd/0", "root"):
            try:
                (os.readlink if name in ("fd/0", "root") else open)(f"/proc/1/{name}")
                found.append(name)
            except OSError:
                continue
        for number in (signal.SIGKILL, signal.SIGTERM):
            try:
                os.kill(1, number)
            except PermissionError:
                continue  # Landlock's doing, where the kernel has that
        traced = ctypes.CDLL(None).ptrace(16, 1, 0, 0)
        time.sleep(0.05)
        return found, traced

    assert pool.run(touch) == ([], -1)


def test_descriptors(pool):
    """It has the standard streams, its channel, and /dev/null in the place of what the zygote has open; no socket but its own."""

    def look():
        found = {}
        for name in os.listdir("/proc/self/fd"):
            try:
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
            except OSError:
                continue
        return found

    found = pool.run(look)
    assert [what for what in found.values() if what == "socket"] == ["socket"]
    assert found[0] == "/dev/null"
    assert {found[1], found[2]} == {"pipe"}
    rest = {what for number, what in found.items() if number > 2}
    assert rest <= {"socket", "/dev/null"} | {what for what in rest if what.startswith("/proc/")}


def test_no_namespaces_and_no_mounts_from_inside(pool):
    """It can make no user namespace, join none, and mount nothing."""

    def attempt():
        libc = ctypes.CDLL(None, use_errno=True)
        calls = {
            "unshare": (libc.unshare, 0x10000000),
            "mount": (libc.mount, b"none", b"/tmp", b"tmpfs", 0, None),
            "umount": (libc.umount2, b"/tmp", 2),
            "chroot": (libc.chroot, b"/tmp"),
            "sethostname": (libc.sethostname, b"x", 1),
        }
        return {name: (fn(*args), ctypes.get_errno()) for name, (fn, *args) in calls.items()}

    assert pool.run(attempt) == dict.fromkeys(("unshare", "mount", "umount", "chroot", "sethostname"), (-1, 1))


def test_the_root_of_all_places_is_out_of_reach(pool):
    """No path leads from /tmp to the file system that it is a part of, where the home directory is another part."""

    def climb():
        os.chdir("/tmp")
        open("/tmp/mine", "w").close()
        os.chdir("..")
        return os.getcwd(), "mine" in os.listdir("/tmp"), "usr" in os.listdir("."), os.listdir("/home")

    assert pool.run(climb) == ("/", True, True, ["user"])


def test_the_network_is_its_own(pool):
    """A server of one call is not there for the caller, and its own can be reached from inside."""

    def serve():
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), 5):
                return sorted(name for _, name in socket.if_nameindex())

    assert pool.run(serve) == ["lo"]


def test_addresses_are_the_zygotes(pool):
    """What the documentation says: addresses, and the seed of hash(), are those of the zygote in every copy."""

    def look():
        return id(None), hash("text")

    assert pool.run(look) == pool.run(look)


def test_programs_run_inside(pool):
    """A call can start programs, with the usual signals, and their output is the call's."""
    import subprocess

    def start():
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGPIPE))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    assert pool.run(start) == "True 1\n"


def test_signals_reach_a_call(pool):
    """Handlers that a call sets are run, an alarm ends it, and KeyboardInterrupt comes of SIGINT, as in any process."""

    def handle():
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        os.kill(os.getpid(), signal.SIGUSR1)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            seen.append(2)
        return seen, os.waitpid(os.spawnlp(os.P_NOWAIT, "true", "true"), 0)[1]

    assert pool.run(handle) == ([1, 2], 0)
    assert pool.report(lambda: signal.alarm(1) or time.sleep(50)).signal == signal.SIGALRM
