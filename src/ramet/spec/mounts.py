"""What is put into the sandbox's file system, one class a kind. They are applied in the order given.

A destination is an absolute path inside, without ``..``. What it needs above it is made where the place is the
sandbox's own; a symlink as a destination is refused (bubblewrap GHSA-pxhw-h44j-8pfx). See mount(2).
"""

from __future__ import annotations

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.record import Record, unknown_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MODE_MAX = 0o7777


class Mount(Record):
    """The base of all kinds."""

    _kind = ""


class Bind(Mount):
    """A file or directory of the host, with the mounts below it. Read-only unless writable=True; always nosuid, nodev.

    source: resolved once, when the plan is made; a relative path is taken from the caller's working directory.
    destination: the same path unless given. optional: leave it out where the source does not exist.
    idmap: show files of the source's owner as the payload's, and store the payload's as the owner's (an
    idmapped mount, since Linux 5.12; only a privileged caller can). None: where a root caller binds
    writable. See mount_setattr(2).
    """

    _kind = "bind"

    source: str
    destination: str = ""
    writable: bool = False
    optional: bool = False
    idmap: bool | None = None

    def _settle(self) -> None:
        self._put("source", values.host_path(self.source, "Bind.source"))
        self._put("destination", values.destination(self.destination or self.source, "Bind.destination"))
        values.flag(self.writable, "Bind.writable")
        values.flag(self.optional, "Bind.optional")
        if self.idmap is not None:
            values.flag(self.idmap, "Bind.idmap")


class Tmpfs(Mount):
    """An empty file system in memory, gone with the sandbox. See tmpfs(5).

    size: at most so many bytes; mode: of its root directory; inodes: at most so many files (None: one a page
    of size).
    """

    _kind = "tmpfs"

    destination: str
    size: int | str = 256 << 20
    mode: int = 0o755
    inodes: int | None = None

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Tmpfs.destination"))
        self._put("size", values.size(self.size, "Tmpfs.size"))
        values.integer(self.mode, "Tmpfs.mode", most=MODE_MAX)
        if self.inodes is not None:
            values.integer(self.inodes, "Tmpfs.inodes", least=2)


class Proc(Mount):
    """A proc of the sandbox's own pid namespace. Where that is shared with the caller, the caller's /proc. See proc(5)."""

    _kind = "proc"

    destination: str = "/proc"

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Proc.destination"))


class Dev(Mount):
    """null, zero, full, urandom of the host, an own devpts and shm, the usual links; tty where there is one; nothing else.

    shm_size: of a /dev/shm of its own; None: it shares Sandbox.disk with the other writable places.
    """

    _kind = "dev"

    destination: str = "/dev"
    shm_size: int | str | None = None

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Dev.destination"))
        if self.shm_size is not None:
            self._put("shm_size", values.size(self.shm_size, "Dev.shm_size"))


class Mqueue(Mount):
    """POSIX message queues of the sandbox's own IPC namespace. See mq_overview(7)."""

    _kind = "mqueue"

    destination: str = "/dev/mqueue"

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Mqueue.destination"))


class Overlay(Mount):
    """Several directories of the host as one, the first on top; what is written goes to `upper`, or is thrown away.

    lower: one or more, topmost first. upper, work: directories on one file system of the host, to keep what is
    written; both or neither: then it counts against Sandbox.disk. Since Linux 5.11 without privilege. See the kernel's overlayfs documentation.
    """

    _kind = "overlay"

    destination: str
    lower: tuple[str, ...]
    upper: str | None = None
    work: str | None = None

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Overlay.destination"))
        given = values.several(self.lower, "Overlay.lower", "directories")
        lower = tuple(values.host_path(path, f"Overlay.lower[{n}]") for n, path in enumerate(given))
        if not lower:
            raise self._bad("lower", "is empty")
        self._put("lower", lower)
        if (self.upper is None) != (self.work is None):
            raise self._bad("upper", "and work go together: both to keep what is written, neither to throw it away")
        if self.upper is not None and self.work is not None:
            self._put("upper", values.host_path(self.upper, "Overlay.upper"))
            self._put("work", values.host_path(self.work, "Overlay.work"))


