"""Why a test may be skipped. There are two reasons, and RAMET_MUST_WORK=1 (CI sets it) makes a failure of the first.

``need(fact, name)``: this host lacks something that it should have. ``only(fact, where)``: the test is about another
caller or another kernel than this one, and runs there.
"""

import os

import pytest

MUST_WORK = os.environ.get("RAMET_MUST_WORK") == "1"
SLOW = os.environ.get("RAMET_SLOW") == "1"
KERNEL = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in os.uname().release.split(".")[:2])


def need(fact, name):
    """Go on only where the host has this; the skip names what is missing."""
    if not fact:
        pytest.skip(f"needs {name}")


def only(fact, where):
    """Go on only there: "only as root", "only on Linux 7.1"."""
    if not fact:
        pytest.skip(f"only {where}")


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only as root")
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="only as an ordinary user")


def since(major, minor):
    """A mark: only on kernels from this one on."""
    return pytest.mark.skipif((major, minor) > KERNEL, reason=f"only on Linux {major}.{minor} and later")
