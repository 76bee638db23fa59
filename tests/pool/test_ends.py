"""How pools end: nothing is left, whoever waits is told, and the interpreter ends with them."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import ramet
from ramet.pool.warm import Zygote


def double(value):
    return value * 2


def test_shutdown_waits_for_what_was_submitted():
    """At the end of its block a pool finishes what it has taken, and takes no more."""
    with ramet.Pool(size=1, spare=1) as pool:
        futures = [pool.submit(double, n) for n in range(4)]
    assert [future.result(0) for future in futures] == [0, 2, 4, 6]
    with pytest.raises(ramet.PoolError, match="closed"):
        pool.submit(double, 1)
    with pytest.raises(RuntimeError, match="closed"):
        pool.run(double, 1)
    assert "closed" in repr(pool)
    pool.shutdown()
    pool.close()


def test_shutdown_without_waiting():
    """shutdown(wait=False) returns at once; what was submitted is finished all the same."""
    pool = ramet.Pool(size=1, spare=1)
    futures = [pool.submit(time.sleep, 0.2), pool.submit(double, 1)]
    pool.shutdown(wait=False)
    assert futures[1].result(60) == 2
    _wait_for_end(pool)


def test_shutdown_that_cancels(gate):
    """shutdown(cancel_futures=True) cancels what has not begun, and finishes what has."""
    pool = ramet.Pool(size=1, spare=1, mounts=[gate.mount])
    futures = [pool.submit(gate.wait), *[pool.submit(double, n) for n in range(5)]]
    pool.shutdown(wait=False, cancel_futures=True)
    assert [future.cancelled() for future in futures[1:]] == [True] * 5
    gate.open()
    pool.shutdown()
    assert futures[0].result(0) is None
    _wait_for_end(pool)


def test_close_ends_calls_in_flight():
    """close ends what runs and what waits, at once, and each is told."""
    pool = ramet.Pool(size=1, spare=1)
    futures = [pool.submit(time.sleep, 1000), pool.submit(double, 1)]
    while not pool._engine._in_flight:
        time.sleep(0.001)
    pool.close()
    assert isinstance(futures[0].exception(60), ramet.ExitError)
    assert isinstance(futures[1].exception(60), ramet.PoolError)


def test_shutdown_waits_for_another_close(monkeypatch):
    """Of two that end a pool at once each returns when nothing is left of it, not when the other has begun."""
    began, go_on = threading.Event(), threading.Event()
    close = Zygote.close
    monkeypatch.setattr(Zygote, "close", lambda self: (began.set(), go_on.wait(), close(self)))
    pool = ramet.Pool(size=1, spare=1)
    zygote = pool._engine.zygote
    first, second = threading.Thread(target=pool.close), threading.Thread(target=pool.shutdown)
    first.start()
    assert began.wait(60)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    go_on.set()
    second.join(60)
    assert not second.is_alive()
    assert not zygote.alive
    first.join()


def test_a_call_that_ends_after_its_pool():
    """Who has no part in the close of a pool, as a call that returns then, writes into no descriptor that was the pool's and is another's now."""
    pool = ramet.Pool(size=1, spare=0)
    engine, number = pool._engine, pool._engine._keeper._waker
    pool.close()
    pair = os.pipe2(os.O_NONBLOCK)
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number + 1) for fd in pair)
    for fd in pair:
        os.close(fd)
    os.dup2(write, number, inheritable=False)
    try:
        with engine._changed:
            engine._keeper._wake()
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
        os.write(number, b"w")  # the control: it would have been seen
        assert os.read(read, 1) == b"w"
    finally:
        for fd in (read, write, number):
            os.close(fd)


def test_a_block_that_raises():
    """An exception in its block ends a pool at once."""
    futures = []

    def begin_and_fail():
        with ramet.Pool(size=1, spare=1) as pool:
            futures.append(pool.submit(time.sleep, 1000))
            raise KeyError

    with pytest.raises(KeyError):
        begin_and_fail()
    assert futures[0].exception(60) is not None


def test_a_pool_that_is_dropped():
    """A pool that nobody holds any more ends by itself, threads and all."""
    pool = ramet.Pool(size=2, spare=2)
    assert pool.run(double, 1) == 2
    engine = pool._engine
    del pool
    gc.collect()
    _wait_for(lambda: engine.is_over)
    _wait_for(lambda: not any("ramet-pool" in thread.name for thread in threading.enumerate()))


def test_a_pool_that_could_not_be_made():
    """A pool that is refused leaves no thread."""
    with pytest.raises(ramet.ZygoteError):
        ramet.Pool(["no_such_module"], size=1)
    assert not any("ramet-pool" in thread.name for thread in threading.enumerate())


def _wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _wait_for_end(pool):
    _wait_for(lambda: pool._engine.is_over)
    _wait_for(lambda: not any("ramet-pool" in thread.name for thread in threading.enumerate()))


def test_use_after_a_fork():
    """In a fork of its process a pool refuses to be used, and its end there is not the end of the pool."""
    with ramet.Pool(size=1, spare=1) as pool:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                pool.run(double, 1)
            except ramet.PoolError as error:
                os.write(write, str(error).encode())
            finally:
                pool.close()
                del pool
                gc.collect()
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as told:
            assert "is a fork" in told.read()
        os.waitpid(pid, 0)
        assert pool.run(double, 1) == 2


def python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=55, env={**os.environ}
    )


@pytest.mark.parametrize("how", ["pass", "raise KeyError", "import os; os._exit(0)", "import sys; sys.exit(3)"])
def test_the_interpreter_ends_with_calls_in_flight(how):
    """A program that ends while its pool works ends at once, however it does, and says nothing of it."""
    done = python(
        f"""
        import time, ramet
        pool = ramet.Pool(size=1, spare=1)
        future = pool.submit(time.sleep, 1000)
        while not pool.counts["running"]:
            time.sleep(0.001)
        print(pool._engine.zygote.pid, flush=True)
        {how}
        """
    )
    lines = [line for line in done.stderr.splitlines() if line]
    assert lines == [] if how != "raise KeyError" else lines[-1] == "KeyError"
    pid = int(done.stdout)
    _wait_for(lambda: not os.path.exists(f"/proc/{pid}"))


def test_the_main_module_of_a_script(tmp_path):
    """Functions and classes of a script, where pickle alone would not do, go in and come back."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import dataclasses, ramet

            @dataclasses.dataclass
            class Point:
                x: int

            def grow(point):
                return Point(helper(point.x))

            def helper(x):
                return x + 1

            if __name__ == "__main__":
                with ramet.Pool(size=1, spare=1) as pool:
                    print(pool.run(grow, Point(1)))
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=55)
    assert (done.stdout, done.stderr) == ("Point(x=2)\n", "")


