"""Each limit alone: what it does to a payload, what the payload is without it, and what the result says of it."""

import errno
import os
import resource
import select
import subprocess
import sys
import tempfile
import time

import pytest
from limited import PATIENCE, may

import ramet
from needs import only
from ramet import cgroups
from ramet.spec import IoLimit

PYTHON = [sys.executable, "-I", "-S", "-c"]


def python(code, **fields):
    """Its result."""
    fields.setdefault("timeout", 60 * PATIENCE)
    return ramet.run([*PYTHON, code], text=True, **fields)


def held(result, name):
    """How the result says that a limit was held."""
    found = [one for one in result.protections if one.name == name]
    assert len(found) == 1, result.protections
    return found[0]


def test_memory():
    """60 MiB are too much for 40, and not for 120."""
    may("memory")
    code = "x = b'x' * (60 << 20)"
    small, large = python(code, memory="40M"), python(code, memory="120M")
    assert (small.status, small.ended_by_limit) == ("out-of-memory", True)
    assert (large.status, large.exit_code) == ("exited", 0)
    assert held(large, "memory").state == "enforced"
    assert str(small) == f"{sys.executable!r} ran out of memory"
    if large.usage.memory_peak_of == "group":
        assert 60 << 20 < large.usage.memory_peak <= 120 << 20


def outcome(memory):
    """The verdict, or the text of the error."""
    try:
        return ramet.run(["true"], memory=memory, timeout=60 * PATIENCE).status
    except ramet.StepError as error:
        return str(error)


@pytest.mark.timeout(600)
def test_callers_survive_what_their_sandboxes_die_of():
    """The kernel kills everybody who has the victim's memory, and until its exec a child has its caller's: a hundred starts within a
    limit that they do not fit in leave the caller alive. It is another process, which would be killed."""
    may("memory")
    code = "import ramet\nfor n in range({}):\n try: ramet.run(['true'], memory=4096 + n * 7919)\n except ramet.StepError: pass\nprint('alive')"
    rounds = 100 if PATIENCE == 1 else 10
    done = subprocess.run(
        [sys.executable, "-c", code.format(rounds)], capture_output=True, text=True, timeout=500, check=False
    )
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


@pytest.mark.timeout(600)
def test_memory_too_small_to_build_the_sandbox():
    """A limit that the sandbox itself is too big for is an error of a step, with the field to change, or the end for lack of memory;
    the caller, whose memory the child has until its exec, lives on."""
    may("memory")
    for size in (4096, 65536, 100_000, 200_000, 300_000):
        for _ in range(10):  # where memory ends is another place each time
            said = outcome(size)
            assert "Sandbox.memory" in said or said == "out-of-memory" or size >= 200_000, (size, said)
    assert ramet.run(["true"], memory="8M").ok


def test_memory_high():
    """Above memory_high it is made to wait and gives back what it can, and is not killed."""
    may("memory_high")
    code = "import time; b = time.monotonic(); x = b'x' * (40 << 20); print(time.monotonic() - b)"
    slow, *free = python(code, memory_high="24M"), *(python(code) for _ in range(3))
    assert {one.status for one in (slow, *free)} == {"exited"}
    assert float(slow.stdout) > min(float(one.stdout) for one in free)  # a busy host holds up now this one, now that


def test_processes():
    """The fifth process of a payload that may have four is refused to it; init does not count. With ten it is not."""
    may("processes")
    code = "import os, time\nn = 1\ntry:\n  while n < 8:\n    if not os.fork(): time.sleep(60)\n    n += 1\nexcept BlockingIOError: pass\nprint(n)"
    small, large = python(code, processes=4), python(code, processes=10)
    assert (small.stdout, large.stdout) == ("4\n", "8\n")
    assert (small.status, small.limits_hit) == ("exited", ("processes-limit",))  # it did not mind
    assert large.limits_hit == ()


def test_most_processes():
    """The largest number that may be given can be held; one more can't be given."""
    may("processes")
    assert python("pass", processes=2**22).ok
    with pytest.raises(ramet.SpecError):
        python("pass", processes=2**22 + 1)


