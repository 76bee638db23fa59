"""A group and a payload in it, and the hierarchies before and after."""

import signal

import pytest
from group_payloads import PYTHON, Inside, ours, somebody_elses, until

from ramet import cgroups


@pytest.fixture(scope="session")
def warm(warm):
    """Besides what every test has open from the start: the place, where groups are made."""
    cgroups.find()


@pytest.fixture
def place():
    """The caller's place."""
    return cgroups.find()


@pytest.fixture(autouse=True)
def hierarchies_unchanged(warm):
    """No test leaves a group behind. Other callers on this machine come and go with theirs meanwhile."""
    before = ours()
    yield
    assert until(lambda: not {path for path in ours() - before if not somebody_elses(path)}, 40), ours() - before


@pytest.fixture
def group():
    """make(**limits): a group, closed afterwards; that it is gone then is part of every test."""
    made = []

    def make(**limits):
        made.append(cgroups.make(cgroups.Limits(**limits)))
        return made[-1]

    yield make
    gone = [one.close(40) for one in made]
    assert all(gone)


@pytest.fixture
def inside():
    """inside(group, code): a Python payload in it. Killed afterwards where it still runs."""
    started = []

    def start(group, code, *args):
        argv = [*PYTHON, code, *map(str, args)] if isinstance(code, str) else code
        started.append(Inside(group, argv))
        return started[-1]

    yield start
    for one in started:
        if one.child.pidfd is not None:
            signal.pidfd_send_signal(one.child.pidfd, signal.SIGKILL)
            one.wait()
