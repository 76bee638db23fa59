"""Pools of a test's own: what depends on how they are made, what is left for the next call, limits, tenants."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy
import pytest
from buds import without_buds

import ramet
from needs import as_root, need, own_places


class Own(Exception):
    pass


def double(value):
    return value * 2


PLACES = ["/tmp", "/home/user", "/dev/shm"]


def leave_traces(where):
    import builtins
    import random

    builtins.trace = 1
    os.environ["TRACE"] = "1"
    numpy.trace_of_it = 1
    random.seed(1)
    numpy.random.seed(1)
    os.umask(0)
    os.chdir("/")
    for place in where:
        with open(f"{place}/trace", "w") as file:
            file.write("1")


def look_for_traces(where):
    import builtins

    found = [place for place in where if os.path.exists(f"{place}/trace")]
    kept = [hasattr(builtins, "trace"), "TRACE" in os.environ, hasattr(numpy, "trace_of_it"), os.getcwd() == "/"]
    return found, kept, os.umask(0o22)


def test_listed_exceptions():
    """An exception that the pool lists comes back as itself."""

    def fail():
        raise Own("twice")

    with ramet.Pool(size=1, spare=0, exceptions=[Own]) as pool, pytest.raises(Own, match="twice"):
        pool.run(fail)


def test_results_too_large():
    """A result over results_max is refused; one below it is not."""
    with ramet.Pool(size=1, spare=0, results_max="1M") as pool:
        assert len(pool.run(bytes, 500_000)) == 500_000
        with pytest.raises(ramet.ResultError, match="results_max"):
            pool.run(bytes, 2_000_000)


def test_futures_are_cancelled_while_they_wait(gate):
    """A future that has not had its turn can be cancelled, and is never called."""
    with ramet.Pool(size=1, spare=1, mounts=[gate.mount]) as pool:
        first = pool.submit(gate.wait)
        second = pool.submit(double, 1)
        assert second.cancel()
        gate.open()
        assert first.result(60) is None
        assert second.cancelled()


def test_openssl_is_seeded_anew():
    """Bytes of OpenSSL's generator differ, although the zygote has drawn from it before."""

    def draw():
        import ssl

        return ssl.RAND_bytes(8)

    with ramet.Pool(["ssl"], size=1, spare=2, prepare="import ssl; ssl.RAND_bytes(8)") as pool:
        assert len({pool.run(draw) for _ in range(4)}) == 4


def test_time():
    """A call over its time is ended and says so; a view gives a call another time."""
    with ramet.Pool(size=1, spare=1, timeout=30) as pool:
        with pytest.raises(ramet.TimeLimitError):
            pool.options(timeout=0.2).run(time.sleep, 1000)
        assert pool.run(time.sleep, 0.3) is None


def write_for_ever():
    while True:
        print("x" * 10_000)


def test_output_limit():
    """A call that writes more than it may is ended where that was asked for."""
    with ramet.Pool(size=1, spare=1, output=1000, output_action="kill") as pool:
        found = pool.report(write_for_ever)
        assert found.status == "output-limit"
        assert pool.report(lambda: print("x" * 100)).status == "exited"


def test_figures():
    """matplotlib's figures come back as PNG where it is loaded."""
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.figure()\nplt.plot([1])\n"
    with ramet.Pool(["matplotlib.pyplot"], size=1, spare=0, timeout=50) as pool:
        found = pool.exec(code)
        assert found.error is None, found.error
        assert [figure[:8] for figure in found.figures] == [b"\x89PNG\r\n\x1a\n"] * 2
        assert pool.exec("1").figures == []


def test_nothing_is_left_for_the_next_call():
    """Variables, environment, umask, directory and files of one call are not there in the next; its own copy had them all."""

    def both(where):
        leave_traces(where)
        return look_for_traces(where)

    with ramet.Pool(["numpy"], size=1, spare=2) as pool:
        assert pool.run(both, PLACES) == (PLACES, [True] * 4, 0)
        for _ in range(4):
            assert pool.run(look_for_traces, PLACES) == ([], [False] * 4, 0o22)


