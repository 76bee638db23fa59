"""Facts: what `compile` needs to know of the host, as a value.

Gathered once for a process and its credentials; what a spec names (bind sources and the like) is looked up
for each plan, since it may change.
"""

from __future__ import annotations

import os
import stat
import sys

from ramet import _core
from ramet.errors import SpecError, UnsupportedError
from ramet.proc import read
from ramet.spec import view
from ramet.spec.landlock import Landlock
from ramet.spec.mounts import Bind, Overlay
from ramet.spec.record import FrozenMap, Record
from ramet.spec.rootfs import Rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ramet.spec import Sandbox

CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN = 6, 7, 21
OLDEST_KERNEL = (5, 14)
#: Who a root caller's payload is outside: ramet.plan.idmap says why.
UNPRIVILEGED_ID = 65533
_CAPGET = {"x86_64": 125, "aarch64": 90}.get(os.uname().machine, -1)
_CAPGET_HEADER = bytearray((0x20080522).to_bytes(4, "little") + bytes(4))


class Path(Record):
    """A path of the host. kind: "dir", "file" (all that is neither directory nor link), "link".

    real: with every symlink resolved; target: of a link; uid, gid: its owner. guarded: it lies below a directory that
    not everybody may pass, as /root does.
    """

    kind: str
    real: str = ""
    target: str = ""
    uid: int = 0
    gid: int = 0
    guarded: bool = False


class IdRange(Record):
    """A line of /etc/subuid or /etc/subgid that is the caller's."""

    start: int
    size: int


class Facts(Record):
    """The host, as far as a plan depends on it.

    kernel: (6, 18); machine: as uname(2) says; uid, gid: effective, of the caller; capabilities: effective, as a bit
    mask; last_cap: highest capability number the kernel knows; subuids, subgids; newuidmap, newgidmap: paths of
    the helpers, if installed; layout: paths of the minimal view that exist; python: directories of the running
    Python, each with its resolved path; autokill: can clone kill the child when its pidfd is closed (CLONE_PIDFD_AUTOKILL, since Linux 7.1)?
    detached_trees: can part of a file system that is mounted nowhere be bound (since Linux 6.15)?
    landlock: the version of the kernel's Landlock interface, 0 where there is none. maps_others: has the caller's user namespace the id that a root caller's payload gets? (Not after `unshare -r`.)
    guarded_python: which of the Python's directories lie below one that not everybody may pass; paths: what the spec at
    hand names.
    """

    kernel: tuple[int, int]
    machine: str
    uid: int
    gid: int
    capabilities: int
    last_cap: int
    subuids: tuple[IdRange, ...]
    subgids: tuple[IdRange, ...]
    newuidmap: str | None
    newgidmap: str | None
    layout: Mapping[str, Path]
    python: tuple[tuple[str, str], ...]
    autokill: bool = False
    maps_others: bool = True
    detached_trees: bool = False
    landlock: int = 0
    guarded_python: frozenset[str] = frozenset()
    paths: Mapping[str, Path] = FrozenMap()

    def capable(self, number: int) -> bool:
        """Has the caller this capability?"""
        return bool(self.capabilities >> number & 1)

    @property
    def privileged(self) -> bool:
        """May the caller map other ids than its own, and are there any?"""
        return self.maps_others and self.capable(CAP_SETUID) and self.capable(CAP_SETGID)


_known: dict[tuple[object, ...], Facts] = {}


def facts() -> Facts:
    """The host's facts for the calling process. Asked once for each set of credentials."""
    key = (os.getresuid(), os.getresgid(), _capabilities())
    found = _known.get(key)
    if found is None:
        found = _known[key] = _ask()
    return found


def facts_for(spec: Sandbox) -> Facts:
    """The facts, with the paths this spec names looked up now."""
    known = facts()
    if not spec.mounts and not isinstance(spec.rootfs, Rootfs) and not isinstance(spec.landlock, Landlock):
        return known
    named = {path: _look_up(path, field, optional) for path, field, optional in _paths_of(spec)}
    for path, field, _ in _paths_of(spec):
        fact = named[path]
        if fact is not None and fact.kind != "dir" and not field.endswith(".source") and "landlock" not in field:
            raise SpecError(f"{path!r} is not a directory", field=field)
    found = {path: fact for path, fact in named.items() if fact is not None}
    return known.replace(paths=FrozenMap(found)) if found else known


def _paths_of(spec: Sandbox) -> Iterator[tuple[str, str, bool]]:
    if isinstance(spec.rootfs, Rootfs):
        yield spec.rootfs.path, "Sandbox.rootfs.path", False
    if isinstance(spec.landlock, Landlock):
        for name in ("read", "write"):
            for n, path in enumerate(getattr(spec.landlock, name)):
                yield path, f"Sandbox.landlock.{name}[{n}]", False
    for n, mount in enumerate(spec.mounts):
        if isinstance(mount, Bind):
            yield mount.source, f"Sandbox.mounts[{n}].source", mount.optional
        elif isinstance(mount, Overlay):
            for m, lower in enumerate(mount.lower):
                yield lower, f"Sandbox.mounts[{n}].lower[{m}]", False
            if mount.upper and mount.work:
                yield mount.upper, f"Sandbox.mounts[{n}].upper", False
                yield mount.work, f"Sandbox.mounts[{n}].work", False


def _look_up(path: str, field: str, optional: bool) -> Path | None:
    try:
        real = os.path.realpath(path, strict=True)
        found = os.lstat(real)
    except FileNotFoundError:
        if optional:
            return None
        raise SpecError(f"{path!r} does not exist", field=field) from None
    except OSError as error:
        raise SpecError(f"{path!r}: {error.strerror}", field=field) from None
    kind = "dir" if stat.S_ISDIR(found.st_mode) else "file"
    return Path(kind, real=real, uid=found.st_uid, gid=found.st_gid, guarded=_guarded(real))


