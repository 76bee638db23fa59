"""compile_branch(spec, facts) -> Plan: a sandbox that a warm process makes around a copy of itself. Pure.

The warm process, the *zygote*, is in a sandbox of the same spec already: its root stands. So a copy needs namespaces of its own,
nested in the zygote's, and over what others could have written to something fresh: /tmp, the home directory, /dev/shm, the
terminals, /proc, and the spec's own file systems. Then the walls, which the zygote has not: it must be able to make namespaces and
to mount.

The child is cloned by the zygote, clones the payload's process, a copy of the zygote, and becomes init. It has the store as its
root, the one file system in memory that all writable places are parts of, so that it sees when that is full. The stage `view` is made
by the copy before its own; or, where there is time, by a process that shares the zygote's memory, before there is a copy (csrc/bud.c).
"""

from __future__ import annotations

import errno
import struct
from functools import lru_cache

from ramet.errors import SpecError
from ramet.plan import finish, idmap, landlock, limits, rights, surroundings
from ramet.plan.idmap import Maps
from ramet.plan.mounts import calm_pressure, neutral_umask
from ramet.plan.protections import protections
from ramet.plan.shape import Shape, is_below
from ramet.plan.steps import Block, Builder, Plan, Slot, Stage
from ramet.plan.tree import (
    AT_FDCWD,
    AT_RECURSIVE,
    MOVE_MOUNT_F_EMPTY_PATH,
    NODEV,
    NOEXEC,
    NOSUID,
    O_CLOEXEC,
    O_DIRECTORY,
    O_PATH,
    OPEN_TREE_CLONE,
    RDONLY,
    Tree,
)
from ramet.spec import (
    Bind,
    Command,
    Dev,
    Directory,
    File,
    IdMapping,
    Landlock,
    Mqueue,
    Namespace,
    Overlay,
    Proc,
    Rootfs,
    Symlink,
    Tmpfs,
)
from ramet.spec.sandbox import HOME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts
    from ramet.plan.limits import Groups
    from ramet.spec import Mount, Sandbox

#: Descriptors of the payload's process: its channel, and /dev/null for the numbers that the zygote has in use.
CHANNEL, NULL = 3, 4
COMMAND = Command(("function",), (CHANNEL, NULL))
#: What is new with every copy. The others of the spec are the zygote's, and nobody can tell them apart.
NEEDED = (Namespace.USER, Namespace.MOUNT, Namespace.PID)
NESTED = (*NEEDED, Namespace.NET, Namespace.IPC, Namespace.UTS, Namespace.CGROUP)
INHERITED = frozenset({Namespace.NET, Namespace.IPC, Namespace.UTS, Namespace.CGROUP, Namespace.TIME})
CLONE_NEWCGROUP = 0x02000000
S_IFREG = 0o100000
#: Told before the copy has entered its control group, so before it does anything else; see `ramet.run.fork.NEWS`.
ARRIVED = struct.pack("<iiii", 4, 0, 0, 0)

_FRESH = (Proc, Dev, Tmpfs, Overlay, Mqueue)


def check_spec(spec: Sandbox) -> None:
    """Raise SpecError for what can't be had anew, quickly, from within a sandbox."""
    for kind in NEEDED:
        if kind not in spec.namespaces:
            raise SpecError(
                f"a pool needs a new {kind.value} namespace for each call", field="Sandbox.namespaces",
                hint="ramet.isolated runs a function in a sandbox of any kind",
            )  # fmt: skip
    for n, join in enumerate(spec.join):
        if join.kind not in INHERITED:
            raise SpecError(f"a pool can't join a {join.kind.value} namespace", field=f"Sandbox.join[{n}]")
    for name in ("uid_mappings", "gid_mappings", "groups", "tty", "as_pid1"):
        if getattr(spec, name):
            raise SpecError(
                "can't be had in a pool: its calls have one user, no terminal, and an init", field=f"Sandbox.{name}"
            )
    if not spec.no_new_privs:
        raise SpecError("can't be False in a pool: its zygote can't gain rights either", field="Sandbox.no_new_privs")
    if isinstance(spec.rootfs, Rootfs) and spec.rootfs.writes == "discarded":
        raise SpecError(
            "would be one for all calls of a pool", field="Sandbox.rootfs.writes", hint="mount a Tmpfs where they write"
        )
    if spec.rootfs == "empty" and not any(isinstance(m, Proc) and m.destination == "/proc" for m in spec.mounts):
        raise SpecError("a pool needs /proc", field="Sandbox.rootfs", hint="add Proc() to mounts")
    if isinstance(spec.landlock, Landlock) and (spec.landlock.read or spec.landlock.write):
        raise SpecError("can only list paths without a mount namespace of its own", field="Sandbox.landlock")
    for n, mount in enumerate(spec.mounts):
        where = str(mount.destination)  # type: ignore[attr-defined]
        if where.startswith("/proc/") or (where == "/proc" and not isinstance(mount, Proc)):
            raise SpecError("can't be mounted in a pool: /proc is new with each call", field=f"Sandbox.mounts[{n}]")


