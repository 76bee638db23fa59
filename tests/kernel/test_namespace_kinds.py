"""Each of the eight namespaces: new where asked for, shared where not."""

import os
from pathlib import Path

import pytest
from inside import as_root, python, said, shell

from needs import KERNEL, only
from ramet import Namespace, Sandbox, SpecError, TimeOffsets

pytestmark = pytest.mark.vm

EVERY = frozenset(Namespace)


def name_inside(kind, namespaces):
    """What /proc/self/ns says of this kind, from inside."""
    return said(shell(f"readlink /proc/self/ns/{kind.value}", namespaces=namespaces))


def name_here(kind):
    return os.readlink(f"/proc/self/ns/{kind.value}")


@pytest.mark.parametrize("kind", Namespace)
def test_new_namespace_is_not_the_callers(kind):
    """A kind in namespaces= is another one than the caller's."""
    assert name_inside(kind, EVERY) not in ("", name_here(kind))


@pytest.mark.parametrize("kind", [kind for kind in Namespace if kind is not Namespace.USER])
def test_kind_left_out_is_shared(kind):
    """A kind left out of namespaces= is the caller's own, while the others are still new."""
    only(kind is not Namespace.PID or KERNEL >= (6, 3), "on Linux 6.3 and later: before, time namespaces need init")
    assert name_inside(kind, EVERY - {kind}) == name_here(kind)
    other = Namespace.UTS if kind is not Namespace.UTS else Namespace.IPC
    assert name_inside(other, EVERY - {kind}) != name_here(other)


@as_root
def test_user_namespace_left_out_is_shared():
    """A privileged caller can leave the user namespace out; the rest is new all the same."""
    assert name_inside(Namespace.USER, EVERY - {Namespace.USER}) == name_here(Namespace.USER)
    assert name_inside(Namespace.NET, EVERY - {Namespace.USER}) != name_here(Namespace.NET)


def test_nothing_new_at_all():
    """With namespaces=set() every kind is the caller's."""
    script = "for n in user mnt pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done"
    inside = said(shell(script, namespaces=set())).split()
    assert inside == [name_here(kind) for kind in Namespace]


@pytest.mark.skipif(os.geteuid() == 0, reason="only as an ordinary user")
def test_others_need_a_user_namespace():
    """An ordinary caller who asks for new namespaces without a user namespace is told to add it, before anything runs."""
    with pytest.raises(SpecError, match=r"Namespace\.USER") as caught:
        shell("true", namespaces={Namespace.NET})
    assert caught.value.field == "Sandbox.namespaces"


def test_default_has_all_but_time():
    """The default sandbox has seven namespaces of its own, and the caller's clocks."""
    script = "for n in user mnt pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done"
    inside = said(shell(script)).split()
    same = [kind for kind, name in zip(Namespace, inside, strict=True) if name == name_here(kind)]
    assert same == [Namespace.TIME]


def test_pid_namespace_hides_other_processes():
    """In a new pid namespace /proc shows init, the payload and nobody else; in a shared one it shows the caller too."""
    count = "set -- /proc/[0-9]*; echo $# $$"
    assert said(shell(count)) == "2 2"
    shared = said(shell(f"test -d /proc/{os.getpid()} && echo seen", namespaces=EVERY - {Namespace.PID}))
    assert shared == "seen"


def test_ipc_namespace_hides_system_v_objects():
    """A message queue made in a sandbox with a new IPC namespace is not in the caller's."""

    def lines():
        with open("/proc/sysvipc/msg", encoding="ascii") as file:
            return file.read()

    before = lines()
    inside = said(shell("ipcmk -Q >/dev/null && wc -l < /proc/sysvipc/msg"))
    assert inside == "2"  # the heading, and its own
    assert lines() == before


def test_cgroup_namespace_hides_the_path():
    """In a new cgroup namespace the payload sees itself at the root; in the shared one at the caller's place."""
    here = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text(encoding="ascii").split()]
    inside = said(shell("cat /proc/self/cgroup")).split()
    assert {line.split(":", 2)[2] for line in inside} == {"/"}
    shared = said(shell("cat /proc/self/cgroup", namespaces=EVERY - {Namespace.CGROUP})).split()
    assert [line.split(":", 2)[2] for line in shared] == here


CLOCKS = "import time; print(time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))"


@pytest.mark.parametrize("as_pid1", [False, True])
def test_time_offsets_move_the_clocks(as_pid1):
    """time_offsets move the monotonic and the boot clock by what was asked; without them the caller's time goes on."""
    import time

    only(not as_pid1 or KERNEL >= (6, 3), "on Linux 6.3 and later: before, time namespaces need init")
    start = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    moved = python(
        CLOCKS, namespaces=EVERY, time_offsets=TimeOffsets(monotonic=1000.5, boottime=86400), as_pid1=as_pid1
    )
    plain = python(CLOCKS, namespaces=EVERY, as_pid1=as_pid1)
    end = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    for offset, low, high, here, there in zip(
        (1000.5, 86400), start, end, said(moved).split(), said(plain).split(), strict=True
    ):
        assert low + offset <= float(here) <= high + offset
        assert low <= float(there) <= high


def test_negative_time_offset():
    """An offset may be negative, with a fraction, as long as no clock becomes so."""
    import time

    start = time.clock_gettime(time.CLOCK_BOOTTIME)
    inside = python(CLOCKS, namespaces=EVERY, time_offsets=TimeOffsets(boottime=-10.25))
    end = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert start - 10.25 <= float(said(inside).split()[1]) <= end - 10.25


def test_time_offsets_need_the_namespace():
    """time_offsets without Namespace.TIME contradict themselves."""
    with pytest.raises(SpecError, match=r"Namespace\.TIME"):
        Sandbox(time_offsets=TimeOffsets(boottime=1))
