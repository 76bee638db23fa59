"""A function in a clone that shares memory: what comes back, what is its own, what the caller survives."""

from __future__ import annotations

import ctypes
import gc
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import pytest

from ramet import _core
from ramet.call import call
from ramet.errors import ChildDied, SpecError, SpecTypeError

VM, FS, FILES, SIGHAND = 0x100, 0x200, 0x400, 0x800
CLEAR_SIGHAND = 1 << 32


def interpreter(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own: for what would hang or end this one if it failed."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def children() -> str:
    return pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


def test_returns_the_object_itself():
    """Any object comes back as itself, even one that pickle refuses; all arguments arrive."""
    lock = threading.Lock()
    assert call(lambda: lock) is lock
    assert call(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}


def test_runs_in_another_process():
    """The function's pid is new at each call, and its parent is the caller."""
    assert call(os.getppid) == os.getpid()
    assert len({call(os.getpid) for _ in range(10)} | {os.getpid()}) == 11
    assert call(threading.get_native_id) != threading.get_native_id()


def test_raises_with_traceback():
    """An exception comes back as itself, and its traceback leads into the function."""
    error = ZeroDivisionError("mine")

    def fail():
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        call(fail)
    assert caught.value is error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-2:] == ["call", "fail"]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration])
def test_base_exceptions_come_back(kind):
    """An exit or interrupt raised in the function ends neither process: it is the caller's to handle."""

    def leave():
        raise kind(3)

    with pytest.raises(kind):
        call(leave)
    assert call(int) == 0


def test_own_working_directory(tmp_path):
    """chdir in the child is its own; with CLONE_FS it is the caller's too."""
    before = os.getcwd()
    try:
        call(os.chdir, tmp_path)
        assert os.getcwd() == before
        call(os.chdir, tmp_path, flags=FS)
        assert os.getcwd() == str(tmp_path)
    finally:
        os.chdir(before)


def test_descriptors():
    """A descriptor opened in the child is the caller's with CLONE_FILES, and not without."""
    shared = call(os.open, "/dev/null", os.O_RDONLY, flags=FILES)
    assert os.read(shared, 1) == b""
    os.close(shared)
    own = call(os.open, "/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)


def test_closed_pidfd():
    """With CLONE_FILES the function may close every descriptor, the child's pidfd included."""
    result = interpreter("""
        import os
        from ramet.call import call
        print(call(lambda: os.closerange(3, 100) or 7, flags=0x400), call(int))
        try:
            os.waitpid(-1, 1 << 30)
        except ChildProcessError:
            print("reaped")
    """)
    assert result.stdout.split() == ["7", "0", "reaped"], result.stderr


def test_own_signal_handlers():
    """A disposition set in the child is its own; with CLONE_SIGHAND it is the caller's too."""

    def caught_mask() -> int:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("SigCgt:")[1].split()[0], 16)

    def bit() -> bool:
        return bool(caught_mask() >> (signal.SIGRTMIN + 3 - 1) & 1)

    number = signal.SIGRTMIN + 3
    try:
        call(signal.signal, number, lambda *_: None)
        assert not bit()
        call(signal.signal, number, lambda *_: None, flags=SIGHAND)
        assert bit()
    finally:
        signal.signal(number, signal.SIG_DFL)