def of_zygote(spec: Sandbox, **changes: object) -> Sandbox:
    """The sandbox of the zygote: the same view, without the walls that it could not build others behind."""
    masked = tuple(path for path in spec.masked_paths if not is_below(path, "/proc"))
    readonly = tuple(path for path in spec.readonly_paths if not is_below(path, "/proc"))
    unlimited = {name: spec._defaults[name] for name in _OF_CALLS}
    return spec.replace(
        **{
            **unlimited,
            "capabilities": frozenset(),
            "nested_namespaces": True,
            "landlock": False,
            "rlimits": {"CORE": (1, 1)},
            "masked_paths": masked,
            "readonly_paths": readonly,
            **changes,
        }
    )


#: Fields that hold for a call.
_OF_CALLS = (
    *("memory", "memory_high", "swap", "processes", "cpu_time", "cpus", "cpuset", "cpuset_mems", "cpu_weight"),
    *("io", "io_weight", "file_size", "open_files", "nice", "idle", "timeout", "output", "output_action", "allow_degraded"),
)  # fmt: skip


@lru_cache(maxsize=64)
def compile_branch(
    spec: Sandbox, facts: Facts, *, groups: Groups | None = None, filters: tuple[bytes, ...] = (), filled: bool = False
) -> Plan:
    """The plan of a copy of a zygote whose sandbox is `of_zygote(spec)`. facts: the caller's. filled: the copy brings its files along,
    into what `places` says.

    Raises SpecError, UnsupportedError as `ramet.plan.compile` does.
    """
    check_spec(spec)
    shape = Shape(spec, facts, COMMAND)
    uid, gid = shape.uid, shape.gid
    owner = idmap.owner_outside(spec, facts, shape.maps, uid, gid)
    shape.maps = Maps(uid, gid, (IdMapping(uid, uid),), (IdMapping(gid, gid),), True, True, False)
    shape.prepared = {}
    held = limits.hold(spec, groups, shape)
    wall = landlock.fence(spec, facts)
    grouped = groups is not None and groups.made
    flags = 0
    for kind in NESTED:
        if kind in spec.namespaces and not (grouped and kind is Namespace.CGROUP):
            flags |= kind.clone_flag
    return Plan(
        spec=spec,
        facts=facts,
        command=COMMAND,
        clone_flags=flags,
        stages={
            "child": _child(spec, facts, shape),
            "init": _init(spec),
            "view": _view(spec, facts, shape, filled=filled),
            "payload": _payload(spec, facts, shape, held, filters, wall, grouped=grouped),
        },
        sync=(),
        groups=groups,
        filters=filters,
        environment=finish.environment(spec, shape),
        function=True,
        protections=protections(spec, facts, shape, wall, held, filters),
        init=True,
        gated=False,
        tty=False,
        prepared=(),
        notes=(),
        owner=owner,
    )


def _child(spec: Sandbox, facts: Facts, shape: Shape) -> Stage:
    """Ids, then the store: made before there are two, and so that both have it as their working directory."""
    b = Builder()
    assert shape.maps is not None
    idmap.map_ids(b, shape.maps)
    neutral_umask(b)
    b.about("Sandbox.disk", "make the store of all that is written")
    tree = Tree(b, int(spec.disk), detached=facts.detached_trees)
    store = tree.new_tmpfs(0o755, int(spec.disk))
    # A mount that is nowhere goes with its descriptor, and before Linux 6.15 nothing can be bound from it. So where the new proc
    # will be over it. (Over the root ".." would lead into it.)
    b.call("move_mount", store, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH)
    b.call("fchdir", store)
    b.close(store)
    return Stage("child", tuple(b.steps))


def _init(spec: Sandbox) -> Stage:
    b = Builder()
    b.about("init", "have the store as its root")
    b.call("chroot", ".")
    rights.keep_kill(b, has=True)
    finish.leave_group(b, spec)
    finish.exec_init(b)
    return Stage("init", tuple(b.steps))


def _view(spec: Sandbox, facts: Facts, shape: Shape, *, filled: bool) -> Stage:
    """What belongs to the namespaces, not to the process that makes it: it may be made before there is a copy."""
    b = Builder()
    view = _View(b, spec, facts, shape, filled=filled)
    _refresh(view)
    surroundings.surround(b, spec, ahead=False)
    _cover(view)
    return Stage("view", tuple(b.steps))


