"""The namespaces of an OCI config.json: which are new, joined, or the host's own; the ids; as clone and setns. Pure.

See the OCI runtime specification, config-linux.md.
"""

from __future__ import annotations

from ramet.errors import SpecError
from ramet.explain.flags import FlagsExplanation, explain_flags
from ramet.explain.words import WHAT, wrap
from ramet.flags import CLONE, NAMESPACE_FILES, format_clone
from ramet.rules import NEWEST
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    IdMapping = tuple[int, int, int]

#: What the specification calls each kind; "mount" and "network" are not the kernel's names.
TYPES = {"user": "user", "mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
TYPES |= {"cgroup": "cgroup", "time": "time"}
_FLAGS = {kind: flag for flag, kind in NAMESPACE_FILES.items()}
_ID_END = 1 << 32

_SHARING = {
    "user": "root inside is root outside, held back by capabilities and seccomp alone",
    "mnt": "what it mounts shows outside, and no runtime takes that together with a root file system of its own",
    "pid": "it sees the host's processes, and may signal those of its own user",
    "net": "it listens on the host's ports, and reaches its abstract sockets and what is bound to localhost",
    "ipc": "it sees the host's System V shared memory and message queues",
    "uts": "it has the host's name",
    "cgroup": "it sees its place in the host's cgroup tree",
    "time": "it has the host's clocks",
}


class ConfigExplanation:
    """The namespaces of one config.json.

    new: kinds with no path. joined: path by kind. ids: of what each path is, where it could be looked at.
    uid_map, gid_map: (inside, outside, length).
    """

    __slots__ = ("flags", "gid_map", "ids", "joined", "new", "path", "uid_map")

    def __init__(
        self,
        path: str,
        *,
        new: list[str],
        joined: dict[str, str],
        maps: tuple[list[IdMapping], list[IdMapping]],
        flags: FlagsExplanation,
        ids: dict[str, int | None],
    ) -> None:
        self.path, self.new, self.joined, self.flags, self.ids = path, new, joined, flags, ids
        self.uid_map, self.gid_map = maps

    @property
    def shared(self) -> list[str]:
        """The kinds that stay those of whoever starts the runtime."""
        return [kind for kind in WHAT if kind not in self.new and kind not in self.joined]

    def __str__(self) -> str:
        lines = [f"{self.path}: linux.namespaces", ""]
        for kind, what in WHAT.items():
            state = "new" if kind in self.new else "joined" if kind in self.joined else "shared"
            lines += wrap(f"{kind:7} {state:7} {self._where(kind) or what}", 2, 18).splitlines()
        lines += ["", *self._calls()]
        lines += self._map_lines()
        shared = [kind for kind in self.shared if kind != "time"]
        if shared:
            lines += ["", "Shared with the host:"]
            for kind in shared:
                lines += wrap(f"{kind:7} {_SHARING[kind]}", 2, 10).splitlines()
        notes = [wrap(f"note: {note}", 0, 6) for note in self.notes()]
        lines += ["", *"".join(notes).splitlines()] if notes else []
        return "\n".join(line.rstrip() for line in lines)

    def _where(self, kind: str) -> str:
        path = self.joined.get(kind)
        if path is None:
            return ""
        id = self.ids.get(kind)
        return f"{path} ({'which is not there, or hidden' if id is None else id})"

    def _calls(self) -> list[str]:
        lines = []
        for kind, path in self.joined.items():
            lines.append(f'setns(open("{path}"), {format_clone(_FLAGS[kind])})')
        if self.new:
            lines += wrap(f"clone({format_clone(self.flags.flags, 17)})".replace("|", "| "), 0, 6).splitlines()
            lines = [line.replace("| ", "|") for line in lines]
        lines += ["", *self.flags.verdict().splitlines()] if self.new else []
        return lines or ["No namespace is made or joined: it runs among the host's own."]

    def _map_lines(self) -> list[str]:
        lines = []
        for name, rows in (("uid", self.uid_map), ("gid", self.gid_map)):
            for inside, outside, length in rows:
                last = "" if length == 1 else f"..{inside + length - 1}"
                last_outside = "" if length == 1 else f"..{outside + length - 1}"
                lines.append(f"{name} {inside}{last} inside is {outside}{last_outside} outside")
        return ["", *lines] if lines else []

    def notes(self) -> list[str]:
        """What an author of such a file may not expect."""
        notes = []
        own_users = "user" in self.new
        if own_users and not (self.uid_map and self.gid_map):
            notes.append("a new user namespace without uidMappings and gidMappings: all ids show as nobody (65534)")
        if (self.uid_map or self.gid_map) and not own_users and "user" not in self.joined:
            notes.append("uidMappings and gidMappings without a user namespace: runtimes refuse that")
        if "user" in self.joined and (self.uid_map or self.gid_map):
            notes.append("the user namespace that is joined has its maps already")
        for name, rows in (("uid", self.uid_map), ("gid", self.gid_map)):
            if sum(length for _, _, length in rows) > 1:
                helper = f"new{name}map and a range in /etc/sub{name}"
                notes.append(
                    f"an ordinary user can map one {name}, its own; more needs {helper}, or CAP_SET{name.upper()}"
                )
        if "pid" in self.new and "mnt" not in self.new:
            notes.append("a pid namespace without a mount namespace: /proc still shows the host's processes")
        return notes

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        names = ("inside", "outside", "length")
        return {
            "kind": "config",
            "path": self.path,
            "new": self.new,
            "joined": {kind: {"path": path, "id": self.ids.get(kind)} for kind, path in self.joined.items()},
            "shared": self.shared,
            "uid_map": [dict(zip(names, row, strict=True)) for row in self.uid_map],
            "gid_map": [dict(zip(names, row, strict=True)) for row in self.gid_map],
            "notes": self.notes(),
            "flags": self.flags.as_dict(),
        }


def explain_config(
    text: str, *, path: str, identify: Callable[[str], int | None], kernel: tuple[int, ...] = NEWEST
) -> ConfigExplanation:
    """Explain the text of a config.json; `identify` says which namespace a path is. Raises SpecError."""
    linux = _linux_of(text, path)
    new, joined = [], {}
    for n, entry in enumerate(_list(linux, "namespaces", "linux")):
        field = f"linux.namespaces[{n}]"
        kind = _kind(entry, field)
        if kind in new or kind in joined:
            raise SpecError(f"names {entry['type']!r} a second time; the specification forbids it", field=field)
        if entry.get("path"):
            joined[kind] = _absolute(entry["path"], f"{field}.path")
        else:
            new.append(kind)
    bits = CLONE(0)
    for kind in new:
        bits |= _FLAGS[kind]
    maps = (_mappings(linux, "uidMappings"), _mappings(linux, "gidMappings"))
    flags = explain_flags(hex(bits | 17), kernel=kernel)
    ids = {kind: identify(where) for kind, where in joined.items()}
    return ConfigExplanation(path, new=new, joined=joined, maps=maps, flags=flags, ids=ids)


def _linux_of(text: str, path: str) -> dict[str, Any]:
    import json

    try:
        whole = json.loads(text)
    except ValueError as error:
        raise SpecError(f"is no JSON: {error}", field=path) from None
    if not isinstance(whole, dict) or not isinstance(whole.get("linux"), dict):
        hint = "an OCI config.json has the namespaces under linux.namespaces"
        raise SpecError('has no object "linux"', field=path, hint=hint)
    found: dict[str, Any] = whole["linux"]
    return found


def _list(owner: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = owner.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise SpecError("must be a list of objects", field=f"{where}.{name}")
    return found


def _kind(entry: dict[str, Any], field: str) -> str:
    name = entry.get("type")
    if not isinstance(name, str):
        raise SpecError('needs a string "type"', field=field)
    if name not in TYPES:
        kernels = {kind: oci for oci, kind in TYPES.items()}
        meant = kernels.get(name) or nearest(name, TYPES)
        hint = f"did you mean {meant!r}?" if meant else f"the types are {', '.join(TYPES)}"
        raise SpecError(f"there is no type {name!r}", field=f"{field}.type", hint=hint)
    return TYPES[name]


def _absolute(path: object, field: str) -> str:
    if not isinstance(path, str) or not path.startswith("/"):
        raise SpecError(f"must be an absolute path, not {path!r}", field=field)
    return path


def _mappings(linux: dict[str, Any], name: str) -> list[IdMapping]:
    found: list[IdMapping] = []
    for n, entry in enumerate(_list(linux, name, "linux")):
        field = f"linux.{name}[{n}]"
        row = tuple(_id(entry.get(key), f"{field}.{key}") for key in ("containerID", "hostID", "size"))
        inside, outside, length = row
        if not length:
            raise SpecError("must be at least 1", field=f"{field}.size")
        for key, first in (("containerID", inside), ("hostID", outside)):
            if first + length > _ID_END:
                raise SpecError(f"{first} and {length} ids from there go beyond {_ID_END - 1}", field=f"{field}.{key}")
        for other_inside, other_outside, other in found:
            if _overlap(inside, other_inside, length, other) or _overlap(outside, other_outside, length, other):
                raise SpecError("overlaps an earlier one; the kernel answers EINVAL", field=field)
        found.append((inside, outside, length))
    return found


def _overlap(first: int, second: int, length: int, other: int) -> bool:
    return first < second + other and second < first + length


def _id(value: object, field: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _ID_END:
        raise SpecError(f"must be a number from 0 to {_ID_END - 1}, not {value!r}", field=field)
    return value
