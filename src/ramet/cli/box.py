"""The options that describe a sandbox: shared by `ramet run` and `ramet plan`."""

from __future__ import annotations

import os

from ramet.cli import options
from ramet.cli.options import Option, integer, split
from ramet.errors import SpecError
from ramet.spec import config
from ramet.spec.group_limits import IoLimit
from ramet.spec.ids import IdMapping
from ramet.spec.limits import RLIMITS
from ramet.spec.mounts import Bind, Dev, Directory, File, Mqueue, Overlay, Proc, Symlink, Tmpfs
from ramet.spec.namespaces import DEFAULT_NAMESPACES, Join, Namespace
from ramet.spec.record import nearest
from ramet.spec.rootfs import NAMED_ROOTS, WRITES, Rootfs
from ramet.spec.sandbox import Command, Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from ramet.spec import Mount

    Reader = Callable[[str, str], object]
    Taker = Callable[["Draft", str, str], None]

DETAILS = r"""
Values are separated by colons; \: is a colon that belongs to a path. Mounts are
made in the order they are written, whatever their kind, after those of the
file. SRC may be relative: to the working directory, in a file to the file's
own. DST is absolute. MODE is octal; SIZE as 512M; TIME as 90, 1m30s or 250ms."""[1:]


class Draft:
    """Fields of a Sandbox, collected from a file and options.

    origins: for a field's path, what the user wrote, so that an error later on can name that.
    """

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.command: tuple[str, ...] | None = None
        self.origins: dict[str, str] = {}

    def put(self, name: str, value: object, written: str) -> None:
        """A field that has one value: the last one counts."""
        self.fields[name] = value
        self.origins[f"Sandbox.{name}"] = written

    def add(self, name: str, value: object, written: str) -> None:
        """One more of a field that has several."""
        known = self.fields.get(name, ())
        known = () if isinstance(known, str) else tuple(known)  # a word, "subordinate", is replaced
        self.fields[name] = (*known, value)
        self.origins[f"Sandbox.{name}[{len(known)}]"] = written

    def merge(self, name: str, key: str, value: object, written: str) -> None:
        """One entry of a field that is a mapping."""
        self.fields[name] = {**self.fields.get(name, {}), key: value}
        self.origins[f"Sandbox.{name}[{key!r}]"] = written

    def namespaces(self) -> frozenset[Namespace]:
        """The new ones, so far."""
        return frozenset(self.fields.get("namespaces", DEFAULT_NAMESPACES))

    def unjoin(self, kind: Namespace) -> None:
        """Forget a Join of the file, so that an option can say otherwise."""
        self.fields["join"] = tuple(join for join in self.fields.get("join", ()) if join.kind is not kind)

    def renamed(self, error: SpecError) -> SpecError:
        """The same error, naming what the user wrote."""
        for path in sorted(self.origins, key=len, reverse=True):
            if error.field == path or error.field.startswith((path + ".", path + "[")):
                written = self.origins[path]
                inside = "" if written.startswith("-") else error.field.removeprefix(path)
                return type(error)(error.message, field=written + inside, hint=error.hint)
        return error


class Order:
    """What `run` and `plan` are asked to do. json: print JSON; stats: a line at the end; learn: say what it lacked."""

    def __init__(
        self, sandbox: Sandbox, command: Command, draft: Draft, *, json: bool, stats: bool, learn: bool
    ) -> None:
        self.sandbox, self.command, self.draft, self.json, self.stats = sandbox, command, draft, json, stats
        self.learn = learn


