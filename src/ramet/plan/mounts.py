"""Each kind of mount, as steps; the default view; and the root they go into."""

from __future__ import annotations

import errno

from ramet.errors import UnsupportedError
from ramet.plan.steps import Builder, Slot
from ramet.plan.tree import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    MOVE_MOUNT_F_EMPTY_PATH,
    MS_PRIVATE,
    MS_REC,
    NODEV,
    NOEXEC,
    NOSUID,
    O_CLOEXEC,
    OPEN_TREE_CLONE,
    RDONLY,
    Tree,
    parent_path,
)
from ramet.spec import (
    Bind,
    Dev,
    Directory,
    File,
    Mount,
    Mqueue,
    Namespace,
    Overlay,
    Proc,
    Rootfs,
    Symlink,
    Tmpfs,
    view,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.host.facts import Facts
    from ramet.plan.shape import Shape
    from ramet.spec import Sandbox

#: Bound from the host, since nobody may make device nodes in a user namespace.
DEVICES = ("null", "zero", "full", "urandom")
DEV_LINKS = (
    ("random", "urandom"),  # the same since Linux 5.18
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
S_IFREG = 0o100000


def build_root(b: Builder, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    """The new root with everything in it, and into it."""
    stand_apart(b)
    tree = Tree(b, int(spec.disk), detached=facts.detached_trees)
    b.about(f"Sandbox.rootfs = {shape.root!r}", "make the root")
    _make_root(tree, spec, facts, shape)
    if shape.root == "minimal":
        minimal_view(tree, spec, facts, shape)
    _default_mounts(tree, facts, shape)
    if shape.root == "minimal":
        running_python(tree, facts, shape)
    user_mounts(tree, spec, facts, shape)
    for n, path in enumerate(spec.readonly_paths):
        b.about(f"Sandbox.readonly_paths[{n}]", f"make {path} read-only")
        tree.make_readonly(path)
    for n, path in enumerate(spec.masked_paths):
        b.about(f"Sandbox.masked_paths[{n}]", f"mask {path}")
        tree.mask(path)
    tree.seal()
    tree.enter()


def stand_apart(b: Builder) -> None:
    """Before anything is mounted: nothing of it reaches the host, and modes are as they are given."""
    b.about("Sandbox.namespaces", "keep mounts from spreading to the host")
    b.call("mount", 0, "/", 0, MS_REC | MS_PRIVATE, 0)
    neutral_umask(b)


def neutral_umask(b: Builder) -> None:
    """So that what is made has the mode that it is given."""
    b.about("Sandbox.umask", "set a neutral umask")
    b.call("umask", 0)


def user_mounts(tree: Tree, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    """The spec's own, in their order."""
    for n, mount in enumerate(spec.mounts):
        tree.b.about(f"Sandbox.mounts[{n}] = {_short(mount)}", f"mount {mount.destination}")  # type: ignore[attr-defined]
        _APPLY[type(mount)](tree, mount, facts, shape, f"{n}")


def _short(mount: Mount) -> str:
    text = repr(mount)
    return text if len(text) <= 120 else text[:117] + "..."


def _make_root(tree: Tree, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    if shape.root in ("minimal", "empty"):
        tree.attach_root(tree.new_tmpfs(0o755, tree.disk), own=True)
        return
    rootfs = spec.rootfs if isinstance(spec.rootfs, Rootfs) else Rootfs("/")
    real = facts.paths[rootfs.path].real if rootfs.path in facts.paths else rootfs.path
    if rootfs.writes == "discarded":
        mount = _overlay_root(tree, facts, shape, real)
    elif "rootfs" in shape.prepared:
        mount = shape.prepared["rootfs"].slot
    else:
        mount = tree.clone_host(real)
        tree.set_attributes(mount, NOSUID | NODEV | (RDONLY if rootfs.writes == "refused" else 0))
    tree.attach_root(mount, own=False)


def _overlay_root(tree: Tree, facts: Facts, shape: Shape, real: str) -> Slot:
    """overlayfs takes layers by path, so a prepared one is mounted in the store, and that where paths can name it."""
    prepared = shape.prepared.get("rootfs")
    if prepared is None:
        return _overlay(tree, facts, shape, [real], None, None)
    tree.detached = False
    tree.b.call("mkdirat", tree.store(), "lower", 0o755)
    tree.b.call("move_mount", prepared.slot, "", tree.store(), "lower", MOVE_MOUNT_F_EMPTY_PATH)
    tree.b.close(prepared.slot)
    return _overlay(tree, facts, shape, ["lower"], None, None)


def names_shown(facts: Facts, *, networked: bool) -> list[str]:
    """The host's own paths in the minimal view."""
    return [name for name in facts.layout if networked or name not in view.ETC_NETWORK]


def minimal_view(tree: Tree, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    """The host's programs and libraries, and a few files of /etc; but not what the user has put a mount at."""
    networked = Namespace.NET not in spec.namespaces
    for name in names_shown(facts, networked=networked):
        if shape.is_free(name):
            tree.b.about(f"default view: {name}", f"show {name}")
            _show(tree, name, facts)
    made = {
        "/etc/passwd": view.passwd(shape.uid, shape.home),
        "/etc/group": view.group(shape.gid),
        "/etc/nsswitch.conf": view.NSSWITCH,
    }
    if not networked:
        made["/etc/hosts"] = view.HOSTS
    for name, content in made.items():
        if shape.is_free(name):
            tree.b.about(f"default view: {name}", f"make {name}")
            tree.make_file(name, content.encode(), 0o644)


def running_python(tree: Tree, facts: Facts, shape: Shape) -> None:
    """After /tmp and the home directory: the prefix may lie below one of these."""
    for prefix, real in facts.python:
        if shape.is_free(prefix):
            tree.b.about("default view: the running Python", f"show {prefix}")
            if prefix in shape.prepared:
                _attach_prepared(tree, shape.prepared[prefix].slot, prefix, is_dir=True)
            else:
                _bind_host(tree, prefix, real, is_dir=True)


def _show(tree: Tree, name: str, facts: Facts) -> None:
    found = facts.layout[name]
    if found.kind == "link":
        tree.make_symlink(name, found.target)
    else:
        _bind_host(tree, name, found.real, is_dir=found.kind == "dir")


def _bind_host(tree: Tree, where: str, real: str, *, is_dir: bool) -> None:
    """A path of the host's own configuration or programs, read-only."""
    flags = OPEN_TREE_CLONE | O_CLOEXEC | AT_SYMLINK_NOFOLLOW | (0x8000 if is_dir else 0)
    mount = tree.b.open("mnt", "open_tree", AT_FDCWD, real, flags)
    tree.set_attributes(mount, RDONLY | NOSUID | NODEV)
    tree.attach(mount, where, is_dir=is_dir)
    tree.b.close(mount)


def _default_mounts(tree: Tree, facts: Facts, shape: Shape) -> None:
    """proc and dev, and what may be written to. The user's own mount at, or above, such a place replaces it."""
    for mount in shape.default_mounts:
        tree.b.about(f"default {mount!r}", f"mount {mount.destination}")
        _APPLY[type(mount)](tree, mount, facts, shape, "")
    for where, mode in shape.writable:
        tree.b.about(f"default {where}", f"make {where} writable")
        tree.attach_writable(where, mode)


def _bind(tree: Tree, mount: Bind, facts: Facts, shape: Shape, key: str) -> None:
    found = facts.paths.get(mount.source)
    if found is None:
        return  # optional, and not there
    is_dir = found.kind == "dir"
    if key in shape.prepared:
        _attach_prepared(tree, shape.prepared[key].slot, mount.destination, is_dir=is_dir)
        return
    tree_fd = tree.clone_host(found.real)
    tree.set_attributes(tree_fd, NOSUID | NODEV | (0 if mount.writable else RDONLY))
    tree.attach(tree_fd, mount.destination, is_dir=is_dir)
    tree.b.close(tree_fd)


def _attach_prepared(tree: Tree, slot: Slot, where: str, *, is_dir: bool) -> None:
    """A mount that the caller has made."""
    tree.attach(slot, where, is_dir=is_dir)
    tree.b.close(slot)


def _tmpfs(tree: Tree, mount: Tmpfs, facts: Facts, shape: Shape, key: str) -> None:
    fd = tree.new_tmpfs(mount.mode, mount.size, inodes=mount.inodes)
    tree.attach(fd, mount.destination, is_dir=True, own=True)
    tree.b.close(fd)


def _proc(tree: Tree, mount: Proc, facts: Facts, shape: Shape, key: str) -> None:
    # A new proc needs a pid namespace of one's own; with the caller's, the caller's /proc is the right one.
    fd = tree.new_proc() if shape.own_pids else tree.clone_host("/proc")
    tree.attach(fd, mount.destination, is_dir=True)
    if shape.own_pids and not shape.may_mount:
        # Who may make a proc could not any more, had this one a part covered (mount_too_revealing in the kernel).
        hide_keys(tree, fd)
        calm_pressure(tree, fd)
    tree.b.close(fd)


def hide_keys(tree: Tree, proc: Slot, *, sealed: bool = False) -> None:
    """All else in a proc of one's own that tells of others, or changes anything, is the host's root's by ownership.

    sealed: the device is read-only already.
    """
    null = tree.b.open("mnt", "open_tree", AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | O_CLOEXEC)
    if not sealed:
        tree.set_attributes(null, RDONLY, recursive=False)
    tree.b.call("move_mount", null, "", proc, "keys", MOVE_MOUNT_F_EMPTY_PATH, allow=(errno.ENOENT,))
    tree.b.close(null)


def calm_pressure(tree: Tree, proc: Slot) -> None:
    """Who may write to /proc/pressure has the kernel look at the machine's load for them (any user's, since Linux 6.5). The proc must be
    attached."""
    b, absent = tree.b, (errno.EBADF,)
    pressure = b.open("mnt", "open_tree", proc, "pressure", OPEN_TREE_CLONE | O_CLOEXEC, allow=(errno.ENOENT,))
    tree.set_attributes(pressure, RDONLY, recursive=False, allow=absent)
    b.call("move_mount", pressure, "", proc, "pressure", MOVE_MOUNT_F_EMPTY_PATH, allow=absent)
    b.close(pressure, allow=absent)


def _dev(tree: Tree, mount: Dev, facts: Facts, shape: Shape, key: str) -> None:
    """On the sandbox's own ground a directory will do; elsewhere dev is a file system of its own."""
    where = mount.destination
    if tree.is_own(parent_path(where)):
        tree.make_directory(where, 0o755)
        dev, base = tree.root, where[1:] + "/"
    else:
        dev, base = tree.new_fs("tmpfs", NOSUID | NOEXEC, mode="0755", size="64k"), ""
        tree.attach(dev, where, is_dir=True)
        tree.sealed.append(dev)
    device_nodes(tree, dev, base, ("tty",) if shape.tty else ())
    pts = tree.new_devpts()
    _mount_in(tree, dev, base + "pts", pts)
    if shape.tty and where == "/dev":
        shape.pts = pts
    else:
        tree.b.close(pts)
    _dev_shm(tree, mount, dev, base)


def device_nodes(tree: Tree, dev: Slot, base: str, more: tuple[str, ...]) -> None:
    """The devices, bound from the host, and the links beside them, below a directory at `base`."""
    for name in (*DEVICES, *more):
        node = tree.b.open("mnt", "open_tree", AT_FDCWD, f"/dev/{name}", OPEN_TREE_CLONE | O_CLOEXEC)
        tree.set_attributes(node, RDONLY, recursive=False)  # writing goes on; the host's inode can't be touched(1)
        tree.b.call("mknodat", dev, base + name, S_IFREG | 0o666, 0)
        tree.b.call("move_mount", node, "", dev, base + name, MOVE_MOUNT_F_EMPTY_PATH)
        tree.b.close(node)
    for name, target in DEV_LINKS:
        tree.b.call("symlinkat", target, dev, base + name)


def _dev_shm(tree: Tree, mount: Dev, dev: Slot, base: str) -> None:
    where = f"{mount.destination}/shm"
    if mount.shm_size is None and base:
        tree.attach_writable(where, 0o1777)
        return
    if mount.shm_size is None:
        store = tree.store()
        tree.b.call("mkdirat", store, "shm", 0o1777)
        shm = tree.b.open("mnt", "open_tree", store, "shm", OPEN_TREE_CLONE | O_CLOEXEC)
    else:
        shm = tree.new_tmpfs(0o1777, mount.shm_size)
    _mount_in(tree, dev, base + "shm", shm)
    tree.b.close(shm)


def _mount_in(tree: Tree, place: Slot, name: str, mount: Slot) -> None:
    tree.b.call("mkdirat", place, name, 0o755)
    tree.b.call("move_mount", mount, "", place, name, MOVE_MOUNT_F_EMPTY_PATH)


def _mqueue(tree: Tree, mount: Mqueue, facts: Facts, shape: Shape, key: str) -> None:
    fd = tree.new_fs("mqueue", NOSUID | NODEV | NOEXEC)
    tree.attach(fd, mount.destination, is_dir=True)
    tree.b.close(fd)


def _overlay_mount(tree: Tree, mount: Overlay, facts: Facts, shape: Shape, key: str) -> None:
    lower = [facts.paths[path].real for path in mount.lower]
    upper = facts.paths[mount.upper].real if mount.upper else None
    work = facts.paths[mount.work].real if mount.work else None
    fd = _overlay(tree, facts, shape, lower, upper, work)
    tree.attach(fd, mount.destination, is_dir=True)
    tree.b.close(fd)


def _overlay(tree: Tree, facts: Facts, shape: Shape, lower: list[str], upper: str | None, work: str | None) -> Slot:
    """Without upper and work they are directories of the store, named relative to it."""
    if facts.kernel < (6, 5) and any("," in path for path in (*lower, upper or "", work or "")):
        raise UnsupportedError(
            "an overlay of a directory with a comma in its path",
            fact=f"the kernel is {facts.kernel[0]}.{facts.kernel[1]}",
            needs="Linux 6.5, where fsconfig(2) of an overlay takes one",
        )
    b = tree.b
    if upper is None or work is None:
        name = f"overlay{len(b.steps)}"
        upper, work = f"{name}/upper", f"{name}/work"
        store = tree.store()
        for path in (name, upper, work):
            b.call("mkdirat", store, path, 0o755)
        b.call("fchdir", store)
    # In a user namespace, overlayfs keeps its marks in user.* attributes: trusted.* are the host's.
    flags = ("userxattr",) if shape.new_user else ()
    # The kernel undoes backslashes in all three; only lowerdir is a list.
    lower, (upper, work) = ([path.replace("\\", "\\\\") for path in paths] for paths in (lower, (upper, work)))
    joined = ":".join(path.replace(":", "\\:") for path in lower)
    options = {"lowerdir": joined, "upperdir": upper, "workdir": work}
    return tree.new_fs("overlay", NOSUID | NODEV, flags=flags, **options)


def _symlink(tree: Tree, mount: Symlink, facts: Facts, shape: Shape, key: str) -> None:
    tree.make_symlink(mount.destination, mount.target)


def _file(tree: Tree, mount: File, facts: Facts, shape: Shape, key: str) -> None:
    assert isinstance(mount.content, bytes)
    tree.make_file(mount.destination, mount.content, mount.mode)


def _directory(tree: Tree, mount: Directory, facts: Facts, shape: Shape, key: str) -> None:
    tree.make_directory(mount.destination, mount.mode)


_APPLY: dict[type[Mount], Any] = {
    Bind: _bind,
    Tmpfs: _tmpfs,
    Proc: _proc,
    Dev: _dev,
    Mqueue: _mqueue,
    Overlay: _overlay_mount,
    Symlink: _symlink,
    File: _file,
    Directory: _directory,
}
