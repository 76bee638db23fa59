"""A mould: the part of a sandbox's root that is the same every time, in a mount namespace of its own.

To build the default root takes some hundred system calls, and to take it down again as many mounts and files; nearly all
of it is the same for every run. So a caller that runs several makes it once (`ramet.run.ahead`), and each run gets a
copy of that namespace, which the kernel makes in one call: read-only, and locked (mount_namespaces(7)). What one
payload could leave for the next is the run's own: /proc, /dev/pts, and one file system in memory for everything
that may be written to.

The proc in a mould is that of a pid namespace in which nobody is any more: it shows nobody, and is there since
a new proc may be mounted only where one can be seen whole already.
"""

from __future__ import annotations

from functools import lru_cache

from ramet.plan.idmap import CONTROL, Maps, as_they_are, become, owner_outside
from ramet.plan.life import die_with_caller, keep_only, own_descriptors, wait_for_caller
from ramet.plan.mounts import (
    calm_pressure,
    device_nodes,
    hide_keys,
    minimal_view,
    names_shown,
    neutral_umask,
    running_python,
    stand_apart,
    user_mounts,
)
from ramet.plan.shape import Shape
from ramet.plan.steps import Builder, Slot, Stage
from ramet.plan.tree import (
    AT_FDCWD,
    MOVE_MOUNT_F_EMPTY_PATH,
    O_CLOEXEC,
    OPEN_TREE_CLONE,
    Tree,
)
from ramet.spec import Command, Directory, File, Namespace, Sandbox, Symlink
from ramet.spec.sandbox import HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.steps import CallerStep
    from ramet.spec import Mount

#: Inputs of whoever copies it: the descriptors of its namespaces, and of the host's /proc.
MOULD_USER, MOULD_MOUNT, PROC = Slot("mould_user"), Slot("mould_mnt"), Slot("proc")
NEEDED = frozenset({Namespace.USER, Namespace.NET, Namespace.MOUNT, Namespace.PID})
#: Each run's own: where, and with which mode.
WRITABLE = (("/tmp", 0o1777), (HOME, 0o700), ("/dev/shm", 0o1777))
#: Where the file system of all of them is mounted.
DISK = "/dev/shm"
CAP_SYS_ADMIN = 21


class Mould:
    """A mould, as far as one differs from another. Compared by identity: `mould_for` gives the same one for what looks the same.

    mounts: of the spec; uid, gid: of the payload; owner: who that is outside, where a root caller makes it, and None
    elsewhere.
    """

    __slots__ = ("facts", "gid", "mounts", "owner", "uid")

    def __init__(
        self, facts: Facts, mounts: tuple[Mount, ...], uid: int, gid: int, owner: tuple[int, int] | None
    ) -> None:
        self.facts, self.mounts, self.uid, self.gid, self.owner = facts, mounts, uid, gid, owner

    @property
    def own_user(self) -> bool:
        """Has it a user namespace of its own? A root caller's belongs to the caller's."""
        return not self.facts.privileged

    @property
    def flags(self) -> int:
        """Of the clone of the process that makes it."""
        kinds = (Namespace.MOUNT, Namespace.PID, *((Namespace.USER,) if self.own_user else ()))
        return sum(kind.clone_flag for kind in kinds)

    @property
    def sync(self) -> tuple[CallerStep, ...]:
        """How the caller maps its ids: as they are. The sandboxes' own user namespaces, below it, map them further."""
        return as_they_are(self.facts) if self.own_user else ()

    @property
    def sources(self) -> tuple[str, ...]:
        """Paths of the host that it shows. Where one is another file by now, the mould is out of date."""
        names = names_shown(self.facts, networked=False)
        shown = [self.facts.layout[name].real for name in names if self.facts.layout[name].kind != "link"]
        return (*shown, *(real for _, real in self.facts.python))

    def making(self) -> Stage:
        """The steps of the process that makes it, and ends."""
        spec = Sandbox(uid=self.uid, gid=self.gid, mounts=self.mounts)
        b = Builder()
        die_with_caller(b)
        own_descriptors(b)
        if self.owner is not None:
            become(b, *self.owner, (), self.facts.capabilities)
        keep_only(b, CONTROL)
        wait_for_caller(b, 0, "wait until the caller has opened the namespaces")
        _fixed_root(b, spec, self.facts, Shape(spec, self.facts, Command(("/bin/true",))))
        return Stage("child", tuple(b.steps))


