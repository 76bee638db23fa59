"""A pool for the tests of a file, and the look at what a test leaves, where it has not this pool."""

import gc
import time

import pytest

import ramet
from ramet import cgroups


@pytest.fixture(scope="session")
def warm(warm):
    """Besides what every test has open from the start: the place, where groups are made."""
    cgroups.find()


@pytest.fixture(scope="module")
def pool():
    """Two places, two copies kept ready, numpy loaded."""
    with ramet.Pool(["numpy"], size=2, spare=2, timeout=30) as made:
        _alive.append(made)
        yield made
        _alive.remove(made)


_alive = []


def at_rest(pool):
    """Has it all the copies that it wants, and none that still has to end?"""
    return pool.counts["ready"] == 2 and not pool._engine._keeper._dying


class Gate:
    """What a call waits at until a test opens it: a file in a directory that both see. And what code tells by that it has come so far."""

    #: Code that tells it.
    REACH = "open('/gate/reached', 'w').close()"

    def __init__(self, directory):
        directory.chmod(0o777)
        self._file, self._reached = directory / "open", directory / "reached"
        self.mount = ramet.Bind(str(directory), "/gate", writable=True)

    def open(self):
        self._file.touch()

    @property
    def is_reached(self):
        return self._reached.exists()

    def await_reached(self):
        while not self.is_reached:
            time.sleep(0.001)

    @staticmethod
    def wait():
        import os
        import time

        while not os.path.exists("/gate/open"):
            time.sleep(0.001)


@pytest.fixture
def gate(tmp_path):
    """A gate for the calls of a pool with mounts=[gate.mount]: they run gate.wait."""
    return Gate(tmp_path)


@pytest.fixture(autouse=True)
def host_unchanged(request):
    """As everywhere; but a pool has other copies ready after a call than before."""
    if "pool" not in request.fixturenames:
        gc.collect()  # what the tests of a pool have left, mapped values among it, goes before it is counted
        deadline = time.monotonic() + 30
        while not all(map(at_rest, _alive)) and time.monotonic() < deadline:
            time.sleep(0.001)
        request.getfixturevalue("host_unchanged")
