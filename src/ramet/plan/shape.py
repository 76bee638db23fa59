"""What compile derives from spec and facts before it lays the steps, and the parts of a plan share."""

from __future__ import annotations

from ramet.plan.idmap import choose_maps, payload_ids
from ramet.plan.prepared import prepared_mounts
from ramet.spec import Dev, Namespace, Proc, Rootfs
from ramet.spec.sandbox import HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.idmap import Maps
    from ramet.plan.steps import Slot
    from ramet.spec import Command, Sandbox


PROC, DEV = Proc(), Dev()


class Shape:
    """What compile derives from spec and facts before it lays the steps.

    default_mounts, and writable: places with their modes: what there is unless the user has put something of their own there.
    """

    def __init__(self, spec: Sandbox, facts: Facts, command: Command) -> None:
        self.root = _root_name(spec)
        self.home = HOME if self.root == "minimal" else "/"
        self.python = tuple(path for path, _ in facts.python) if self.root == "minimal" else ()
        self.own_pids = Namespace.PID in spec.namespaces
        self.new_user = Namespace.USER in spec.namespaces
        self.init = (self.own_pids and not spec.as_pid1) or spec.joined(Namespace.PID)
        self.tty = spec.tty
        self.may_mount = bool(spec.nested_namespaces) or "CAP_SYS_ADMIN" in spec.capabilities
        self.maps: Maps | None = choose_maps(spec, facts) if self.new_user else None
        self.uid, self.gid = payload_ids(spec, facts)
        self.taken = [str(mount.destination) for mount in spec.mounts]  # type: ignore[attr-defined]
        filled = self.root != "empty"
        self.default_mounts = [mount for mount in (PROC, DEV) if filled and self.is_free(str(mount.destination))]
        places = [("/tmp", 0o1777)] if filled else []
        places += [(self.home, 0o700)] if self.root == "minimal" else []
        self.writable = [(where, mode) for where, mode in places if self.is_free(where)]
        self.prepared = prepared_mounts(spec, facts, self.maps)
        self.pts: Slot | None = None
        self.terminal: Slot | None = None

    def is_free(self, path: str) -> bool:
        """Has the user put nothing of their own there, or above it?"""
        return not any(is_below(path, where) for where in self.taken)


def is_below(path: str, above: str) -> bool:
    """Is it that path, or below it?"""
    return path == above or path.startswith(above.rstrip("/") + "/")


def _root_name(spec: Sandbox) -> str:
    if Namespace.MOUNT not in spec.namespaces:
        return "host"
    if spec.rootfs is None:
        return "minimal"
    return spec.rootfs.path if isinstance(spec.rootfs, Rootfs) else spec.rootfs
