"""Hazard 8 of csrc/spawn.c: whose child it is, whoever else waits, and many at once."""

import errno as E

from core_programs import NUMBERS, failed, spawn, step, succeeded

from ramet.plan.calls import CALLS


def test_8_pid_race_caller_that_ignores_sigchld_gets_the_verdict(python):
    """With SIGCHLD ignored the kernel reaps for us; init's report still says how it ended."""
    out = python("""
        import signal
        import ramet
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(ramet.run(["sh", "-c", "exit 7"]))
        print(ramet.run(["sh", "-c", "kill -9 $$"]))
    """)
    assert out.splitlines() == ["'sh' exited with 7", "'sh' was ended by SIGKILL"]


def test_8_pid_race_status_that_another_took_is_still_known(python):
    """Without init there is no report: then the pidfd tells the exit code after the kernel has reaped it
    (since Linux 6.15)."""
    import os

    if tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 15):
        import pytest

        pytest.skip("a pidfd tells the status of a reaped process since Linux 6.15")
    out = python("""
        import signal
        import ramet
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(ramet.run(["sh", "-c", "exit 7"], as_pid1=True))
        print(ramet.run(["true"], as_pid1=True))
        box = ramet.Popen(["sleep", "1000"], as_pid1=True)
        box.kill()
        print(box.wait())
    """)
    assert out.splitlines() == ["'sh' exited with 7", "'true' exited with 0", "-9"]


def test_8_pid_race_other_threads_wait_for_any_child(python):
    """A thread that waits for any child may get a sandbox's status, and never its verdict."""
    out = python("""
        import os, subprocess, threading
        import ramet
        taken, stop = [], []
        def reaper():
            while not stop:
                try:
                    taken.append(os.wait())
                except ChildProcessError:
                    pass
        ramet.run(["true"])
        thread = threading.Thread(target=reaper)
        thread.start()
        codes = [ramet.run(["sh", "-c", f"exit {n % 7}"]).exit_code for n in range(70)]
        own = os.posix_spawn("/bin/true", ["true"], {})
        while own not in [pid for pid, _ in taken]:
            pass
        stop.append(1)
        thread.join()
        print(codes == [n % 7 for n in range(70)])
    """)
    assert out == "True\n"


def test_8_pid_race_handle_that_is_dropped_ends_the_sandbox(python):
    """A Popen that is collected kills, reaps and closes; one in a cycle too."""
    out = python("""
        import gc
        import ramet
        from core_programs import children, descriptors
        ramet.run(["true"])
        before = children(), descriptors()
        ramet.Popen(["sleep", "1000"])
        print((children(), descriptors()) == before)
        box = ramet.Popen(["sleep", "1000"], as_pid1=True)
        box.me = box
        print((children(), descriptors()) == before)
        del box
        gc.collect()
        print((children(), descriptors()) == before)
    """)
    assert out.split() == ["True", "False", "True"]


def test_8_pid_race_sixteen_threads(python):
    """16 threads with 50 runs each: every result is its own, and nothing is left."""
    out = python(
        """
        import os, threading
        import ramet
        from core_programs import PR_GET_DUMPABLE, children, descriptors, prctl
        ramet.run(["true"])
        before = children(), sorted(descriptors()), prctl(PR_GET_DUMPABLE)
        wrong = []
        def work(number):
            for n in range(50):
                done = ramet.run(["/bin/sh", "-c", f"echo {number}-{n}; exit {n}"], text=True, as_pid1=n % 5 == 0)
                if (done.stdout, done.exit_code) != (f"{number}-{n}\\n", n):
                    wrong.append((number, n, done))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(wrong, (children(), sorted(descriptors()), prctl(PR_GET_DUMPABLE)) == before)
    """,
        timeout=120,
    )
    assert out == "[] True\n"


def test_8_pid_race_first_runs_of_many_threads(python):
    """Threads that start their process's very first sandboxes at once, after a fork too, share what is
    kept, and leave
    nothing more."""
    out = python("""
        import os, threading
        import ramet
        from core_programs import descriptors
        def start(count):
            barrier, answers = threading.Barrier(count), []
            def work():
                barrier.wait()
                answers.append(ramet.run(["true"]).ok)
            threads = [threading.Thread(target=work) for _ in range(count)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            kept = [what for what in descriptors().values() if "ramet-init" in what or "pidfd" in what]
            print(answers == [True] * count, len(kept), flush=True)
        start(8)
        if os.fork() == 0:
            start(8)
            os._exit(0)
        os.wait()
    """)
    assert out.split() == ["True", "2"] * 2


def test_8_pid_race_asyncio_executor(python):
    """Runs from asyncio's executor, with the loop's own child watching at work beside them, all end
    rightly."""
    out = python("""
        import asyncio
        import ramet
        async def main():
            loop = asyncio.get_running_loop()
            runs = [loop.run_in_executor(None, lambda n=n: ramet.run(["sh", "-c", f"exit {n}"]).exit_code) for n in range(40)]
            own = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {n}") for n in range(5)]
            print(await asyncio.gather(*runs) == list(range(40)), [await process.wait() for process in own])
        asyncio.run(main())
    """)
    assert out == "True [0, 1, 2, 3, 4]\n"


def test_8_pid_race_fork_and_multiprocessing(python):
    """A caller that forks while a sandbox lives keeps it; the forked processes start sandboxes of their
    own."""
    out = python("""
        import multiprocessing, os
        import ramet
        def work(n):
            return ramet.run(["sh", "-c", f"echo {n}"], text=True).stdout
        box = ramet.Popen(["cat"], stdin=ramet.PIPE, stdout=ramet.PIPE, text=True)
        with multiprocessing.get_context("fork").Pool(4) as pool:
            print("".join(pool.map(work, range(8))).split())
        if os.fork() == 0:
            del box  # not ours to end
            os._exit(0)
        os.wait()
        print(box.communicate("still there"), box.returncode)
    """)
    assert out.splitlines() == [str([str(n) for n in range(8)]), "('still there', None) 0"]


def test_8_pid_race_wait_from_two_threads(python):
    """Two threads that wait for one sandbox get the same answer."""
    out = python("""
        import threading
        import ramet
        for _ in range(30):
            box, codes = ramet.Popen(["sh", "-c", "exit 9"]), []
            threads = [threading.Thread(target=lambda: codes.append(box.wait())) for _ in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert codes == [9, 9, 9], codes
            box.close()
        print("same")
    """)
    assert out == "same\n"


def test_8_pid_race_joining_process_that_is_killed_is_no_start(monkeypatch, nothing_left):
    """An intermediate that somebody ends before it has cloned the child is a failed clone, not a child without a pid."""
    monkeypatch.setitem(CALLS, "exit_group", (231, 94, ""))
    gone = [step("chdir", "/"), step("exit_group", 0)]
    assert "exit_group" not in NUMBERS
    assert spawn(step("chdir", "/"), join=gone) == failed(0, E.EINTR, stage=2)
    assert spawn(step("chdir", "/"), join=gone, join_shares=True) == failed(0, E.EINTR, stage=2)
    assert succeeded(spawn(step("chdir", "/"), join=gone[:1]))
    assert succeeded(spawn(step("chdir", "/"), join=gone[:1], join_shares=True))