def meet(own, other):
    """Whoever is there first waits for the other."""
    open(f"/shared/{own}", "w").close()
    while not os.path.exists(f"/shared/{other}"):
        time.sleep(0.001)
    return own


def test_calls_run_at_once(tmp_path):
    """As many calls as there are places are there at once: each of two waits for the other."""
    tmp_path.chmod(0o777)
    shared = ramet.Bind(str(tmp_path), "/shared", writable=True)
    with ramet.Pool(size=2, spare=1, mounts=[shared], timeout=50) as pool:
        futures = [pool.submit(meet, "a", "b"), pool.submit(meet, "b", "a")]
        assert [future.result(60) for future in futures] == ["a", "b"]


def test_tenants_take_turns(gate):
    """With one place, a tenant that has queued many calls lets another's one through after the next of its own."""
    done = []
    with ramet.Pool(size=1, spare=1, mounts=[gate.mount]) as pool:
        over = threading.Event()
        first = pool.submit(gate.wait)
        many, one = pool.options(tenant="many"), pool.options(tenant="one")
        futures = [many.submit(double, n) for n in range(5)]
        for future in futures:
            future.add_done_callback(lambda _: done.append("many"))
        last = one.submit(double, 1)
        last.add_done_callback(lambda _: (done.append("one"), over.set()))
        gate.open()
        assert first.result(60) is None
        assert over.wait(60)
        assert [future.result(60) for future in futures] == [0, 2, 4, 6, 8]
    assert done.index("one") <= 2


def test_back_pressure():
    """Over max_tasks calls that are not over, submit waits; below it does not."""
    with ramet.Pool(size=1, spare=1, max_tasks=2) as pool:
        first, second = pool.submit(time.sleep, 0.3), pool.submit(double, 1)
        third = pool.submit(double, 2)
        assert first.done()
        assert (second.result(60), third.result(60)) == (2, 4)


def test_memory_limit():
    """A call that takes more memory than the pool gives one is ended, and says so; others go on."""
    with pool_or_skip(size=1, spare=1, memory="200M") as pool:
        with pytest.raises(ramet.MemoryLimitError) as caught:
            pool.run(lambda: len(bytearray(400 << 20)))
        assert caught.value.result.status == "out-of-memory"
        assert pool.run(lambda: len(bytearray(20 << 20))) == 20 << 20
        usage = pool.report(lambda: len(bytearray(50 << 20))).usage
        assert usage.memory_peak_of == "group"
        assert 50 << 20 <= usage.memory_peak < 150 << 20


def pool_or_skip(**fields):
    try:
        return ramet.Pool(**fields)
    except ramet.UnsupportedError as error:
        need(False, f"control groups: {error.fact}")


def test_processes_limit():
    """A call can have as many processes as the pool gives one, and no more."""

    def fork_many():
        import signal

        pids = []
        try:
            for _ in range(20):
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                pids.append(pid)
        except OSError:
            pass
        return len(pids)

    with pool_or_skip(size=1, spare=1, processes=8) as pool:
        assert pool.run(fork_many) == 7
    with ramet.Pool(size=1, spare=1) as pool:
        assert pool.run(fork_many) == 20


def test_cpu_time_limit():
    """A call that uses up its CPU time is ended and says so; sleeping uses none."""

    def spin():
        while True:
            pass

    with pool_or_skip(size=1, spare=1, cpu_time=0.3) as pool:
        with pytest.raises(ramet.TimeLimitError) as caught:
            pool.run(spin)
        assert caught.value.result.status == "cpu-time"
        assert pool.run(time.sleep, 0.5) is None


def test_disk_limit():
    """A call that fills its disk is told so; the next has all of it."""

    def fill(size):
        with open("/tmp/large", "wb") as file:
            file.write(bytes(size))
        return os.stat("/tmp/large").st_size

    with ramet.Pool(size=1, spare=1, disk="4M") as pool:
        found = pool.report(fill, 8 << 20)
        assert (found.status, type(found.exception)) == ("disk-limit", OSError)
        assert pool.run(fill, 3 << 20) == 3 << 20


