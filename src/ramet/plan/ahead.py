"""Namespaces made ahead of need: those of a sandbox to come that hold nothing of its payload's.

A network namespace takes the kernel 0.3 to 0.6 ms, as long as the whole rest of a sandbox, and the user namespace that
owns it must come before it. So the caller has a fresh pair made while it waits for one payload (`ramet.run.ahead`), and the next
sandbox of the same kit enters that instead of making its own; with them an IPC namespace, whose file system of message queues takes
0.05 ms to make, and, where it can be, a copy of the root's mould (`ramet.plan.mould`). Each is used once.
"""

from __future__ import annotations

from collections import namedtuple

from ramet.plan.idmap import CONTROL, caller_writes
from ramet.plan.life import die_with_caller, keep_only, own_descriptors, wait_for_caller
from ramet.plan.mould import MOULD_MOUNT, MOULD_USER, PROC, mould_for
from ramet.plan.steps import Builder, Slot, Stage
from ramet.plan.surroundings import bring_up_loopback, forbid_user_namespaces
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.mould import Mould
    from ramet.plan.shape import Shape
    from ramet.plan.steps import CallerStep
    from ramet.spec import Sandbox

#: Inputs: the descriptors of the namespaces.
NAMESPACES = {
    kind: Slot(f"ahead_{kind.value}") for kind in (Namespace.USER, Namespace.NET, Namespace.IPC, Namespace.MOUNT)
}


class Kit(namedtuple("Kit", "sync loopback ipc nested machine mould")):
    """What namespaces made ahead are like. Equal kits can stand for each other.

    sync: how the caller maps the ids. loopback: lo is up. ipc: is there an IPC namespace? nested: user namespaces inside are
    allowed. mould: what the mount namespace is a copy of, or None: then there is none.
    """

    __slots__ = ()
    sync: tuple[CallerStep, ...]
    mould: Mould | None

    @property
    def kinds(self) -> tuple[Namespace, ...]:
        """Which namespaces, in the order in which they can be entered: the first gives the right to the others."""
        left_out = {Namespace.IPC: not self.ipc, Namespace.MOUNT: self.mould is None}
        return tuple(kind for kind in NAMESPACES if not left_out.get(kind))

    @property
    def flags(self) -> int:
        """Of the clone that is spared them."""
        return sum(kind.clone_flag for kind in self.kinds)

    @property
    def maps_itself(self) -> bool:
        """Does the maker write its own maps? Below an ordinary user's mould the caller is no longer the parent (user_namespaces(7))."""
        return self.mould is not None and self.mould.own_user

    @property
    def plain(self) -> Kit:
        """The same without a mount namespace."""
        return self._replace(mould=None)


def kit_for(spec: Sandbox, facts: Facts, shape: Shape) -> Kit | None:
    """What could be made ahead for such a sandbox; None where nothing can.

    Not where a helper maps the ids: it takes longer than many a payload. Nor where the kernel ends the child with the
    caller by itself (CLONE_PIDFD_AUTOKILL): that excludes CLONE_PARENT, by which namespaces are entered.
    """
    maps = shape.maps
    both = {Namespace.USER, Namespace.NET} <= spec.namespaces
    if not both or spec.join or maps is None or maps.helper or facts.autokill:
        return None
    mould = mould_for(spec, facts, shape, maps)
    ipc = Namespace.IPC in spec.namespaces
    return Kit(caller_writes(maps), spec.loopback, ipc, bool(spec.nested_namespaces), facts.machine, mould)


def making(kit: Kit) -> Stage:
    """The steps of the process that makes the namespaces. It says when they are there, waits until the caller has opened them, and
    mapped its ids, and ends."""
    b = Builder()
    die_with_caller(b)
    own_descriptors(b)
    if kit.mould is not None:
        b.about("Sandbox.rootfs", "enter the mould")  # its users first: that gives the right to the other
        if kit.maps_itself:
            b.call("setns", MOULD_USER, Namespace.USER.clone_flag)
        b.call("setns", MOULD_MOUNT, Namespace.MOUNT.clone_flag)
    b.about("Sandbox.namespaces", "make a user namespace")
    b.call("unshare", Namespace.USER.clone_flag)
    keep_only(b, CONTROL, *((PROC,) if kit.maps_itself else ()))
    if kit.maps_itself:
        for step in kit.sync:
            b.about(step.origin, step.doing)
            name, content = step.args
            b.write_file(f"self/{name}", content, at=1)
    b.about("Sandbox.namespaces", "make a network")
    b.call("unshare", Namespace.NET.clone_flag)
    if kit.loopback:
        bring_up_loopback(b)
    if kit.ipc:
        b.about("Sandbox.namespaces", "make an IPC namespace")
        b.call("unshare", Namespace.IPC.clone_flag)
    if not kit.nested:
        forbid_user_namespaces(b)
    if kit.mould is not None:
        # Last: by now the sandbox that is being built beside us has its mounts. Two copies of mounts are in each other's way.
        b.about("Sandbox.rootfs", "copy the mould")
        b.call("unshare", Namespace.MOUNT.clone_flag)
    wait_for_caller(b, 0, "wait until the caller has opened the namespaces")
    return Stage("child", tuple(b.steps))


def entering(kit: Kit) -> Stage:
    """The steps of the intermediate process that clones the child inside."""
    b = Builder()
    for kind in kit.kinds:
        b.about("Sandbox.namespaces", f"enter the {kind.value} namespace made ahead")
        b.call("setns", NAMESPACES[kind], kind.clone_flag)
    return Stage("join", tuple(b.steps))
