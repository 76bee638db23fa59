"""compile(spec, facts, command) -> Plan. Pure: the same arguments always give the same plan.

The order of a plan, and what forces it:

1. die with the caller: before anything that could wait or fail; then leave its table of descriptors, before one is opened;
2. ids: nothing can be made in a new user namespace by an id that is not mapped (EOVERFLOW);
3. surroundings: they need the host's /proc, and capabilities;
4. mounts, then pivot_root: needs the host's paths, so no host path may be used after it;
5. capabilities and no_new_privs: everything before needs the former;
6. descriptors: the mounts were built on them; then Landlock, which forbids to mount, and is to know what is passed on;
7. what is the payload's alone: session, directory, limits, signal mask; exec.

With an init the child does 1 and 2 and clones the payload's process, which does the rest; the child becomes init
meanwhile. The payload's process waits for that before it execs: until then the child is in the caller's memory, which
nobody untrusted may be able to trace.
"""

from __future__ import annotations

from functools import lru_cache

from ramet.errors import SpecError, UnsupportedError
from ramet.plan import finish, idmap, landlock, limits, rights, surroundings
from ramet.plan.ahead import entering, kit_for
from ramet.plan.life import CALLER, die_with_caller, own_descriptors
from ramet.plan.mould import DISK, complete_root
from ramet.plan.mounts import build_root
from ramet.plan.protections import protections
from ramet.plan.shape import Shape
from ramet.plan.steps import Builder, Plan, Slot, Stage
from ramet.plan.terminal import open_terminal
from ramet.spec import Namespace
from ramet.spec.mounts import hidden_by_later
from ramet.spec.seccomp import keeps_from_nesting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.ahead import Kit
    from ramet.plan.limits import Groups, Held
    from ramet.spec import Command, Join, Sandbox

CLONE_FILES, CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP = 0x400, 1 << 32, 1 << 33
CLONE_AUTOREAP, CLONE_NNP, CLONE_PIDFD_AUTOKILL = 1 << 34, 1 << 35, 1 << 36
CAP_SYS_ADMIN = 21

#: Joined first to last: the user namespace gives the rights for the rest (setns(2)).
JOIN_ORDER = ("user", "pid", "net", "ipc", "uts", "cgroup", "time", "mnt")
PR_SET_DUMPABLE = 4


@lru_cache(maxsize=256)
def compile(
    spec: Sandbox,
    facts: Facts,
    command: Command,
    *,
    ahead: Kit | None = None,
    groups: Groups | None = None,
    filters: tuple[bytes, ...] = (),
    learn: int | None = None,
    function: bool = False,
) -> Plan:
    """The plan of this sandbox on this host, ending in the execution of this command.

    ahead: for a caller that has namespaces of this kit ready (`ramet.plan.ahead`), which is the plan's or its plain form. groups: the control group that a sandbox
    with limits gets on this host. filters: its policy for system calls, compiled. learn: the one filter reports calls, to the other
    end of this socket among pass_fds. function: the payload is no program but goes on in the process that has made the steps, a copy
    of the caller.

    Raises SpecError where the spec contradicts itself, UnsupportedError where the host can't.
    """
    _check(spec, facts)
    shape = Shape(spec, facts, command)
    _check_time(spec, facts, shape)
    kit = kit_for(spec, facts, shape) if learn is None else None
    assert ahead is None or (kit and ahead in (kit, kit.plain))
    sync = idmap.caller_maps(shape.maps, facts) if shape.maps and not ahead else ()
    # A child that the caller does something for could take along what the caller opens for that, and both would wait.
    shares_table = not (function or sync)
    stages = {}
    if ahead:
        stages["join"] = entering(ahead)
    elif spec.join:
        stages["join"] = Stage("join", tuple(_join(spec, facts)))
    gated = shape.init and not function and _gated(spec, facts, shape)
    held = limits.hold(spec, groups, shape)
    wall = landlock.fence(spec, facts)
    environment = finish.environment(spec, shape)
    child = Builder()
    _begin(child, spec, facts, shape, ahead=ahead, groups=groups, shares_table=shares_table)
    if shape.init:
        if not gated:
            hide_memory(child, "init", "hide our memory from the payload")
        stages["child"] = Stage("child", tuple(child.steps))
        stages["init"] = _init(spec, facts, DISK if ahead and ahead.mould else "/")
        stages["payload"] = _payload(
            *(Builder(), spec, facts, command, shape, environment, held, filters, wall),
            gated=gated,
            ahead=ahead,
            learn=learn,
            function=function,
        )
    else:
        stages["child"] = _payload(
            *(child, spec, facts, command, shape, environment, held, filters, wall),
            gated=False,
            ahead=ahead,
            learn=learn,
            function=function,
        )
    return Plan(
        spec=spec,
        facts=facts,
        command=command,
        clone_flags=(CLONE_FILES if shares_table else 0)
        | (_clone_flags(spec, facts, shape, groups, function=function) & ~(ahead.flags if ahead else 0)),
        stages=stages,
        sync=sync,
        kit=kit,
        ahead=ahead,
        groups=groups,
        filters=filters,
        environment=environment,
        function=function,
        protections=protections(spec, facts, shape, wall, held, filters),
        init=shape.init,
        gated=gated,
        tty=spec.tty,
        prepared=tuple(shape.prepared.values()),
        notes=_notes(spec),
        owner=idmap.owner_outside(spec, facts, shape.maps, shape.uid, shape.gid),
    )


