"""fork, vfork, posix_spawn, pthread_create and clone: what they share, and how long they take."""

import json
import os

import pytest

from needs import need
from ramet.cli.lab_compare import main, sizes
from ramet.errors import HelperError, SpecError, UnsupportedError
from ramet.lab import compare, latency, manual
from ramet.lab.apart import apart

MIB = latency.MIB
KEYS = ("memory", "cwd", "descriptors", "handlers", "undo", "io", "parent", "process", "limits", "pid_ns", "hostname")
#: By way: what is known of it without the table of manual.py.
KNOWN = {
    "fork": "copied copied copied copied new copied new new copied shared shared",
    "vfork": "shared copied copied copied new copied new new copied shared shared",
    "spawn": "new copied copied new new copied new new copied shared shared",
    "pthread": "shared shared shared shared shared copied shared shared shared shared shared",
    "clone_vm": "shared copied copied copied new copied new new copied shared shared",
    "clone_like_thread": "shared shared shared copied shared shared new new copied shared shared",
    "container": "copied copied copied copied new copied new new copied new copied",
}


@pytest.fixture(scope="module")
def found():
    need(latency.room()[0] > 1024 * MIB, "1 GiB of free memory")
    return compare.compare((0, 256 * MIB), seconds=1)


@pytest.mark.parametrize("way", KNOWN)
def test_each_way_shares_what_it_is_known_to_share(found, way):
    """fork copies, threads share, a program starts afresh: measured, each."""
    cells = next(one for one in found["ways"] if one["key"] == way)["cells"]
    assert " ".join(cells[key]["measured"] for key in KEYS) == KNOWN[way]


def test_the_ways_do_what_the_manual_says(found):
    """No cell of any way differs from the manual."""
    wrong = [
        (way["key"], key) for way in found["ways"] for key, cell in way["cells"].items() if cell["agrees"] is False
    ]
    assert wrong == []
    assert [way["key"] for way in found["ways"]] == list(KNOWN)


def test_a_wrong_manual_is_marked(monkeypatch):
    """Control: a manual that lets exec keep handlers is contradicted by posix_spawn alone, and marked on the page."""
    entry = manual.MANUAL["handlers"]
    monkeypatch.setitem(manual.MANUAL, "handlers", manual.Entry(entry.without, entry.page, entry.flags))
    wrong = compare.compare((0,), seconds=0.1)
    marked = [
        (way["key"], key) for way in wrong["ways"] for key, cell in way["cells"].items() if cell["agrees"] is False
    ]
    assert marked == [("spawn", "handlers")]
    assert "NEW!" in compare.text(wrong)
    assert "! spawn: the signal handlers: measured new, the manual says copied" in compare.text(wrong)


# Latency


def least(found, way):
    """The shortest times: what else runs on this machine is not in them."""
    return next(one for one in found["latency"]["ways"] if one["key"] == way)["least"]


WAYS_TIMED = ("fork", "clone", "clone_vm", "vfork", "pthread", "spawn")


def test_fork_grows_with_the_caller_and_shared_memory_does_not(found):
    """From a caller of 256 MiB fork and a clone without CLONE_VM take much longer; with CLONE_VM they do not."""
    growth = {way: big - small for way in WAYS_TIMED for small, big in [least(found, way)]}
    copying, sharing = ("fork", "clone"), ("clone_vm", "vfork", "pthread", "spawn")
    # Against each other, not against a clock: this machine may have other things to do.
    assert min(growth[way] for way in copying) > 2 * max(growth[way] for way in sharing), growth


def test_what_is_refused_is_told_and_not_timed():
    """A way that the kernel refuses has the errno in place of a time, and the others have theirs."""
    ways = {way["key"]: way for way in apart("lab_sabotage", "latency_without_user_namespaces")["ways"]}
    assert ways["container"]["refused"] == ["ENOSPC"] and ways["container"]["seconds"] == [None]
    assert ways["fork"]["refused"] == [""] and ways["fork"]["seconds"][0] > 0


def test_the_callers_hold_what_they_say():
    """A caller of 64 MiB has that much of its own in memory, and one of 0 has not."""

    def resident(size):
        caller = latency._Caller(size)
        try:
            assert caller.line() == "ready"
            status = open(f"/proc/{caller.process.pid}/status").read()
            return int(status.partition("RssAnon:")[2].split()[0]) << 10
        finally:
            caller.close()

    assert resident(64 * MIB) >= 64 * MIB > resident(0)


