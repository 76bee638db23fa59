"""The ways out of a jail, two network namespaces joined, and what stays one kernel's."""

import importlib.util
import os
import subprocess

import pytest

from needs import need
from ramet.errors import UnsupportedError
from ramet.lab.container.escape import escape
from ramet.lab.container.kernel import kernel
from ramet.lab.container.veth import veth

OUT, IN = True, False


@pytest.fixture(scope="module")
def tries():
    found = escape()["tries"]
    return {jail: {way: one["escaped"] for way, one in ways.items()} for jail, ways in found.items()}


def test_the_ways_lead_to_the_file(tries):
    """The control: without a jail every way but that of the old root reads the file outside."""
    assert {way for way, escaped in tries["none"].items() if not escaped} == {"old_root"}


def test_chroot_is_escaped(tries):
    """A second chroot, and a kept directory, lead out of chroot; the path and ".." alone do not."""
    assert tries["chroot"] == {
        "by_name": IN,
        "up_and_up": IN,
        "second_chroot": OUT,
        "kept_directory": OUT,
        "old_root": IN,
        "left_open": OUT,
    }


def test_pivot_root_is_not_once_the_old_root_is_gone(tries):
    """pivot_root is escaped by the old root while that is there, and by a descriptor left open; by nothing else."""
    ways_out = {jail: {way for way, escaped in ways.items() if escaped} for jail, ways in tries.items()}
    assert ways_out["pivot_root"] == {"old_root", "left_open"}
    assert ways_out["pivot_root, unmounted"] == {"left_open"}


def test_a_sandbox_is_not_escaped(tries):
    """None of the ways leads out of a sandbox, though it has the same rights, and a directory was left open outside."""
    assert set(tries["as it is"].values()) == {IN}


def test_the_jails_were_made():
    """No try failed because its jail could not be made."""
    saw = [one["saw"] for ways in escape()["tries"].values() for one in ways.values()]
    assert not [text for text in saw if "jail" in text]


@pytest.fixture(scope="module")
def joined():
    need(importlib.util.find_spec("pyroute2"), "pyroute2: pip install 'ramet[net]'")
    try:
        return veth()
    except UnsupportedError as error:
        need("no veth pair" not in error.fact, "a kernel with veth pairs")
        raise


def test_one_reaches_the_other_while_joined(joined):
    """The caller's side reaches the child's listener over TCP while the pair is there, and neither before nor after."""
    assert joined["reached"] == "hello from the child's network namespace"
    assert joined["seen_by_child"] == joined["caller"]["address"]
    assert joined["reached_before"].startswith("ENETUNREACH")
    assert joined["reached_after"].startswith("ENETUNREACH")
    assert joined["child_ended"] == 0


def test_each_end_is_in_its_own_namespace(joined):
    """Each side sees loopback and its own end; the three network namespaces are three."""
    assert joined["caller"]["before"] == joined["child"]["before"] == joined["caller"]["parted"] == ["lo"]
    assert joined["caller"]["joined"] == ["lo", "veth-caller"]
    assert joined["child"]["joined"] == ["lo", "veth-child"]
    assert len({joined[side]["namespace"] for side in ("host", "caller", "child")}) == 3


def test_the_hosts_network_is_left_alone(joined):
    """The host's side is the namespace that we are in; no interface has come to it."""
    assert joined["host"]["namespace"] == os.readlink("/proc/self/ns/net")
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith("veth-c")]


def test_without_pyroute2(monkeypatch):
    """Where pyroute2 is missing, the error says so and how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="pyroute2 is not installed") as caught:
        veth()
    assert "ramet[net]" in caught.value.hint


def test_without_veth(monkeypatch):
    """Where the kernel makes no such pair, the error says so, and how to get one; the child is gone by itself."""
    need(importlib.util.find_spec("pyroute2"), "pyroute2: pip install 'ramet[net]'")
    from ramet.lab.container import veth as part

    run = subprocess.run
    patched = (
        "import ramet.lab.container.inside.veth as v, json; v.OUR_NAME = 'n' * 99; print(json.dumps(v.caller_side()))"
    )
    monkeypatch.setattr(subprocess, "run", lambda argv, **more: run([argv[0], "-c", patched], **more))
    with pytest.raises(UnsupportedError, match="the kernel makes no veth pair") as caught:
        part.veth()
    assert "modprobe veth" in caught.value.hint


@pytest.fixture(scope="module")
def facts():
    return kernel()["rows"]


@pytest.mark.parametrize("key", ["release", "build", "boot_id", "boot_time", "processor", "memory", "disks", "modules"])
def test_the_kernel_is_the_hosts(facts, key):
    """What the kernel says of itself and the machine is the same inside as outside."""
    assert facts[key]["same"], facts[key]
    assert facts[key]["host"] == facts[key]["container"]


def test_boot_id_is_this_kernels(facts):
    """The boot id shown inside is the one that this test reads here: it was looked at, not assumed."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        assert facts["boot_id"]["container"] == file.read().strip()


@pytest.mark.parametrize("key", ["hostname", "init", "processes", "interfaces", "root", "uids"])
def test_what_namespaces_are_made_for_differs(facts, key):
    """The control: the same script sees another host name, other processes, interfaces, root and ids inside."""
    assert not facts[key]["same"], facts[key]


def test_the_interpreter_is_one_that_the_container_may_run(monkeypatch):
    """Where only root may pass to our own Python, the system's is taken; where there is none, the error says so."""
    from types import SimpleNamespace

    from ramet.lab.container import interpreter

    guarded = SimpleNamespace(privileged=True, guarded_python=frozenset({"/root/python"}))
    monkeypatch.setattr(interpreter, "facts_for", lambda _: guarded)
    assert interpreter.container_python() == interpreter.SYSTEM
    monkeypatch.setattr(interpreter, "SYSTEM", "/nonexistent/python3")
    with pytest.raises(UnsupportedError, match="only root may pass"):
        interpreter.container_python()
    monkeypatch.setattr(guarded, "guarded_python", frozenset())
    assert interpreter.container_python() == interpreter.caller_python()
