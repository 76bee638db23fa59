"""Specs: values without I/O, and what is answered to bad ones."""

import os

import pytest

import ramet
from ramet.run import ahead


def children():
    found = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
            found += file.read().split()
    return found


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