def test_prepare():
    """The zygote runs `prepare` once, and every copy finds what it has left in modules."""
    code = "import numpy; numpy.prepared = numpy.arange(3)"
    with ramet.Pool(["numpy"], size=1, spare=1, prepare=code) as pool:
        assert pool.run(lambda: numpy.prepared.tolist()) == [0, 1, 2]


#: How often it has run in a process and in those that it is a copy of.
COUNTED = "import gc; gc.rehearsed = getattr(gc, 'rehearsed', 0) + 1; print('said'); left = 1"


def rehearsed():
    import gc

    import __main__

    return gc.rehearsed, hasattr(__main__, "left")


def test_rehearse():
    """A spare that has time runs `rehearse`, behind its walls, before its call comes; what it leaves in modules is there, and neither its variables
    nor its output. A copy that is made for a call has had no time, and finds what the zygote has left."""
    deadline, idle, found = time.monotonic() + 100, 0.05, None
    with ramet.Pool(size=1, spare=1, rehearse=COUNTED) as pool:
        while found != (2, False):
            assert found in (None, (1, False))
            assert time.monotonic() < deadline
            time.sleep(idle)
            idle *= 2
            result = pool.report(rehearsed)
            assert (result.stdout, result.stderr) == (b"", b"")
            found = result.value
    with ramet.Pool(size=1, spare=0, rehearse=COUNTED) as pool:
        assert pool.run(rehearsed) in ((1, False), (2, False))


def test_a_rehearsal_with_a_mistake():
    """What is wrong with `rehearse` is told when the pool is made; what goes wrong only in a spare, on the stderr of the call that gets it, which
    is served."""
    with pytest.raises(ramet.ZygoteError, match=r"can't load 'rehearse'.*division by zero"):
        ramet.Pool(size=1, spare=1, rehearse="1 / 0")
    deadline, idle, code = time.monotonic() + 100, 0.05, COUNTED + "; assert gc.rehearsed == 1, 'not the first'"
    with ramet.Pool(size=1, spare=1, rehearse=code) as pool:
        while not (result := pool.report(rehearsed)).stderr:
            assert result.value == (1, False)
            assert time.monotonic() < deadline
            time.sleep(idle)
            idle *= 2
        assert result.value == (2, False)
        assert result.stderr.endswith(b"AssertionError: not the first\n")


