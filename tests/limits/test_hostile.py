"""Hostile payloads: after each the verdict is right, every time, and nothing of it is left on the host.

Each is run tame first (the control: the same code within its limits just exits), and then as hostile as it is, `ROUNDS`
times: twice, or a hundred times with RAMET_SLOW=1.
"""

import os
import resource
import select
import tempfile

import payloads
import pytest
from limited import PATIENCE, ROUNDS, groups_of, may, processes_with
from payloads import MARK, argv

import ramet
from needs import SLOW, only
from ramet.run import control

pytestmark = pytest.mark.timeout(1800 if SLOW or PATIENCE > 1 else 120)

PROCESSES = 80


def run(code, number, *more, **fields):
    """In a sandbox; with a timeout in any case, so that a limit that does not hold ends the test and not the host."""
    fields.setdefault("timeout", 60 * PATIENCE)
    return ramet.run(argv(code, number, *more), **fields)


def nothing_of_it():
    """No process and no group is left; checked at once, since `run` promises it."""
    assert processes_with(MARK) == set()
    assert groups_of(os.getpid()) == set()


def hundred_times(code, number, status, *more, tame=None, tame_code=0, **fields):
    """The control, then the verdict every time; the last result."""
    if tame is not None:
        control = run(code, tame, *more, **fields | {"timeout": 60 * PATIENCE})
        assert (control.status, control.exit_code, control.limits_hit) == ("exited", tame_code, ()), control.stderr
    for turn in range(ROUNDS):
        result = run(code, number, *more, **fields)
        assert result.status == status, (turn, result, result.limits_hit, result.stderr)
        nothing_of_it()
    return result


MEMORY = [
    pytest.param("ANONYMOUS", {}, id="anonymous"),
    pytest.param("TMPFS", {"disk": "512M"}, id="tmpfs"),
    pytest.param("DEV_SHM", {"disk": "512M"}, id="dev-shm"),
    pytest.param("SYSV_SHM", {}, id="sysv-shm"),
    pytest.param("MEMFD", {}, id="memfd"),
    pytest.param("MLOCK", {}, id="mlock"),
    pytest.param("SPREAD", {}, id="spread over children"),
]


@pytest.mark.parametrize(("name", "fields"), MEMORY)
def test_memory_bomb(name, fields):
    """Whatever kind of memory it takes, and in how many processes, it is out of memory at 40 MiB, and never
    had more; with 8 MiB it exits."""
    may("memory", "processes")
    result = hundred_times(
        getattr(payloads, name), 256, "out-of-memory", tame=8, memory="40M", processes=PROCESSES, **fields
    )
    assert result.limits_hit[0] == "out-of-memory"
    if result.usage.memory_peak_of == "group":
        assert result.usage.memory_peak <= 40 << 20


