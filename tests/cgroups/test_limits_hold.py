"""Each limit, hit by a process inside, beside the same where it isn't hit or isn't set."""

import os
import signal
import time

import pytest
from group_payloads import MIB, PATIENCE, need_limits, until

from ramet.errors import StepError

EATS = """if 1:
    import sys
    held = []
    for _ in range(int(sys.argv[1])):
        held.append(bytearray(b"x") * (1 << 20))
    print("ate it")
"""
#: The same through other kinds of memory: the group is charged for all of them.
SHARED = """if 1:
    import mmap, sys
    held = mmap.mmap(-1, int(sys.argv[1]) << 20)
    for at in range(0, len(held), 4096):
        held[at] = 1
    print("ate it")
"""
MEMFD = """if 1:
    import os, sys
    fd = os.memfd_create("x")
    for _ in range(int(sys.argv[1])):
        os.write(fd, b"x" * (1 << 20))
    print("ate it")
"""
CHILDREN = """if 1:
    import os, sys
    for _ in range(int(sys.argv[1]) // 8):
        if os.fork() == 0:
            held = bytearray(b"x") * (8 << 20)
            import time
            time.sleep(600)
    import time
    time.sleep(float(sys.argv[2]))
    print("ate it")
    os.killpg(0, 9)
"""


def test_memory_kills_what_needs_more(group, inside):
    """64 MiB under memory=32M: killed, and the kernel says why. Under 200M the same lives, and nothing is counted."""
    need_limits("memory")
    small, large = group(memory=32 * MIB), group(memory=200 * MIB)
    eats = inside(small, EATS, 64)
    assert eats.wait() == -signal.SIGKILL and eats.output == ""
    assert small.events().oom_kills >= 1 and small.events().memory_at_limit >= 1 and small.events().out_of_memory >= 1
    assert small.usage().memory_peak is None or 30 * MIB < small.usage().memory_peak <= 33 * MIB
    control = inside(large, EATS, 64)
    assert control.wait() == 0 and control.output == "ate it\n"
    assert large.events().oom_kills == 0 and large.events().out_of_memory == 0
    assert large.usage().memory_peak is None or large.usage().memory_peak > 64 * MIB


@pytest.mark.parametrize("code", [SHARED, MEMFD], ids=["shared", "memfd"])
def test_memory_counts_every_kind(group, inside, code):
    """Shared mappings and memfds are charged as anonymous memory is; under more they live."""
    need_limits("memory")
    small, large = group(memory=32 * MIB), group(memory=200 * MIB)
    assert inside(small, code, 64).wait() == -signal.SIGKILL and small.events().oom_kills >= 1
    control = inside(large, code, 64)
    assert control.wait() == 0 and control.output == "ate it\n"


def test_memory_counts_the_whole_tree(group, inside):
    """Eight children with 8 MiB each are too much together; on version 2 the whole group dies of it. Four are not."""
    need_limits("memory", "processes")
    small = group(memory=48 * MIB, processes=20)  # room for all seventeen: it is the memory that ends it
    eats = inside(small, CHILDREN, 128, 20)
    if small.spot_of("memory").version == 2:
        assert eats.wait() == -signal.SIGKILL
        assert small.events().oom_kills >= 2
        assert until(lambda: small.pids() == [])
    else:
        assert until(lambda: small.events().oom_kills)
        small.kill()
        assert eats.wait() == -signal.SIGKILL
    large = group(memory=200 * MIB, processes=16)
    assert inside(large, CHILDREN, 32, 0.3).wait() == -signal.SIGKILL  # by itself, after it has said so
    assert large.events().oom_kills == 0


def test_memory_does_not_go_to_swap(group):
    """Swap is off for the group: the file that limits it says so, where the kernel counts swap."""
    need_limits("memory")
    one = group(memory=32 * MIB)
    spot = one.spot_of("memory")
    file = {1: "memory.memsw.limit_in_bytes", 2: "memory.swap.max"}[spot.version]
    path = f"{spot.path}/{one.name}/{file}"
    if os.path.exists(path):
        assert int(open(path).read()) == (32 * MIB if spot.version == 1 else 0)
    else:
        assert len(open("/proc/swaps").readlines()) == 1 or spot.version == 1


