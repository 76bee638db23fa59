"""One world for all probes."""

import pytest
from world import World


@pytest.fixture(scope="session")
def world():
    """A host with secrets, a victim, and a caller that starts probes."""
    made = World()
    yield made
    made.close()