def _check(spec: Sandbox, facts: Facts) -> None:
    new = spec.namespaces - {Namespace.USER}
    joins_user = spec.joined(Namespace.USER)
    if new and Namespace.USER not in spec.namespaces and not joins_user and not facts.capable(CAP_SYS_ADMIN):
        names = ", ".join(sorted(kind.value for kind in new))
        raise SpecError(
            f"new namespaces ({names}) need a new user namespace too, since the caller has no CAP_SYS_ADMIN",
            field="Sandbox.namespaces",
            hint="add Namespace.USER",
        )
    for name in spec.capabilities:
        from ramet.spec.capabilities import NUMBERS

        if NUMBERS[name] > facts.last_cap:
            raise UnsupportedError(
                f"keeping {name}", fact=f"the kernel's last capability is {facts.last_cap}", needs="a newer kernel"
            )


def _check_time(spec: Sandbox, facts: Facts, shape: Shape) -> None:
    if Namespace.TIME in spec.namespaces and not shape.init and facts.kernel < (6, 3):
        raise UnsupportedError(
            f"a time namespace {'with as_pid1=True' if spec.as_pid1 else 'without a pid namespace'}",
            fact=f"the kernel is {facts.kernel[0]}.{facts.kernel[1]}",
            needs="Linux 6.3, where exec enters the new time namespace; with init any kernel will do",
        )


def _clone_flags(spec: Sandbox, facts: Facts, shape: Shape, groups: Groups | None, *, function: bool) -> int:
    flags = CLONE_CLEAR_SIGHAND
    for kind in spec.namespaces - {Namespace.TIME}:
        flags |= kind.clone_flag
    if groups is not None and groups.made:
        flags &= ~Namespace.CGROUP.clone_flag  # made by a step, in the group
        flags |= CLONE_INTO_CGROUP if groups.into else 0
    if facts.autokill and shape.init and spec.no_new_privs and not spec.join and not function:
        # The kernel's own answer to a dead caller: it kills the child when the pidfd's last copy is closed. An
        # ordinary user may ask for that with CLONE_NNP only; CLONE_PARENT, by which joins and functions
        # are made, excludes it.
        flags |= CLONE_AUTOREAP | CLONE_NNP | CLONE_PIDFD_AUTOKILL
    return flags


def join_slot(join: Join) -> Slot:
    """The input that holds the descriptor of a namespace to join."""
    return Slot(f"ns_{join.kind.value}")


def _join(spec: Sandbox, facts: Facts) -> list[object]:
    """Run by an intermediate process. Memory first: while it is not dumpable, nobody in there can ptrace us."""
    b = Builder()
    hide_memory(b, "Sandbox.join", "hide our memory from processes in there")
    if facts.privileged and spec.joined(Namespace.USER):
        b.about("Sandbox.groups", "leave the caller's groups")  # in there it may be forbidden
        idmap.set_groups(b, ())
    by_kind = {join.kind.value: (n, join) for n, join in enumerate(spec.join)}
    for kind in JOIN_ORDER:
        if kind in by_kind:
            n, join = by_kind[kind]
            b.about(f"Sandbox.join[{n}] = {join!r}", f"join the {kind} namespace")
            b.call("setns", join_slot(join), join.kind.clone_flag)
    return list(b.steps)


def hide_memory(b: Builder, origin: str, doing: str) -> None:
    """Nobody may trace us, or read our memory, without CAP_SYS_PTRACE where the caller is (ptrace(2))."""
    b.about(origin, doing)
    b.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def _gated(spec: Sandbox, facts: Facts, shape: Shape) -> bool:
    """Can the child and the payload's process share one memory, and so wait for each other on a word of it?

    Not in a copy of the caller's: there nobody would be left to see the last one leave. Nor where the child has to make
    the time namespace for the other, as before Linux 6.3: one memory is in one time namespace.
    """
    copied = bool(spec.join) and not (shape.maps and not shape.maps.by_child)
    return not copied and not _time_before_clone(spec, facts, shape)


def _time_before_clone(spec: Sandbox, facts: Facts, shape: Shape) -> bool:
    """A new time namespace is entered by a fork, and by exec only since Linux 6.3."""
    return Namespace.TIME in spec.namespaces and shape.init and facts.kernel < (6, 3)


