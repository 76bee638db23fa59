"""A bud: a sandbox that stands before the copy it is for. That it is used, what it is like, and what may happen to it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from buds import Budding, bud_of, without_buds

import ramet
from ramet import _core
from ramet.plan.encode import failing
from ramet.pool import warm

PR_GET_DUMPABLE = 3


def children(pid):
    """Of all threads of a process."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_call_takes_the_place_of_who_waits(gate):
    """In a bud are init and one process that waits; during the call init and the copy, which is another; afterwards there is another bud."""
    with Budding(size=1, spare=0, mounts=[gate.mount]) as pool:
        init = bud_of(pool).pid
        (waiting,) = children(init)
        call = pool.submit(gate.wait)
        while waiting in (found := children(init)) or not found:
            time.sleep(0.001)
        assert len(found) == 1
        gate.open()
        call.result()
        assert bud_of(pool).pid != init


def test_copies_kept_ready_make_it_needless():
    """A pool that makes copies ahead has no bud; one without does."""
    with ramet.Pool(size=1, spare=1) as kept, ramet.Pool(size=1, spare=0) as bare:
        bud_of(bare)
        kept.run(int)
        while not kept.counts["ready"]:
            time.sleep(0.001)
        assert (kept._engine._keeper._bud, kept._engine._keeper._budding) == (None, None)