def order(args: Sequence[str], table: Iterable[Option]) -> Order | None:
    """Read options and command; None when help was asked for. Raises SpecError in the user's words."""
    line = options.read(args, table)
    names = {option.names for option, _, _ in line.given}
    if options.HELP.names in names:
        return None
    draft = Draft()
    # The file first; all else as written.
    for option, name, value in sorted(line.given, key=lambda one: one[0] is not CONFIG):
        if option.take is None:
            continue
        written = f"{name} {value}".rstrip()
        try:
            option.take(draft, value, written)
        except SpecError as error:
            if option is CONFIG:
                raise
            # "Bind.source" is what we made of the option; its name is what the user knows.
            raise type(error)(error.message, field=written, hint=error.hint) from None
    argv = tuple(line.operands) or draft.command
    try:
        sandbox = Sandbox(**config.with_policy(draft.fields))
        if not argv:
            hint = "as in: ramet run -- python3 job.py"
            raise SpecError("there is nothing to run", field="COMMAND", hint=hint)
        return Order(
            sandbox,
            Command(argv),
            draft,
            json=options.JSON.names in names,
            stats="--stats" in names,
            learn="--learn" in names,
        )
    except SpecError as error:
        raise draft.renamed(error) from None


# One function an option: (draft, value, as written)


def _config(draft: Draft, value: str, written: str) -> None:
    import tomllib

    if draft.fields or draft.command:
        raise SpecError("is given twice", field="--config")
    try:
        with open(value, "rb") as file:
            content = file.read()
    except OSError as error:
        raise SpecError(f"can't be read: {error.strerror}", field=value) from None
    try:
        if value.endswith(".json"):
            import json

            found = json.loads(content)
        else:
            found = tomllib.loads(content.decode())
    except ValueError as error:  # that of a bad encoding included
        kind = "JSON" if value.endswith(".json") else "TOML"
        raise SpecError(f"is no {kind}: {error}", field=value) from None
    box = config.decode(found, where=value, base=os.path.dirname(os.path.abspath(value)))
    draft.fields, draft.command = box.fields, box.command
    draft.origins = {f"Sandbox.{name}": f"{value}: {name}" for name in box.fields}


def _bind(draft: Draft, value: str, written: str) -> None:
    source, *rest = split(value)
    destination = rest.pop(0) if rest and (rest[0].startswith("/") or rest[0] not in BIND_WORDS) else ""
    fields: dict[str, Any] = {}
    for word in rest:
        _known(word, BIND_WORDS, written)
        fields |= BIND_WORDS[word]
    if not source:
        raise SpecError("SRC is empty", field=written)
    draft.add("mounts", Bind(source, destination, **fields), written)


BIND_WORDS: dict[str, dict[str, bool]] = {
    "ro": {"writable": False},
    "rw": {"writable": True},
    "optional": {"optional": True},
    "idmap": {"idmap": True},
    "noidmap": {"idmap": False},
}


def _known(word: str, known: Iterable[str], written: str) -> None:
    known = list(known)
    if word not in known:
        meant = nearest(word, known)
        hint = f"did you mean {meant!r}?" if meant else None
        raise SpecError(f"{word!r} is not one of {', '.join(known)}", field=written, hint=hint)


def _settings(parts: list[str], known: Mapping[str, Reader], written: str) -> dict[str, Any]:
    """size=64M:mode=1777 (or with commas, as docker writes it) as fields."""
    found: dict[str, Any] = {}
    for setting in ",".join(parts).split(",") if parts else ():
        name, equals, value = setting.partition("=")
        _known(name, known, written)
        if not equals:
            raise SpecError(f"needs a value: {name}=...", field=written)
        found[name] = known[name](value, written)
    return found


def _octal(value: str, written: str) -> int:
    if not value or value.strip("01234567"):
        raise SpecError(f"{value!r} is no octal number", field=written)
    return int(value, 8)


def _text(value: str, written: str) -> str:
    return value


def _tmpfs(draft: Draft, value: str, written: str) -> None:
    destination, *rest = split(value)
    fields = _settings(rest, {"size": _text, "mode": _octal, "inodes": integer}, written)
    draft.add("mounts", Tmpfs(destination, **fields), written)


def _directory(draft: Draft, value: str, written: str) -> None:
    destination, *rest = split(value)
    draft.add("mounts", Directory(destination, **_settings(rest, {"mode": _octal}, written)), written)