def test_twenty_threads_at_once():
    """Twenty threads are in a call at the same time, each in a process of its own."""
    barrier = threading.Barrier(20, timeout=50)
    pids: list[int] = []

    def work():
        barrier.wait()
        pids.append(os.getpid())

    threads = [threading.Thread(target=call, args=(work,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(set(pids) - {os.getpid()}) == 20


def test_threads_and_garbage():
    """Threads that allocate, collect and call at once, for a second and ten times each, leave an interpreter that works."""
    result = interpreter("""
        import gc, threading, time
        from ramet.call import call
        gc.set_threshold(10)
        end = time.monotonic() + 1
        def churn():
            cycles = []
            for i in range(200):
                a = [i]
                a.append({"self": a, "text": str(i) * 10})
                cycles.append(a)
            return len(cycles)
        counts = [0] * 6
        def work(n):
            while time.monotonic() < end or counts[n] < 10:
                assert (call(churn) if n % 3 else churn()) == 200
                counts[n] += 1
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        gc.collect()
        print(min(counts) >= 10, call(churn))
    """)
    assert result.stdout == "True 200\n", result.stderr


def test_deep_recursion():
    """The function may recurse as deep as the caller could; too deep raises RecursionError, twice."""

    def deep(n: int) -> int:
        return n and 1 + deep(n - 1)

    assert call(deep, 500) == 500
    for _ in range(2):
        with pytest.raises(RecursionError):
            call(deep, 10**6)
    assert deep(500) == 500


def test_calls_within_calls():
    """A function in a child may call another in a child of its own."""
    mine, inner, innermost = call(lambda: (os.getpid(), call(os.getppid), call(call, os.getpid)))
    assert mine == inner
    assert innermost not in (mine, os.getpid())


def test_generators_and_imports():
    """A generator begun in the child goes on in the caller; a module imported there is imported here."""

    def count():
        yield os.getpid()
        yield os.getpid()

    def begin():
        generator = count()
        return next(generator), generator

    pid, generator = call(begin)
    assert pid != os.getpid()
    assert next(generator) == os.getpid()
    sys.modules.pop("this_is_none", None)
    call(sys.modules.__setitem__, "this_is_none", sys)
    assert sys.modules.pop("this_is_none") is sys


DEATHS = {
    "killed": ("os.kill(os.getpid(), 9)", 9),
    "killed without the GIL": (
        "subprocess.Popen(['sh', '-c', f'sleep 0.2; kill -9 {os.getpid()}']); time.sleep(600)",
        9,
    ),
    "os._exit": ("os._exit(3)", 3 << 8),
    "exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", 5 << 8),
    "fault": ("resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); ctypes.string_at(0)", 11),
    "middle of three": ("call(lambda: (os.kill(os.getppid(), 9), [None for _ in iter(int, 1) if _]))", 9),
    "in an except block": ("fail_inside()", 9),
    "deep": ("dive(300)", 9),
}


@pytest.mark.parametrize("how", DEATHS)
def test_death_is_detected(how):
    """A child that ends without returning is told with its status, and the caller goes on working."""
    code, status = DEATHS[how]
    result = interpreter(f"""
        import contextvars, ctypes, os, resource, subprocess, sys, threading, time
        from ramet.call import call
        from ramet.errors import ChildDied
        def fail_inside():
            try:
                1 / 0
            except ZeroDivisionError:
                contextvars.copy_context().run(os.kill, os.getpid(), 9)
        def dive(n):
            dive(n - 1) if n else os.kill(os.getpid(), 9)
        def deep(n):
            return n and 1 + deep(n - 1)
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        def function():
            {code}
        for _ in range(20 if {how!r} != "killed without the GIL" else 1):
            try:
                raise KeyError("outer")
            except KeyError as outer:
                try:
                    call(function)
                except ChildDied as error:
                    assert error.status == {status}, error.status
                    assert error.__context__ is outer
                else:
                    raise AssertionError("nothing noticed")
                assert sys.exc_info()[1] is outer
            assert sys.exc_info()[1] is None
            assert deep(500) == 500
            assert call(deep, 500) == 500
        done = threading.Event()
        threading.Thread(target=done.set).start()
        assert done.wait(50)
        print("whole")
        sys.stdout.flush()
        os._exit(0)
    """)
    assert result.stdout == "whole\n", result.stderr


def test_interval_timer():
    """Under a 1 kHz timer 500 calls succeed, and its signals reach the caller's handler, in the caller."""
    result = interpreter("""
        import os, signal
        from ramet.call import call
        pids = set()
        ticks = 0
        def tick(*_):
            global ticks
            ticks += 1
            pids.add(os.getpid())
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for i in range(500):
            assert call(sum, range(10000)) == 49995000
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(ticks > 10, pids == {os.getpid()})
    """)
    assert result.stdout == "True True\n", result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGCHLD])
def test_signal_for_the_caller_is_delivered_after(number):
    """A signal for the caller while it is in a call runs its handler when the function has returned."""
    seen: list[int] = []
    old = signal.signal(number, lambda *_: seen.append(os.getpid()))
    try:
        during = call(lambda: (os.kill(os.getppid(), number), time.sleep(0.02), list(seen))[-1])
        assert during == []
        assert seen == [os.getpid()]
    finally:
        signal.signal(number, old)


def test_signal_for_the_child_passes_it_by():
    """A signal that would end a process leaves the child alone, and the caller's handler unrun."""
    result = interpreter("""
        import os, signal
        from ramet.call import call
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
            assert call(lambda: os.kill(os.getpid(), number) or 5) == 5
        print(seen)
    """)
    assert result.stdout == "[]\n", result.stderr


def test_cleared_handlers_kill():
    """With CLONE_CLEAR_SIGHAND the same signal kills the child: the control of the test above."""
    result = interpreter(f"""
        import os, signal
        from ramet.call import call
        from ramet.errors import ChildDied
        try:
            call(lambda: os.kill(os.getpid(), signal.SIGTERM), flags={CLEAR_SIGHAND})
        except ChildDied as error:
            print(error.status)
    """)
    assert result.stdout == f"{int(signal.SIGTERM)}\n", result.stderr