def test_processes_count_threads():
    """A thread is one of them."""
    may("processes")
    code = "import _thread, time\nn = 1\ntry:\n  while n < 8: _thread.start_new_thread(time.sleep, (60,)); n += 1\nexcept RuntimeError: pass\nprint(n, flush=True)\nimport os; os._exit(0)"
    assert python(code, processes=4).stdout == "4\n"
    assert python(code, processes=10).stdout == "8\n"


def test_cpu_time_of_the_whole_tree():
    """Twenty children that want 0.3 s each have used up 0.6 s together; four of them, with 10 s, exit."""
    may("cpu_time")
    code = "import os, time\nfor _ in range({0}):\n  if not os.fork():\n    while time.process_time() < 0.3: pass\n    os._exit(0)\nfor _ in range({0}): os.wait()"
    # Twenty would go on for seconds: so late nobody looks.
    small, large = python(code.format(20), cpu_time=0.6), python(code.format(4), cpu_time=10)
    assert (small.status, small.ended_by_limit) == ("cpu-time", True)
    assert (large.status, large.exit_code) == ("exited", 0)
    assert large.usage.cpu_user + large.usage.cpu_system >= 1.2


def test_cpu_time_by_the_groups_clock():
    """RLIMIT_CPU, whose ticks run ahead of the CPU time, leaves a payload twice as much where a group counts; none without a limit."""
    may("cpu_time")
    code = "import resource; print(*resource.getrlimit(resource.RLIMIT_CPU))"
    assert python(code, cpu_time=8).stdout == "17 17\n"
    assert python(code).stdout == f"{' '.join(map(str, resource.getrlimit(resource.RLIMIT_CPU)))}\n"


def test_cpu_time_of_a_sleeper():
    """Time that is slept is no CPU time."""
    may("cpu_time")
    assert python(f"import time; time.sleep({0.4 * PATIENCE})", cpu_time=0.3 * PATIENCE).status == "exited"


def test_cpus():
    """With a twentieth of a CPU, 0.05 s of work takes more than half a second, since it is made to wait; with two it never is."""
    may("cpus")
    code = "import time; b, c = time.monotonic(), time.process_time()\nwhile time.process_time() < c + 0.05: pass\nprint(time.monotonic() - b, flush=True); input()"
    found = []
    for cpus in (0.05, 2):
        with ramet.Popen([*PYTHON, code], stdin=ramet.PIPE, stdout=ramet.PIPE, cpus=cpus) as box:
            took = float(box.stdout.readline())
            found.append((took, box._group.events().throttled))  # how long it took is the host's business, too
    assert found[0][0] > 0.5 and found[0][1] >= 1, found
    assert found[1][1] == 0, found


def test_cpuset():
    """It sees the one CPU that it may use; without the limit all that the caller may."""
    may("cpuset")
    one = max(os.sched_getaffinity(0))
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    assert python(code, cpuset=str(one)).stdout == f"[{one}]\n"
    assert python(code).stdout == f"{sorted(os.sched_getaffinity(0))}\n"


def test_cpuset_can_not_be_undone():
    """What the payload asks for beyond its CPUs it does not get."""
    may("cpuset")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only where there are two CPUs")
    code = "import os; os.sched_setaffinity(0, range(64)); print(len(os.sched_getaffinity(0)))"
    assert python(code, cpuset=str(max(os.sched_getaffinity(0)))).stdout == "1\n"


def test_nice_and_idle():
    """nice and idle are what getpriority(2) and sched_getscheduler(2) say inside; 0 and SCHED_OTHER without."""

    def seen(
        **fields,
    ):  # the fields nice and policy of proc_pid_stat(5), by a program that needs little of a CPU that it hardly gets
        said = (
            ramet.run(["cat", "/proc/self/stat"], text=True, timeout=60 * PATIENCE, **fields)
            .stdout.rpartition(")")[2]
            .split()
        )
        return int(said[16]), int(said[38])

    assert seen(nice=19) == (19, 0)
    assert seen(idle=True)[1] == os.SCHED_IDLE
    assert seen() == (os.getpriority(os.PRIO_PROCESS, 0), 0)