def test_page_cache_is_reclaimed_and_kills_nobody():
    """A payload that writes 200 MiB to a disk within 40 MiB of memory exits, and never had more: page cache can be given back."""
    may("memory")
    with tempfile.TemporaryDirectory(prefix="limits-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        disk = os.stat(folder).st_dev
        only(os.path.exists(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}"), "where /var/tmp is on a disk")
        for _ in range(min(ROUNDS, 10)):
            result = run(
                payloads.PAGE_CACHE,
                200,
                f"{folder}/big",
                memory="40M",
                mounts=[ramet.Bind(folder, folder, writable=True)],
            )
            assert (result.status, result.exit_code) == ("exited", 0), result.stderr
            assert result.usage.memory_peak is None or result.usage.memory_peak <= 40 << 20
            assert os.path.getsize(f"{folder}/big") == 200 << 20
            os.unlink(f"{folder}/big")
            nothing_of_it()


def test_fork_bomb():
    """A fork bomb never has more than its processes, and is ended by its time; that forks were refused is told, too."""
    may("processes", "memory")
    # What refused forks had allocated goes after a grace period of RCU's: on a host with much else to do 150 MB were seen of it.
    result = hundred_times(
        payloads.FORK_BOMB, 1000, "timed-out", tame=5, processes=20, memory="1G", timeout=3.0 * PATIENCE
    )
    assert result.limits_hit == ("timed-out", "processes-limit")
    assert result.usage.processes_peak is None or result.usage.processes_peak <= 20


def test_forks_until_it_is_refused():
    """A payload that fails since a fork was refused has hit the limit of processes, and was not ended for it."""
    may("processes")
    result = hundred_times(payloads.FORKS_UNTIL_REFUSED, 30, "processes-limit", tame=3, processes=10)
    assert not result.ended_by_limit
    assert result.exit_code == 1


def test_spinning_threads():
    """Fifty threads that spin use up 0.3 s of CPU together; the verdict comes long before their own end."""
    may("cpu_time")
    result = hundred_times(payloads.SPINNING_THREADS, 60_000, "cpu-time", tame=10, cpu_time=0.3 * PATIENCE)
    assert result.ended_by_limit
    assert 0.3 * PATIENCE <= result.usage.cpu_user + result.usage.cpu_system < 10 * PATIENCE


@pytest.mark.parametrize("action", ["kill", "truncate"])
def test_flood_on_both_pipes(action):
    """A flood on stdout and stderr at once ends at the limit, or is cut; the caller's memory stays where it was. A trickle is kept whole."""
    fields = {"output": 100_000, "output_action": action, "timeout": (60 if action == "kill" else 3) * PATIENCE}
    status = "output-limit" if action == "kill" else "timed-out"
    trickle = run(payloads.FLOOD, 0, **fields | {"timeout": 60 * PATIENCE})
    assert (trickle.status, trickle.truncated) == ("exited", ())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = hundred_times(payloads.FLOOD, 100_000, status, **fields)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB
    assert "stdout" in result.truncated or "stderr" in result.truncated
    assert len(result.stdout) <= 100_000 and len(result.stderr) <= 100_000
    if action == "truncate":
        assert result.truncated == ("stdout", "stderr")


def test_writes_too_much_and_is_gone():
    """Who has written too much and ended, with 0 or not, before anybody could kill it, is told as who was killed for it; the same
    within the limit has exited."""
    for code in (0, 3):
        line = f"os.write(1, b'o' * n); os._exit({code})"
        fields = {"output": 1000, "output_action": "kill", "timeout": 60 * PATIENCE}
        hundred_times(line, 60_000, "output-limit", tame=500, tame_code=code, **fields)
        with ramet.Popen(argv(line, 60_000), stdout=ramet.PIPE, **fields) as box:
            select.select([box.pidfd], [], [], 60 * PATIENCE)  # nobody has read yet, and it is over
            result = box._result(box._communicate(None, None, None))
        assert (result.status, result.limits_hit, result.ended_by_limit) == ("output-limit", ("output-limit",), True)
        assert (result.exit_code, len(result.stdout), result.truncated) == (code, 1000, ("stdout",))


def test_endless_file():
    """A file that grows for ever fills its disk and no more; the same that stays small exits."""
    result = hundred_times(payloads.ENDLESS_FILE, 1000, "disk-limit", tame=4, disk="16M")
    assert not result.ended_by_limit
    assert b"No space left" in result.stderr or result.exit_code == 28


def test_file_size():
    """A file beyond file_size ends the payload by SIGXFSZ, the kernel's own word for it; a smaller one does not."""
    for _ in range(ROUNDS):
        result = ramet.run(["sh", "-c", "head -c 100000 /dev/zero >/tmp/x"], file_size=50_000)
        assert (result.status, result.exit_code) in [("exited", 153), ("signaled", None)], result  # the shell tells
        small = ramet.run(["sh", "-c", "head -c 10000 /dev/zero >/tmp/x"], file_size=50_000)
        assert (small.status, small.exit_code) == ("exited", 0)


#: By a shell, who has done it long before its time is over on a busy host, too.
FILLS_AND_WAITS = "head -c {}M /dev/zero 2>/dev/null >/tmp/endless; echo done; sleep 600"


def test_fills_its_disk_and_is_killed_for_something_else(monkeypatch):
    """A full disk is listed also of who is killed for another limit, and goes with it; of who has room left it is not."""
    monkeypatch.setattr(control, "ANSWER_AT_MOST", 20_000)  # ms; on a busy host init may not have had a CPU in time
    for number, hits in ((8, ("timed-out", "disk-limit")), (1, ("timed-out",))):
        for _ in range(ROUNDS):
            result = ramet.run(["sh", "-c", FILLS_AND_WAITS.format(number), MARK], disk="4M", timeout=2 * PATIENCE)
            assert (result.stdout, result.status, result.limits_hit) == (b"done\n", "timed-out", hits)
            nothing_of_it()
    result = ramet.run(
        ["sh", "-c", FILLS_AND_WAITS.format(8), MARK], disk="4M", output=2, output_action="kill", timeout=60 * PATIENCE
    )
    assert result.limits_hit == ("output-limit", "disk-limit")


def test_a_million_tiny_files():
    """Files without content fill a disk as well: one a page of `disk`. A thousand do not."""
    result = hundred_times(payloads.TINY_FILES, 1_000_000, "disk-limit", tame=1000, disk="16M")
    assert not result.ended_by_limit
    assert b"No space left" in result.stderr


def test_stopped():
    """Processes that have stopped themselves are killed at the end of their time all the same."""
    hundred_times(payloads.STOPPED, 1, "timed-out", tame=0, timeout=0.5 * PATIENCE)


def test_ignores_sigterm():
    """Who ignores every polite signal is killed at the end of his time."""
    hundred_times(payloads.IGNORES_SIGTERM, 60, "timed-out", tame=0, timeout=0.5 * PATIENCE)


def test_terminate_is_ignored_and_kill_is_not():
    """SIGTERM through Popen reaches who ignores it and does not end him; kill does, and he was signaled: no limit was hit."""
    with ramet.Popen(argv(payloads.IGNORES_SIGTERM, 60), stdout=ramet.PIPE) as box:
        assert box.stdout.readline() == b"ready\n"
        box.terminate()
        with pytest.raises(ramet.TimeoutExpired):
            box.wait(0.1)
        box.kill()
        assert box.wait() == -9


@pytest.mark.parametrize("limited", [False, True])
def test_daemon(limited):
    """A daemon in a session of its own does not outlive the payload that has left it behind."""
    if limited:
        may("memory")
    hundred_times(payloads.DAEMON, 60, "exited", tame=0, **({"memory": "64M"} if limited else {}))


def test_daemon_without_a_pid_namespace():
    """In the caller's pid namespace, where no init's end is everybody's, the group ends the daemon."""
    may("processes")
    kinds = ramet.Sandbox().namespaces - {ramet.Namespace.PID}
    hundred_times(payloads.DAEMON, 60, "exited", tame=0, processes=20, namespaces=kinds)


@pytest.mark.parametrize("code", [124, 125, 126, 127, 137, 139])
def test_spoofs_a_verdict(code):
    """An exit code that others use for verdicts, and a verdict on stderr, are an exit and a text."""
    may("memory", "cpu_time")
    result = hundred_times(payloads.SPOOFS, code, "exited", memory="64M", cpu_time=5 * PATIENCE)
    assert (result.exit_code, result.limits_hit, result.ended_by_limit) == (code, (), False)
    assert b"out-of-memory" in result.stderr


def test_closes_its_stdio_and_lives_on():
    """The end of the streams is not the end: it is waited for, and its time ends."""
    may("memory")
    hundred_times(
        payloads.CLOSES_STDIO, 60_000, "timed-out", tame=50, tame_code=3, timeout=0.5 * PATIENCE, memory="64M"
    )


def test_ends_within_the_millisecond_of_its_timeout():
    """Who ends just when his time does has either exited with 0, or was killed for it; nothing between the two, and never without
    the reason."""
    took = min(run(payloads.SLEEPS, 50_000).duration for _ in range(5))
    seen = set()
    for turn in range(5 * ROUNDS):
        result = run(payloads.SLEEPS, 50_000, timeout=took + (turn % 10 - 5) / 1000)
        how = (result.status, result.exit_code, result.signal, result.limits_hit, result.ended_by_limit)
        assert how in [("exited", 0, None, (), False), ("timed-out", None, 9, ("timed-out",), True)], (turn, how)
        seen.add(result.status)
        nothing_of_it()
    if SLOW:
        assert seen == {"exited", "timed-out"}


def test_killed_by_its_own_sigkill():
    """A payload that sends itself SIGKILL, within all of its limits, is signaled."""
    may("memory", "cpu_time")
    for _ in range(ROUNDS):
        result = ramet.run(["sh", "-c", "kill -9 $$"], memory="64M", cpu_time=5 * PATIENCE, timeout=60)
        assert (result.status, result.signal, result.limits_hit) == ("signaled", 9, ())
