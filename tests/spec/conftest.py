"""Specs: values without I/O, and what is answered to bad ones."""

import os

import pytest

import ramet
from observed import children
from ramet.run import ahead


@pytest.fixture
def nothing_started():
    """Afterwards there is no child, no mount and no descriptor that was not there before."""

    def state():
        ahead.forget()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return children(), file.read(), set(os.listdir("/proc/self/fd"))

    ramet.run(["true"])
    before = state()
    yield
    assert state() == before
