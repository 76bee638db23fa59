"""Many at once, from threads and from asyncio; callers that are killed; starting beside a crowd."""

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time

import payloads
import pytest
from limited import PATIENCE, groups_of, may, processes_with, swept, until
from payloads import MARK, argv

import ramet
from needs import SLOW
from ramet import aio

pytestmark = pytest.mark.timeout(900 if SLOW or PATIENCE > 1 else 120)

#: In flight at once, and for how long.
FLIGHT, SECONDS = (200, 120) if SLOW else (32, 8)
THREADS = 16 if SLOW else 8

FIELDS = {"memory": "40M", "processes": 12, "timeout": 120 * PATIENCE}
#: (code, argument, fields besides) -> the verdict that is right.
KINDS = [
    ("pass", 0, {}, ("exited", 0)),
    ("sys.exit(137)", 0, {}, ("exited", 137)),
    (payloads.ANONYMOUS, 4, {}, ("exited", 0)),
    (payloads.SPOOFS, 3, {}, ("exited", 3)),
    (payloads.ANONYMOUS, 128, {}, ("out-of-memory", None)),
    (payloads.TMPFS, 128, {"disk": "256M"}, ("out-of-memory", None)),
    (payloads.SPREAD, 256, {"processes": 80}, ("out-of-memory", None)),
    (payloads.FORKS_UNTIL_REFUSED, 40, {}, ("processes-limit", 1)),
    (payloads.FLOOD, 1000, {"output": 10_000, "output_action": "kill"}, ("output-limit", None)),
    (payloads.SPINNING_THREADS, 60_000, {"cpu_time": 0.1, "processes": 60}, ("cpu-time", None)),
    (payloads.ENDLESS_FILE, 100, {"disk": "2M"}, ("disk-limit", None)),
    ("os.kill(os.getpid(), 9)", 0, {}, ("signaled", None)),
]


def check(kind, result):
    """Is the verdict right? Returns what is wrong."""
    code, number, _, (status, exit_code) = kind
    if result.status != status:
        return f"{code.strip()[:40]!r} {number}: {result.status} {result.limits_hit}, not {status}; {result.stderr!r}"
    if status == "exited" and result.exit_code != exit_code:
        return f"{code.strip()[:40]!r}: exit code {result.exit_code}, not {exit_code}; {result.stderr!r}"
    return None


def crowd_is_gone():
    assert until(lambda: not processes_with(MARK))
    assert until(lambda: not groups_of(os.getpid()))


def test_many_at_once_from_threads():
    """So many sandboxes in flight from several threads, most of them hostile: no verdict is wrong, nothing is left, nobody waits for ever."""
    may("memory", "processes", "cpu_time")
    end, wrong, done = time.monotonic() + SECONDS, [], []

    def one_after_the_other(seed):
        choose = random.Random(seed)
        waiting = []
        while time.monotonic() < end and not wrong:
            # Started ahead of being waited for: each thread has several in flight.
            kind = choose.choice(KINDS)
            code, number, more, _ = kind
            try:
                process = ramet.Popen(argv(code, number), stdin=ramet.PIPE, stdout=ramet.PIPE, stderr=ramet.PIPE, **{**FIELDS, **more})  # fmt: skip
            except Exception as error:
                wrong.append(f"start: {error!r}")
                break
            waiting.append((kind, process))
            if len(waiting) >= FLIGHT // THREADS:
                finish(waiting.pop(choose.randrange(len(waiting))))
        for left in waiting:
            finish(left)

    def finish(started):
        kind, process = started
        try:
            pump = process._communicate(None, process._started + FIELDS["timeout"], FIELDS["timeout"])
            found = check(kind, process._result(pump))
            process.close()
        except Exception as error:
            found = f"{kind[0].strip()[:40]!r}: {error!r}"
        wrong.extend([found] if found else [])
        done.append(1)

    threads = [threading.Thread(target=one_after_the_other, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 240 * PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    print(f"{len(done)} runs")
    gc.collect()
    crowd_is_gone()


def test_many_at_once_from_asyncio():
    """The same from one event loop."""
    may("memory", "processes", "cpu_time")
    wrong, done = [], []

    async def one(choose, end):
        while time.monotonic() < end and not wrong:
            kind = choose.choice(KINDS)
            code, number, more, _ = kind
            result = await aio.run(argv(code, number), **{**FIELDS, **more})
            found = check(kind, result)
            wrong.extend([found] if found else [])
            done.append(1)

    async def all_of_them():
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            for n in range(FLIGHT):
                group.create_task(one(random.Random(n), end))

    asyncio.run(asyncio.wait_for(all_of_them(), SECONDS + 240 * PATIENCE))
    assert wrong == []
    print(f"{len(done)} runs")
    crowd_is_gone()


CALLER = """
import os, ramet, sys
box = ramet.Popen([sys.executable, "-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(60)", os.environ["MARK"]],
                  stdout=ramet.PIPE, memory="64M", processes=9, cpu_time=60)
box.stdout.readline()
print(box._group.name, flush=True)
sys.stdin.read()
"""


def start_caller():
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        env={**os.environ, "MARK": MARK},  # not among its own arguments
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return caller, caller.stdout.readline().strip()


def test_what_a_killed_caller_leaves_is_swept_and_only_that():
    """A caller that is killed leaves no process, and a group that the next sweep removes; another caller's sandbox lives on."""
    may("memory", "processes", "cpu_time")
    victim, left = start_caller()
    other, kept = start_caller()
    try:
        victim.kill()
        victim.wait()
        assert until(lambda: len(processes_with(MARK)) == len(processes_of(other.pid)))
        assert {os.path.basename(path) for path in groups_of(victim.pid)} == {left}
        assert swept(victim.pid)
        assert {os.path.basename(path) for path in groups_of(other.pid)} == {kept}
        assert processes_of(other.pid)
    finally:
        for process in (victim, other):
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()
        assert until(lambda: not processes_with(MARK))
        assert swept(other.pid)


def processes_of(caller):
    """The payloads and inits of a caller, by its groups."""
    found = set()
    for path in groups_of(caller):
        found.update(int(pid) for pid in open(f"{path}/cgroup.procs").read().split())
    return {pid for pid in found if pid in processes_with(MARK)}


def test_a_kill_at_any_moment_of_the_start():
    """A caller that starts limited sandboxes and is killed at a random moment leaves no process; and after the next sweep no group."""
    may("memory", "processes")
    code = f"import os, ramet\nprint(1, flush=True)\nwhile True: ramet.run([{sys.executable!r}, '-I', '-S', '-c', 'import time; time.sleep(0.003)', os.environ['MARK']], memory='64M', processes=9, timeout=60)"
    for turn in range(100 if SLOW else 6):
        caller = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "MARK": MARK}, stdout=subprocess.PIPE
        )
        caller.stdout.readline()
        time.sleep(0.01 + turn % 23 / 1000)
        caller.send_signal(signal.SIGKILL)
        caller.wait()
        caller.stdout.close()
        assert until(lambda: not processes_with(MARK))
        assert swept(caller.pid), turn