def test_without_cloudpickle(tmp_path):
    """Without cloudpickle a function of a script is refused with what to do; one of a module goes in."""
    done = python(
        """
        import sys
        sys.modules["cloudpickle"] = None
        import os.path, ramet
        def mine(): pass
        with ramet.Pool(size=1, spare=0) as pool:
            print(pool.run(os.path.join, "a", "b"))
            try:
                pool.run(mine)
            except ramet.SpecError as error:
                print(error)
        """
    )
    assert done.stderr == ""
    first, *rest = done.stdout.splitlines()
    assert first == "a/b"
    assert "fn: __main__.mine can't be imported in the sandbox" in rest[0]
    assert "ramet[pool]" in done.stdout


def test_the_example():
    """examples/answers.py tells right from wrong, hanging, greedy and hostile answers."""
    example = Path(__file__).parents[2] / "examples" / "answers.py"
    done = subprocess.run([sys.executable, example], capture_output=True, text=True, timeout=55)
    said = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if "[" not in line)
    wanted = {
        "sorts": "right",
        "hangs": "TimeLimitError",
        "eats memory": "MemoryError",
        "looks around": "FileNotFoundError",
    }
    assert wanted.items() <= said.items(), done
    assert said["kills"] in ("PermissionError", "ExitError", "ProcessLookupError")