def _guarded(real: str) -> bool:
    """Is there a directory above that only some may pass? A root caller's child is nobody in particular."""
    above = os.path.dirname(real)
    while above != "/":
        if not os.stat(above).st_mode & stat.S_IXOTH:
            return True
        above = os.path.dirname(above)
    return False


def _ask() -> Facts:
    uname = os.uname()
    if uname.machine not in ("x86_64", "aarch64"):
        raise UnsupportedError(
            "ramet can't run here", fact=f"the machine is {uname.machine}", needs="x86-64 or aarch64"
        )
    kernel = kernel_version(uname.release)
    if kernel < OLDEST_KERNEL:
        raise UnsupportedError("ramet can't run here", fact=f"the kernel is {uname.release}", needs="Linux 5.14")
    python = _python()
    return Facts(
        kernel=kernel,
        machine=uname.machine,
        uid=os.geteuid(),
        gid=os.getegid(),
        capabilities=_effective_capabilities(),
        last_cap=int(read("/proc/sys/kernel/cap_last_cap") or 40),
        subuids=_sub_ids("/etc/subuid"),
        subgids=_sub_ids("/etc/subgid"),
        newuidmap=_which("newuidmap"),
        newgidmap=_which("newgidmap"),
        layout=_layout(),
        python=python,
        guarded_python=frozenset(prefix for prefix, real in python if _guarded(real)),
        autokill=_autokill(kernel),
        detached_trees=kernel >= (6, 15),
        maps_others=_maps_others(),
        landlock=_landlock(),
    )


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 18) for "6.18.44-something"."""
    major, minor = release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def _autokill(kernel: tuple[int, int]) -> bool:
    """Found by trying, on the kernels that may know it: a filter may refuse what the version promises."""
    if kernel < (7, 1):
        return False
    from ramet import lowlevel
    from ramet.flags import CLONE

    try:
        with lowlevel.clone3(CLONE.AUTOREAP | CLONE.NNP | CLONE.PIDFD_AUTOKILL, exit_signal=0, pidfd=True, child=[]):
            return True
    except OSError:
        return False


LANDLOCK_CREATE_RULESET, CREATE_RULESET_VERSION = 444, 1


def _landlock() -> int:
    """landlock_create_ruleset(2) tells its version; ENOSYS, or EOPNOTSUPP where it is not among the boot's modules."""
    try:
        return _core.syscall("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, 0, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def _capabilities() -> bytes:
    """By capget(2), version 3 of its structures: 1 us, where /proc/self/status takes 50."""
    data = bytearray(24)
    _core.syscall("capget", _CAPGET, _CAPGET_HEADER, data)
    return bytes(data)


def _effective_capabilities() -> int:
    data = _capabilities()
    return int.from_bytes(data[0:4], "little") | int.from_bytes(data[12:16], "little") << 32


def _maps_others() -> bool:
    """Is the unprivileged id mapped here, and setgroups(2) not denied? See user_namespaces(7)."""
    for name in ("uid_map", "gid_map"):
        lines = [line.split() for line in (read(f"/proc/thread-self/{name}") or "").splitlines()]
        if not any(int(first) <= UNPRIVILEGED_ID < int(first) + int(size) for first, _, size in lines):
            return False
    return (read("/proc/thread-self/setgroups") or "").strip() != "deny"


def _sub_ids(path: str) -> tuple[IdRange, ...]:
    """The caller's lines, by name or number; see subuid(5)."""
    content = read(path)
    if not content:
        return ()
    import pwd

    owners = {str(os.geteuid())}
    try:
        owners.add(pwd.getpwuid(os.geteuid()).pw_name)
    except KeyError:
        pass  # a uid without a name has only lines by number
    found = []
    for line in content.splitlines():
        parts = line.split(":")
        if len(parts) == 3 and parts[0] in owners and parts[1].isdigit() and parts[2].isdigit():
            found.append(IdRange(int(parts[1]), int(parts[2])))
    return tuple(found)


def _which(name: str) -> str | None:
    """Where a set-uid helper is; only in the system's directories, whatever PATH says."""
    for directory in ("/usr/bin", "/bin", "/usr/local/bin"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def _layout() -> FrozenMap:
    found = {}
    for path in (*view.TREES, *view.ETC, *view.ETC_NETWORK):
        try:
            status = os.lstat(path)
        except OSError:
            continue  # this host has none; the view does without
        if stat.S_ISLNK(status.st_mode) and path in (*view.TREES, "/etc/localtime"):
            found[path] = Path("link", target=os.readlink(path))
        elif os.path.exists(path):
            found[path] = Path("dir" if os.path.isdir(path) else "file", real=os.path.realpath(path))
    return FrozenMap(found)


def _python() -> tuple[tuple[str, str], ...]:
    """The running Python's prefixes outside the system's trees; never a whole home directory."""
    home = os.path.realpath(os.path.expanduser("~"))
    found: list[str] = []
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        for path in (os.path.abspath(prefix), os.path.realpath(prefix)):
            inside_trees = any(path == tree or path.startswith(tree + "/") for tree in view.TREES)
            holds_home = home == path or home.startswith(path.rstrip("/") + "/")
            if not inside_trees and not holds_home and path not in found and os.path.isdir(path):
                found.append(path)
    outermost = [path for path in found if not any(path.startswith(other + "/") for other in found)]
    return tuple((path, os.path.realpath(path)) for path in outermost)
