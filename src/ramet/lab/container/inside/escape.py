"""Ways out of a jail, each tried in a child of its own: escape.py PATH TOKEN FD JAIL...

PATH is outside the jails and holds TOKEN; FD is a directory outside that was left open, or -1. Prints JSON: for each jail
and each way, whether TOKEN was read, and what was seen. It needs CAP_SYS_CHROOT, and CAP_SYS_ADMIN to make jails.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PIVOT_ROOT = 41 if os.uname().machine == "aarch64" else 155
JAIL = "/tmp/jail"
PUT_OLD = "old-root"
STEPS_UP = 64

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    """OSError where a C function failed."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# The jails


def by_chroot() -> None:
    """chroot(2), and into it."""
    os.chroot(JAIL)
    os.chdir("/")


def by_pivot_root() -> None:
    """pivot_root(2): the jail becomes the mount namespace's root, and the old one is put on a directory in it."""
    checked(libc.unshare(CLONE_NEWNS))
    checked(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    checked(libc.mount(JAIL.encode(), JAIL.encode(), None, ctypes.c_ulong(MS_BIND), None))
    os.chdir(JAIL)
    checked(libc.syscall(PIVOT_ROOT, b".", PUT_OLD.encode()))
    os.chroot(".")
    os.chdir("/")


def by_pivot_root_unmounted() -> None:
    """The same, and the old root is unmounted: nothing leads to it any more."""
    by_pivot_root()
    checked(libc.umount2(b"/" + PUT_OLD.encode(), MNT_DETACH))


JAILS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "chroot": by_chroot,
    "pivot_root": by_pivot_root,
    "pivot_root, unmounted": by_pivot_root_unmounted,
    "as it is": lambda: None,
}


# The ways out


def by_name(fd: int) -> None:
    """Open the path as if there were no jail."""


def up_and_up(fd: int) -> None:
    """chdir(".."), again and again."""
    for _ in range(STEPS_UP):
        os.chdir("..")


def second_chroot(fd: int) -> None:
    """mkdir, chroot into that, and the working directory is outside the root: nothing stops ".." now."""
    place = below()
    os.chroot(place)
    up_and_up(fd)
    os.chroot(".")


def kept_directory(fd: int) -> None:
    """Open the root, chroot into a directory below, and go back by fchdir."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.chroot(below())
    os.fchdir(root)
    up_and_up(fd)
    os.chroot(".")


def old_root(fd: int) -> None:
    """Look where pivot_root has put the old root."""
    os.chroot("/" + PUT_OLD)


def left_open(fd: int) -> None:
    """fchdir to a directory outside that somebody left open."""
    os.fchdir(fd)
    up_and_up(fd)
    os.chroot(".")


WAYS: dict[str, Callable[[int], None]] = {
    "by_name": by_name,
    "up_and_up": up_and_up,
    "second_chroot": second_chroot,
    "kept_directory": kept_directory,
    "old_root": old_root,
    "left_open": left_open,
}


def below() -> str:
    """A directory of our own in the root, or in its /tmp where that is read-only."""
    for place in ("/below", "/tmp/below"):
        try:
            os.makedirs(place, exist_ok=True)
        except OSError:
            continue
        return place
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def attempt(jail: str, way: str, path: str, token: str, fd: int) -> tuple[bool, str]:
    """Make the jail, take the way, look for the token."""
    try:
        JAILS[jail]()
    except OSError as error:
        return False, f"the jail can't be made: {errno.errorcode[error.errno or 0]}"
    try:
        WAYS[way](fd)
        with open(path) as file:
            return (True, "read it") if file.read() == token else (False, "another file")
    except OSError as error:
        return False, errno.errorcode[error.errno or 0]


def in_a_child(jail: str, way: str, path: str, token: str, fd: int) -> dict[str, object]:
    """One try, and what came of it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = attempt(jail, way, path, token, fd)
        except BaseException as error:
            answer = False, repr(error)
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        escaped, saw = json.loads(file.read())
    os.waitpid(pid, 0)
    return {"escaped": escaped, "saw": saw}


def main() -> None:
    """All the ways out of all the jails."""
    path, token, fd, jails = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
    os.makedirs(f"{JAIL}/{PUT_OLD}", exist_ok=True)
    if fd < 0:
        fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    print(json.dumps({jail: {way: in_a_child(jail, way, path, token, fd) for way in WAYS} for jail in jails}))


if __name__ == "__main__":
    main()