def mould_for(spec: Sandbox, facts: Facts, shape: Shape, maps: Maps) -> Mould | None:
    """The mould of such a sandbox's root; None where it can't come from one.

    Not where the payload may mount: it could take away what hides the mould's own proc. Nor with binds: to keep a mould
    would keep the user's file systems busy.
    """
    plain = shape.root == "minimal" and not (shape.tty or shape.may_mount or shape.prepared)
    touched = spec.masked_paths or spec.readonly_paths or Namespace.TIME in spec.namespaces
    may = facts.capable(CAP_SYS_ADMIN) if facts.privileged else maps.by_child
    if not (plain and may and spec.namespaces >= NEEDED) or touched:
        return None
    if not all(isinstance(mount, (File, Directory, Symlink)) for mount in spec.mounts):
        return None
    ours = (*(where for where, _ in WRITABLE), "/dev", "/proc")
    theirs = [str(mount.destination) for mount in spec.mounts]  # type: ignore[attr-defined]
    theirs += [prefix for prefix, _ in facts.python]
    if any(_overlap(one, other) for one in ours for other in theirs):
        return None
    owner = owner_outside(spec, facts, maps, shape.uid, shape.gid)
    return _mould(facts, spec.mounts, shape.uid, shape.gid, owner)


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


@lru_cache(maxsize=64)
def _mould(facts: Facts, mounts: tuple[Mount, ...], uid: int, gid: int, owner: tuple[int, int] | None) -> Mould:
    return Mould(facts, mounts, uid, gid, owner)


def _fixed_root(b: Builder, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    stand_apart(b)
    b.about("Sandbox.rootfs = 'minimal'", "make the root")
    tree = Tree(b, int(spec.disk), detached=True)
    tree.attach_root(tree.new_tmpfs(0o755, tree.disk), own=True)
    minimal_view(tree, spec, facts, shape)
    b.about("default Proc()", "mount a /proc of nobody")
    proc = tree.new_proc()
    tree.attach(proc, "/proc", is_dir=True)
    b.close(proc)
    b.about("default Dev()", "mount /dev")
    tree.make_directory("/dev", 0o755)
    device_nodes(tree, tree.root, "dev/", ())
    for where in (*(where for where, _ in WRITABLE), "/dev/pts"):
        b.about(f"default {where}", f"make a place for {where}")
        tree.make_directory(where, 0o755)
    running_python(tree, facts, shape)
    user_mounts(tree, spec, facts, shape)
    tree.seal()
    tree.enter()


def complete_root(b: Builder, spec: Sandbox, facts: Facts, shape: Shape) -> None:
    """In a copy of a mould: what is the run's own. Paths lead through what nobody can change."""
    neutral_umask(b)
    tree = Tree(b, int(spec.disk), detached=True)
    b.about("Sandbox.disk", "make a file system for what is written")
    store = tree.new_tmpfs(0o700, tree.disk)
    # It stays mounted, below a part of itself, where init sees when it is full: to end a mount takes the kernel 0.2 ms,
    # since namespace_unlock() waits for RCU.
    _cover(b, DISK, store)
    for where, mode in WRITABLE:
        name = where.rsplit("/", 1)[1]
        b.about(f"default {where}", f"make {where} writable")
        b.call("mkdirat", store, name, mode)
        part = b.open("mnt", "open_tree", store, name, OPEN_TREE_CLONE | O_CLOEXEC)
        _cover(b, where, part)
        b.close(part)
    b.close(store)
    b.about("default Dev()", "mount /dev/pts")
    pts = tree.new_devpts()
    _cover(b, "/dev/pts", pts)
    b.close(pts)
    b.about("default Proc()", "mount /proc")
    proc = tree.new_proc()
    _cover(b, "/proc", proc)
    hide_keys(tree, proc, sealed=True)
    calm_pressure(tree, proc)
    b.close(proc)


def _cover(b: Builder, where: str, mount: Slot) -> None:
    b.call("move_mount", mount, "", AT_FDCWD, where, MOVE_MOUNT_F_EMPTY_PATH)