def _payload(
    spec: Sandbox,
    facts: Facts,
    shape: Shape,
    held: limits.Held,
    filters: tuple[bytes, ...],
    wall: landlock.Fence,
    *,
    grouped: bool,
) -> Stage:
    b = Builder()
    if grouped:
        _enter_group(b, spec)
    rights.own_keyring(b, spec)
    rights.limit_capabilities(b, spec, facts)
    rights.no_new_privs(b)
    finish.place_descriptors(b, COMMAND, shape)
    finish.enter_session(b, spec)
    finish.enter_directory(b, spec, shape)
    landlock.build_fence(b, spec, facts, COMMAND, shape, wall)
    b.about("Sandbox.umask", "set the umask")
    b.call("umask", spec.umask)
    limits.limit_scheduling(b, spec, held)
    rights.limit_resources(b, spec, limits.rlimits_of(spec, held))
    finish.show_memory(b)
    rights.filter_calls(b, filters)
    finish.unblock_signals(b)
    return Stage("payload", tuple(b.steps))


def _enter_group(b: Builder, spec: Sandbox) -> None:
    """The caller moves us, by the pid that the kernel has put on what we write."""
    channel = Slot(f"fd{CHANNEL}")
    b.about("Sandbox limits", "be moved into the control group by the caller")
    b.call("write", channel, ARRIVED, len(ARRIVED), expect=len(ARRIVED))
    b.call("read", channel, Block(bytes(8), text='""'), 1, expect=1)
    if Namespace.CGROUP in spec.namespaces:
        b.about("Sandbox.namespaces", "make a cgroup namespace")
        b.call("unshare", CLONE_NEWCGROUP)


class _View:
    """The zygote's root, and which places in it have been made anew."""

    def __init__(self, b: Builder, spec: Sandbox, facts: Facts, shape: Shape, *, filled: bool) -> None:
        self.b, self.spec, self.facts, self.shape, self.filled = b, spec, facts, shape, filled
        self.tree = Tree(b, int(spec.disk), detached=facts.detached_trees)
        b.about("Sandbox.rootfs", "open the root")
        self.tree.root = b.open("root", "openat", AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0)
        self.tree.foreign.append("/")
        self.anew: list[str] = []

    def is_covered(self, where: str) -> bool:
        """Has something been put over it?"""
        return any(is_below(where, above) for above in self.anew)

    def writable(self, where: str, mode: int) -> None:
        """A directory of the store; the copy may have made it, and filled it, before."""
        name = store_name(where)
        self.b.call("mkdirat", AT_FDCWD, name, mode, allow=(errno.EEXIST,) if self.filled else ())
        self.put(self.b.open("mnt", "open_tree", AT_FDCWD, name, OPEN_TREE_CLONE | O_CLOEXEC), where)

    def put(self, mount: Slot, where: str, *, is_dir: bool = True) -> None:
        self.tree.attach(mount, where, is_dir=is_dir)
        self.b.close(mount)
        self.anew.append(where)


def store_name(where: str) -> str:
    """What the part of the store is called that is seen there."""
    return f"place{where.replace('/', '-')}"


def places(spec: Sandbox) -> dict[str, str]:
    """The writable places of the store, and their names in it."""
    home = HOME if spec.rootfs in (None, "minimal") else None
    found = [where for where in ("/tmp", home, "/dev/shm") if where is not None]
    taken = [str(mount.destination) for mount in spec.mounts]  # type: ignore[attr-defined]
    return {where: store_name(where) for where in found if not any(is_below(where, one) for one in taken)}


def _refresh(view: _View) -> None:
    """Over everything that another copy could have written to, something new; then again what lay below."""
    b, spec = view.b, view.spec
    kept = _keep_below(view)
    _default_places(view)
    for prefix in view.shape.python:
        if prefix in kept:
            b.about("default view: the running Python", f"show {prefix}")
            view.put(kept[prefix], prefix)
    for n, mount in enumerate(spec.mounts):
        b.about(f"Sandbox.mounts[{n}] = {type(mount).__name__}", f"mount {mount.destination} anew")  # type: ignore[attr-defined]
        _redo(view, n, mount, kept)


def _cover(view: _View) -> None:
    """Again what was read-only, or masked, below a place that is new."""
    b, spec = view.b, view.spec
    for path in spec.readonly_paths:
        if view.is_covered(path):
            b.about("Sandbox.readonly_paths", f"make {path} read-only")
            view.tree.make_readonly(path)
    for path in spec.masked_paths:
        if view.is_covered(path):
            b.about("Sandbox.masked_paths", f"mask {path}")
            view.tree.mask(path)


