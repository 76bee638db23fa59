"""Other threads of the caller: that fork in the middle of a start, or still wait for a sandbox when the interpreter ends."""

import os
import subprocess
import sys

import pytest
from hosts import processes, wait_until

FORKS = """
import asyncio, os, select, signal, sys, threading, time
import ramet, ramet.aio
from hosts import children, descriptors

how, count = sys.argv[1], int(sys.argv[2])
ramet.run(["true"])
before = children(), sorted(descriptors())
forked, stop = [], False

def fork():
    while not stop:
        if (pid := os.fork()) == 0:
            signal.alarm(300)  # nobody is left to end it where the test itself is ended
            signal.pause()  # with a copy of every descriptor that was there
            os._exit(0)
        forked.append(pid)
        time.sleep(0.001)  # as often as there is time: there is nothing to wait for

def start():
    if how == "aio":
        return asyncio.run(ramet.aio.run(["echo", "fine"]))
    return ramet.run(["echo", "fine"], as_pid1=how == "as_pid1")

forker = threading.Thread(target=fork)
forker.start()
holders = 0
for _ in range(count):
    result = start()
    assert (result.stdout, result.ok) == (b"fine\\n", True), result
stop = True
forker.join()
for pid in forked:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        holders += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:") and int(fd) > 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
assert (children(), sorted(descriptors())) == before
print(len(forked) > 10, holders > 0)
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["default", "as_pid1", "aio"])
def test_forks_of_another_thread_keep_nobody_waiting(how):
    """While another thread forks children that hold copies of whatever is open and do not end, every run starts, has its whole
    output and returns; nothing of it is left. And they did hold pipes of the runs."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, how, "30"],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout == "True True\n", done.stdout + done.stderr[-2000:]


IN_FLIGHT = """
import sys, threading, time
import ramet
mark, as_pid1, seconds = sys.argv[1], sys.argv[2] == "as_pid1", float(sys.argv[3])

def wait():
    try:
        ramet.run(["sh", "-c", "sleep 1000; : $0", mark], as_pid1=as_pid1)
    except BaseException as error:  # what a thread is told while the interpreter ends, if it is told at all
        print(type(error).__name__, flush=True)

for _ in range(4):
    threading.Thread(target=wait, daemon=True).start()
time.sleep(seconds)  # somewhere in their starts, or behind them: any moment will do
print("ready", flush=True)
"""


@pytest.mark.parametrize("mode", ["default", "as_pid1"])
@pytest.mark.parametrize("seconds", ["0", "0.003", "0.01", "0.2"])
def test_interpreter_that_ends_while_threads_wait_leaves_nothing(mode, seconds):
    """Daemon threads in the middle of run(), in its start or while they wait, when the interpreter ends: it ends, at once and
    without a crash, and so do their sandboxes."""
    mark = f"ramet-in-flight-{os.getpid()}-{mode}-{seconds}"
    done = subprocess.run(
        [sys.executable, "-c", IN_FLIGHT, mark, mode, seconds], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr[-2000:]
    assert "Fatal" not in done.stderr
    assert wait_until(lambda: not processes(mark))