def _begin(
    b: Builder,
    spec: Sandbox,
    facts: Facts,
    shape: Shape,
    *,
    ahead: Kit | None,
    groups: Groups | None,
    shares_table: bool,
) -> None:
    """What both init and the payload need."""
    die_with_caller(b)
    if shares_table:
        own_descriptors(b)
    if shape.maps and not ahead:
        idmap.map_ids(b, shape.maps)
    limits.enter_groups(b, spec, groups)
    if Namespace.TIME in spec.namespaces:
        # before credentials change: with the shared memory not dumpable, /proc/self is the host's root's
        surroundings.new_time_namespace(b, spec.time_offsets)
    _become(b, spec, facts, shape)
    if shape.init and spec.joined(Namespace.PID):
        finish.adopt_orphans(b)


def _init(spec: Sandbox, facts: Facts, disk: str) -> Stage:
    """How the child becomes init, once the payload's process is there."""
    b = Builder()
    if spec.no_new_privs:
        rights.no_new_privs(b)
    inside = Namespace.USER in spec.namespaces or spec.joined(Namespace.USER)
    if inside or facts.capabilities:
        rights.keep_kill(b, has=bool(inside or facts.capable(rights.CAP_KILL)))
    finish.leave_group(b, spec)
    finish.exec_init(b, disk)
    return Stage("init", tuple(b.steps))


def _become(b: Builder, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    """Take the payload's ids, where they are not the caller's own already. A root caller's never stay 0."""
    everything = 2 ** (facts.last_cap + 1) - 1
    if shape.maps:
        if not shape.maps.by_child:
            idmap.become(b, shape.uid, shape.gid, spec.groups, everything)
    elif spec.joined(Namespace.USER):
        if facts.privileged or spec.uid is not None or spec.gid is not None or spec.groups:
            idmap.become(b, shape.uid, shape.gid, spec.groups or None, everything)
    elif facts.privileged:
        idmap.become(b, shape.uid, shape.gid, spec.groups, facts.capabilities)


def _payload(
    b: Builder,
    spec: Sandbox,
    facts: Facts,
    command: Command,
    shape: Shape,
    environment: dict[str, str],
    held: Held,
    filters: tuple[bytes, ...],
    wall: landlock.Fence,
    *,
    gated: bool,
    ahead: Kit | None,
    learn: int | None,
    function: bool,
) -> Stage:
    """The sandbox, from inside, up to the payload's exec."""
    if shape.init and spec.joined(Namespace.PID):
        die_with_caller(b)  # with init, that is, and not by the end of the pid namespace
    surroundings.surround(b, spec, ahead=ahead is not None)
    if ahead and ahead.mould:
        complete_root(b, spec, facts, shape)
    elif Namespace.MOUNT in spec.namespaces:
        build_root(b, spec, facts, shape)
    if spec.tty:
        open_terminal(b, spec, shape)
    rights.own_keyring(b, spec)
    if not spec.no_new_privs:  # both walls take it, or CAP_SYS_ADMIN, which goes now
        finish.place_descriptors(b, command, shape)
        landlock.build_fence(b, spec, facts, command, shape, wall)
        if learn is None:
            rights.filter_calls(b, filters)
    if Namespace.USER in spec.namespaces or facts.capabilities:
        rights.limit_capabilities(b, spec, facts)
    if spec.no_new_privs:
        rights.no_new_privs(b)
        finish.place_descriptors(b, command, shape)
    finish.enter_session(b, spec)
    finish.enter_directory(b, spec, shape)
    if spec.no_new_privs:
        landlock.build_fence(b, spec, facts, command, shape, wall)
    b.about("Sandbox.umask", "set the umask")
    b.call("umask", spec.umask)
    limits.limit_scheduling(b, spec, held)
    rights.limit_resources(b, spec, limits.rlimits_of(spec, held))
    if gated:
        finish.wait_for_init(b)
    if function:
        finish.show_memory(b)
    if learn is not None:
        rights.report_calls(b, filters[0], learn)
    elif spec.no_new_privs:
        rights.filter_calls(b, filters)
    if function:
        finish.unblock_signals(b)
    else:
        finish.exec_payload(b, command, environment)
    return Stage("payload" if shape.init else "child", tuple(b.steps))


def _notes(spec: Sandbox) -> tuple[str, ...]:
    notes = [
        f"Sandbox.mounts[{late}] hides Sandbox.mounts[{early}]: it comes later and covers a place above it"
        for early, late in hidden_by_later(spec.mounts)
    ]
    own = Namespace.USER in spec.namespaces or keeps_from_nesting(spec.seccomp, spec.capabilities)
    if not own and spec.nested_namespaces is None:
        notes.append(
            "user namespaces inside are not forbidden: that takes a user namespace of the sandbox's own, or a filter"
        )
    return tuple(notes)


__all__ = ["CALLER", "Shape", "compile", "join_slot"]