class Symlink(Mount):
    """A symbolic link. target: kept as it is; it is followed inside, by the payload. See symlink(2)."""

    _kind = "symlink"

    destination: str
    target: str

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Symlink.destination"))
        self._put("target", values.path(self.target, "Symlink.target", absolute=False))


class File(Mount):
    """A file with this content (text is encoded as UTF-8). mode: its permissions, whatever the umask."""

    _kind = "file"

    destination: str
    content: bytes | str = b""
    mode: int = 0o644

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "File.destination"))
        if isinstance(self.content, str):
            self._put("content", self.content.encode("utf-8", "surrogateescape"))
        elif isinstance(self.content, (bytearray, memoryview)):
            self._put("content", bytes(self.content))
        if not isinstance(self.content, bytes):
            raise SpecTypeError(f"must be bytes or text, not {type(self.content).__name__}", field="File.content")
        values.integer(self.mode, "File.mode", most=0o777)


class Directory(Mount):
    """A directory. mode: its permissions, whatever the umask."""

    _kind = "directory"

    destination: str
    mode: int = 0o755

    def _settle(self) -> None:
        self._put("destination", values.destination(self.destination, "Directory.destination"))
        values.integer(self.mode, "Directory.mode", most=0o1777)


KINDS: Mapping[str, type[Mount]] = {
    kind._kind: kind for kind in (Bind, Tmpfs, Proc, Dev, Mqueue, Overlay, Symlink, File, Directory)
}


def mount_from_mapping(value: Mapping[str, Any], field: str) -> Mount:
    """A mount from a table of a configuration file: ``{kind = "bind", source = "/srv", ...}``."""
    from ramet.spec.record import nearest

    fields = dict(value)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        meant = nearest(str(kind), KINDS)
        hint = f"did you mean {meant!r}?" if meant else f"the kinds are {', '.join(KINDS)}"
        raise SpecError(f"unknown mount kind {kind!r}", field=f"{field}.kind", hint=hint)
    cls = KINDS[kind]
    for name in fields:
        if name not in cls._fields:
            raise unknown_field(field, name, ["kind", *cls._fields])
    if isinstance(fields.get("lower"), list):
        fields["lower"] = tuple(fields["lower"])
    try:
        return cls(**fields)
    except SpecError as error:
        inside = error.field.partition(".")[2]
        raise type(error)(error.message, field=f"{field}.{inside}", hint=error.hint) from None


def check_mounts(value: object, field: str) -> tuple[Mount, ...]:
    """A tuple of mounts; two with the same destination are refused, since one would hide the other."""
    mounts = values.several(value, field, "mounts")
    seen: dict[str, int] = {}
    for n, mount in enumerate(mounts):
        if not isinstance(mount, Mount):
            raise SpecTypeError(f"must be a mount, not {type(mount).__name__}", field=f"{field}[{n}]")
        where: str = mount.destination  # type: ignore[attr-defined]
        if where in seen:
            raise SpecError(
                f"{where!r} is already the destination of {field}[{seen[where]}]", field=f"{field}[{n}].destination"
            )
        seen[where] = n
    return mounts


def hidden_by_later(mounts: tuple[Mount, ...]) -> list[tuple[int, int]]:
    """Pairs (earlier, later) in which the later mount covers a place above the earlier one's destination."""
    places = [str(mount.destination) for mount in mounts]  # type: ignore[attr-defined]
    return [
        (early, late)
        for late, cover in enumerate(places)
        for early in range(late)
        if places[early].startswith(cover + "/") and not isinstance(mounts[late], (File, Symlink, Directory))
    ]