def test_memory_is_watched(group, inside):
    """The descriptor of watch_memory tells of the kill; and nothing before there is one."""
    import select

    need_limits("memory")
    one = group(memory=32 * MIB)
    fd, events = one.watch_memory()
    poller = select.poll()
    poller.register(fd, events)
    assert inside(one, EATS, 8).wait() == 0
    assert poller.poll(50) == []
    eats = inside(one, EATS, 64)
    assert poller.poll(20_000 * PATIENCE) != []
    assert eats.wait() == -signal.SIGKILL


def test_memory_high_slows_down(group, inside):
    """Above memory_high it is reclaimed from, and not killed. (Version 2.)"""
    need_limits("memory_high")
    one = group(memory_high=24 * MIB, memory=200 * MIB)
    spot = one.spot_of("memory")
    assert int(open(f"{spot.path}/{one.name}/memory.high").read()) == 24 * MIB
    eats = inside(one, EATS, 40)

    def events():
        return dict(line.split() for line in open(f"{spot.path}/{one.name}/memory.events"))

    assert until(lambda: int(events()["high"]) > 0) and events()["oom_kill"] == "0"
    one.kill()
    eats.wait()


FORKS = """if 1:
    import os, time
    made = 0
    try:
        for _ in range(40):
            if os.fork() == 0:
                time.sleep(600)
            made += 1
    except BlockingIOError as error:
        print(error.errno, end=" ")
    print(made, flush=True)
    time.sleep(600)
"""


def test_processes(group, inside):
    """Of 40 forks 15 go through under processes=16, then EAGAIN; under 64 all do."""
    need_limits("processes")
    few, many = group(processes=16), group(processes=64)
    assert inside(few, FORKS).read() == b"11 15\n"
    assert few.events().forks_refused >= 1
    assert few.usage().processes == 16 and few.usage().processes_peak in (16, None)
    assert inside(many, FORKS).read() == b"40\n"
    assert many.events().forks_refused == 0


SPINS = "import time, sys\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"
#: Until so much CPU time is used, however long that takes on a busy machine.
BURNS = "import time, sys\nwhile time.process_time() < float(sys.argv[1]): pass\nprint(time.monotonic() - float(sys.argv[2]))"


def test_cpus(group, inside):
    """Under cpus=0.05 a process that uses 0.08 s of CPU is made to wait again and again; under cpus=50 not once."""
    need_limits("cpus", "cpu_time")
    # So low a rate that it is the limit even where others leave little of the machine.
    slow, free = group(cpus=0.05), group(cpus=50)
    burns, control = (inside(one, BURNS, 0.08, time.monotonic()) for one in (slow, free))
    assert burns.wait() == 0 and control.wait() == 0
    assert slow.events().throttled >= 3
    assert slow.usage().cpu / float(burns.output) < 0.15  # a period's quota more, at most, than 0.05
    assert free.events().throttled == 0
    assert free.usage().cpu >= 0.07


def test_tiny_rates_take_a_longer_period(group):
    """A thousandth of a CPU: the kernel takes no quota below a millisecond."""
    need_limits("cpus")
    one = group(cpus=0.001)
    spot = one.spot_of("cpu")
    if spot.version == 2:
        assert open(f"{spot.path}/{one.name}/cpu.max").read() == "1000 1000000\n"
    else:
        assert open(f"{spot.path}/{one.name}/cpu.cfs_quota_us").read() == "1000\n"
        assert open(f"{spot.path}/{one.name}/cpu.cfs_period_us").read() == "1000000\n"


#: For ever. A shell is there with little of a CPU, which is all that an idle one may get.
COMPETES = ["/bin/sh", "-c", "echo here; while :; do :; done"]