@pytest.mark.parametrize("group", [True, False])
def test_interrupt(group):
    """Ctrl-C (SIGINT to the group) raises one KeyboardInterrupt at once, to the caller alone, after."""
    result = interpreter(f"""
        import os, signal, subprocess, time
        from ramet.call import call
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        target = {"-os.getpid()" if group else "os.getpid()"}
        for _ in range(5):
            seen = []
            def function():
                pid = os.getppid()
                if {group}:
                    os.kill(0, signal.SIGINT)
                    time.sleep(600)  # which nobody waits for: the interpreter's own timeout
                os.kill(pid, signal.SIGINT)
                time.sleep(0.02)
                return seen.append("returned")
            try:
                call(function)
                time.sleep(0.1)
            except KeyboardInterrupt:
                seen.append("interrupt")
            try:
                time.sleep(0.05)
            except KeyboardInterrupt:
                seen.append("second")
            print(seen)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, []) == set())
    """)
    expected = "['interrupt']" if group else "['returned', 'interrupt']"
    assert result.stdout.splitlines() == [expected] * 5 + ["True"], result.stderr


def test_deadly_signal_ends_caller_at_once():
    """A signal with no handler ends a caller that is in a call, and its child with it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import os, time; from ramet.call import call; "
            "call(lambda: (print(os.getpid(), flush=True), time.sleep(60)))",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    with process.stdout:
        child = os.pidfd_open(int(process.stdout.readline()))
        process.terminate()
        assert process.wait(50) == -signal.SIGTERM
        # end of file: nobody holds the pipe any more, so the child is gone too
        assert process.stdout.read() == ""
    os.close(child)


def test_programs_started_by_the_function_have_plain_signals():
    """What the function starts can be terminated: no signal is blocked or ignored in it for our sake."""

    def start() -> tuple[int, str]:
        process = subprocess.Popen(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True)
        status = process.communicate()[0]
        sleeper = subprocess.Popen(["sleep", "60"])
        sleeper.terminate()
        return sleeper.wait(50), "".join(s for s in status.splitlines() if s.startswith(("SigBlk", "SigIgn")))

    outside = start()
    assert call(start) == outside
    assert outside[0] == -signal.SIGTERM


def test_child_of_the_function_is_not_told_to_the_callers_handler():
    """The caller's SIGCHLD handler runs for the caller's children, and not for those the function starts."""
    seen: list[int] = []
    old = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    try:
        call(subprocess.run, ["true"])
        assert seen == []
        subprocess.run(["true"], check=True)
        assert seen == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_libc_knows_the_cpu():
    """libc tells the cpu that the child runs on, not the one that the caller's registration remembers."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("only with two processors")
    libc = ctypes.CDLL(None)

    def tour() -> list[int]:
        return [os.sched_setaffinity(0, {cpu}) or libc.sched_getcpu() for cpu in cpus]

    assert call(tour) == cpus
    assert set(os.sched_getaffinity(0)) == set(cpus)


def test_fork_in_the_function():
    """A process forked by the function is an ordinary one: SIGTERM ends it."""

    def fork() -> int:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, b"forked")  # before this the fork handlers may not have run
            time.sleep(60)
            os._exit(0)
        os.read(read, 6)
        os.kill(pid, signal.SIGTERM)
        os.close(read)
        os.close(write)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert call(fork) == -signal.SIGTERM


def test_threads_started_by_the_function():
    """A call lasts until the threads that its function started have ended, and none is killed."""
    done: list[int] = []

    def work():
        time.sleep(0.1)
        done.append(os.getpid())

    thread = call(lambda: (threading.Thread(target=work), os.getpid()))
    assert done == []

    def start() -> int:
        threading.Thread(target=work).start()
        return os.getpid()

    assert [call(start)] == done
    assert not thread[0].is_alive()


def test_other_threads_go_on():
    """While a function blocks in its child, another thread of the caller runs."""
    reader, writer = os.pipe()
    timer = threading.Timer(0.05, os.write, (writer, b"x"))
    timer.start()
    try:
        assert call(os.read, reader, 1) == b"x"
    finally:
        timer.join()
        os.close(reader)
        os.close(writer)


