"""Sandbox: what the user wants, whole. Frozen, no I/O; the defaults are the safe ones."""

from __future__ import annotations

import os

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.capabilities import capability_set
from ramet.spec.group_limits import GroupLimits, IoLimit, degradable
from ramet.spec.ids import ID_MAX, IdMapping, check_mappings
from ramet.spec.landlock import Landlock
from ramet.spec.limits import DEFAULT_RLIMITS, check_rlimits
from ramet.spec.mounts import Mount, check_mounts
from ramet.spec.namespaces import DEFAULT_NAMESPACES, Join, Namespace, TimeOffsets, namespace_set
from ramet.spec.record import FrozenMap, Record
from ramet.spec.rootfs import Rootfs, check_rootfs
from ramet.spec.seccomp import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from ramet.plan.steps import Plan
    from ramet.run.planning import Argv
    from ramet.run.result import Result

UNLIMITED = GroupLimits()
HOST_NAME_MAX = 64
SECCOMP = ("default", "kill", "none")
OUTPUT_ACTIONS = ("truncate", "kill")
DEFAULT_ID = 1000
DEFAULT_HOSTNAME = "ramet"
HOME = "/home/user"


class Sandbox(Record):
    """A process's surroundings, as a value: make it once, run many commands in fresh copies of it.

    Namespaces
        namespaces: the kinds that are new (default: all but time). A kind neither here nor in join is shared.
        join: namespaces that exist, entered by setns(2). time_offsets: of a new time namespace.
    Identity
        uid, gid: of the payload, inside (default 1000; without a user namespace of its own: the caller's, or
        65533 for a root caller). groups: supplementary, inside. uid_mappings, gid_mappings: lines of uid_map and
        gid_map; default one line, uid to the caller's (a root caller's payload is 65533 outside); "subordinate"
        maps 65536 ids by the caller's line in /etc/subuid, through newuidmap(1).
    Files
        rootfs: "minimal" (what programs need of the host: /usr and its like, some files of /etc, the running Python;
        read-only), "empty", "host" (the host's, read-only), an absolute path, or a Rootfs. mounts: put into it, in this
        order. masked_paths: replaced by something empty. readonly_paths: made read-only. disk: bytes that /tmp, the home
        directory and /dev/shm hold together, in memory. umask.
    Surroundings
        hostname, domainname; env: the whole environment but PATH, HOME, LANG, TERM, which have defaults (None
        leaves one out); workdir: default the home directory, or / where there is none; loopback: bring lo up in a new net
        namespace; tty: a pseudo-terminal of the sandbox's own as the controlling terminal and stdio; terminal_size: its
        (rows, columns), set before the payload could look; new_session.
    Rights
        capabilities: kept, by name (default none); no_new_privs; nested_namespaces: may the payload make user
        namespaces of its own; seccomp: which system calls it may make: "default" (others fail with EPERM), "kill" (others end it),
        "none", or a Seccomp; landlock: a second wall behind the mounts: None (where the kernel has it), True (an error where it has not),
        False, or a Landlock, which says more; rlimits: name to (soft, hard).
    Life
        as_pid1: the payload is pid 1 itself, without ramet's init (then it dies with the thread that started it); timeout: seconds, or "1m30s"; output: bytes of
        stdout and stderr, each, that are captured; output_action: what happens to a payload that writes more: "truncate"
        (the rest is thrown away, and marked) or "kill".
    Limits, of everything in the sandbox together; see cgroups(7)
        memory: bytes, page cache and tmpfs among them, swap besides (default 0); memory_high: bytes from which it is slowed down
        and reclaimed from. processes: how many at once, threads count. cpu_time: seconds of CPU; cpus: how many CPUs' worth of
        time, 0.5 say; cpuset, cpuset_mems: which CPUs and memory nodes, as "0-3"; cpu_weight, io_weight: 1 to 10000 against others; io: IoLimit of devices.
    Limits of each process
        file_size: bytes of a file it writes (RLIMIT_FSIZE); open_files: descriptors (RLIMIT_NOFILE). nice: -20 to 19;
        idle: it runs only when nobody else wants to (SCHED_IDLE).
    allow_degraded: limits that may be held less well than asked, or not at all, where this host can't; by name. All others
    that can't be had are errors.
    """

    namespaces: frozenset[Namespace] = DEFAULT_NAMESPACES
    join: tuple[Join, ...] = ()
    time_offsets: TimeOffsets | None = None
    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] = ()
    uid_mappings: tuple[IdMapping, ...] | str | None = None
    gid_mappings: tuple[IdMapping, ...] | str | None = None
    rootfs: str | Rootfs | None = None
    mounts: tuple[Mount, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    disk: int | str = 256 << 20
    umask: int = 0o022
    hostname: str | None = None
    domainname: str | None = None
    env: Mapping[str, str | None] = FrozenMap()
    workdir: str | None = None
    loopback: bool = True
    tty: bool = False
    terminal_size: tuple[int, int] | None = None
    new_session: bool = True
    capabilities: frozenset[str] = frozenset()
    no_new_privs: bool = True
    nested_namespaces: bool | None = None
    seccomp: str | Seccomp = "default"
    landlock: bool | Landlock | None = None
    rlimits: Mapping[str, tuple[int, int]] = DEFAULT_RLIMITS
    as_pid1: bool = False
    timeout: float | None = None
    output: int = 64 << 20
    output_action: str = "truncate"
    memory: int | str | None = None
    memory_high: int | str | None = None
    swap: int | str = 0
    processes: int | None = None
    cpu_time: float | str | None = None
    cpus: float | None = None
    cpuset: str | None = None
    cpu_weight: int | None = None
    io: tuple[IoLimit, ...] = ()
    io_weight: int | None = None
    file_size: int | str | None = None
    open_files: int | None = None
    nice: int | None = None
    idle: bool = False
    cpuset_mems: str | None = None
    allow_degraded: frozenset[str] = frozenset()

    def _settle(self) -> None:
        if len(self.__dict__) == len(self._fields) and all(
            self.__dict__[name] is self._defaults[name] for name in self._fields
        ):
            return
        self._settle_namespaces()
        self._settle_ids()
        self._settle_files()
        self._settle_surroundings()
        self._settle_rights()
        self._settle_limits()

    def _settle_namespaces(self) -> None:
        self._put("namespaces", namespace_set(self.namespaces, "Sandbox.namespaces"))
        self._put("join", values.several(self.join, "Sandbox.join", "Join"))
        kinds = set()
        for n, join in enumerate(self.join):
            if not isinstance(join, Join):
                raise SpecTypeError(f"must be a Join, not {type(join).__name__}", field=f"Sandbox.join[{n}]")
            if join.kind in self.namespaces:
                raise SpecError(
                    f"{join.kind.value} can't be both new (Sandbox.namespaces) and joined", field=f"Sandbox.join[{n}]"
                )
            if join.kind in kinds:
                raise SpecError(f"{join.kind.value} is joined twice", field=f"Sandbox.join[{n}]")
            kinds.add(join.kind)
        if self.time_offsets is not None:
            if not isinstance(self.time_offsets, TimeOffsets):
                raise SpecTypeError("must be TimeOffsets", field="Sandbox.time_offsets")
            if Namespace.TIME not in self.namespaces:
                raise self._bad("time_offsets", "needs Namespace.TIME in Sandbox.namespaces")

    def _settle_ids(self) -> None:
        for name in ("uid", "gid"):
            if getattr(self, name) is not None:
                values.integer(getattr(self, name), f"Sandbox.{name}", most=ID_MAX)
        groups = values.several(self.groups, "Sandbox.groups", "ids")
        self._put("groups", tuple(values.integer(g, f"Sandbox.groups[{n}]", most=ID_MAX) for n, g in enumerate(groups)))
        for name in ("uid_mappings", "gid_mappings"):
            self._settle_mappings(name)

    def _settle_mappings(self, name: str) -> None:
        mappings = getattr(self, name)
        if mappings is None:
            return
        if Namespace.USER not in self.namespaces:
            raise self._bad(name, "needs Namespace.USER in Sandbox.namespaces")
        if isinstance(mappings, str):
            if mappings != "subordinate":
                raise self._bad(name, f"must be lines or 'subordinate', not {mappings!r}")
            return
        mappings = (
            (mappings,) if isinstance(mappings, IdMapping) else values.several(mappings, f"Sandbox.{name}", "IdMapping")
        )
        check_mappings(mappings, f"Sandbox.{name}")
        self._put(name, mappings)
        wanted = getattr(self, name[:3])
        inside = DEFAULT_ID if wanted is None else wanted
        if not any(mapping.covers(inside) for mapping in mappings):
            raise self._bad(name[:3], f"{inside} is not mapped by Sandbox.{name}")

    def _settle_files(self) -> None:
        if self.rootfs is not None:
            self._put("rootfs", check_rootfs(self.rootfs, "Sandbox.rootfs"))
        self._put("mounts", check_mounts(self.mounts, "Sandbox.mounts"))
        for name in ("masked_paths", "readonly_paths"):
            paths = values.several(getattr(self, name), f"Sandbox.{name}", "paths")
            clean = tuple(values.destination(path, f"Sandbox.{name}[{n}]") for n, path in enumerate(paths))
            self._put(name, clean)
        if Namespace.MOUNT not in self.namespaces:
            for name in ("rootfs", "mounts", "masked_paths", "readonly_paths"):
                if getattr(self, name):
                    raise self._bad(name, "needs Namespace.MOUNT in Sandbox.namespaces")
        self._put("disk", values.size(self.disk, "Sandbox.disk"))
        values.integer(self.umask, "Sandbox.umask", most=0o777)

    def _settle_surroundings(self) -> None:
        for name in ("hostname", "domainname"):
            value = getattr(self, name)
            if value is None:
                continue
            if Namespace.UTS not in self.namespaces:
                raise self._bad(name, "needs Namespace.UTS in Sandbox.namespaces")
            found = values.text(value, f"Sandbox.{name}")
            if len(os.fsencode(found)) > HOST_NAME_MAX:
                raise self._bad(name, f"is longer than {HOST_NAME_MAX} bytes")
            self._put(name, found)
        self._put("env", check_env(self.env, "Sandbox.env"))
        if self.workdir is not None:
            self._put("workdir", values.clean(values.path(self.workdir, "Sandbox.workdir")))
        for name in ("loopback", "tty", "new_session", "no_new_privs", "as_pid1"):
            values.flag(getattr(self, name), f"Sandbox.{name}")
        self._settle_nesting()
        self._settle_terminal()

    def _settle_terminal(self) -> None:
        if self.terminal_size is not None:
            size = tuple(self.terminal_size) if isinstance(self.terminal_size, (tuple, list)) else ()
            if len(size) != 2:
                raise self._bad("terminal_size", "must be (rows, columns)")
            for n, number in enumerate(size):
                values.integer(number, f"Sandbox.terminal_size[{n}]", least=1, most=2**16 - 1)
            if not self.tty:
                raise self._bad("terminal_size", "needs tty")
            self._put("terminal_size", size)
        if self.tty and not self.new_session:
            raise self._bad("tty", "needs new_session: a controlling terminal belongs to a session")
        if self.tty and Namespace.MOUNT not in self.namespaces:
            raise self._bad("tty", "needs Namespace.MOUNT: the terminal is of the sandbox's own devpts")

    def _settle_nesting(self) -> None:
        if self.nested_namespaces is None:
            return
        if (
            not values.flag(self.nested_namespaces, "Sandbox.nested_namespaces")
            and Namespace.USER not in self.namespaces
        ):
            raise self._bad(
                "nested_namespaces",
                "can only be refused in a user namespace of the sandbox's own",
                hint="add Namespace.USER to Sandbox.namespaces",
            )

    def _settle_rights(self) -> None:
        self._put("capabilities", capability_set(self.capabilities, "Sandbox.capabilities"))
        if not isinstance(self.seccomp, Seccomp) and self.seccomp not in SECCOMP:
            raise self._bad(
                "seccomp",
                f"must be one of {', '.join(SECCOMP)}, or a Seccomp, not {self.seccomp!r}",
                hint="Seccomp.from_oci(path) reads a profile",
            )
        self._settle_landlock()
        self._put("rlimits", check_rlimits(self.rlimits, "Sandbox.rlimits"))
        if self.as_pid1 and Namespace.PID not in self.namespaces:
            raise self._bad("as_pid1", "needs Namespace.PID in Sandbox.namespaces")
        if self.timeout is not None:
            self._put("timeout", values.duration(self.timeout, "Sandbox.timeout"))
        self._put("output", values.size(self.output, "Sandbox.output"))

    def _settle_landlock(self) -> None:
        if isinstance(self.landlock, Landlock):
            if Namespace.MOUNT in self.namespaces and (self.landlock.read or self.landlock.write):
                hint = "mounts=[Bind(path)] shows a path"
                raise self._bad("landlock", "can only list paths without a mount namespace of its own", hint)
            return
        if self.landlock is None or not values.flag(self.landlock, "Sandbox.landlock"):
            return
        if Namespace.MOUNT not in self.namespaces:
            raise self._bad("landlock", "needs Namespace.MOUNT in Sandbox.namespaces, or a Landlock that lists paths")
        if self.nested_namespaces or "CAP_SYS_ADMIN" in self.capabilities:
            what = "nested_namespaces" if self.nested_namespaces else "CAP_SYS_ADMIN"
            raise self._bad("landlock", f"and {what} exclude each other: behind Landlock nobody can mount")

    def _settle_limits(self) -> None:
        if self.output_action not in OUTPUT_ACTIONS:
            raise self._bad("output_action", f"must be one of {', '.join(OUTPUT_ACTIONS)}, not {self.output_action!r}")
        if self.cpu_time is not None:
            self._put("cpu_time", values.duration(self.cpu_time, "Sandbox.cpu_time"))
        if self.file_size is not None:
            self._put("file_size", values.size(self.file_size, "Sandbox.file_size"))
        if self.open_files is not None:
            values.integer(self.open_files, "Sandbox.open_files", least=3, most=2**20)
        if self.nice is not None:
            values.integer(self.nice, "Sandbox.nice", least=-20, most=19)
        values.flag(self.idle, "Sandbox.idle")
        try:
            limits = GroupLimits(**{name: getattr(self, name) for name in GroupLimits._fields})
        except SpecError as error:
            raise error.of(error.field.replace("GroupLimits.", "Sandbox.")) from None
        for name in GroupLimits._fields:
            self._put(name, getattr(limits, name))
        self._put("allow_degraded", degradable(self.allow_degraded, "Sandbox.allow_degraded"))
        self._put("_group_limits", limits)

    @property
    def is_limited(self) -> bool:
        """Is there a limit for a control group to hold?"""
        return self.cpu_time is not None or bool(self.group_limits.asked())

    @property
    def group_limits(self) -> GroupLimits:
        """The limits that hold for everything in the sandbox together."""
        found: GroupLimits = self.__dict__.get("_group_limits", UNLIMITED)
        return found

    # The two arrows that point back to run, for convenience; loaded when called.

    def plan(self, argv: Argv, *, pass_fds: Sequence[int] = ()) -> Plan:
        """The plan that would run this command in this sandbox on this host; print it to read it. Nothing runs."""
        from ramet.run.planning import plan_for

        return plan_for(argv, self, pass_fds)

    def run(self, argv: Argv, **options: Any) -> Result:
        """`ramet.run` with this sandbox."""
        from ramet.run.process import run

        return run(argv, self, **options)

    @classmethod
    def without_namespaces(cls, scratch: str | os.PathLike[str], *, read: Iterable[str] = (), **fields: Any) -> Sandbox:
        """For hosts that forbid user namespaces: no namespace at all; Landlock, the filter for system calls, resource limits and
        no_new_privs are the only walls. Needs Linux 6.12.

        scratch: an empty directory that the payload may write to, and nothing else; it is its working directory and home. read:
        paths that it may read besides programs and libraries. It has no network, no sockets but pairs, no
        System V IPC; it can signal and trace only what it has started, can't change modes, owners and times of files, and
        sees the names of other files and processes. What it has started may live on after it, unless a limit gives it a control group.
        fields: any other field of Sandbox.

        Raises UnsupportedError when it is run, where the kernel's Landlock is too old, unless allow_degraded names "landlock".
        """
        from ramet.seccomp.profile import alone

        place = values.host_path(scratch, "scratch")
        written = {"HOME": place, "TMPDIR": place}
        return cls(
            **{
                "namespaces": frozenset(),
                "landlock": Landlock(connect=(), bind=(), read=tuple(read), write=(place,)),
                "seccomp": alone(),
                "workdir": place,
                **fields,
                "env": {**written, **fields.get("env", {})},
            }
        )

    def explain_call(self, name: str) -> str:
        """What happens in this sandbox with a system call, and why. Raises SpecError where there is no such call."""
        from ramet.seccomp.filters import policy_of

        policy = policy_of(self)
        return policy.explain(name) if policy is not None else f"{name}: allowed: there is no filter"

    def joined(self, kind: Namespace) -> bool:
        """Is this kind entered rather than new or shared?"""
        return any(join.kind is kind for join in self.join)


def check_env(value: object, field: str) -> FrozenMap:
    """Names and values as the kernel takes them: no empty name, no ``=`` in it, no NUL."""
    if not hasattr(value, "items"):
        raise SpecTypeError(f"must be a mapping, not {type(value).__name__}", field=field)
    found: dict[str, str | None] = {}
    items: Iterable[tuple[object, object]] = value.items()
    for key, item in items:
        name = values.text(key, f"{field} name {key!r}")
        if not name or "=" in name:
            raise SpecError("a name must not be empty or contain '='", field=f"{field}[{name!r}]")
        found[name] = None if item is None else values.text(item, f"{field}[{name!r}]")
    return FrozenMap(found)


class Command(Record):
    """What runs in it: argv, and the descriptors of the caller that are passed on under their own numbers."""

    argv: tuple[str, ...]
    pass_fds: tuple[int, ...] = ()

    def _settle(self) -> None:
        if isinstance(self.argv, (str, bytes)):
            raise SpecTypeError(
                "must be a list of arguments, not one text",
                field="argv",
                hint="['sh', '-c', text] runs a text in a shell; shlex.split(text) makes a list of it",
            )
        if not isinstance(self.argv, (list, tuple)):
            raise SpecTypeError(f"must be a list of arguments, not {type(self.argv).__name__}", field="argv")
        if not self.argv:
            raise SpecError("is empty: there is nothing to run", field="argv")
        self._put("argv", tuple(values.text(arg, f"argv[{n}]") for n, arg in enumerate(self.argv)))
        if not self.argv[0]:
            raise SpecError("is empty", field="argv[0]")
        given = values.several(self.pass_fds, "pass_fds", "descriptors")
        fds = tuple(sorted({values.integer(fd, f"pass_fds[{n}]", most=2**20) for n, fd in enumerate(given)}))
        if fds and fds[0] < 3:
            raise SpecError("0 to 2 are stdin, stdout and stderr", field="pass_fds")
        self._put("pass_fds", fds)