def shares(group, inside, first, second):
    """The CPU time of two groups that compete for CPU 0, while both are at it, until they have had half a second together."""
    both = [inside(group(**each), COMPETES) for each in (first, second)]
    for one in both:
        one.read()
        os.sched_setaffinity(one.pid, {0})

    def used():
        return [time.clock_gettime(~one.pid << 3 | 2) for one in both]  # clock_getcpuclockid(3), in the kernel's words

    before = used()

    def since():
        return [now - then for now, then in zip(used(), before, strict=True)]

    assert until(lambda: sum(since()) > 0.5 * PATIENCE, 50)
    found = since()
    for one in both:
        one.group.kill()
    return found


def test_cpu_weight(group, inside):
    """A tenth of the weight is a tenth of the time against a sibling; with the same weight it is about the same."""
    need_limits("cpu_weight")
    light, heavy = shares(group, inside, {"cpu_weight": 10}, {"cpu_weight": 100})
    assert heavy > 3 * light
    one, other = shares(group, inside, {"cpu_weight": 100}, {"cpu_weight": 100})
    assert max(one, other) < 2.5 * min(one, other)


def test_idle(group, inside):
    """An idle group gets a fraction of what a sibling gets; test_cpu_weight shows two that are alike."""
    need_limits("idle")
    idle, heavy = shares(group, inside, {"idle": True}, {"cpu_weight": 100})
    assert heavy > 3 * idle


def test_cpuset(group, inside):
    """A process in a group with cpuset="0" may run on CPU 0 alone; without it on all that the caller may."""
    need_limits("cpuset")
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    one, other = inside(group(cpuset="0"), code), inside(group(), code)
    assert one.wait() == 0 and other.wait() == 0
    assert one.output == "[0]\n"
    assert other.output == f"{sorted(os.sched_getaffinity(0))}\n"


def test_a_value_that_the_kernel_refuses(group):
    """The limit, the file, the value and the errno are named, and no group is left."""
    need_limits("cpuset")
    with pytest.raises(StepError) as caught:
        group(cpuset="4000-4001")
    text = str(caught.value)
    assert "limit cpuset" in text and 'cpuset.cpus", "4000-4001")' in text and "Limits.cpuset = '4000-4001'" in text
    assert "effective_cpus" in caught.value.hint or "cpus.effective" in caught.value.hint
    with pytest.raises(StepError) as caught:
        group(cpuset_mems="900")
    assert "effective_mems" in caught.value.hint or "mems.effective" in caught.value.hint


READS = """if 1:
    import mmap, os, sys, time
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 1 << 20)
    begin = time.monotonic()
    for _ in range(4):
        os.readv(fd, [page])
    print(time.monotonic() - begin)
"""


def test_io(group, inside, disk_file):
    """4 MiB at 4 MiB/s take half a second and more; without a limit they do not. The account says how much it was."""
    from ramet.cgroups import IoLimit

    need_limits("io")
    slow = group(io=[IoLimit(disk_file, read_bytes=4 * MIB)])
    free = group(io=[IoLimit(disk_file, read_bytes=4000 * MIB)])
    limited, *unlimited = inside(slow, READS, disk_file), *(inside(free, READS, disk_file) for _ in range(3))
    assert [one.wait() for one in (limited, *unlimited)] == [0] * 4
    assert float(limited.output) > 0.5
    assert min(float(one.output) for one in unlimited) < float(limited.output) / 1.5  # others use the disk as well
    assert slow.usage().read_bytes >= 4 * MIB


@pytest.fixture
def disk_file(tmp_path):
    """A file on a disk whose queue can be limited."""
    from needs import only

    path = os.environ.get("RAMET_TEST_DISK") or str(tmp_path / "file")
    if not os.path.exists(path):
        with open(path, "wb") as file:
            file.write(os.urandom(4 * MIB))
            os.fsync(file.fileno())
    device = os.stat(path).st_dev
    disk = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    only(os.path.exists(disk) or os.environ.get("RAMET_TEST_DISK"), "where temporary files are on a disk")
    return path
