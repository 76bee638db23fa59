"""Building the new root, by descriptors: the new mount API, and how a destination is reached safely.

Nothing here goes through a path that someone else may change. Places in a file system that the sandbox made
itself are reached by plain relative paths, since nobody else has ever seen it. Every other place (a given
rootfs, below a bind) is resolved with openat2(2) RESOLVE_IN_ROOT, so that a symlink can't lead outside, and its last
component with RESOLVE_NO_SYMLINKS, so that a symlink is no destination (bubblewrap GHSA-pxhw-h44j-8pfx).
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from ramet.plan.steps import Block, Builder, Slot

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE = 0x100, 0x1000, 0x8000
O_CLOEXEC, O_PATH, O_NOFOLLOW, O_DIRECTORY = os.O_CLOEXEC, os.O_PATH, os.O_NOFOLLOW, os.O_DIRECTORY
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
RDONLY, NOSUID, NODEV, NOEXEC = 0x1, 0x2, 0x4, 0x8
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_IN_ROOT = 0x02, 0x04, 0x10
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
#: The root's own files, links and mount points are some 150.
PAGE, INODES_LEAST = 4096, 1024
ATTR_NAMES = ((RDONLY, "RDONLY"), (NOSUID, "NOSUID"), (NODEV, "NODEV"), (NOEXEC, "NOEXEC"))


def open_how(flags: int, resolve: int) -> Block:
    """struct open_how."""
    opens = [
        n
        for bit, n in ((O_PATH, "O_PATH"), (O_DIRECTORY, "O_DIRECTORY"), (O_NOFOLLOW, "O_NOFOLLOW"))
        if flags & bit == bit
    ]
    resolves = [
        name
        for bit, name in (
            (RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"),
            (RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"),
            (RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"),
        )
        if resolve & bit
    ]
    text = "{" + "|".join([*opens, "O_CLOEXEC"]) + ", " + "|".join(resolves) + "}"
    return Block(struct.pack("<QQQ", flags | O_CLOEXEC, 0, resolve), text=text)


def mount_attr(attributes: int) -> Block:
    """struct mount_attr, only setting."""
    names = "|".join(name for bit, name in ATTR_NAMES if attributes & bit)
    return Block(mount_attr_bytes(attributes), text=f"{{attr_set={names}}}")


def mount_attr_bytes(attributes: int, *, propagation: int = 0, userns: int = 0) -> bytes:
    """struct mount_attr as bytes."""
    return struct.pack("<QQQQ", attributes, 0, propagation, userns)


def split_path(where: str) -> tuple[str, str]:
    """The directory above an absolute path without a "/" too many, and the name in it. A third of what os.path.split takes."""
    above, _, name = where.rpartition("/")
    return above or "/", name


def parent_path(where: str) -> str:
    """The first of that."""
    return split_path(where)[0]


class Tree:
    """The file system being built: its root, and which parts of it are the sandbox's own making."""

    def __init__(self, b: Builder, disk: int, *, detached: bool) -> None:
        self.b = b
        self.disk = disk
        self.detached = detached
        self.root = Slot("")
        self.own: set[str] = set()
        self.foreign: list[str] = []
        self.sealed: list[Slot] = []
        self._store: Slot | None = None
        self._below = len(b.steps)
        self._blocks: dict[object, Block] = {}

    # Making file systems

    def new_fs(self, kind: str, attributes: int, *, flags: tuple[str, ...] = (), **options: str) -> Slot:
        """A mount of a new file system, not yet attached."""
        b = self.b
        fs = b.open("fs", "fsopen", kind, FSOPEN_CLOEXEC)
        for name in flags:
            b.call("fsconfig", fs, FSCONFIG_SET_FLAG, name, 0, 0)
        for name, value in options.items():
            b.call("fsconfig", fs, FSCONFIG_SET_STRING, name, value, 0)
        b.call("fsconfig", fs, FSCONFIG_CMD_CREATE, 0, 0, 0)
        mount = b.open("mnt", "fsmount", fs, FSMOUNT_CLOEXEC, attributes)
        b.close(fs)
        return mount

    def new_proc(self) -> Slot:
        """A proc(5) of the maker's pid namespace."""
        return self.new_fs("proc", NOSUID | NODEV | NOEXEC)

    def new_devpts(self) -> Slot:
        """Terminals of its own; anybody may open one (devpts in the kernel's Documentation)."""
        return self.new_fs("devpts", NOSUID | NOEXEC, mode="0620", ptmxmode="0666")

    def new_tmpfs(self, mode: int, size: int | str, *, inodes: int | None = None) -> Slot:
        """A file system in memory of so many bytes.

        The kernel limits the number of files by the host's memory, not by this size; a file without content takes about
        a KiB that size does not count. So one for each page of it.
        """
        number = max(int(size) // PAGE, INODES_LEAST) if inodes is None else inodes
        return self.new_fs("tmpfs", NOSUID | NODEV, mode=f"{mode:04o}", size=str(size), nr_inodes=str(number))

    def clone_host(self, real: str) -> Slot:
        """A copy of the host's mounts at and below a resolved path; anything swapped for a link is refused."""
        b = self.b
        begin = len(b.steps)
        how = self._once("source", lambda: open_how(O_PATH, RESOLVE_NO_SYMLINKS))
        place = b.open("src", "openat2", AT_FDCWD, real, how, 24)
        tree = b.open("mnt", "open_tree", place, "", OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE)
        b.close(place)
        if real == "/" and (self.root or self._store is not None):
            self._below += self._move_below(begin)  # a copy of the old root must not have the new one over it
        return tree

    def set_attributes(
        self, mount: Slot, attributes: int, *, recursive: bool = True, allow: tuple[int, ...] = ()
    ) -> None:
        """mount_setattr(2), since Linux 5.12. It only adds: what the host locked stays locked."""
        flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
        attr = self._once(attributes, lambda: mount_attr(attributes))
        self.b.call("mount_setattr", mount, "", flags, attr, 32, allow=allow)

    # The root

    def attach_root(self, mount: Slot, *, own: bool) -> None:
        """Put the new root over the old one. Absolute paths still start at the old root, until pivot_root."""
        if self._store is None or self.detached:
            self._below = len(self.b.steps)
        self.b.call("move_mount", mount, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH)
        self.root = mount
        if own:
            self.own.add("/")
            self.sealed.append(mount)
        else:
            self.foreign.append("/")

    def store(self) -> Slot:
        """A file system in memory for what is written on foreign ground: parts of it are bound in.

        One and not many, since each costs 30 us to make and to end, and so that one size limits them together.
        Before Linux 6.15 only what is mounted can be bound from. Then it lies between the old root and the new one,
        also where it turns out only later that it is needed: over the new root, ".." would lead a symlink into it.
        """
        if self._store is None:
            b = self.b
            begin = len(b.steps)
            self._store = self.new_tmpfs(0o700, self.disk)
            if not self.detached:
                b.call("move_mount", self._store, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH)
                if self.root:
                    self._move_below(begin)
        return self._store

    def _move_below(self, begin: int) -> int:
        """Let these last steps run before anything lies over the old root; how many they are."""
        made = self.b.steps[begin:]
        del self.b.steps[begin:]
        self.b.steps[self._below : self._below] = made
        return len(made)

    def attach_writable(self, where: str, mode: int) -> None:
        """An empty writable directory.

        On own ground it is a directory of the root bound over itself: the root becomes read-only, as a mount, and
        this mount of the same file system does not.
        """
        b = self.b
        if self.is_own(parent_path(where)):
            self.make_directory(where, mode)
            part = b.open("mnt", "open_tree", self.root, where[1:], OPEN_TREE_CLONE | O_CLOEXEC)
        else:
            store = self.store()
            name = where.rsplit("/", 1)[1]
            b.call("mkdirat", store, name, mode)
            part = b.open("mnt", "open_tree", store, name, OPEN_TREE_CLONE | O_CLOEXEC)
        self.attach(part, where, is_dir=True, own=True)
        b.close(part)

    def seal(self) -> None:
        """What the sandbox made for itself, and nobody asked to write to, becomes read-only."""
        self.b.about("Sandbox.rootfs", "make the root read-only")
        for mount in self.sealed:
            self.set_attributes(mount, RDONLY, recursive=False)

    def enter(self) -> None:
        """pivot_root(2) with both arguments ".": the old root ends up over the new one, and is detached.

        Where the store is mounted on the old root, it ends up over that, and umount2 takes the uppermost: it needs
        one more, or the host's root would stay where ".." finds it.
        """
        b = self.b
        b.about("Sandbox.rootfs", "enter the new root")
        b.call("fchdir", self.root)
        b.call("pivot_root", ".", ".")
        if self._store is not None:
            b.close(self._store)
            if not self.detached:
                b.call("umount2", ".", MNT_DETACH)
        b.call("umount2", ".", MNT_DETACH)
        b.call("chdir", "/")

    # Destinations

    def is_own(self, path: str) -> bool:
        """Is this directory on ground that only the sandbox has ever touched?"""
        while path not in self.own:
            if path == "/" or path in self.foreign:
                return False
            path = parent_path(path)
        return path not in self.foreign

    def attach(self, mount: Slot, where: str, *, is_dir: bool, own: bool = False) -> None:
        """Mount at a destination, making it where it is missing."""
        parent, name = split_path(where)
        b = self.b
        if self.is_own(parent):
            self._own_directories(parent)
            if where not in self.own:
                self._make(self.root, where[1:], is_dir=is_dir)
            b.call("move_mount", mount, "", self.root, where[1:], MOVE_MOUNT_F_EMPTY_PATH)
        else:
            place = self.parent_of(where)
            self._make(place, name, is_dir=is_dir, maybe=True)
            target = self._last(place, name)
            self._drop(place)
            b.call("move_mount", mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
            b.close(target)
        if own and self.is_own(parent):
            self.own.add(where)
        else:
            self.foreign.append(where)

    def parent_of(self, where: str) -> Slot:
        """The directory above a destination on foreign ground, made where missing; a descriptor (or the root's)."""
        names = where.split("/")[1:-1]
        how = self._once("inside", lambda: open_how(O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS))
        place = self.root
        for depth, name in enumerate(names):
            self._make(place, name, is_dir=True, maybe=True)
            self._drop(place)
            place = self.b.open("dir", "openat2", self.root, "/".join(names[: depth + 1]), how, 24)
        return place

    def make_directory(self, where: str, mode: int) -> None:
        """A directory of the sandbox's own."""
        parent, name = split_path(where)
        if self.is_own(parent):
            self._own_directories(parent)
            if where not in self.own:
                self.b.call("mkdirat", self.root, where[1:], mode)
                self.own.add(where)
            return
        place = self.parent_of(where)
        self.b.call("mkdirat", place, name, mode, allow=(errno.EEXIST,))
        self._drop(place)

    def make_symlink(self, where: str, target: str) -> None:
        """A symlink. Nothing below it counts as own: it would lead elsewhere."""
        parent, name = split_path(where)
        self.foreign.append(where)
        if self.is_own(parent):
            self._own_directories(parent)
            self.b.call("symlinkat", target, self.root, where[1:])
            return
        place = self.parent_of(where)
        self.b.call("symlinkat", target, place, name)
        self._drop(place)

    def make_file(self, where: str, content: bytes, mode: int) -> None:
        """A file with content: written in place on own ground, else bound from the store."""
        parent = parent_path(where)
        if self.is_own(parent):
            self._own_directories(parent)
            self._write_file(self.root, where[1:], content, mode)
            return
        store = self.store()
        name = f"file{len(self.b.steps)}"
        self._write_file(store, name, content, mode)
        tree = self.b.open("mnt", "open_tree", store, name, OPEN_TREE_CLONE | O_CLOEXEC)
        self.set_attributes(tree, RDONLY | NOSUID | NODEV)
        self.attach(tree, where, is_dir=False)
        self.b.close(tree)

    # Covering what must not be seen or changed

    def mask(self, where: str) -> None:
        """Replace a path, if it exists, by an empty file or an empty read-only directory, whichever it is."""
        b = self.b
        null = b.open("mnt", "open_tree", AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | O_CLOEXEC)
        empty = self.new_fs("tmpfs", RDONLY | NOSUID | NODEV | NOEXEC, mode="0555", nr_inodes="1")
        target = self._existing(where)
        # Only the cover of the right kind goes on (EINVAL for the other); a path that is not there is EBADF.
        flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        for cover in (null, empty):
            b.call("move_mount", cover, "", target, "", flags, allow=(errno.EINVAL, errno.EBADF))
            b.close(cover)
        b.close(target, allow=(errno.EBADF,))
        # Neither: then what is there now is no mount of its own, which mount_setattr(2) answers with EINVAL.
        covered = self._existing(where)
        self.set_attributes(covered, RDONLY, recursive=False, allow=(errno.EBADF,))
        b.close(covered, allow=(errno.EBADF,))

    def make_readonly(self, where: str) -> None:
        """Cover a path, if it exists, by a read-only copy of itself."""
        b = self.b
        target = self._existing(where)
        absent = (errno.EBADF,)
        flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE
        tree = b.open("mnt", "open_tree", target, "", flags, allow=absent)
        self.set_attributes(tree, RDONLY, allow=absent)
        flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        b.call("move_mount", tree, "", target, "", flags, allow=absent)
        b.close(tree, allow=absent)
        b.close(target, allow=absent)

    def _existing(self, where: str) -> Slot:
        how = self._once("existing", lambda: open_how(O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS))
        return self.b.open("dst", "openat2", self.root, where[1:], how, 24, allow=(errno.ENOENT,))

    # Pieces

    def _own_directories(self, path: str) -> None:
        if path in self.own:
            return
        self._own_directories(parent_path(path))
        self.b.call("mkdirat", self.root, path[1:], 0o755)
        self.own.add(path)

    def _make(self, place: Slot, path: str, *, is_dir: bool, maybe: bool = False) -> None:
        # EROFS too: on a read-only rootfs the kernel says so before it looks whether the name is there; if it is
        # not, the next openat2 says ENOENT.
        allow = (errno.EEXIST, errno.EROFS) if maybe else ()
        if is_dir:
            self.b.call("mkdirat", place, path, 0o755, allow=allow)
        else:
            self.b.call("mknodat", place, path, stat.S_IFREG | 0o444, 0, allow=allow)

    def _last(self, place: Slot, name: str) -> Slot:
        how = self._once("last", lambda: open_how(O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS))
        return self.b.open("dst", "openat2", place, name, how, 24)

    def _write_file(self, place: Slot, path: str, content: bytes, mode: int) -> None:
        b = self.b
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | O_NOFOLLOW | O_CLOEXEC
        fd = b.open("file", "openat", place, path, flags, mode)
        if content:
            b.call("write", fd, content, len(content), expect=len(content))
        b.close(fd)

    def _drop(self, place: Slot) -> None:
        if place is not self.root:
            self.b.close(place)

    def _once(self, key: object, make: object) -> Block:
        found = self._blocks.get(key)
        if found is None:
            found = self._blocks[key] = make()  # type: ignore[operator]
        return found