def _overlay(draft: Draft, value: str, written: str) -> None:
    destination, *rest = split(value)
    lower = [part for part in rest if not part.startswith(("upper=", "work="))]
    fields = dict(part.split("=", 1) for part in rest if part not in lower)
    draft.add("mounts", Overlay(destination, tuple(lower), **fields), written)


def _pair(value: str, what: str, written: str) -> tuple[str, str]:
    found = options.pair(value)
    if found is None:
        raise SpecError(f"must be {what}", field=written)
    return found


def _symlink(draft: Draft, value: str, written: str) -> None:
    destination, target = _pair(value, "DST=TARGET", written)
    draft.add("mounts", Symlink(destination, target), written)


def _file(draft: Draft, value: str, written: str) -> None:
    destination, content = _pair(value, "DST=TEXT or DST=@FILE", written)
    data: bytes | str = content
    if content.startswith("@"):
        try:
            with open(content[1:], "rb") as file:
                data = file.read()
        except OSError as error:
            raise SpecError(f"{content[1:]!r} can't be read: {error.strerror}", field=written) from None
    draft.add("mounts", File(destination, data), written)


def _simple(kind: type[Mount]) -> Taker:
    def take(draft: Draft, value: str, written: str) -> None:
        draft.add("mounts", kind(value), written)

    return take


def _rootfs(draft: Draft, value: str, written: str) -> None:
    path, *rest = split(value)
    if path in NAMED_ROOTS and not rest:
        draft.put("rootfs", path, written)
        return
    for word in rest:
        _known(word, WRITES, written)
    if len(rest) > 1:
        raise SpecError("must be PATH[:WRITES]", field=written)
    draft.put("rootfs", Rootfs("/" if path == "host" else path, *rest), written)


def _field(name: str, read: Reader = _text) -> Taker:
    def take(draft: Draft, value: str, written: str) -> None:
        draft.put(name, read(value, written), written)

    return take


def _flag(name: str, value: bool) -> Taker:
    def take(draft: Draft, _: str, written: str) -> None:
        draft.put(name, value, written)

    return take


def _several(name: str, read: Reader = _text) -> Taker:
    def take(draft: Draft, value: str, written: str) -> None:
        draft.add(name, read(value, written), written)

    return take


IO_WORDS = {"read": "read_bytes", "write": "write_bytes", "read-ops": "read_ops", "write-ops": "write_ops"}


def _io(draft: Draft, value: str, written: str) -> None:
    device, *rest = split(value)
    found = _settings(rest, dict.fromkeys(IO_WORDS, config.limit), written)
    draft.add("io", IoLimit(device, **{IO_WORDS[name]: number for name, number in found.items()}), written)


