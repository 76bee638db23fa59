"""A Sandbox from plain data: what tomllib or json made of a file. Pure; no I/O.

The keys are Sandbox's fields. Values are written as TOML and JSON can: a list where Python takes a set or a
tuple, a table where it takes a class, and

    rootfs = "minimal"                      or  rootfs = { path = "/srv/alpine", writes = "discarded" }
    [[mounts]]                              each with a kind: bind, tmpfs, proc, dev, mqueue, overlay,
    kind = "bind"                           symlink, file, directory; the other keys are that class's fields
    source = "data"
    [env]                                   false, or JSON's null, leaves a variable out
    LANG = "de_DE.UTF-8"
    [[io]]                                  each with a device, and read_bytes, write_bytes, read_ops, write_ops
    [rlimits]                               a number, a size as "512M", "unlimited", or [soft, hard] of these
    NOFILE = [256, 1024]

    seccomp = "default+ptrace+kcmp"         the default profile and these calls; or
    seccomp = "profile.json"                a profile of Docker or the OCI, or such a profile as a table

    landlock = true                         or  landlock = { connect = [443] }

`command`, a list, is what to run where nothing else says so. An unknown key is an error, never ignored.
"""

from __future__ import annotations

import os
from collections import namedtuple

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.capabilities import capability_set
from ramet.spec.group_limits import IoLimit
from ramet.spec.ids import IdMapping
from ramet.spec.landlock import Landlock
from ramet.spec.mounts import KINDS, Mount, mount_from_mapping
from ramet.spec.namespaces import Join, TimeOffsets
from ramet.spec.record import Record, nearest
from ramet.spec.rootfs import NAMED_ROOTS, Rootfs
from ramet.spec.sandbox import Sandbox
from ramet.spec.seccomp import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NamedTuple, TypeVar

    AnyRecord = TypeVar("AnyRecord", bound=Record)

    class Box(NamedTuple):
        """See below."""

        fields: dict[str, Any]
        command: tuple[str, ...] | None
else:

    class Box(namedtuple("Box", "fields command")):
        """What a file says. fields: of Sandbox, decoded; command: what to run, or None."""

        __slots__ = ()


COMMAND = "command"

#: Which fields of which kinds are paths of the host: those a relative path is completed for.
HOST_PATHS = {"bind": ("source",), "overlay": ("lower", "upper", "work")}


def sandbox_from_mapping(value: object, *, where: str = "", base: str | None = None) -> Sandbox:
    """The Sandbox that this mapping describes. Errors name the path of the key, after `where`.

    base: the directory that relative paths of the host are taken from; None: the caller's working directory.
    """
    box = decode(value, where=where, base=base)
    if box.command is not None:
        raise SpecError("is not part of a Sandbox", field=_joined(where, COMMAND))
    return checked(box.fields, where=where)


def decode(value: object, *, where: str = "", base: str | None = None) -> Box:
    """Fields and command; each key and each value's type is checked, not yet how they go together."""
    try:
        table = _table(value, "")
        fields: dict[str, Any] = {}
        command = None
        for name, item in table.items():
            if name == COMMAND:
                command = tuple(values.text(arg, f"command[{n}]") for n, arg in enumerate(_list(item, COMMAND)))
            elif name in Sandbox._fields:
                fields[name] = _DECODERS.get(name, _as_it_is)(item, name, base)
            else:
                raise _unknown(name, (*Sandbox._fields, COMMAND), "")
        return Box(fields, command)
    except SpecError as error:
        raise _moved(error, where) from None


def checked(fields: Mapping[str, Any], *, where: str = "") -> Sandbox:
    """Sandbox(**fields); an error names the key as the file has it."""
    try:
        return Sandbox(**with_policy(fields))
    except SpecError as error:
        moved = type(error)(error.message, field=error.field.removeprefix("Sandbox."), hint=error.hint)
        raise _moved(moved, where) from None