def look():
    """What a process is, by all that the kernel tells of it; without what is every time another."""
    import resource

    with open("/proc/self/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    changing = ("Pid", "Tgid", "NSpid", "NStgid", "NSpgid", "NSsid", "Ngid", "Vm", "Rss", "voluntary", "nonvoluntary")
    status = {name: value for name, value in status.items() if not name.startswith((*changing, "Cpus", "Mems"))}
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}").split(":")[0]
    libc = ctypes.CDLL(None)
    umask = os.umask(0)
    os.umask(umask)
    return {
        "status": status,
        "mounts": sorted((one[3], one[4], one[5], one[one.index("-") + 1]) for one in mounts),
        "descriptors": sorted(descriptors.items()),
        "dumpable": libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        "limits": [
            resource.getrlimit(getattr(resource, name)) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")
        ],
        "ids": (os.getppid(), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()),
        "files": (umask, os.getcwd(), sorted(os.listdir("/")), sorted(os.listdir("/dev")), os.listdir("/tmp")),
        "names": (os.uname().nodename, dict(os.environ)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
    }


BOXES = {
    "default": {},
    "mounts": {
        "mounts": [ramet.Tmpfs("/scratch", size="1M"), ramet.File("/tmp/a", "b"), ramet.Mqueue()],
        "readonly_paths": ["/tmp/a"],
        "masked_paths": ["/proc/cpuinfo"],
        "hostname": "other",
        "umask": 0o77,
        "nice": 3,
    },
    "nested": {"nested_namespaces": True, "seccomp": "none", "landlock": False},
    "limited": {"processes": 20, "memory": "200M", "disk": "8M"},
}


@pytest.mark.parametrize("fields", BOXES.values(), ids=BOXES)
def test_a_copy_is_the_same_by_either_way(fields):
    """Rights, signals, limits, mounts, descriptors and names are those of a copy whose sandbox is made when it is asked for."""
    with Budding(size=1, spare=0, **fields) as pool:
        by_bud = pool.run(look)
        again = pool.run(look)
        without_buds(pool)
        plain = ramet.Pool.run(pool, look)
    assert by_bud == again
    assert by_bud == plain
    assert by_bud["ids"] == (1, True, True)


def test_it_has_the_state_that_the_zygote_has_then():
    """The bud is made before the zygote does anything more; the copy is one of the zygote as it is when it is asked for."""
    with Budding(size=1, spare=0, prepare="import builtins; builtins.trace = []") as pool:
        found = [pool.run(lambda: (trace, id(trace))) for _ in range(3)]  # noqa: F821
    assert [value for value, _ in found] == [[], [], []]
    assert len({place for _, place in found}) == 1


def test_numbers_of_each_are_its_own():
    """Python's generator is seeded anew, and the hooks for a fork have run."""

    def numbers():
        import random

        return random.random(), os.getpid()

    with Budding(size=1, spare=0) as pool:
        found = [pool.run(numbers) for _ in range(5)]
    assert len({number for number, _ in found}) == 5
    assert len({pid for _, pid in found}) == 5


@pytest.mark.parametrize("size", [1, 20_000_000], ids=["small", "large"])
def test_arguments_are_there_before_the_copy(size):
    """A task is sent before there is anybody to take it, however large."""
    with Budding(size=1, spare=0) as pool:
        assert pool.run(len, bytes(size)) == size
        assert pool.run(len, [b"x" * 1000] * (size // 1000 + 1)) == size // 1000 + 1


def test_reports_and_limits():
    """By a bud a call has a report, and is held to its limits, as any."""
    with Budding(size=1, spare=0, memory="150M", timeout=5) as pool:
        bud_of(pool)
        result = pool.report(lambda: 5)
        assert (result.value, result.status) == (5, "exited")
        assert 0 < result.duration < 5
        bud_of(pool)
        result = pool.report(lambda: len(bytearray(300 << 20)))
        assert result.status == "out-of-memory"
        bud_of(pool)
        result = pool.options(timeout=0.3).report(time.sleep, 60)
        assert (result.status, result.duration < 5) == ("timed-out", True)


def test_usage_is_the_copys_own():
    """What has made the copy is no part of what it has used: the zygote's largest memory is not its own."""
    with Budding(size=1, spare=0, prepare="large = b'x' * (150 << 20); del large") as pool:
        bud_of(pool)
        by_bud = pool.report(int).usage
        bud_of(pool)
        more = pool.report(lambda: len(b"x" * (150 << 20))).usage
        without_buds(pool)
        plain = pool.report(int).usage
    assert by_bud.memory_peak_of == plain.memory_peak_of == "process"
    assert by_bud.memory_peak < 1.3 * plain.memory_peak < 100 << 20
    assert more.memory_peak > 150 << 20
    assert abs(by_bud.minor_faults - plain.minor_faults) < plain.minor_faults / 4


def test_a_function_that_asks_to_be_traced():
    """Init, who would be the tracer, takes note of its end all the same, and of what it used."""

    def ask():
        assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0
        os._exit(5)

    with Budding(size=1, spare=0, seccomp="none", timeout=30) as pool:
        bud_of(pool)
        result = pool.report(ask)
    assert (result.status, result.exit_code) == ("exited", 5)
    assert result.usage.minor_faults > 100


def test_a_timeout_begins_with_the_function(monkeypatch):
    """What it takes to make the copy is no part of the call's time."""
    plain = warm.Clone._wait_until_ready

    def late(clone):
        time.sleep(0.5)
        plain(clone)

    monkeypatch.setattr(warm.Clone, "_wait_until_ready", late)
    with Budding(size=1, spare=0, processes=20) as pool:  # with a group the task is sent when it is ready
        bud_of(pool)
        result = pool.options(timeout=0.4).report(int)
        assert result.status == "exited"
        assert result.duration < 0.4


@pytest.mark.parametrize("stage", ["child", "init", "view", "payload"])
def test_a_step_that_fails(monkeypatch, stage):
    """Where a step fails, in the bud or in the copy, the call's error names it; nobody waits for what can't come."""
    monkeypatch.setattr(warm, "encodings", lambda plan: failing(plan, stage, 1, errno.EIO))
    with ramet.Pool(size=1, spare=0) as pool:
        for _ in range(3):
            with pytest.raises(ramet.StepError) as caught:
                pool.run(int)
            assert (caught.value.stage, caught.value.index, caught.value.errno) == (stage, 1, errno.EIO)
            time.sleep(0.05)


def kill_init(pool):
    os.kill(bud_of(pool).pid, signal.SIGKILL)


def kill_who_waits(pool):
    os.kill(children(bud_of(pool).pid)[0], signal.SIGKILL)


def kill_zygote(pool):
    bud_of(pool)
    os.kill(pool._engine.zygote.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("kill", "restarts"), [(kill_init, 0), (kill_who_waits, 0), (kill_zygote, 1)], ids=["init", "who waits", "zygote"]
)
@pytest.mark.parametrize("seconds", [0, 0.05])
def test_somebody_kills_it(kill, restarts, seconds):
    """A call does not depend on a bud that is no more: another copy is made, by another zygote where that is dead."""
    with ramet.Pool(size=1, spare=0, timeout=30) as pool:
        for round in range(1, 4):
            kill(pool)
            time.sleep(seconds)
            assert pool.run(abs, -4) == 4
            assert pool._engine._keeper.restarts == round * restarts


def test_given_up_before_the_copy_is_there(monkeypatch):
    """A call that is given up, or whose pool is closed, while its copy is made says so; a call after the first is made."""
    reached, go = threading.Event(), threading.Event()
    plain = warm.Clone._wait_until_ready

    def late(clone):
        reached.set()
        go.wait(30)
        plain(clone)

    monkeypatch.setattr(warm.Clone, "_wait_until_ready", late)
    for end, why in ((lambda pool, ticket: pool._engine.stop(ticket), "given up"), (None, "closed")):
        reached.clear()
        go.clear()
        pool = ramet.Pool(size=1, spare=0, processes=20)
        bud_of(pool)
        with ThreadPoolExecutor(2) as threads:
            call = threads.submit(pool.run, int)
            assert reached.wait(30)
            (ticket,) = pool._engine._in_flight
            if end is None:
                closing = threads.submit(pool.close)
                while not pool._engine._closed:
                    time.sleep(0.001)
            else:
                end(pool, ticket)
            time.sleep(0.05)
            go.set()
            with pytest.raises(ramet.PoolError, match=why):
                call.result()
            if end is None:
                closing.result()
        if end is not None:
            assert pool.run(abs, -1) == 1
        pool.close()


def test_many_at_once():
    """Threads that call now and then, sometimes all at a time: every value is right, and both ways are taken."""
    taken = {True: 0, False: 0}
    with ramet.Pool(size=3, spare=0, timeout=30) as pool:

        def call(n):
            time.sleep((n * 7919 % 13) / 200)
            with pool._engine._changed:
                taken[pool._engine._keeper._bud is not None] += 1
            return pool.run(abs, -n)

        with ThreadPoolExecutor(3) as threads:
            assert list(threads.map(call, range(1, 120))) == list(range(1, 120))
    assert taken[True]
    assert taken[False]


def test_nobody_is_beside_the_function():
    """When the function runs who waited has left the zygote's memory: at most its end is still to be taken note of by init."""

    def others():
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in (1, os.getpid()):
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                    found.append(file.read().rpartition(")")[2].split()[0])
        return os.getppid(), found

    with Budding(size=1, spare=0) as pool:
        for _ in range(20):
            parent, found = pool.run(others)
            assert parent == 1
            assert set(found) <= {"Z", "X"}


def test_what_the_core_refuses():
    """A bud whose copy's pid is not known, and programs that are none, are errors; nothing is cloned."""
    with ramet.Pool(size=1, spare=0) as pool:
        found = warm.encodings(pool.plan())
    place = found.init.offsets["payload_pid"]
    good = [found.child.blob, [], found.init.blob, [], place, 0, 1000, found.view.blob, [], 1]
    for n, bad in ((0, b"no"), (2, b"no"), (4, -1), (4, 1 << 40), (6, 0), (6, 1), (7, b"no")):
        with pytest.raises(ValueError, match=r"malformed|outside|known before"):
            _core.bud(*good[:n], bad, *good[n + 1 :])
    _, made = _core.bud(*good[:5], 1 << 63, *good[6:])  # a flag that there is not
    assert made == (-1, -1, 2, 0, errno.EINVAL)
