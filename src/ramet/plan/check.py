"""check(plan) -> what is out of order in it. Pure; tests hold every plan they can think of against it.

The rules are those of `ramet.plan.compile`, as far as they can be read off the steps alone.
"""

from __future__ import annotations

from ramet.plan.ahead import NAMESPACES
from ramet.plan.limits import entry_slot
from ramet.plan.steps import Block, Ptr, Slot
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ramet.plan.steps import Plan, Stage, Step

CLONE_FILES = 0x400
CLOSE_RANGE_UNSHARE = 2
AT_FDCWD = -100
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
FUTEX_WAIT = 0
LAST_FD = 2**32 - 1
LAST_ID = 2**64 - 1

EXECS = frozenset({"execve", "execveat"})
SET_IDS = frozenset({"setgroups", "setresgid", "setresuid"})
MOUNTING = frozenset(
    {
        "mount",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "fsopen",
        "fsconfig",
        "fsmount",
        "pivot_root",
        "umount2",
    }
)
#: With a directory descriptor and a path as their first two arguments.
BY_PATH = frozenset({"openat", "openat2", "open_tree", "mkdirat", "mknodat"})
#: What opens paths of the sandbox itself.
INSIDE = ("Sandbox.workdir", "Sandbox.landlock")
INPUTS = frozenset(
    {
        "stdin",
        "stdout",
        "stderr",
        "control",
        "control_caller_end",
        "caller",
        "descriptors_end",
        "init",
        "init_running",
        "payload_pid",
    }
)
NO_DESCRIPTORS = frozenset({"init_running", "payload_pid"})


def check(plan: Plan) -> list[str]:
    """One line for each rule that the plan breaks; none for a plan in order."""
    found: list[str] = []
    inputs = INPUTS | {f"fd{fd}" for fd in plan.command.pass_fds}
    inputs |= {f"ns_{join.kind.value}" for join in plan.spec.join}
    inputs |= {str(mount.slot) for mount in plan.prepared}
    inputs |= set(NAMESPACES.values()) if plan.ahead else set()
    inputs |= {entry_slot(number) for number in range(plan.groups.entries)} if plan.groups else set()
    for stage in plan.stages.values():
        for rule in (_named, _slots, _mounts_before_rights, _inside_after_pivot):
            found += [f"{stage.name}: {line}" for line in rule(stage, inputs)]
        ends = _function_last if plan.function and stage.name == plan.last else _program_last
        found += [f"{stage.name}: {line}" for line in ends(stage)]
    child = plan.stages["child"]
    for on_child in (_life_first, _life_again):
        found += [f"child: {line}" for line in on_child(child)]
    for stage in _executing(plan):
        for on_it in (_exec_last, _descriptors):
            found += [f"{stage.name}: {line}" for line in on_it(stage)]
    for on_plan in (_stages, _own_descriptors, _sync, _gate, _becoming_init):
        found += on_plan(plan)
    return found


def _named(stage: Stage, inputs: frozenset[str]) -> Iterator[str]:
    for n, step in enumerate(stage.steps):
        if not step.origin or not step.doing:
            yield f"step {n} ({step.call}) does not say where it comes from and what for"


def slots_of(value: object) -> Iterator[Slot]:
    """Every slot in an argument, those inside structures too."""
    if isinstance(value, Slot):
        yield value
    elif isinstance(value, Ptr):
        yield from slots_of(value.to)
    elif isinstance(value, Block):
        for part in value:
            yield from slots_of(part)


def _slots(stage: Stage, inputs: frozenset[str]) -> Iterator[str]:
    ready, closed = set(inputs), set()
    for n, step in enumerate(stage.steps):
        for arg in step.args:
            for slot in slots_of(arg):
                if slot in closed:
                    yield f"step {n} ({step.call}) uses {slot} after it was closed"
                elif slot not in ready:
                    yield f"step {n} ({step.call}) uses {slot} before anything is in it"
        if step.call == "close" and isinstance(step.args[0], Slot):
            closed.add(step.args[0])
        if step.result is not None:
            if step.result in ready:
                yield f"step {n} ({step.call}) overwrites {step.result}"
            ready.add(step.result)


