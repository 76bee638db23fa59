"""What the kernel says of a namespace itself: its kind, the user namespace that owns it, its parent.

Each is an ioctl on an open file of /proc/PID/ns, or on what such a file was bound to. See ioctl_ns(2).
"""

from __future__ import annotations

import errno
import os
from fcntl import ioctl

from ramet.flags import NAMESPACE_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# _IO(0xb7, n): no direction, no size. linux/nsfs.h
_GET_USERNS, _GET_PARENT, _GET_NSTYPE, _GET_OWNER_UID = 0xB701, 0xB702, 0xB703, 0xB704
_KINDS = {int(flag): kind for flag, kind in NAMESPACE_FILES.items()}
_OUT_OF_SIGHT = (errno.EPERM, errno.EINVAL, errno.ENOTTY)
"""EPERM: it has none, or one that is not within the caller's; EINVAL: this kind has none; ENOTTY: Linux < 4.9."""


class Namespace:
    """A namespace.

    id: its inode number, which is its identity. owner: the user namespace whose root may do as it likes with
    it; for a user namespace that is its parent. parent: only user and pid namespaces have one. owner_uid: of a
    user namespace, the uid of who made it, as the caller's user namespace maps it.
    None: there is none, or it lies outside of what the caller may see; the kernel doesn't tell which.
    """

    __slots__ = ("id", "kind", "owner", "owner_uid", "parent")

    def __init__(
        self, id: int, kind: str, *, owner: int | None = None, parent: int | None = None, owner_uid: int | None = None
    ) -> None:
        self.id, self.kind, self.owner, self.parent, self.owner_uid = id, kind, owner, parent, owner_uid


def lineage(fd: int) -> Iterator[Namespace]:
    """The namespace that fd stands for, then those that it hangs from, as far up as the caller may see.

    Raises OSError: ENOTTY if fd is no namespace.
    """
    kind = _kind(fd)
    owner = _related(fd, _GET_USERNS)
    parent = _related(fd, _GET_PARENT) if kind in ("user", "pid") else None
    try:
        yield Namespace(
            os.fstat(fd).st_ino,
            kind,
            owner=None if owner is None else os.fstat(owner).st_ino,
            parent=None if parent is None else os.fstat(parent).st_ino,
            owner_uid=_owner_uid(fd) if kind == "user" else None,
        )
        if parent is not None:
            yield from lineage(parent)
        if owner is not None and kind != "user":
            yield from lineage(owner)
    finally:
        for related in (owner, parent):
            if related is not None:
                os.close(related)


def _kind(fd: int) -> str:
    number = ioctl(fd, _GET_NSTYPE)
    return _KINDS.get(number, f"{number:#x}")


def _related(fd: int, request: int) -> int | None:
    try:
        return ioctl(fd, request)
    except OSError as error:
        if error.errno in _OUT_OF_SIGHT:
            return None
        raise


def _owner_uid(fd: int) -> int | None:
    buffer = bytearray(4)
    try:
        ioctl(fd, _GET_OWNER_UID, buffer)
    except OSError as error:
        if error.errno in _OUT_OF_SIGHT:
            return None
        raise
    return int.from_bytes(buffer, "little")


def identify(path: str) -> int | None:
    """The id of the namespace that a path leads to; None if it is not there, hidden, or something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        ioctl(fd, _GET_NSTYPE)
        return os.fstat(fd).st_ino
    except OSError:
        return None
    finally:
        os.close(fd)