def test_callers_end_when_the_measurement_fails(monkeypatch):
    """An exception in the middle ends every caller. (conftest looks for children.)"""
    monkeypatch.setattr(latency._Caller, "time", lambda self, way: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        latency.latency((0, 16 * MIB))


def test_a_caller_that_dies_is_told_of():
    """A caller that can't hold its memory says why."""
    caller = latency._Caller(1 << 46)
    try:
        with pytest.raises(HelperError, match="ended early") as caught:
            caller.line()
    finally:
        caller.close()
    assert "memory" in caught.value.stderr


# Sizes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "is empty"),
        ("1G,,2G", "is empty"),
        ("much", "'much' is no size"),
        ("-1", "-1 is no size"),
        ("1X", "is no size"),
        ("256M,0.25G", "names a size twice"),
        ("1e30G", "does not fit"),
        ("nan", "is no size"),
        ("64000T", "fit|no size|more"),
        (",".join(str(n) for n in range(1, 20)), "19 sizes, and 16 are the most"),
    ],
)
def test_sizes_that_are_none_are_refused(given, said):
    """A malformed list is answered with the part at fault, before anything is measured."""
    with pytest.raises((SpecError, UnsupportedError), match=said):
        main(["--sizes", given])


def test_sizes_are_read():
    """Control: a good list is read, 0 included."""
    assert sizes("0,256M, 1.5G") == (0, 256 * MIB, 1536 * MIB)


def test_more_than_the_machine_has_is_refused():
    """More than is free is answered with what is, and with a list that would do; nothing is started."""
    with pytest.raises(UnsupportedError, match="cannot hold these sizes at once") as caught:
        main(["--sizes", "0,1T"])
    assert "leaves" in caught.value.fact and "for all callers together" in caught.value.needs
    assert caught.value.hint == "--sizes 0"


def test_the_default_leaves_out_what_does_not_fit(monkeypatch):
    """By default the sizes that don't fit are left out, and the page says which."""
    monkeypatch.setattr(latency, "room", lambda: (1000 * MIB, "a test's limit"))
    assert latency.fitting(latency.SIZES) == (0, 256 * MIB)
    found = latency.latency(seconds=0.1)
    assert found["sizes"] == [0, 256 * MIB] and found["left_out"] == [1024 * MIB, 4096 * MIB]
    assert "Left out: a caller of 4 GiB" in " ".join("\n".join(compare.latency_text(found)).split())
    monkeypatch.setattr(latency, "room", lambda: (100 * MIB, "a test's limit"))
    with pytest.raises(UnsupportedError, match="a test's limit leaves 100 MiB"):
        latency.latency()


def test_a_cgroups_limit_counts(monkeypatch, tmp_path):
    """What is free is the least of the machine's and of each cgroup's memory; "max" is no limit."""
    whole, _ = latency.room()
    for name, text in {"max": "max", "limit": str(300 * MIB), "used": str(100 * MIB)}.items():
        (tmp_path / name).write_text(text)
    files = [(f"{tmp_path}/{name}", f"{tmp_path}/used") for name in ("max", "limit", "gone")]
    monkeypatch.setattr(latency, "_cgroup_files", lambda: files[:1])
    assert latency.room()[1] == "the machine's free memory"
    monkeypatch.setattr(latency, "_cgroup_files", lambda: files)
    assert latency.room() == (200 * MIB, f"{tmp_path}/limit")
    assert whole > 200 * MIB


# The page


def test_the_page_fits(found):
    """No line is longer than 80 columns; each way, resource and size is there, and the bar of the slowest is longest."""
    page = compare.text(found)
    assert [line for line in page.splitlines() if len(line) > 80] == []
    for word in ("fork", "vfork", "spawn", "pthread", "memory", "semaphore undo list", "256 MiB", "Medians of"):
        assert word in page
    times = {way["key"]: way["seconds"] for way in found["latency"]["ways"]}
    least = min(min(each) for each in times.values())
    assert len(compare.bar(times["fork"][1], least, 1.25)) > len(compare.bar(times["pthread"][1], least, 1.25))
    assert "fork takes" in compare.grows(found["latency"])


def test_bars_are_logarithmic():
    """The shortest time has one mark, and each factor one more."""
    assert compare.bar(1e-6, 1e-6, 10) == "#"
    assert compare.bar(1e-3, 1e-6, 10) == "####"


def test_the_command_prints_text_or_json(capfd):
    """`ramet lab compare` prints the page, `--json` the data with seconds by size."""
    assert main(["--sizes", "0,16M", "--json"]) == 0
    data = json.loads(capfd.readouterr().out)
    assert data["latency"]["sizes"] == [0, 16 * MIB]
    assert all(len(way["seconds"]) == 2 for way in data["latency"]["ways"])
    assert data["uid"] == os.geteuid()
    assert main(["--sizes", "0"]) == 0
    assert "posix_spawn true" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [(["fork"], "takes no argument"), (["--size", "0"], "did you mean --sizes"), (["--sizes", "-1"], "-1 is no size")],
)
def test_what_makes_no_sense_is_refused(argv, said):
    """An argument or an unknown option is answered, and nothing is measured."""
    with pytest.raises(SpecError, match=said):
        main(argv)