def test_exit_signal():
    """exit_signal=SIGCHLD is sent to the caller; by default nothing is."""
    seen: list[int] = []
    old = signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
    try:
        call(int)
        assert seen == []
        call(int, exit_signal=signal.SIGCHLD)
        time.sleep(0)  # 3.14 looks for signals later
        assert seen == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_ten_thousand_calls_leave_nothing():
    """10,000 calls leave no zombie, no descriptor and no memory behind; nor does a failing one."""

    def resident() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

    def fail():
        raise ValueError("mine")

    for _ in range(500):
        call(int)
    gc.collect()
    before, fds, blocks = resident(), descriptors(), sys.getallocatedblocks()
    for i in range(10_000):
        if i % 10:
            call(int)
        else:
            with pytest.raises(ValueError, match="mine"):
                call(fail)
    gc.collect()
    assert descriptors() == fds
    assert children() == ""
    assert sys.getallocatedblocks() - blocks < 200
    assert resident() - before < 256  # pages: 1 MiB


def test_without_clone3():
    """Where clone3 is ENOSYS, for real, clone does the same, pidfd and exit signal included."""
    result = interpreter("""
        import ctypes, os, struct
        from ramet import _core
        from ramet.call import call
        number = 435
        load, equal, give = 0x20, 0x15, 0x06
        code = b"".join(struct.pack("HBBI", *line) for line in (
            (load, 0, 0, 0), (equal, 0, 1, number), (give, 0, 0, 0x50000 | 38), (give, 0, 0, 0x7fff0000)))
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxQ", 4, ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, program, 0, 0) == 0
        assert libc.syscall(number, None, 0) == -1 and ctypes.get_errno() == 38
        before = sorted(os.listdir("/proc/self/fd"))
        print(len({call(os.getpid) for _ in range(100)} - {os.getpid()}))
        print(before == sorted(os.listdir("/proc/self/fd")))
    """)
    assert result.stdout == "100\nTrue\n", result.stderr


def test_forced_clone():
    """The core's switch for the old call gives what clone3 gives, and refuses what only clone3 can say."""
    died = pytest.fail
    for clone3 in (True, False):
        assert _core.call(os.getppid, (), None, died, 0, clone3=clone3) == os.getpid()
    with pytest.raises(OSError, match="Invalid argument"):
        _core.call(int, (), None, died, CLEAR_SIGHAND, clone3=False)


REFUSED = {
    0x10000: "CLONE_THREAD",
    0x8000: "CLONE_PARENT",
    0x80000: "CLONE_SETTLS",
    0x100000: "CLONE_PARENT_SETTID",
    0x1000000: "CLONE_CHILD_SETTID",
    0x200000: "CLONE_CHILD_CLEARTID",
    0x400000: "CLONE_DETACHED",
    0x80: "CLONE_NEWTIME",
    1 << 33: "CLONE_INTO_CGROUP",
    1 << 40: "no CLONE_ flag",
    0x20000 | FS: "CLONE_NEWNS and CLONE_FS",
    0x10000000 | FS: "CLONE_NEWUSER and CLONE_FS",
    0x8000000 | 0x40000: "CLONE_NEWIPC and CLONE_SYSVSEM",
    SIGHAND | CLEAR_SIGHAND: "CLONE_SIGHAND and CLONE_CLEAR_SIGHAND",
}


@pytest.mark.parametrize("flags", REFUSED, ids=REFUSED.get)
def test_refused_flags(flags):
    """What can't work is refused before anything runs, with the flags' names."""
    ran: list[int] = []
    with pytest.raises(SpecError, match=REFUSED[flags]) as caught:
        call(ran.append, 1, flags=flags)
    assert caught.value.field == "flags"
    assert ran == []


def test_refused_arguments():
    """Wrong arguments are refused with the field at fault."""
    for field, error, arguments in (
        ("exit_signal", SpecError, {"exit_signal": 65}),
        ("map_uid", SpecError, {"map_uid": 0}),
        ("map_gid", SpecError, {"map_gid": -1, "flags": 0x10000000}),
        ("join", SpecTypeError, {"join": "/proc/self/ns/net"}),
        ("join[0]", SpecTypeError, {"join": [1.5]}),
    ):
        with pytest.raises(error) as caught:
            call(int, **arguments)
        assert caught.value.field == field
    with pytest.raises(SpecTypeError):
        call(5)  # type: ignore[arg-type]


def test_full_descriptor_table():
    """Without a free descriptor for the pidfd the clone is refused by name, and nothing is broken by it."""
    result = interpreter("""
        import os, resource
        from ramet.call import call
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        try:
            call(int)
        except OSError as error:
            print(error.strerror, error.filename)
        os.close(held.pop())
        print(call(int))
    """)
    assert result.stdout == "Too many open files clone3\n0\n", result.stderr


def test_child_died_is_an_error_of_ours():
    """ChildDied tells the status as os.waitpid gives it, and what may be lost."""
    with pytest.raises(ChildDied, match=r"exited with 3 .*locks it held stay held") as caught:
        call(os._exit, 3)
    assert os.waitstatus_to_exitcode(caught.value.status) == 3
