"""The plan of a copy: what is new in it, and in which order. Pure."""

from __future__ import annotations

import pytest

import ramet
from ramet.host.facts import facts_for
from ramet.plan.branch import check_spec, compile_branch, of_zygote
from ramet.plan.check import MOUNTING, slots_of
from ramet.plan.steps import Slot
from ramet.seccomp.filters import programs_of
from ramet.spec import Namespace, Sandbox

BOXES = {
    "default": Sandbox(),
    "empty": Sandbox(rootfs="empty", mounts=[ramet.Bind("/usr"), ramet.Proc()], workdir="/"),
    "host": Sandbox(rootfs="host", workdir="/"),
    "shared network": Sandbox(namespaces=Sandbox().namespaces - {Namespace.NET, Namespace.IPC}),
    "mounts": Sandbox(
        mounts=[
            ramet.Tmpfs("/scratch"),
            ramet.Mqueue(),
            ramet.Overlay("/over", ("/usr/lib",)),
            ramet.File("/tmp/a", "b"),
        ],
        readonly_paths=["/tmp/a"],
        masked_paths=["/proc/cpuinfo"],
    ),
    "nested": Sandbox(nested_namespaces=True),
    "no filter": Sandbox(seccomp="none", landlock=False),
}


def plan_of(box, **options):
    return compile_branch(box, facts_for(box), filters=programs_of(box), **options)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_slots_are_filled_before_they_are_used(box):
    """No step uses a descriptor that nobody has opened, or that is closed."""
    inputs = {"stdin", "stdout", "stderr", "fd3", "fd4", "control", "caller", "init", "payload_pid"}
    for stage in plan_of(box).stages.values():
        ready, closed = set(inputs), set()
        for step in stage.steps:
            for arg in step.args:
                for slot in slots_of(arg):
                    assert slot in ready, (stage.name, step)
                    assert slot not in closed, (stage.name, step)
            if step.call == "close" and isinstance(step.args[0], Slot):
                closed.add(step.args[0])
            if step.result is not None:
                ready.add(step.result)
            assert step.origin
            assert step.doing


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_rights_go_when_the_mounts_stand(box):
    """Capabilities go after the last mount, descriptors after that, then Landlock, the filter, and last the signals."""
    stages = plan_of(box).stages
    assert not {step.call for step in stages["payload"].steps} & set(MOUNTING)
    calls = [step.call for name in ("view", "payload") for step in stages[name].steps]
    last_mount = max(n for n, call in enumerate(calls) if call in MOUNTING)
    dropped = calls.index("capset")
    closed = max(n for n, call in enumerate(calls) if call == "close_range")
    assert last_mount < dropped < closed
    if "landlock_restrict_self" in calls:
        assert closed < calls.index("landlock_restrict_self")
    if "seccomp" in calls:
        assert calls[-2] == "seccomp"
    assert calls[-1] == "rt_sigprocmask"


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_namespaces_are_new_but_for_those_that_are_shared(box):
    """A copy has new namespaces of the kinds that its sandbox has; the others are the zygote's."""
    flags = plan_of(box).clone_flags
    for kind in set(Namespace) - {Namespace.TIME}:
        assert bool(flags & kind.clone_flag) == (kind in box.namespaces), kind


def test_what_others_could_have_written_to_is_new():
    """Every place that may be written to is covered by something new; without such places nothing is."""

    def made(box):
        return {step.origin for step in plan_of(box).stages["view"].steps if step.call == "move_mount"}

    assert {"default Proc()", "default Dev()", "default /tmp", "default /home/user"} <= made(BOXES["default"])
    mounts = made(BOXES["mounts"])
    for n, kind in enumerate(("Tmpfs", "Mqueue", "Overlay", "File")):
        assert f"Sandbox.mounts[{n}] = {kind}" in mounts
    assert not {origin for origin in made(BOXES["empty"]) if origin.startswith("default")}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_the_view_may_be_made_by_another_process(box):
    """What is made before there is a copy is of the namespaces: nothing in it is a property of the process that makes it."""
    of_process = {
        *(
            "prctl",
            "capset",
            "setsid",
            "setpgid",
            "fchdir",
            "chdir",
            "chroot",
            "umask",
            "dup3",
            "close_range",
            "keyctl",
        ),
        *("seccomp", "landlock_restrict_self", "prlimit64", "setpriority", "rt_sigprocmask", "unshare", "setns"),
        *("setresuid", "setresgid", "setgroups", "sched_setscheduler"),
    }
    stages = plan_of(box).stages
    assert not {step.call for step in stages["view"].steps} & of_process
    assert {step.call for step in stages["payload"].steps} & of_process


def test_the_zygote_has_the_view_and_none_of_the_limits():
    """The zygote's sandbox shows the same and limits nothing, since limits are each call's own."""
    box = Sandbox(
        memory="1G", cpu_time=3, timeout=5, file_size="1M", masked_paths=["/proc/cpuinfo", "/usr/share"], uid=5
    )
    found = of_zygote(box)
    assert not found.is_limited
    assert (found.timeout, found.file_size, found.uid) == (None, None, 5)
    assert found.masked_paths == ("/usr/share",)
    assert found.nested_namespaces is True
    assert found.capabilities == frozenset()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"join": [ramet.Join(Namespace.USER, pid=1)], "namespaces": Sandbox().namespaces - {Namespace.USER}},
            "namespaces",
        ),
        (
            {"join": [ramet.Join(Namespace.PID, pid=1)], "namespaces": Sandbox().namespaces - {Namespace.PID}},
            "namespaces",
        ),
        ({"rootfs": "empty"}, "rootfs"),
        ({"uid_mappings": "subordinate"}, "uid_mappings"),
        ({"mounts": [ramet.Bind("/usr", "/proc/x")]}, "mounts"),
    ],
)
def test_what_cannot_be_new_is_refused(fields, named):
    """What a process in a sandbox can't have anew is refused by name."""
    with pytest.raises(ramet.SpecError, match=named):
        check_spec(Sandbox(**fields))


def test_the_plan_can_be_read():
    """A plan names the fields that its steps come from."""
    text = str(plan_of(Sandbox()))
    assert "CLONE_NEWUSER" in text
    assert "default /tmp: make /tmp writable" in text
