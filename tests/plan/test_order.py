"""The order of a plan, for every spec that can be drawn: the rules of ramet.plan.compile, read by
ramet.plan.check."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_facts import HOSTS, OLD_ROOT, PATHS, ROOT, USER, for_spec
from plan_specs import commands, sandboxes

from ramet import _core
from ramet.errors import SpecError, UnsupportedError
from ramet.plan.check import check
from ramet.plan.compile import compile
from ramet.plan.encode import encodings, failing
from ramet.plan.steps import Plan, Stage
from ramet.spec import Command, Namespace, Sandbox

TRUE = Command(("/bin/true",))
hosts = st.sampled_from(list(HOSTS.values()))
quickly = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def plan_or_refusal(spec, host, command):
    try:
        return compile(spec, for_spec(host, spec), command)
    except (SpecError, UnsupportedError) as refused:
        assert str(refused)  # noqa: PT017  (most specs are not refused)
        return None


@quickly
@given(sandboxes(), hosts, commands)
def test_every_plan_is_in_order(spec, host, command):
    """Whatever is asked for, compile answers with a plan that breaks no rule, or with a SpecError or
    UnsupportedError."""
    plan = plan_or_refusal(spec, host, command)
    if plan is not None:
        assert check(plan) == []
        for kit in {plan.kit, plan.kit and plan.kit.plain} - {None}:
            assert check(compile(plan.spec, plan.facts, plan.command, ahead=kit)) == []


@settings(quickly, max_examples=100)
@given(sandboxes(), hosts, commands)
def test_every_plan_can_be_shown_and_encoded(spec, host, command):
    """Every plan has a text, plain data, and programs that the interpreter accepts."""
    plan = plan_or_refusal(spec, host, command)
    if plan is None:
        return
    assert str(plan).startswith("clone3({flags=CLONE_VM|")
    assert set(plan.to_json()["stages"]) == set(plan.stages)
    whole = encodings(plan)
    for stage in ("join", "child", "init", "payload"):
        encoded = getattr(whole, stage)
        if encoded is None:
            continue
        # The child that is cloned runs nothing: step 0 is replaced. What is tried is that spawn takes the
        # program.
        stopped = getattr(failing(plan, stage, 0, 99), stage)
        assert len(stopped.blob) == len(encoded.blob)
        if host.machine == "x86_64":
            assert _core.spawn(stopped.blob, [], 0) == (-1, -1, 3, 0, 99)


@pytest.mark.parametrize("name", HOSTS)
def test_default_plan_is_in_order_on_every_host(name):
    """The default sandbox can be planned on each kind of host, in order; so can one that enters namespaces made ahead."""
    plan = compile(Sandbox(), HOSTS[name], TRUE)
    assert check(plan) == []
    if plan.kit:
        for kit in (plan.kit, plan.kit.plain):
            assert check(compile(Sandbox(), HOSTS[name], TRUE, ahead=kit)) == []


def broken(plan, stage, change):
    """The plan with one stage's steps changed."""
    steps = list(plan.stages[stage].steps)
    stages = dict(plan.stages)
    stages[stage] = Stage(stage, tuple(change(steps) or steps))
    names = [name for name in Plan.__slots__ if name not in ("encoded", "stages")]
    return Plan(stages=stages, **{name: getattr(plan, name) for name in names})


def position(steps, call, **wanted):
    return next(
        n for n, step in enumerate(steps) if step.call == call and all(getattr(step, k) == v for k, v in wanted.items())
    )


def swap_first(steps):
    steps[0], steps[1] = steps[1], steps[0]


def forget_life(steps):
    del steps[position(steps, "capset") + 1]


def bind_late(steps):
    steps.insert(position(steps, "pivot_root") + 3, steps[position(steps, "mount")])


def drop_early(steps):
    drop = next(n for n, step in enumerate(steps) if step.call == "prctl" and step.args[0] == 24)
    steps.insert(20, steps.pop(drop))


def use_early(steps):
    steps.insert(2, steps[position(steps, "mkdirat")])


def use_closed(steps):
    fsmount = position(steps, "fsmount")
    steps.insert(fsmount + 2, steps[fsmount]._replace(result=None))


def lose_origin(steps):
    steps[5] = steps[5]._replace(origin="")


def leave_open(steps):
    del steps[-1 - position(steps[::-1], "close_range")]


def close_passed(steps):
    at = position(steps, "close_range")
    steps[at] = steps[at]._replace(args=(2, 2**32 - 1, 0))


def close_own(steps):
    at = position(steps, "close_range")
    steps[at] = steps[at]._replace(args=(1, 2, 0))


