"""What every test may use: a sandbox in one call, who runs the tests, the host before and after."""

import gc
import os
import signal

#: numpy and pyarrow start threads when they are imported, and many a test here is about a caller that has none.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

import tempfile
import time
from pathlib import Path

import pytest

import ramet
from needs import MUST_WORK, SLOW
from observed import children, descriptors
from ramet import lowlevel
from ramet.cgroups import place
from ramet.run import trays
from watch import Watched

READ = 63 if os.uname().machine == "aarch64" else 0


def pytest_configure(config):
    # A shell without job control has what it puts into the background ignore these two, and programs keep to that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():  # what it says is for the log
        config.pluginmanager.register(Watched())


@pytest.fixture(scope="module", autouse=True)
def settled():
    """What is there before a file's first test stays: pytest's own thousands of tests, and whatever tests have imported, need not be looked
    through by each gc.collect() to come. Half a million objects by the middle of the suite are half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def launch():
    """Run a command in a sandbox; the result, as text. Any field of Sandbox by name."""

    def launch(argv, sandbox=None, **fields):
        fields.setdefault("timeout", 60)
        return ramet.run(argv, sandbox, text=True, **fields)

    return launch


@pytest.fixture
def waiting():
    """Make a child with these flags (lowlevel.Clone) that waits until the test is over."""
    read, write = os.pipe()
    made = []

    def start(flags):
        made.append(lowlevel.clone3(flags, child=[lowlevel.Call(READ, read, lowlevel.Buffer(8), 1)]))
        return made[-1]

    yield start
    os.write(write, bytes(len(made)))
    for each in made:
        each.wait()
        each.close()
    os.close(read)
    os.close(write)


# The host afterwards is the host before


@pytest.fixture(scope="session")
def warm():
    """What ramet opens once and keeps (init's sealed memory, the caller's pidfd, the ground of trays) is open from here on."""
    ramet.run(["true"])
    trays.tray_for(ramet.Sandbox(), trays.LEAST)


@pytest.fixture(autouse=True)
def host_unchanged(warm):
    """No test leaves a process, zombie, descriptor, mount or temporary file behind."""
    before = _host()
    yield
    deadline = time.monotonic() + 30  # only a leak takes so long
    while (after := _host()) != before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)  # what was killed may still be on its way out
    for what, was in before.items():
        assert was == after[what], f"{what} changed: {sorted(was ^ after[what])}"


def _host():
    # A place for control groups is kept on purpose, and forgotten by whoever is moved; tests/cgroups looks after them.
    kept = {spot.fd for found in place._places.values() for spot in found.spots}
    return {
        "children": children(),
        "descriptors": {(number, what) for number, what in descriptors().items() if number not in kept},
        "mounts": _mounts(),
        "files": _temporary_files(),
    }


def _mounts():
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


def _temporary_files():
    names = os.listdir(tempfile.gettempdir())
    return {name for name in names if "ramet" in name and not name.startswith("pytest-of-")}


# Skips


def pytest_collection_modifyitems(items):
    # First: only a process of one thread can make a Python child, and what is started from other threads leaves one that lasts.
    # Last: what they import, and the threads of what they try, stay.
    items.sort(key=lambda item: (item.path.name != "test_lowlevel.py", "call" in item.path.parts))
    for item in items:
        if item.get_closest_marker("slow") and not SLOW:
            item.add_marker(pytest.mark.skip(reason="only with RAMET_SLOW=1"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _must_work((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _must_work((yield))


def _must_work(report):
    """With RAMET_MUST_WORK=1 a skip is a failure, unless it says ``only ...``."""
    if not MUST_WORK or not report.skipped or hasattr(report, "wasxfail"):
        return report
    path, line, reason = report.longrepr
    if not reason.removeprefix("Skipped: ").startswith("only "):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: RAMET_MUST_WORK=1, but this was skipped: {reason.removeprefix('Skipped: ')}"
    return report