def _executing(plan: Plan) -> list[Stage]:
    """The stages that end in another program."""
    names = ("init", "payload") if plan.init else ("child",)
    return [stage for name, stage in plan.stages.items() if name in names and not (plan.function and name == plan.last)]


def _stages(plan: Plan) -> Iterator[str]:
    wanted = {"child"} | ({"init", "payload"} if plan.init else set())
    wanted |= {"join"} if plan.ahead or plan.spec.join else set()
    if set(plan.stages) != wanted:
        yield f"its stages are {', '.join(sorted(plan.stages))}, not {', '.join(sorted(wanted))}"


def _program_last(stage: Stage) -> Iterator[str]:
    yield from _signals(stage)


def _function_last(stage: Stage) -> Iterator[str]:
    """The function is called where a program would be executed: with its memory its own, and signals unblocked last."""
    if any(step.call in EXECS for step in stage.steps):
        yield "it executes a program before the function is called"
    if [n for n, step in enumerate(stage.steps) if step.call == "rt_sigprocmask"] != [len(stage.steps) - 1]:
        yield "signals must be unblocked just before the function is called"
    shown = [n for n, step in enumerate(stage.steps) if step.call == "prctl" and step.args[:2] == (PR_SET_DUMPABLE, 1)]
    if not shown or any(_gives_up_rights(step) for step in stage.steps[shown[0] :]):
        yield "the memory must be shown again when all rights are given up, and not before"


def _exec_last(stage: Stage) -> Iterator[str]:
    execs = [n for n, step in enumerate(stage.steps) if step.call in EXECS]
    if not execs or execs != list(range(execs[0], len(stage.steps))):
        yield "it does not end in exec"
    if len(execs) > 1 and not all(stage.steps[n].retries for n in execs):
        yield "a later exec can never be reached"


def _last(steps: Sequence[Step], calls: frozenset[str]) -> int:
    return max((n for n, step in enumerate(steps) if step.call in calls), default=-1)


def _gives_up_rights(step: Step) -> bool:
    return step.call == "prctl" and step.args[0] in (PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS)


def _mounts_before_rights(stage: Stage, inputs: frozenset[str]) -> Iterator[str]:
    last = _last(stage.steps, MOUNTING)
    for n, step in enumerate(stage.steps[: last + 1]):
        if _gives_up_rights(step):
            yield f"step {n} gives up rights that step {last} ({stage.steps[last].call}) needs"
            return


def _inside_after_pivot(stage: Stage, inputs: frozenset[str]) -> Iterator[str]:
    """After pivot_root an absolute path is the sandbox's. Only the working directory and the command are."""
    after = False
    for n, step in enumerate(stage.steps):
        if after and step.call in MOUNTING - {"umount2"}:
            yield f"step {n} ({step.call}) still mounts after pivot_root"
        if after and step.call in BY_PATH and step.args[0] == AT_FDCWD and step.origin not in INSIDE:
            yield f"step {n} ({step.call}) uses the path {step.args[1]!r} after pivot_root"
        after = after or step.call == "pivot_root"


def _signals(stage: Stage) -> Iterator[str]:
    """Unblocked just before the payload's exec, and never before init's: what came meanwhile must not hit
    us."""
    places = [n for n, step in enumerate(stage.steps) if step.call == "rt_sigprocmask"]
    runs_payload = any(step.call == "execve" for step in stage.steps)
    if not runs_payload:
        if places:
            yield f"step {places[0]} unblocks signals too early"
        return
    first_exec = next(n for n, step in enumerate(stage.steps) if step.call == "execve")
    if places != [first_exec - 1]:
        yield "signals must be unblocked just before the exec of the payload"


def _is_life(steps: Sequence[Step], at: int) -> bool:
    if len(steps) < at + 2:
        return False
    signal, look = steps[at : at + 2]
    return (
        signal.call == "prctl"
        and signal.args[:2] == (PR_SET_PDEATHSIG, 9)
        and look.call == "ppoll"
        and look.expect == 0
        and "caller" in list(slots_of(look.args[0]))
    )


def _life_first(child: Stage) -> Iterator[str]:
    if not _is_life(child.steps, 0):
        yield "it does not begin by tying its life to the caller's"


