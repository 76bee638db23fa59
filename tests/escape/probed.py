"""Tests made of probes: one for each function of a file in probes/, with its name and its docstring."""

import importlib
import os
import sys
from pathlib import Path

from needs import only

PROBES = Path(__file__).parent / "probes"
GROUPS = ("descriptors", "proc", "files", "processes", "rights", "ipc", "devices", "kernel", "surroundings")


def probes_of(group):
    """The probes of one file, by name; their program text is what runs inside."""
    sys.path.insert(0, str(PROBES))
    try:
        module = importlib.import_module(group)
        probing = importlib.import_module("probing")
    finally:
        sys.path.remove(str(PROBES))
    return {name: probe for name, probe in probing.PROBES.items() if probe.__module__ == module.__name__}


def control_of(world, name, probe):
    """The run that must succeed: outside, or in a sandbox with the hole opened. None: only root could."""
    if probe.control == "root" and os.geteuid():
        return None
    if isinstance(probe.control, dict):
        return world.ask("ramet", name, probe.control)
    return world.ask("outside", name)


def lacks(probe, answer):
    """Does this kernel, or this host, not have what the probe is after? Only where the probe says that this may be."""
    return not answer["could"] and any(answer["how"].startswith(error) for error in probe.absent)


def made_of(group):
    """Test functions for a module of tests."""
    return {f"test_{name}": _test(name, probe) for name, probe in probes_of(group).items()}


def _test(name, probe):
    def test(world):
        inside = world.ask("ramet", name)
        assert inside["could"] is bool(probe.left), inside["how"]
        control = control_of(world, name, probe)
        only(control is not None, "as root, who alone could outside: the probe's control")
        only(not lacks(probe, control), f"where there is such a thing: {control['how']}")
        assert control["could"] is True, f"the control: {control['how']}"

    test.__doc__ = f"The default sandbox does not let through: {probe.__doc__}"
    if probe.left:
        test.__doc__ = f"The default sandbox lets through, and SECURITY.md says so: {probe.__doc__}"
    test.__name__ = test.__qualname__ = f"test_{name}"
    return test