@pytest.fixture
def public():
    """A directory that everybody may pass."""
    made = Path(tempfile.mkdtemp(prefix="pool-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_mounts_are_fresh_each_time(public):
    """A tmpfs, and an overlay that keeps nothing, are new with each call; files and directories below /tmp are there each time."""
    (public / "below").write_text("lower")
    (public / "lower").mkdir(exist_ok=True)
    (public / "lower" / "file").write_text("lower")
    mounts = [
        ramet.Tmpfs("/scratch"),
        ramet.Overlay("/over", (str(public / "lower"),)),
        ramet.File("/tmp/given", "content"),
        ramet.Directory("/tmp/made", 0o777),
        ramet.Symlink("/tmp/link", "given"),
        ramet.Bind(str(public / "below"), "/tmp/bound"),
    ]

    def look_and_write():
        found = [
            os.listdir("/scratch"),
            sorted(os.listdir("/over")),
            open("/tmp/link").read(),
            open("/tmp/bound").read(),
            sorted(os.listdir("/tmp")),
        ]
        for place in ("/scratch", "/over", "/tmp/made"):
            with open(f"{place}/trace", "w") as file:
                file.write("1")
        return found

    there = sorted({"bound", "given", "link", "made"} | own_places("/tmp"))
    with ramet.Pool(size=1, spare=1, mounts=mounts) as pool:
        for _ in range(2):
            assert pool.run(look_and_write) == [[], ["file"], "content", "lower", there]


def test_environment_and_names():
    """The environment asked for is the function's, from the first line on; so are host name and working directory."""

    def look():
        return os.environ["ASKED"], os.environ.get("HOME"), os.uname().nodename, os.getcwd()

    with ramet.Pool(size=1, spare=0, env={"ASKED": "yes"}, hostname="pool", workdir="/tmp") as pool:
        assert pool.run(look) == ("yes", "/home/user", "pool", "/tmp")


BAD = [
    ({"size": 0}, "size"),
    ({"size": "2"}, "size"),
    ({"size": True}, "size"),
    ({"spare": -1}, "spare"),
    ({"max_tasks": 0}, "max_tasks"),
    ({"prepare": 3}, "prepare"),
    ({"rehearse": 3}, "rehearse"),
    ({"preload": "numpy"}, "preload"),
    ({"preload": ["os; x"]}, r"preload\[0\]"),
    ({"preload": [3]}, r"preload\[0\]"),
    ({"exceptions": [int]}, r"exceptions\[0\]"),
    ({"results_max": "x"}, "results_max"),
    ({"tty": True}, "tty"),
    ({"as_pid1": True}, "as_pid1"),
    ({"no_new_privs": False}, "no_new_privs"),
    ({"namespaces": {ramet.Namespace.USER, ramet.Namespace.PID}}, "namespaces"),
    ({"rootfs": ramet.Rootfs("/", writes="discarded")}, "writes"),
    ({"mounts": [ramet.Tmpfs("/proc/sys")]}, "mounts"),
    ({"memroy": 3}, "memroy"),
]


@pytest.mark.parametrize(("fields", "named"), BAD, ids=[f"{named}-{n}" for n, (_, named) in enumerate(BAD)])
def test_bad_pools_are_refused(fields, named):
    """What a pool can't be is refused before anything starts, and the field is named."""
    with pytest.raises(ramet.SpecError, match=named):
        ramet.Pool(**fields)


def test_options_are_checked():
    """What a call can't have of its own is refused by name."""
    with ramet.Pool(size=1, spare=0) as pool:
        with pytest.raises(ramet.SpecTypeError, match="memory"):
            pool.options(memory="1G")
        with pytest.raises(ramet.SpecError, match="timeout"):
            pool.options(timeout=-1)
        assert pool.options(tenant="x").options(timeout=9)._tenant == "x"


def test_a_full_table_of_descriptors():
    """Where the caller has no descriptor left, the call is an error that says so; when there are some, the pool goes on."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    with ramet.Pool(size=1, spare=0) as pool:
        without_buds(pool)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 3, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            os.close(held.pop())
            with pytest.raises(ramet.StepError) as caught:
                pool.run(int)
            assert caught.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in held:
                os.close(fd)
        assert pool.run(int) == 0


def test_pandas():
    """pandas, and what it loads, can be preloaded; a line of it runs, and its tables come out as Arrow's."""
    need(importlib.util.find_spec("pandas"), "pandas")
    code = "import numpy, pandas\nframe = pandas.DataFrame({'a': numpy.arange(4)})\nint(frame.a.sum())"
    with ramet.Pool(["numpy", "pandas"], size=1, spare=1, timeout=50) as pool:
        found = pool.exec(code)
        assert (found.error, found.value) == (None, 6)
        assert "DataFrame" in found.unsent["frame"]


@as_root
def test_a_joined_network(tmp_path):
    """The calls of a pool that joins a network are all in it; the other namespaces are each call's own."""

    def look():
        return os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/ipc")

    with ramet.Popen(["sleep", "100"], stdin=ramet.DEVNULL) as other:
        theirs = os.readlink(f"/proc/{other.pid}/ns/net")
        join = ramet.Join(ramet.Namespace.NET, pidfd=other.pidfd)
        kinds = ramet.Sandbox().namespaces - {ramet.Namespace.NET}
        with ramet.Pool(size=1, spare=1, join=[join], namespaces=kinds) as pool:
            first, second = pool.run(look), pool.run(look)
        other.kill()
    assert first[0] == second[0] == theirs
    assert first[1] != second[1]