def test_open_files():
    """The sixteenth descriptor is refused; with a hundred it is not."""
    code = "import os\nn = 3\ntry:\n  while n < 50: n = os.dup(0) + 1\nexcept OSError: pass\nprint(n)"
    assert python(code, open_files=16).stdout == "16\n"
    assert python(code, open_files=100).stdout == "50\n"


def test_file_size():
    """A file ends at file_size; the writer, who has asked not to be killed, hears so. A smaller one is whole."""
    code = "import os; fd = os.open('/tmp/x', os.O_CREAT | os.O_WRONLY); print(os.write(fd, b'x' * 9000))"
    assert python(code, file_size=5000).stdout == "5000\n"
    assert python(code, file_size=10_000).stdout == "9000\n"


def test_disk():
    """A disk of 1 MiB holds no 2; one of 4 does. That it was full is told also of who does not mind."""
    code = "import os\nfd = os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)\ntry: print(sum(os.write(fd, b'x' * 65536) for _ in range(32)))\nexcept OSError: print('full')"
    small, large = python(code, disk="1M"), python(code, disk="4M")
    assert (small.stdout, large.stdout) == ("full\n", f"{2 << 20}\n")
    assert (small.status, small.limits_hit, large.limits_hit) == ("exited", ("disk-limit",), ())


def test_disk_too_small_to_build_the_sandbox():
    """A disk that the sandbox's own files don't fit on is an error of a step that names the field to change; with more it runs."""
    with pytest.raises(ramet.StepError) as caught:
        python("pass", disk=1)
    assert caught.value.errno == errno.ENOSPC and "Sandbox.disk = 1" in caught.value.hint
    assert python("pass", disk="512K").ok


def test_timeout_is_wall_time():
    """A sleeper is ended after its timeout, given in words, and not before."""
    began = time.monotonic()
    result = python("import time; time.sleep(60)", timeout="300ms")
    assert result.status == "timed-out" and result.ended_by_limit
    assert 0.3 <= time.monotonic() - began < 50 * PATIENCE
    assert python("import time; time.sleep(0.1)", timeout="60s").ok


@pytest.mark.parametrize("how", ["wait", "communicate", "poll"])
def test_timeout_of_a_popen(how):
    """A timeout is held by a Popen too, however it is waited for; without it, the payload goes on."""
    code = "import time; time.sleep(600)"
    argv = [*PYTHON, code]
    with ramet.Popen(argv, stdout=ramet.PIPE, timeout="300ms") as late, ramet.Popen(argv) as control:
        if how == "communicate":
            assert late.communicate() == (b"", None)
        while how == "poll" and late.poll() is None:
            select.select([late.pidfd], [], [], 0.01)
        assert late.wait() == -9
        assert control.poll() is None
        control.kill()


def test_output():
    """What is beyond `output` is cut and marked, or ends the payload; what is within is whole."""
    code = "import sys, time; sys.stdout.write('x' * 3000); sys.stdout.flush(); time.sleep({})"
    cut = python(code.format(0), output=1000)
    assert (cut.status, len(cut.stdout), cut.truncated) == ("exited", 1000, ("stdout",))
    killed = python(code.format(60), output=1000, output_action="kill")
    assert (killed.status, len(killed.stdout), killed.ended_by_limit) == ("output-limit", 1000, True)
    whole = python(code.format(0), output=3000, output_action="kill")
    assert (whole.status, len(whole.stdout), whole.truncated) == ("exited", 3000, ())


def test_weights():
    """Weights are written to the group's files, which the kernel reads back."""
    may("cpu_weight")
    with ramet.Popen(["cat"], stdin=ramet.PIPE, cpu_weight=50) as box:
        spot = box._group.spot_of("cpu")
        file = "cpu.weight" if spot.version == 2 else "cpu.shares"
        with open(f"{spot.path}/{box._group.name}/{file}") as opened:
            assert opened.read().strip() in ("50", "512")


