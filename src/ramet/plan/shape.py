"""What compile derives from spec and facts before it lays the steps, and the parts of a plan share."""

from __future__ import annotations

from ramet.plan.idmap import CONTROL, choose_maps, payload_ids
from ramet.plan.life import CALLER
from ramet.plan.prepared import prepared_mounts
from ramet.plan.steps import Slot
from ramet.spec import Namespace, Rootfs
from ramet.spec.sandbox import HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.idmap import Maps
    from ramet.spec import Command, Sandbox

#: Inputs: the sealed copy of init, and the memfd with the plan's tail.
INIT_EXE = Slot("init")
TAIL = Slot("tail")


class Shape:
    """What compile derives from spec and facts before it lays the steps."""

    def __init__(self, spec: Sandbox, facts: Facts, command: Command) -> None:
        self.root = _root_name(spec)
        self.home = HOME if self.root == "minimal" else "/"
        self.python = tuple(path for path, _ in facts.python) if self.root == "minimal" else ()
        self.own_pids = Namespace.PID in spec.namespaces
        self.new_user = Namespace.USER in spec.namespaces
        self.init = (self.own_pids and not spec.as_pid1) or spec.joined(Namespace.PID)
        self.tty = spec.tty
        self.maps: Maps | None = choose_maps(spec, facts) if self.new_user else None
        self.uid, self.gid = payload_ids(spec, facts)
        self.prepared = prepared_mounts(spec, facts, self.maps)
        self.pts: Slot | None = None
        self.terminal: Slot | None = None
        free = (number for number in range(3, 4096) if number not in command.pass_fds)
        slots = (CONTROL, TAIL, CALLER, INIT_EXE)
        self.handed = dict(zip(free, slots, strict=False)) if self.init else {}

    def number(self, slot: Slot) -> int:
        """The number under which init is handed a descriptor; -1: it is not."""
        return next((number for number, handed in self.handed.items() if handed == slot), -1)


def _root_name(spec: Sandbox) -> str:
    if Namespace.MOUNT not in spec.namespaces:
        return "host"
    if spec.rootfs is None:
        return "minimal"
    return spec.rootfs.path if isinstance(spec.rootfs, Rootfs) else spec.rootfs
