"""Namespaces made ahead of need: the user and the network namespace of a sandbox to come.

A network namespace takes the kernel 0.3 to 0.6 ms, as long as the whole rest of a sandbox, and the user namespace that
owns it must come before it. Neither holds anything of the payload: so the caller makes a fresh pair while it waits for
one payload (`ramet.run.ahead`), and the next sandbox of the same kit enters that instead of making its own. Each pair is
used once.
"""

from __future__ import annotations

from collections import namedtuple

from ramet.plan.idmap import caller_writes, wait_for_maps
from ramet.plan.life import die_with_caller
from ramet.plan.steps import Builder, Slot, Stage
from ramet.plan.surroundings import bring_up_loopback, forbid_user_namespaces
from ramet.spec import Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.idmap import Maps
    from ramet.plan.steps import CallerStep
    from ramet.spec import Sandbox

#: Inputs: the descriptors of the two namespaces.
USER_NS, NET_NS = Slot("ahead_user"), Slot("ahead_net")
FLAGS = Namespace.USER.clone_flag | Namespace.NET.clone_flag


class Kit(namedtuple("Kit", "sync loopback nested machine")):
    """What two namespaces made ahead are like. Equal kits can stand for each other.

    sync: how the caller maps the ids. loopback: lo is up. nested: user namespaces inside are allowed.
    """

    __slots__ = ()
    sync: tuple[CallerStep, ...]


def kit_for(spec: Sandbox, facts: Facts, maps: Maps | None) -> Kit | None:
    """What could be made ahead for such a sandbox; None where nothing can.

    Not where a helper maps the ids: it takes longer than many a payload. Nor where the kernel ends the child with the
    caller by itself (CLONE_PIDFD_AUTOKILL): that excludes CLONE_PARENT, by which namespaces are entered.
    """
    both = {Namespace.USER, Namespace.NET} <= spec.namespaces
    if not both or spec.join or maps is None or maps.helper or facts.autokill:
        return None
    return Kit(caller_writes(maps), spec.loopback, bool(spec.nested_namespaces), facts.machine)


def making(kit: Kit) -> Stage:
    """The steps of the process that the namespaces are made with; it ends after them, and what the caller has
    opened stays."""
    b = Builder()
    die_with_caller(b)
    if kit.loopback:
        bring_up_loopback(b)
    if not kit.nested:
        forbid_user_namespaces(b)
    wait_for_maps(b)  # last: the caller writes them meanwhile
    return Stage("child", tuple(b.steps))


def entering() -> Stage:
    """The steps of the intermediate process that clones the child inside. User first: it gives the right to the other."""
    b = Builder()
    b.about("Sandbox.namespaces", "enter the user namespace made ahead")
    b.call("setns", USER_NS, Namespace.USER.clone_flag)
    b.about("Sandbox.namespaces", "enter the network namespace made ahead")
    b.call("setns", NET_NS, Namespace.NET.clone_flag)
    return Stage("join", tuple(b.steps))
