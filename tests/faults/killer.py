"""Kill callers at random moments and see what is left: killer.py COUNT MODE [SEED]; prints one line of JSON.

This process makes itself the reaper of all its descendants (PR_SET_CHILD_SUBREAPER), so nothing that a dead
caller
leaves can get out of sight, and nobody has to be looked for by name: what is left is what can still be
waited for.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections import deque
from threading import Thread
from time import monotonic, sleep

import ramet
from ramet import _core
from ramet.plan.calls import numbers

NUMBERS = numbers(os.uname().machine)
PR_SET_CHILD_SUBREAPER = 36
WALL = 0x40000000
LONG = 40.0  # seconds: what was killed is gone after some thousandths, unless the machine stands still
PATIENCE = float(os.environ.get("PATIENCE", LONG))
SHORTEST_SPAN = 0.012  # a start takes 1 to 4 ms; the caller starts one after the other


def start_for_ever(mode):
    """The caller: starts sandboxes until it is killed; a few of them live at a time."""
    alive = deque()

    def loop():
        while True:
            if mode == "ahead":
                ramet.run(["true"])  # makes namespaces for the next one while it waits, by a process of their own
                continue
            if mode == "control":
                if len(alive) == 3:
                    signal.pause()
                alive.append(subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL))
            else:
                alive.append(ramet.Popen(["sleep", "1000"], as_pid1=mode == "as_pid1", stdout=ramet.DEVNULL))
            if len(alive) > 3 and mode != "control":
                alive.popleft().close()

    if mode == "thread":
        for _ in range(2):
            Thread(target=loop).start()
    loop()


def everything_ended(patience):
    """Wait until this process has no descendant; what is still there after so many seconds."""
    deadline = monotonic() + patience
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG | WALL)
        except ChildProcessError:
            return []
        if pid == 0:
            left = deadline - monotonic()
            if left <= 0:
                break
            signal.sigtimedwait([signal.SIGCHLD], min(left, 0.1))
    with open("/proc/thread-self/children") as file:
        return [int(word) for word in file.read().split()]


def children_of(pid):
    """Of its main thread."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def describe(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as cmdline:
            return f"{pid} {stat.read().split()[1:3]} {cmdline.read()!r}"
    except OSError:
        return str(pid)


def main():
    count, mode = int(sys.argv[1]), sys.argv[2]
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else None)
    _core.syscall("prctl", NUMBERS["prctl"], PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    survivors, descendants = [], 0
    ramet.run(["true"])
    started = monotonic()
    for _ in range(5):
        ramet.run(["true"])
    span = max(SHORTEST_SPAN, monotonic() - started)  # longer on a machine that has much else to do
    for _ in range(count):
        reader, writer = os.pipe()
        caller = os.fork()
        if caller == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.write(writer, b"R")
            try:
                start_for_ever(mode)
            finally:
                os._exit(1)
        os.read(reader, 1)
        if mode == "control":
            while len(children_of(caller)) < 3:
                sleep(0.001)
        sleep(chance.uniform(0, span))  # the moment is to be random: there is nothing to wait for
        descendants += len(children_of(caller))
        os.kill(caller, signal.SIGKILL)
        os.close(reader)
        os.close(writer)
        left = everything_ended(PATIENCE)
        survivors += [describe(pid) for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert everything_ended(LONG) == []  # or they would be counted a second time
    print(
        json.dumps(
            {
                "killed": count,
                "survivors": survivors,
                "descendants": descendants,
                "seconds": monotonic() - started,
            }
        )
    )


if __name__ == "__main__":
    main()
