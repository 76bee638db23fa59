"""Mounts that the caller prepares before the clone, since its child could not.

A root caller's child is an ordinary user outside. It can't pass a directory as /root, nor write to anybody's files. So
the caller hands over detached mounts: of what lies below private directories as it is, and of what the payload may write
to with its owner's ids as the payload's (idmapped, mount_setattr(2), since Linux 5.12).
"""

from __future__ import annotations

from collections import namedtuple

from ramet.errors import SpecError, UnsupportedError
from ramet.plan.idmap import outside_id
from ramet.plan.steps import Slot
from ramet.plan.tree import NODEV, NOSUID, RDONLY
from ramet.spec import Bind, Namespace, Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts, Path
    from ramet.plan.idmap import Maps
    from ramet.spec import Sandbox

PreparedMount = namedtuple(
    "PreparedMount", "slot real uid gid outside_uid outside_gid attributes origin as_it_is_else", defaults=(False,)
)
"""slot: the input that holds it. real: the source. uid, gid: its owner, shown as these ids outside, the payload's; or
None where ids stay as they are. as_it_is_else: nobody asked for the ids; where the file system can't, do without."""


def prepared_mounts(spec: Sandbox, facts: Facts, maps: Maps | None) -> dict[str, PreparedMount]:
    """By the number in Sandbox.mounts, as text, or "rootfs", or the Python's prefix."""
    found = {}
    for n, mount in enumerate(spec.mounts):
        if isinstance(mount, Bind) and mount.source in facts.paths:
            prepared = _bind(n, mount, facts, maps)
            if prepared is not None:
                found[str(n)] = prepared
    if not facts.privileged:
        return found
    if isinstance(spec.rootfs, Rootfs) and spec.rootfs.path in facts.paths:
        prepared = _root(spec.rootfs, facts.paths[spec.rootfs.path], maps)
        if prepared is not None:
            found["rootfs"] = prepared
    if spec.rootfs in (None, "minimal") and Namespace.MOUNT in spec.namespaces:
        for n, (prefix, real) in enumerate(facts.python):
            if prefix in facts.guarded_python:
                origin = "default view: the running Python"
                found[prefix] = _as_it_is(f"python{n}", real, NOSUID | NODEV | RDONLY, origin)
    return found


def _bind(n: int, mount: Bind, facts: Facts, maps: Maps | None) -> PreparedMount | None:
    """By default idmapped where a privileged caller's payload could not write otherwise; but not what root owns: what
    the payload makes set-uid there would be set-uid root on the host. That takes idmap=True."""
    source = facts.paths[mount.source]
    attributes = NOSUID | NODEV | (0 if mount.writable else RDONLY)
    wanted = mount.idmap
    if wanted is None:
        wanted = mount.writable and facts.privileged and maps is not None and source.uid != 0
    if not wanted:
        if source.guarded and facts.privileged:
            return _as_it_is(f"prepared{n}", source.real, attributes, f"Sandbox.mounts[{n}].source")
        return None
    field = f"Sandbox.mounts[{n}].idmap"
    if maps is None:
        raise SpecError("needs Namespace.USER in Sandbox.namespaces", field=field)
    if not facts.privileged:
        raise UnsupportedError(
            field,
            fact="the caller has no CAP_SETUID and CAP_SETGID",
            needs="a privileged caller (mount_setattr(2))",
        )
    return _idmapped(f"idmapped{n}", source, maps, attributes, field)


def _root(rootfs: Rootfs, root: Path, maps: Maps | None) -> PreparedMount | None:
    """Where writes are discarded nothing of them reaches the owner, so that root's own may be idmapped too."""
    if rootfs.writes == "discarded" and maps is not None:
        shown = _idmapped("rootfs", root, maps, NOSUID | NODEV | RDONLY, "Sandbox.rootfs.path")
        return shown._replace(as_it_is_else=True)
    if root.guarded and rootfs.writes != "discarded":
        attributes = NOSUID | NODEV | (RDONLY if rootfs.writes == "refused" else 0)
        return _as_it_is("rootfs", root.real, attributes, "Sandbox.rootfs.path")
    return None


def _idmapped(slot: str, source: Path, maps: Maps, attributes: int, origin: str) -> PreparedMount:
    uid, gid = outside_id(maps.uids, maps.uid), outside_id(maps.gids, maps.gid)
    return PreparedMount(Slot(slot), source.real, source.uid, source.gid, uid, gid, attributes, origin)


def _as_it_is(slot: str, real: str, attributes: int, origin: str) -> PreparedMount:
    return PreparedMount(Slot(slot), real, None, None, None, None, attributes, origin)
