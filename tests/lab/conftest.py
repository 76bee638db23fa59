"""All experiments, run once for the whole session; who may do what in here."""

import os

import pytest

from needs import KERNEL, only
from ramet import lab
from ramet.lab.kernel import CAP_SYS_ADMIN, has_capability


@pytest.fixture(scope="session")
def privileged():
    """May this caller make namespaces without a user namespace?"""
    return has_capability(CAP_SYS_ADMIN)


@pytest.fixture(scope="session")
def everything():
    """The evidence of every experiment, by its name."""
    return {evidence.name: evidence for evidence in lab.run_all()}


@pytest.fixture(scope="session")
def settled(everything):
    """The evidence of one experiment, or a skip that says where it can be settled."""

    def settled(name):
        wanted = lab.load(name).since
        only(wanted[:2] <= KERNEL, f"on Linux {'.'.join(map(str, wanted))} and later")
        if name == "into-cgroup":
            only(os.geteuid() == 0 or not everything[name].missing, "where this user may make cgroups")
        return everything[name]

    return settled
