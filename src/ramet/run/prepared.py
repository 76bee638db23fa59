"""Making the mounts of plan/prepared.py, as the caller.

An idmapped mount shows the owner's files as the payload's, and stores the payload's as the owner's. Only the caller can
make one: it takes CAP_SYS_ADMIN in the user namespace of the file system.
"""

from __future__ import annotations

import errno
import os

from ramet import _core
from ramet.errors import StepError
from ramet.plan.tree import mount_attr_bytes, open_how

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.prepared import PreparedMount

OPEN_TREE_CLONE = 1
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
MOUNT_ATTR_IDMAP = 0x100000
MS_PRIVATE = 1 << 18
RESOLVE_NO_SYMLINKS = 0x04
NR_OPEN_TREE, NR_OPENAT2, NR_MOUNT_SETATTR = 428, 437, 442


def make(mount: PreparedMount) -> int:
    """A detached mount of the source, idmapped if it has ids; a descriptor. Raises StepError."""
    mapped = mount.uid is not None
    try:
        return _make(mount) if mapped else _clone(mount.real, mount.attributes, None)
    except OSError as error:
        if mount.as_it_is_else and error.errno == errno.EINVAL:
            return _clone(mount.real, mount.attributes, None)
        raise StepError(
            f"show {mount.real}" + (" with its owner's ids as the payload's" if mapped else ""),
            errno=error.errno or 0,
            call=f"{error.filename or 'open_tree'}({mount.real!r}{', MOUNT_ATTR_IDMAP' if mapped else ''})",
            origin=mount.origin,
            stage="caller",
            hint="its file system, or one mounted below it, may not support idmapped mounts; idmap=False does without"
            if mapped
            else None,
        ) from None


def _make(mount: PreparedMount) -> int:
    namespace = _make_namespace(mount.uid, mount.gid, mount.outside_uid, mount.outside_gid)
    try:
        return _clone(mount.real, mount.attributes | MOUNT_ATTR_IDMAP, namespace)
    finally:
        os.close(namespace)


def _clone(real: str, attributes: int, namespace: int | None) -> int:
    """The source has been resolved: a link anywhere in it now was put there since, and is refused (ELOOP)."""
    how = open_how(os.O_PATH, RESOLVE_NO_SYMLINKS)[0]
    place = _core.syscall("openat2", NR_OPENAT2, AT_FDCWD, os.fsencode(real) + b"\0", how, len(how))
    try:
        flags = OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
        fd = _core.syscall("open_tree", NR_OPEN_TREE, place, b"\0", flags)
    finally:
        os.close(place)
    try:
        # made among the caller's mounts, the copy has their peers: what is mounted there later would show inside
        attr = mount_attr_bytes(attributes, propagation=MS_PRIVATE, userns=namespace or 0)
        _core.syscall("mount_setattr", NR_MOUNT_SETATTR, fd, b"\0", AT_EMPTY_PATH | AT_RECURSIVE, attr, len(attr))
    except BaseException:
        os.close(fd)
        raise
    return int(fd)


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
