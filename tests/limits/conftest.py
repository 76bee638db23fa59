"""Limits of whole sandboxes: what must hold for every test here."""

import os

import pytest
from limited import groups_of

from ramet import cgroups


@pytest.fixture(scope="session")
def warm(warm):
    """Besides what every test has open from the start: the place, where groups are made."""
    cgroups.find()


@pytest.fixture(autouse=True)
def no_group_left(warm):
    """No test of this folder leaves a control group behind."""
    yield
    assert groups_of(os.getpid()) == set()