def with_policy(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A profile for system calls that is written as such becomes a policy: by now it is known which capabilities it is for.

    The one place that reads a file, since libseccomp's names are needed too.
    """
    given = fields.get("seccomp")
    if isinstance(given, str) and given.startswith("default+"):
        kept, nested = (
            capability_set(fields.get("capabilities", ()), "Sandbox.capabilities"),
            fields.get("nested_namespaces"),
        )
        return {**fields, "seccomp": Seccomp.default(kept, nested=bool(nested)).allow(*given.split("+")[1:])}
    if isinstance(given, dict) or (isinstance(given, str) and (given.endswith(".json") or "/" in given)):
        try:
            kept = fields.get("capabilities", ())
            return {**fields, "seccomp": Seccomp.from_oci(given, kept)}
        except SpecError as error:
            raise type(error)(error.message, field=f"Sandbox.seccomp: {error.field}", hint=error.hint) from None
    return fields


def _landlock(value: object, path: str, base: str | None) -> object:
    if not isinstance(value, dict):
        return _as_it_is(value, path, base)
    return _record(
        Landlock,
        {name: _located(item, path, base) if name in ("read", "write") else item for name, item in value.items()},
        path,
    )


def _seccomp(value: object, path: str, base: str | None) -> object:
    if isinstance(value, str) and (value.endswith(".json") or "/" in value):
        return _located(value, path, base)
    return value


def _joined(where: str, path: str) -> str:
    return f"{where}: {path}" if where and path else where or path or "the whole"


def _moved(error: SpecError, where: str) -> SpecError:
    return type(error)(error.message, field=_joined(where, error.field), hint=error.hint)


def _unknown(name: str, known: tuple[str, ...], path: str) -> SpecTypeError:
    meant = nearest(name, known)
    hint = f"did you mean {meant!r}?" if meant else f"the keys are {', '.join(known)}"
    return SpecTypeError("no such key", field=f"{path}.{name}" if path else name, hint=hint)


# One decoder a shape

_NAMES = {
    dict: "a table",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
}


def _named(value: object) -> str:
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def _table(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SpecTypeError(f"must be a table, not {_named(value)}", field=path)
    for name in value:
        if not isinstance(name, str):
            raise SpecTypeError(f"a key must be text, not {_named(name)}", field=path)
    return value


def _list(value: object, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise SpecTypeError(f"must be a list, not {_named(value)}", field=path)
    return value


def _as_it_is(value: object, path: str, base: str | None) -> object:
    """Scalars: Sandbox checks them itself."""
    if isinstance(value, (dict, list)):
        raise SpecTypeError(f"must be a single value, not {_named(value)}", field=path)
    return value


def _items(value: object, path: str, base: str | None) -> tuple[Any, ...]:
    items = _list(value, path)
    for n, item in enumerate(items):
        _as_it_is(item, f"{path}[{n}]", base)
    return tuple(items)


def _one_or_items(value: object, path: str, base: str | None) -> object:
    """A cpuset: "0-3", 1, or [0, 2]."""
    return _items(value, path, base) if isinstance(value, list) else _as_it_is(value, path, base)


def _mode(value: object, path: str, base: str | None) -> object:
    """TOML writes 0o755; JSON has no octal numbers, so text as "0755" is taken too."""
    if isinstance(value, str):
        try:
            return int(value, 8)
        except ValueError:
            raise SpecError(f"{value!r} is no octal number", field=path, hint='as "0755"') from None
    return _as_it_is(value, path, base)


def _located(value: object, path: str, base: str | None) -> object:
    """A path of the host, completed by the file's own directory."""
    if isinstance(value, list):
        return tuple(_located(item, f"{path}[{n}]", base) for n, item in enumerate(value))
    return os.path.join(base, value) if base is not None and isinstance(value, str) and value else value


def _record(cls: type[AnyRecord], value: object, path: str) -> AnyRecord:
    table = _table(value, path)
    for name in table:
        if name not in cls._fields:
            raise _unknown(name, cls._fields, path)
    try:
        return cls(**table)
    except SpecError as error:
        inside = error.field.partition(".")[2]
        raise type(error)(error.message, field=f"{path}.{inside}", hint=error.hint) from None


def _mounts(value: object, path: str, base: str | None) -> tuple[Mount, ...]:
    return tuple(_mount(item, f"{path}[{n}]", base) for n, item in enumerate(_list(value, path)))


def _mount(value: object, path: str, base: str | None) -> Mount:
    table = dict(_table(value, path))
    kind = table.get("kind")
    if not isinstance(kind, str):
        what = "is required" if "kind" not in table else f"must be text, not {_named(kind)}"
        raise SpecTypeError(what, field=f"{path}.kind", hint=f"one of {', '.join(KINDS)}")
    if kind in KINDS:
        for name in table:
            if name != "kind" and name not in KINDS[kind]._fields:
                raise _unknown(name, ("kind", *KINDS[kind]._fields), path)
    if "mode" in table:
        table["mode"] = _mode(table["mode"], f"{path}.mode", base)
    if kind == "overlay" and "lower" in table:
        _list(table["lower"], f"{path}.lower")
    for name in HOST_PATHS.get(kind, ()):
        if name in table:
            table[name] = _located(table[name], f"{path}.{name}", base)
    return mount_from_mapping(table, path)


def _rootfs(value: object, path: str, base: str | None) -> object:
    if isinstance(value, dict):
        located = {"path": _located(value["path"], f"{path}.path", base)} if "path" in value else {}
        return _record(Rootfs, value | located, path)
    if isinstance(value, str) and value not in NAMED_ROOTS and "/" in value:
        return Rootfs(str(_located(value, path, base))) if values.clean(value) != "/" else "host"
    return _as_it_is(value, path, base)


def _records(cls: type[AnyRecord], located: str) -> Callable[[object, str, str | None], tuple[AnyRecord, ...]]:
    """A list of such; `located` is the field that is a path of the host."""

    def decode(value: object, path: str, base: str | None) -> tuple[AnyRecord, ...]:
        found = []
        for n, item in enumerate(_list(value, path)):
            table = dict(_table(item, f"{path}[{n}]"))
            if located in table:
                table[located] = _located(table[located], f"{path}[{n}].{located}", base)
            found.append(_record(cls, table, f"{path}[{n}]"))
        return tuple(found)

    return decode


def _mappings(value: object, path: str, base: str | None) -> object:
    if isinstance(value, str):
        return value
    return tuple(_record(IdMapping, item, f"{path}[{n}]") for n, item in enumerate(_list(value, path)))


def _time_offsets(value: object, path: str, base: str | None) -> TimeOffsets:
    return _record(TimeOffsets, value, path)


def _env(value: object, path: str, base: str | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, item in _table(value, path).items():
        if item is not None and item is not False and not isinstance(item, str):
            hint = "false leaves the variable out" if isinstance(item, bool) else f'"{item}", in quotation marks'
            raise SpecTypeError(f"must be text, not {_named(item)}", field=f"{path}.{name}", hint=hint)
        found[name] = item if isinstance(item, str) else None
    return found


def _rlimits(value: object, path: str, base: str | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, item in _table(value, path).items():
        where = f"{path}.{name}"
        pair = isinstance(item, list)
        found[name] = tuple(limit(one, f"{where}[{n}]") for n, one in enumerate(item)) if pair else limit(item, where)
    return found


def limit(value: object, path: str) -> int | None:
    """One resource limit: a number, "512M", or "unlimited" (None)."""
    if isinstance(value, str):
        if value == "unlimited":
            return None
        return int(value) if value.isascii() and value.isdigit() else values.size(value, path)
    return values.integer(value, path, most=2**64 - 1)


_DECODERS: Mapping[str, Callable[[object, str, str | None], object]] = {
    "namespaces": _items,
    "join": _records(Join, "path"),
    "time_offsets": _time_offsets,
    "groups": _items,
    "terminal_size": _items,
    "uid_mappings": _mappings,
    "gid_mappings": _mappings,
    "rootfs": _rootfs,
    "mounts": _mounts,
    "masked_paths": _items,
    "readonly_paths": _items,
    "umask": _mode,
    "env": _env,
    "capabilities": _items,
    "seccomp": _seccomp,
    "landlock": _landlock,
    "rlimits": _rlimits,
    "io": _records(IoLimit, "device"),
    "cpuset": _one_or_items,
    "cpuset_mems": _one_or_items,
    "allow_degraded": _items,
}