def test_io(tmp_path):
    """1 MiB that must reach the disk, at 2 MiB a second, takes half a second; at 1 GiB a second it does not."""
    may("io")
    os.chmod(tmp_path, 0o777)
    disk = os.stat(tmp_path).st_dev
    if not os.path.exists(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}"):
        pytest.skip("only where temporary files are on a disk")
    code = f"import os, time; fd = os.open('{tmp_path}/x', os.O_CREAT | os.O_WRONLY | os.O_SYNC); b = time.monotonic()\nfor _ in range(16): os.write(fd, b'x' * 65536)\nprint(time.monotonic() - b)"
    fields = {"mounts": [ramet.Bind(str(tmp_path), str(tmp_path), writable=True)]}
    for parent in tmp_path.parents:
        if not os.stat(parent).st_mode & 1 and os.geteuid() == 0:
            os.chmod(parent, os.stat(parent).st_mode | 0o011)
    slow = python(code, io=[IoLimit(str(tmp_path), write_bytes="2M")], **fields)
    fast = [python(code, io=[IoLimit(str(tmp_path), write_bytes="1G")], **fields) for _ in range(3)]
    assert {one.status for one in (slow, *fast)} == {"exited"}, (slow.stderr, fast)
    assert float(slow.stdout) > 0.35
    assert float(slow.stdout) > min(float(one.stdout) for one in fast)  # others use the disk as well


def test_usage():
    """What a run cost: by the group where it has one, and the result says of what the memory is the peak."""
    may("memory", "processes", "cpu_time")
    code = "import os, time\nx = b'x' * (30 << 20)\nif not os.fork(): os._exit(0)\nos.wait()\nwhile time.process_time() < 0.1: pass"
    alone = python(code)
    assert alone.usage.memory_peak_of in ("process", "caller") and alone.usage.memory_peak > 30 << 20
    used = python(code, memory="200M", processes=20, cpu_time=20).usage
    assert used.wall >= 0.1 and used.cpu_user + used.cpu_system >= 0.1
    if used.memory_peak is not None and used.memory_peak_of == "group":
        assert 30 << 20 < used.memory_peak < 200 << 20
    if used.processes_peak is not None:
        assert used.processes_peak == 2  # the payload and its child: init is ours
    assert used.minor_faults > 0 and used.voluntary_switches > 0


def test_bytes_read_and_written():
    """3 MiB onto a disk and back from it are counted, with a control group or without; the same in memory is nothing."""
    code = (
        "import os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); os.write(f, b'x' * (3 << 20)); os.fsync(f)\n"
    )
    code += "os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED); print(len(os.pread(f, 4 << 20, 0)))"
    with tempfile.TemporaryDirectory(prefix="limits-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        disk = os.stat(folder).st_dev
        only(os.path.exists(f"/sys/dev/block/{os.major(disk)}:{os.minor(disk)}"), "where /var/tmp is on a disk")
        groups = [{"memory": "64M"}] if cgroups.find().facts["memory"].ok else []
        for number, fields in enumerate([{}, *groups]):
            shown = [ramet.Bind(folder, folder, writable=True)]
            control = ramet.run(
                [*PYTHON, code, "/tmp/file"], text=True, **fields
            )  # first, so that the interpreter need not be read
            there = ramet.run([*PYTHON, code, f"{folder}/{number}"], mounts=shown, text=True, **fields)
            assert there.stdout == f"{3 << 20}\n", there.stderr
            for counted in (there.usage.read_bytes, there.usage.written_bytes):
                assert 3 << 20 <= counted < 8 << 20, (fields, there.usage)
            assert control.stdout == there.stdout
            assert control.usage.written_bytes == 0


def test_usage_of_the_living():
    """usage() tells of a sandbox while it runs, with a group and without; after the end it is the result's."""
    may("memory")
    code = (
        "import sys\nx = b'x' * (30 << 20)\nfor _ in range(3000000): pass\nprint('ready', flush=True); sys.stdin.read()"
    )
    for fields in ({"memory": "200M"}, {}):
        with ramet.Popen([*PYTHON, code], stdin=ramet.PIPE, stdout=ramet.PIPE, **fields) as box:
            assert box.stdout.readline() == b"ready\n"
            live = box.usage()
            assert live.memory_peak > 30 << 20
            assert live.memory_peak_of == ("group" if fields and live.memory_peak_of == "group" else "process")
            assert live.wall > 0
            assert live.processes_peak in (1, None)
        assert box.usage().wall >= live.wall
