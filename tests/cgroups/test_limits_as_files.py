"""Limits as values: what is refused before anything is made, and which files each version gets."""

import pytest

from ramet import SpecError, cgroups
from ramet.cgroups.limits import CONTROLLER, FILES, Limits, writes

MIB = 1 << 20


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"memory": 0}, "Limits.memory: must be more than 0"),
        ({"memory": "1X"}, "Limits.memory: '1X' is no size"),
        ({"memory": True}, "Limits.memory: must be an integer, not bool"),
        ({"memory_high": -1}, "Limits.memory_high"),
        ({"swap": "1G"}, "Limits.swap: needs memory"),
        ({"processes": 0}, "Limits.processes: must be 1 to 4194304, not 0"),
        ({"processes": 1.5}, "Limits.processes: must be an integer, not float"),
        ({"cpus": 0}, "Limits.cpus: must be 0.001 to 100000, not 0"),
        ({"cpus": float("nan")}, "Limits.cpus"),
        ({"cpus": float("inf")}, "Limits.cpus"),
        ({"cpus": "2"}, "Limits.cpus: must be a number, not str"),
        ({"cpu_weight": 10001}, "Limits.cpu_weight: must be 1 to 10000"),
        ({"idle": 1}, "Limits.idle: must be True or False"),
        ({"idle": True, "cpu_weight": 5}, "can't be had with cpu_weight"),
        ({"cpuset": "3-1"}, "Limits.cpuset: '3-1' is no list of numbers"),
        ({"cpuset": ""}, "Limits.cpuset"),
        ({"cpuset": "a"}, "Limits.cpuset"),
        ({"cpuset": [-1]}, "Limits.cpuset"),
        ({"io": [5]}, "Limits.io[0]: must be an IoLimit, not int"),
        ({"io": "/dev/vda"}, "Limits.io: must be a list of IoLimit"),
        ({"memmory": 1}, "did you mean 'memory'?"),
    ],
)
def test_what_is_refused(fields, says):
    """The field and the reason are in the error, and nothing was made."""
    with pytest.raises(SpecError) as caught:
        Limits(**fields)
    assert says in str(caught.value)


def test_an_io_limit_without_a_limit():
    """It has to say how much of what."""
    with pytest.raises(SpecError, match="give read_bytes"):
        cgroups.IoLimit("/dev/null")
    assert cgroups.IoLimit("/dev/null", read_bytes="1M").read_bytes == MIB


def test_what_is_taken():
    """Sizes and lists as people write them; what is not given is not asked."""
    found = Limits(memory="32M", cpus=2, cpuset=[0, 2], swap="1M", processes=5)
    assert (found.memory, found.cpus, found.cpuset, found.swap) == (32 * MIB, 2.0, "0,2", MIB)
    assert found.asked() == ["memory", "swap", "processes", "cpus", "cpuset"]
    assert Limits().asked() == []
    assert Limits(cpuset=3).cpuset == "3" and Limits(cpuset="0-2, 4").cpuset == "0-2,4"


EVERYTHING = Limits(
    memory=32 * MIB,
    memory_high=16 * MIB,
    processes=9,
    cpus=0.5,
    cpu_weight=50,
    cpuset="0",
    cpuset_mems="0",
    io_weight=70,
    io=[cgroups.IoLimit("/dev/x", read_bytes=5, write_ops=6)],
)


def written(limits, version, has=("swap",)):
    found = writes(limits, dict.fromkeys(CONTROLLER.values(), version), frozenset(has), {"/dev/x": "8:0"})
    return [(one.file, one.value) for one in found]


def test_files_of_version_2():
    """Every limit, in version 2's words; swap off and the group killed as one with memory."""
    assert written(EVERYTHING, 2) == [
        ("memory.max", "33554432"),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "1"),
        ("memory.high", "16777216"),
        ("pids.max", "9"),
        ("cpu.max", "50000 100000"),
        ("cpu.weight", "50"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("io.weight", "70"),
        ("io.max", "8:0 rbps=5 wiops=6"),
    ]


def test_files_of_version_1():
    """The same in version 1's; memory before memory and swap, which may not be less."""
    assert written(EVERYTHING.replace(memory_high=None), 1) == [
        ("memory.limit_in_bytes", "33554432"),
        ("memory.memsw.limit_in_bytes", "33554432"),
        ("pids.max", "9"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.shares", "512"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("blkio.bfq.weight", "70"),
        ("blkio.throttle.read_bps_device", "8:0 5"),
        ("blkio.throttle.write_iops_device", "8:0 6"),
    ]


def test_swap():
    """So much beyond memory, where the kernel counts it; where version 1 doesn't, the group never swaps."""
    some = Limits(memory=MIB, swap=MIB)
    assert ("memory.swap.max", "1048576") in written(some, 2)
    assert ("memory.memsw.limit_in_bytes", "2097152") in written(some, 1)
    assert written(Limits(memory=MIB), 1, has=()) == [("memory.limit_in_bytes", "1048576"), ("memory.swappiness", "0")]
    assert written(Limits(memory=MIB), 2, has=()) == [("memory.max", "1048576"), ("memory.oom.group", "1")]


@pytest.mark.parametrize("cpus", [0.001, 0.005, 0.01, 0.33, 1, 2.5, 100_000])
def test_quotas_are_what_the_kernel_takes(cpus):
    """A quota of a millisecond or more, a period of a second or less, and their ratio is the rate."""
    quota, period = Limits(cpus=cpus).cpu_quota()
    assert quota >= 1000 and period <= 1_000_000
    assert abs(quota / period - cpus) < 1e-5 * max(1, cpus)


def test_every_limit_has_a_controller_and_a_file():
    """No limit is left out of a table."""
    assert set(FILES) == set(CONTROLLER) == set(Limits._fields)