def _keep_below(view: _View) -> dict[int | str, Slot]:
    """What is bound below a place that will be covered: a hold on it, as long as there is a path to it."""
    covered = [where for where, _ in view.shape.writable]
    kept: dict[int | str, Slot] = {}
    for prefix in view.shape.python:
        if view.shape.is_free(prefix) and any(is_below(prefix, above) for above in covered):
            view.b.about("default view: the running Python", f"keep {prefix}")
            kept[prefix] = _hold(view, prefix)
    for n, mount in enumerate(view.spec.mounts):
        where = str(mount.destination)  # type: ignore[attr-defined]
        there = not isinstance(mount, Bind) or mount.source in view.facts.paths
        if isinstance(mount, (Bind, File)) and there and any(is_below(where, above) for above in covered):
            view.b.about(f"Sandbox.mounts[{n}]", f"keep {where}")
            kept[n] = _hold(view, where)
        elif isinstance(mount, _FRESH):
            covered.append(where)
    return kept


def _hold(view: _View, where: str) -> Slot:
    return view.b.open("kept", "open_tree", AT_FDCWD, where, OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE)


def _default_places(view: _View) -> None:
    for mount in view.shape.default_mounts:
        if isinstance(mount, Proc):
            view.b.about("default Proc()", "mount /proc")
            _proc(view, mount)
        else:
            view.b.about("default Dev()", "make terminals and /dev/shm anew")
            _dev(view, mount)
    for where, mode in view.shape.writable:
        view.b.about(f"default {where}", f"make {where} writable")
        view.writable(where, mode)


def _redo(view: _View, n: int, mount: Mount, kept: dict[int | str, Slot]) -> None:
    where = str(mount.destination)  # type: ignore[attr-defined]
    if isinstance(mount, Proc):
        _proc(view, mount)
    elif isinstance(mount, Dev):
        _dev(view, mount)
    elif isinstance(mount, Tmpfs):
        view.put(view.tree.new_tmpfs(mount.mode, mount.size, inodes=mount.inodes), where)
    elif isinstance(mount, Overlay):
        if mount.upper is None:  # else what is written is kept, for all of them, as asked for
            view.put(_overlay(view, where), where)
    elif isinstance(mount, Mqueue):
        view.put(view.tree.new_fs("mqueue", NOSUID | NODEV | NOEXEC), where)
    elif n in kept:
        source = view.facts.paths.get(mount.source) if isinstance(mount, Bind) else None
        view.put(kept[n], where, is_dir=source is not None and source.kind == "dir")
    elif view.is_covered(where):
        if isinstance(mount, Symlink):
            view.tree.make_symlink(where, mount.target)
        elif isinstance(mount, Directory):
            view.tree.make_directory(where, mount.mode)


def _proc(view: _View, mount: Proc) -> None:
    b = view.b
    proc = view.tree.new_proc()
    view.tree.attach(proc, mount.destination, is_dir=True)
    if not view.shape.may_mount:
        name = f"keys{len(b.steps)}"
        b.call("mknodat", AT_FDCWD, name, S_IFREG | 0o444, 0)
        empty = b.open("mnt", "open_tree", AT_FDCWD, name, OPEN_TREE_CLONE | O_CLOEXEC)
        view.tree.set_attributes(empty, RDONLY, recursive=False)
        b.call("move_mount", empty, "", proc, "keys", MOVE_MOUNT_F_EMPTY_PATH, allow=(2,))
        b.close(empty)
        calm_pressure(view.tree, proc)
    b.close(proc)
    view.anew.append(str(mount.destination))


def _overlay(view: _View, where: str) -> Slot:
    """Over the zygote's, which nobody has written to, one whose writes go to the store, by paths relative to it."""
    name = f"overlay{len(view.b.steps)}"
    for path in (name, f"{name}/upper", f"{name}/work"):
        view.b.call("mkdirat", AT_FDCWD, path, 0o755)
    lower = where.replace("\\", "\\\\").replace(":", "\\:")
    options = {"lowerdir": lower, "upperdir": f"{name}/upper", "workdir": f"{name}/work"}
    return view.tree.new_fs("overlay", NOSUID | NODEV, flags=("userxattr",), **options)


def _dev(view: _View, mount: Dev) -> None:
    """The nodes are the host's, and read-only; what a copy could leave for others is in two places."""
    where = str(mount.destination)
    view.put(view.tree.new_devpts(), f"{where}/pts")
    if mount.shm_size is None:
        view.writable(f"{where}/shm", 0o1777)
    else:
        view.put(view.tree.new_tmpfs(0o1777, mount.shm_size), f"{where}/shm")


__all__ = ["ARRIVED", "CHANNEL", "NULL", "check_spec", "compile_branch", "of_zygote"]
