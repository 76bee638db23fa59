"""A pool for the tests of a file, and the look at what a test leaves, where it has not this pool."""

import pytest

import ramet
from ramet import cgroups


@pytest.fixture(scope="session")
def warm():
    """Besides what every test has open from the start: the place, where groups are made."""
    ramet.run(["true"])
    cgroups.find()


@pytest.fixture(scope="module")
def pool():
    """Two places, two copies kept ready, numpy loaded."""
    with ramet.Pool(["numpy"], size=2, spare=2, timeout=30) as made:
        yield made


@pytest.fixture(autouse=True)
def host_unchanged(request):
    """As everywhere; but a pool has other copies ready after a call than before."""
    if "pool" not in request.fixturenames:
        request.getfixturevalue("host_unchanged")