def _life_again(child: Stage) -> Iterator[str]:
    """New credentials clear the parent-death signal: it must be set again before anything else is done."""
    last = _last(child.steps, SET_IDS)
    if last < 0:
        return
    after = last + 1
    while after < len(child.steps) and child.steps[after].call == "capset":
        after += 1
    if not _is_life(child.steps, after):
        call = child.steps[last].call
        yield f"step {last} ({call}) clears the parent-death signal, and it is not set again"


def _descriptors(child: Stage) -> Iterator[str]:
    closing = [n for n, step in enumerate(child.steps) if step.call == "close_range" and not _leaves_table(step)]
    if not closing or child.steps[closing[-1]].args[1] != LAST_FD:
        yield "the descriptors above those passed on are not closed"
        return
    placed = [step.args[1] for step in child.steps if step.call == "dup3"]
    if len(placed) != len(set(placed)):
        yield "two descriptors are placed under one number"
    covered: set[object] = set()
    for n in closing:
        low, high = child.steps[n].args[:2]
        covered |= {fd for fd in placed if low <= fd <= high}
    if covered:
        yield f"close_range closes {sorted(covered, key=str)}, which are passed on"
    opened: set[str] = set()
    for step in child.steps[closing[0] :]:
        if any(slot not in opened | NO_DESCRIPTORS for arg in step.args for slot in slots_of(arg)):
            yield f"{step.call} uses a descriptor that close_range has closed"
        if step.result is not None:
            opened.add(step.result)


def _leaves_table(step: Step) -> bool:
    return step.call == "close_range" and step.args[2] == CLOSE_RANGE_UNSHARE


def _own_descriptors(plan: Plan) -> Iterator[str]:
    """A table of descriptors that is shared with the caller is left before anything in it could be changed, or waited for."""
    leaves = [n for n, step in enumerate(plan.stages["child"].steps) if _leaves_table(step)]
    if plan.clone_flags & CLONE_FILES and plan.sync:
        yield "child: it shares the caller's table of descriptors, and would take along what the caller opens while it waits"
    if leaves != ([2] if plan.clone_flags & CLONE_FILES else []):
        yield "child: it must leave the caller's table of descriptors, if it shares that, when its life is tied to the caller's"


def _sync(plan: Plan) -> Iterator[str]:
    steps = plan.stages["child"].steps
    waits = [n for n, step in enumerate(steps) if step.call == "read" and step.args[0] == "control"]
    if len(waits) != bool(plan.sync):
        yield f"the child waits {len(waits)} times for a caller that has {len(plan.sync)} things to do"
    for n in waits:
        if any(step.call not in ("prctl", "ppoll", "close") for step in steps[:n]):
            yield f"step {n} waits for the caller after something else was done"
        if steps[n].expect != 1:
            yield f"step {n} takes a caller that has let go for one that is done"


def _gate(plan: Plan) -> Iterator[str]:
    """The payload's process waits for init just before it execs; or the child hides the memory."""
    if not plan.init:
        return
    steps = plan.stages["payload"].steps
    waits = [n for n, step in enumerate(steps) if step.call == "futex" and step.args[1] == FUTEX_WAIT]
    hidden = any(step.call == "prctl" and step.args[0] == PR_SET_DUMPABLE for step in plan.stages["child"].steps[-1:])
    if not plan.gated:
        if waits:
            yield f"payload: step {waits[0]} waits for a word that nobody clears"
        if not hidden:
            yield "child: our memory is not hidden from a payload that may run before init does"
        return
    signals = next((n for n, step in enumerate(steps) if step.call == "rt_sigprocmask"), len(steps))
    if waits != [signals - 1]:
        yield "payload: it must wait for init just before it unblocks its signals and execs"


def _becoming_init(plan: Plan) -> Iterator[str]:
    """Init has no rights but one when it execs, lest it could read its program, and is no longer tied to a thread."""
    if not plan.init:
        return
    steps = plan.stages["init"].steps
    if not any(step.call == "prctl" and step.args[:2] == (PR_SET_PDEATHSIG, 0) for step in steps):
        yield "init: it is still tied to the thread that started it"
    if (
        plan.facts.capabilities or plan.spec.joined(Namespace.USER) or Namespace.USER in plan.spec.namespaces
    ) and not any(step.call == "capset" for step in steps):
        yield "init: it execs with the rights that it has"