def exec_early(steps):
    steps.insert(-3, steps[-1])


def wait_late(steps):
    steps.append(steps.pop(position(steps, "read")))


def wait_for_nothing(steps):
    at = position(steps, "read")
    steps[at] = steps[at]._replace(expect=None)


def unblock_early(steps):
    steps.insert(0, steps[-2])


def unblock_signals(steps):
    steps.insert(-1, PAYLOADS[-2])


def keep_table(steps):
    del steps[2]


def leave_table_late(steps):
    steps.insert(3, steps.pop(2))


def open_the_gate(steps):
    del steps[position(steps, "futex")]


def shut_the_gate_early(steps):
    steps.insert(3, steps.pop(position(steps, "futex")))


def keep_rights(steps):
    del steps[position(steps, "capset")]


def stay_tied(steps):
    del steps[next(n for n, step in enumerate(steps) if step.args[:2] == (1, 0))]


def show_memory(steps):
    steps.pop()


def make_twice(steps):
    steps.insert(-3, steps[position(steps, "setsid")]._replace(call="execve", retries=True))


PAYLOADS = compile(Sandbox(), ROOT, TRUE).stages["payload"].steps
BY_FORK = Sandbox(namespaces=set(Namespace))  # before Linux 6.3: init and payload share no memory


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("child", swap_first, "begin by tying its life"),
        ("child", forget_life, "parent-death signal"),
        ("child", lose_origin, "does not say where it comes from"),
        ("child", wait_late, "after something else was done"),
        ("child", wait_for_nothing, "has let go"),
        ("init", leave_open, "not closed"),
        ("init", close_own, "which are passed on"),
        ("init", exec_early, "does not end in exec"),
        ("init", unblock_signals, "unblocks signals too early"),
        ("init", keep_rights, "execs with the rights"),
        ("init", stay_tied, "still tied to the thread"),
        ("payload", bind_late, "after pivot_root"),
        ("payload", drop_early, "gives up rights"),
        ("payload", use_early, "before anything is in it"),
        ("payload", use_closed, "after it was closed"),
        ("payload", leave_open, "not closed"),
        ("payload", close_passed, "which are passed on"),
        ("payload", exec_early, "does not end in exec"),
        ("payload", make_twice, "does not end in exec"),
        ("payload", unblock_early, "just before the exec"),
        ("payload", open_the_gate, "must wait for init"),
        ("payload", shut_the_gate_early, "must wait for init"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_check_notices(stage, change, said):
    """Each rule is noticed when it alone is broken (so an empty answer of check means something)."""
    plan = compile(Sandbox(), ROOT, TRUE)
    assert check(plan) == []
    assert any(said in line for line in check(broken(plan, stage, change))), check(broken(plan, stage, change))


@pytest.mark.parametrize(
    ("stage", "change", "said"),
    [
        ("child", show_memory, "not hidden"),
        ("payload", lambda steps: steps[-2:-2] + list(PAYLOADS[-3:-2]) + steps, "a word that nobody clears"),
    ],
    ids=["show_memory", "wait_for_nobody"],
)
def test_check_notices_where_nothing_is_shared(stage, change, said):
    """Where payload and init share no memory, waiting for it and showing it are noticed."""
    plan = compile(BY_FORK, OLD_ROOT, TRUE)
    assert check(plan) == []
    assert any(said in line for line in check(broken(plan, stage, change))), check(broken(plan, stage, change))


@pytest.mark.parametrize("change", [keep_table, leave_table_late])
def test_check_notices_a_table_that_is_kept(change):
    """A child that shares the caller's table of descriptors and doesn't leave it at once is noticed; so is one that waits for the
    caller."""
    plan = compile(Sandbox(), USER, TRUE)
    assert check(plan) == [] and not plan.sync
    assert any("leave the caller's table" in line for line in check(broken(plan, "child", change)))
    waits = compile(Sandbox(), ROOT, TRUE)
    assert check(waits) == [] and waits.sync
    sharing = broken(waits, "child", lambda steps: steps)
    sharing.clone_flags |= plan.clone_flags
    assert any("what the caller opens while it waits" in line for line in check(sharing))


def test_check_notices_a_stage_too_few():
    """A plan with an init and no stage in which the child becomes it is noticed."""
    plan = compile(Sandbox(), ROOT, TRUE)
    missing = broken(plan, "child", lambda steps: steps)
    missing.init = False
    assert any(line.startswith("its stages are") for line in check(missing))


def test_hand_made_paths_are_those_of_the_specs():
    """The drawn specs name only paths that the hand-made hosts have, and one that they have not."""
    assert "/srv/missing" not in PATHS
    assert USER.paths == {}