def _number(value: str, written: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise SpecError(f"must be a number, not {value!r}", field=written) from None


def _signed(value: str, written: str) -> int:
    return -integer(value[1:], written) if value.startswith("-") else integer(value, written)


def _env(draft: Draft, value: str, written: str) -> None:
    name, equals, content = value.partition("=")
    if equals:
        draft.merge("env", name, content, written)
    elif name in os.environ:
        draft.merge("env", name, os.environ[name], written)


def _unset_env(draft: Draft, value: str, written: str) -> None:
    draft.merge("env", value, None, written)


def _rlimit(draft: Draft, value: str, written: str) -> None:
    name, equals, content = value.partition("=")
    if not equals:
        raise SpecError("must be NAME=SOFT[:HARD]", field=written)
    name = name.upper().removeprefix("RLIMIT_")
    _known(name, RLIMITS, written)
    pair = tuple(config.limit(part, written) for part in split(content))
    draft.merge("rlimits", name, pair[0] if len(pair) == 1 else pair, written)


def _map(draft: Draft, value: str, written: str) -> None:
    _known(value, ("subordinate",), written)
    draft.put("uid_mappings", value, written)
    draft.put("gid_mappings", value, written)


def _id_mapping(value: str, written: str) -> IdMapping:
    numbers = [integer(part, written) for part in split(value)]
    if not 2 <= len(numbers) <= 3:
        raise SpecError("must be INSIDE:OUTSIDE[:SIZE]", field=written)
    return IdMapping(*numbers)


def _net(draft: Draft, value: str, written: str) -> None:
    _known(value, ("host", "none"), written)
    draft.unjoin(Namespace.NET)
    _renew(draft, Namespace.NET, new=value == "none", written=written)


def _renew(draft: Draft, kind: Namespace, *, new: bool, written: str) -> None:
    known = draft.namespaces()
    draft.put("namespaces", known | {kind} if new else known - {kind}, written)


def _share(draft: Draft, value: str, written: str) -> None:
    kind = Namespace.of(value, written)
    draft.unjoin(kind)
    _renew(draft, kind, new=False, written=written)


def _unshare(draft: Draft, value: str, written: str) -> None:
    kind = Namespace.of(value, written)
    draft.unjoin(kind)
    _renew(draft, kind, new=True, written=written)


def _join(draft: Draft, value: str, written: str) -> None:
    name, target = _pair(value, "KIND=PID or KIND=PATH", written)
    kind = Namespace.of(name, written)
    found = Join(kind, pid=int(target)) if target.isascii() and target.isdigit() else Join(kind, path=target)
    draft.unjoin(kind)
    _renew(draft, kind, new=False, written=written)
    draft.add("join", found, written)


CONFIG = Option("--config", "FILE", "a TOML or .json file of Sandbox's fields; options win", _config)

FILES = (
    Option(
        "--rootfs",
        "ROOT[:WRITES]",
        "minimal (default: what programs need of the host), empty, host, or a"
        " directory; its writes are refused (default), discarded or kept",
        _rootfs,
    ),
    Option("--bind", "SRC[:DST][:rw]", "show a file or directory; also :optional, :idmap, :noidmap", _bind),
    Option("--tmpfs", "DST[:size=SIZE][:mode=MODE][:inodes=N]", "an empty directory in memory", _tmpfs),
    Option(
        "--overlay",
        "DST:SRC[:SRC...][:upper=DIR:work=DIR]",
        "directories as one, the first on top; what is written goes to upper, or is thrown away",
        _overlay,
    ),
    Option("--symlink", "DST=TARGET", "a symbolic link", _symlink),
    Option("--file", "DST=TEXT", "a file with this text, or with that of another: DST=@FILE", _file),
    Option("--dir", "DST[:mode=MODE]", "an empty directory", _directory),
    Option("--proc", "DST", "a /proc; every root but empty has one", _simple(Proc)),
    Option("--dev", "DST", "a minimal /dev; every root but empty has one", _simple(Dev)),
    Option("--mqueue", "DST", "POSIX message queues", _simple(Mqueue)),
    Option("--mask", "PATH", "hide what is at this path", _several("masked_paths")),
    Option("--readonly", "PATH", "make this path read-only", _several("readonly_paths")),
    Option("--disk", "SIZE", "what /tmp, home and /dev/shm hold together, in memory", _field("disk")),
)
NAMESPACES = (
    Option("--net", "host|none", "none (default): only a loopback of its own", _net),
    Option("--share", "KIND", "share with the caller: user, mount, pid, net, ipc, uts, cgroup", _share),
    Option("--unshare", "KIND", "have a new one: time; the others are new by default", _unshare),
    Option("--join", "KIND=PID|PATH", "enter one that exists", _join),
)
IDENTITY = (
    Option("--uid", "N", "user id inside (1000)", _field("uid", integer)),
    Option("--gid", "N", "group id inside (1000)", _field("gid", integer)),
    Option("--group", "N", "a supplementary group", _several("groups", integer)),
    Option("--map", "subordinate", "65536 ids, by the caller's line in /etc/subuid", _map),
    Option("--uid-map", "IN:OUT[:N]", "a line of uid_map", _several("uid_mappings", _id_mapping)),
    Option("--gid-map", "IN:OUT[:N]", "a line of gid_map", _several("gid_mappings", _id_mapping)),
)
SURROUNDINGS = (
    Option("--env", "NAME[=VALUE]", "set a variable, or pass on the caller's if it is set", _env),
    Option("--unset-env", "NAME", "leave out PATH, HOME, LANG or TERM", _unset_env),
    Option("--workdir", "PATH", "working directory", _field("workdir")),
    Option("--hostname", "NAME", "host name (ramet)", _field("hostname")),
    Option("--domainname", "NAME", "NIS domain name", _field("domainname")),
    Option("--umask", "MODE", "file mode mask (022)", _field("umask", _octal)),
    Option("-t --tty", "", "a terminal of the sandbox's own, relayed to yours", _flag("tty", True)),
)
RIGHTS = (
    Option("--cap-add", "NAME", "keep a capability, as NET_RAW; ALL is every one", _several("capabilities")),
    Option("--rlimit", "NAME=SOFT[:HARD]", "as NOFILE=256, AS=512M, CORE=unlimited", _rlimit),
    Option(
        "--seccomp",
        "POLICY",
        "default, default+CALL+..., kill (a refused call ends it), none, or a profile's path",
        _field("seccomp"),
    ),
    Option("--allow-new-privs", "", "let set-uid programs work", _flag("no_new_privs", False)),
    Option("--allow-userns", "", "let it make user namespaces of its own", _flag("nested_namespaces", True)),
)
LIMITS = (
    Option("-m --memory", "SIZE", "of everything in it: page cache and tmpfs too", _field("memory")),
    Option("--memory-high", "SIZE", "from here on it is slowed down, and not killed", _field("memory_high")),
    Option("--swap", "SIZE", "with --memory: so much more of swap (none)", _field("swap", config.limit)),
    Option("--pids --pids-limit", "N", "processes and threads at once", _field("processes", integer)),
    Option("--cpus", "N", "so many CPUs' worth of time: 0.5, 2", _field("cpus", _number)),
    Option("--cpu-time", "TIME", "CPU time of everything in it together; exit code 124", _field("cpu_time")),
    Option("--cpuset --cpuset-cpus", "LIST", "the CPUs it may use: 0-2,4", _field("cpuset")),
    Option("--cpuset-mems", "LIST", "the memory nodes it may use", _field("cpuset_mems")),
    Option("--cpu-weight", "N", "against others that want CPU: 1 to 10000 (100)", _field("cpu_weight", integer)),
    Option("--io", "DEVICE:read=SIZE:write=SIZE:read-ops=N:write-ops=N", "of a disk, a second; any of the four", _io),
    Option("--io-weight", "N", "against others at the disk: 1 to 10000 (100)", _field("io_weight", integer)),
    Option("--file-size", "SIZE", "of a file that a process writes", _field("file_size")),
    Option("--open-files", "N", "descriptors of a process", _field("open_files", integer)),
    Option("--nice", "N", "-20 to 19; a higher one lets others go first", _field("nice", _signed)),
    Option("--idle", "", "run only when nobody else wants to", _flag("idle", True)),
    Option(
        "--allow-degraded", "LIMIT", "go on where this one can't be held as well as asked", _several("allow_degraded")
    ),
)
LIFE = (
    Option("--timeout", "TIME", "then everything in it is killed; exit code 124", _field("timeout")),
    Option("--as-pid1", "", "the command is pid 1 itself, without ramet's init", _flag("as_pid1", True)),
)
GROUPS = (
    ("files", FILES),
    ("namespaces", NAMESPACES),
    ("identity", IDENTITY),
    ("surroundings", SURROUNDINGS),
    ("rights", RIGHTS),
    ("limits", LIMITS),
    ("life", LIFE),
)
OUTPUT = (
    Option(
        "--output", "SIZE", "what passes of each stream (all; with --json 64M are kept)", _field("output", config.limit)
    ),
    Option(
        "--output-action",
        "WHAT",
        "truncate (default): the rest is thrown away; or kill who writes more",
        _field("output_action"),
    ),
)
COMMON = (CONFIG, options.JSON, options.DEBUG, options.HELP)
#: Every option, in the order of the help page.
ALL = (*(option for _, group in GROUPS for option in group), *COMMON)
