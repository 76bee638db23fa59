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


def need_mould():
    """The kit of the default sandbox, which has a mould where this Python can be shown without covering what is written to."""
    import ramet
    from ramet.run.planning import plan_for

    kit = plan_for(["true"], ramet.Sandbox()).kit
    need(kit, "a kernel on which namespaces are made ahead: before 7.1")
    only(kit.mould, "where Python lies outside of /tmp and /home/user")
    return kit


def own_places(above):
    """Names below a directory that a sandbox has only because this Python lies there."""
    from ramet.host.facts import facts

    above = os.path.join(above, "")
    return {path[len(above) :].split("/")[0] for path, _ in facts().python if path.startswith(above)}
