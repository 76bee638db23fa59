"""Idmapped mounts, for a privileged caller: what the payload writes through a bind belongs to the source's owner.

A root caller's payload is an unprivileged id outside, and can't write to anybody's files. An idmapped mount shows
the owner's files as the payload's, and stores the payload's as the owner's. See mount_setattr(2), since Linux 5.12.
Only the caller can make one: it takes CAP_SYS_ADMIN in the user namespace of the file system.
"""

from __future__ import annotations

import os

from ramet import _core
from ramet.errors import StepError
from ramet.plan.tree import mount_attr_bytes
from ramet.run import image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.idmap import IdmappedBind

#: (owner uid, owner gid, payload's uid and gid outside) -> descriptor of a user namespace with that map.
_namespaces: dict[tuple[int, int, int, int], int] = {}

OPEN_TREE_CLONE = 1
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x100, 0x1000, 0x8000
MOUNT_ATTR_IDMAP = 0x100000
NR_OPEN_TREE, NR_MOUNT_SETATTR = 428, 442


def make(bind: IdmappedBind) -> int:
    """A detached mount of the source, idmapped if it has ids; a descriptor. Raises StepError."""
    mapped = bind.uid is not None
    call = f"mount_setattr({bind.real!r}{', MOUNT_ATTR_IDMAP' if mapped else ''})"
    try:
        flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW
        fd = _core.syscall("open_tree", NR_OPEN_TREE, AT_FDCWD, os.fsencode(bind.real) + b"\0", flags)
        try:
            attr = mount_attr_bytes(bind.attributes)
            if mapped:
                attr = mount_attr_bytes(bind.attributes | MOUNT_ATTR_IDMAP, userns=_namespace(bind))
            _core.syscall("mount_setattr", NR_MOUNT_SETATTR, fd, b"\0", AT_EMPTY_PATH | AT_RECURSIVE, attr, len(attr))
        except BaseException:
            os.close(fd)
            raise
        return int(fd)
    except OSError as error:
        raise StepError(
            f"show {bind.real}" + (" with its owner's ids as the payload's" if mapped else ""),
            errno=error.errno or 0,
            call=call,
            origin=bind.origin,
            stage="caller",
            hint="its file system, or one mounted below it, may not support idmapped mounts; idmap=False does without"
            if mapped
            else None,
        ) from None


def _namespace(bind: IdmappedBind) -> int:
    """A user namespace that maps the owner's ids to the payload's; kept, since it holds nothing else."""
    key = (bind.uid, bind.gid, bind.outside_uid, bind.outside_gid)
    found = _namespaces.get(key)
    if found is None:
        made = _make_namespace(*key)
        try:
            found = _namespaces.setdefault(key, image.above(made, image.LOWEST))
        finally:
            os.close(made)
    return found


def _make_namespace(uid: int, gid: int, outside_uid: int, outside_gid: int) -> int:
    """Held by a process for as long as it takes to write the maps and open it."""
    from ramet import lowlevel
    from ramet.flags import CLONE
    from ramet.plan.calls import numbers

    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        blocked = lowlevel.Call(numbers(os.uname().machine)["read"], read, lowlevel.Buffer(1), 1)
        with lowlevel.clone3(CLONE.NEWUSER, exit_signal=0, pidfd=True, child=[blocked]) as holder:
            for name, line in (("uid_map", f"{uid} {outside_uid} 1"), ("gid_map", f"{gid} {outside_gid} 1")):
                with open(f"/proc/{holder.pid}/{name}", "w", encoding="ascii") as file:
                    file.write(line)
            fd = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            os.write(write, b"x")
            holder.wait()
            return fd
    finally:
        os.close(read)
        os.close(write)
