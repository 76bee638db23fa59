"""The second wall: Landlock rules, laid when the mounts stand. See landlock(7).

Beneath the new root everything may be read and executed, and written where the sandbox mounts something writable. That changes
nothing as long as the mounts hold. It holds when they do not: a directory of the host that somebody has a
descriptor of lies beneath no rule, and neither does a file that was passed as stdout and is opened again by
/proc/self/fd/1. Abstract sockets and signals end at the sandbox, whatever is shared (since Linux 6.12).

Without a mount namespace it is the only wall for files: then what may be read is listed.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import namedtuple

from ramet.errors import UnsupportedError
from ramet.plan.steps import Block, Builder
from ramet.spec import Bind, Dev, Mqueue, Namespace, Overlay, Proc, Rootfs, Tmpfs
from ramet.spec.landlock import Landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ramet.host.facts import Facts
    from ramet.plan.shape import Shape
    from ramet.spec import Command, Sandbox
    from ramet.spec.mounts import Mount

RULE_PATH_BENEATH, RULE_NET_PORT = 1, 2
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, MAKE_CHAR, MAKE_BLOCK = 1, 2, 4, 8, 1 << 6, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
#: The highest right that each version of the interface has, and how many bytes of the attributes it takes.
RIGHTS = {1: 12, 2: 13, 3: 14, 4: 14, 5: 15}
READING = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
NOT_GIVEN = MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_SOCKETS, SIGNALS = 1, 2
EBADFD = 77
#: Which version brought what, and with which kernel.
ABI_FILES, ABI_TRUNCATE, ABI_PORTS, ABI_SCOPE = 2, 3, 4, 6
KERNELS = {2: "5.19", 3: "6.2", 4: "6.7", 6: "6.12"}
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
#: Of the host's, where there is no view of the sandbox's own.
ETC_HOST = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts")


class Fence(namedtuple("Fence", "files net scoped missing")):
    """What a sandbox gets here. files: handled rights, 0 for none; net, scoped: likewise; missing: why something is not
    held, or ""."""

    __slots__ = ()

    @property
    def stands(self) -> bool:
        """Is there anything for the kernel to hold?"""
        return bool(self.files or self.net or self.scoped)


def fence(spec: Sandbox, facts: Facts) -> Fence:
    """Raises UnsupportedError where the host can't hold what was asked for."""
    if spec.landlock is False:
        return Fence(0, 0, 0, "landlock=False")
    asked = spec.landlock if isinstance(spec.landlock, Landlock) else None
    only_wall = asked is not None and Namespace.MOUNT not in spec.namespaces
    needs = _needed(asked, only_wall=only_wall) if spec.landlock is not None else 0
    abi = facts.landlock
    missing = f"the kernel has {f'ABI {abi} of Landlock' if abi else 'no Landlock'}, and ABI {needs} is needed"
    if abi < needs and "landlock" not in spec.allow_degraded:
        raise UnsupportedError(
            "can't fence in files, ports and signals" if only_wall else "can't have the second wall that was asked for",
            fact=f"the kernel has {f'ABI {abi} of Landlock' if abi else 'no Landlock'}",
            needs=f"ABI {needs}: Linux {KERNELS[needs]} with landlock among the modules of lsm=",
            hint='allow_degraded={"landlock"} goes on with what there is',
        )
    files = (2 << RIGHTS[min(abi, 5)]) - 1 if abi >= ABI_FILES else 0
    why = (
        missing
        if abi < needs
        else ""
        if abi >= ABI_FILES
        else "the kernel has no Landlock that lets files be moved (Linux 5.19)"
    )
    if not only_wall and (reason := _no_files(spec)):
        files, why = 0, why or reason
    net = 0
    if asked is not None and abi >= ABI_PORTS:
        net = (BIND_TCP if asked.bind is not None else 0) | (CONNECT_TCP if asked.connect is not None else 0)
    return Fence(files, net, _scoped(spec) if abi >= ABI_SCOPE else 0, why)


def _needed(asked: Landlock | None, *, only_wall: bool) -> int:
    if only_wall:
        return ABI_SCOPE
    return ABI_PORTS if asked is not None and (asked.bind is not None or asked.connect is not None) else ABI_FILES


def _no_files(spec: Sandbox) -> str:
    """Why files stay without it, although the kernel could."""
    if Namespace.MOUNT not in spec.namespaces:
        return "there is no mount namespace of its own to stand behind"
    if spec.nested_namespaces or "CAP_SYS_ADMIN" in spec.capabilities:
        return "who may mount could not, behind it"
    return ""


def _scoped(spec: Sandbox) -> int:
    """Who joins a namespace is to meet those in it."""
    scoped = 0 if spec.joined(Namespace.PID) else SIGNALS
    return scoped | (0 if spec.joined(Namespace.NET) else ABSTRACT_SOCKETS)


def build_fence(b: Builder, spec: Sandbox, facts: Facts, command: Command, shape: Shape, found: Fence) -> None:
    """After the mounts, when descriptors are in their places; before the filter, which might not allow it."""
    if not found.stands:
        return
    b.about("Sandbox.landlock", "build a second wall")
    size = 24 if facts.landlock >= ABI_SCOPE else 16 if facts.landlock >= ABI_PORTS else 8
    attributes = struct.pack("<QQQ", found.files, found.net, found.scoped)[:size]
    text = f"{{handled_access_fs={found.files:#x}, handled_access_net={found.net:#x}, scoped={found.scoped:#x}}}"
    ruleset = b.open("ruleset", "landlock_create_ruleset", Block(attributes, text=text), size, 0)
    if found.files:
        for path, rights, is_dir, certain in _rules(spec, facts, shape):
            given = rights & found.files & (-1 if is_dir else OF_FILES)
            allow = () if certain else (errno.ENOENT, errno.EACCES)
            place = b.open("place", "openat", -100, path, os.O_PATH | os.O_CLOEXEC, allow=allow)
            gone = () if certain else (errno.EBADF,)
            rule = Block(struct.pack("<Q", given), place, text=f"{{{given:#x}, {place}}}")
            b.call("landlock_add_rule", ruleset, RULE_PATH_BENEATH, rule, 0, allow=gone)
            b.close(place, allow=gone)
        for fd in command.pass_fds:
            b.about("pass_fds", f"let descriptor {fd} be what it is")
            for given in (found.files & ~NOT_GIVEN, found.files & OF_FILES):
                rule = Block(struct.pack("<Qi", given, fd), text=f"{{{given:#x}, {fd}}}")
                # EINVAL: rights of a directory for what is none; EBADFD: a pipe or socket, which needs no rule.
                b.call("landlock_add_rule", ruleset, RULE_PATH_BENEATH, rule, 0, allow=(errno.EINVAL, EBADFD))
    if found.net:
        _open_ports(b, spec, ruleset)
    b.about("Sandbox.landlock", "close the second wall")
    b.call("landlock_restrict_self", ruleset, 0)
    b.close(ruleset)


def _open_ports(b: Builder, spec: Sandbox, ruleset: object) -> None:
    assert isinstance(spec.landlock, Landlock)
    for right, ports in ((BIND_TCP, spec.landlock.bind), (CONNECT_TCP, spec.landlock.connect)):
        for port in ports or ():
            name = "bind" if right == BIND_TCP else "connect"
            b.about(f"Landlock.{name}", f"open TCP port {port}")
            rule = Block(struct.pack("<QQ", right, port), text=f"{{{right:#x}, port={port}}}")
            b.call("landlock_add_rule", ruleset, RULE_NET_PORT, rule, 0)  # type: ignore[arg-type]


def _rules(spec: Sandbox, facts: Facts, shape: Shape) -> Iterator[tuple[str, int, bool, bool]]:
    """(path, rights, is it a directory, must it be there)."""
    if Namespace.MOUNT not in spec.namespaces:
        yield from _listed(spec, facts)
        return
    everything = ~NOT_GIVEN
    if isinstance(spec.rootfs, Rootfs) and spec.rootfs.writes != "refused":
        yield "/", everything, True, True
    else:
        yield "/", READING, True, True
    for mount in spec.mounts:
        yield from _rules_of(mount, facts, certain=False)
    for mount in shape.default_mounts:
        yield from _rules_of(mount, facts, certain=True)
    for where, _ in shape.writable:
        yield where, everything, True, True


def _rules_of(mount: Mount, facts: Facts, *, certain: bool) -> Iterator[tuple[str, int, bool, bool]]:
    everything, where = ~NOT_GIVEN, str(mount.destination)  # type: ignore[attr-defined]
    if isinstance(mount, Bind):
        if mount.writable and mount.source in facts.paths:
            yield where, everything, facts.paths[mount.source].kind == "dir", certain
    elif isinstance(mount, Dev):
        yield where, everything | IOCTL_DEV, True, certain
        # The caller's own /dev/null, as stdin, lies beneath nothing; it is the same file.
        yield f"{where}/null", OF_FILES, False, certain
    elif isinstance(mount, Proc):
        yield where, READING | WRITE_FILE | TRUNCATE, True, certain
    elif isinstance(mount, (Tmpfs, Overlay, Mqueue)):
        yield where, everything, True, certain


def _listed(spec: Sandbox, facts: Facts) -> Iterator[tuple[str, int, bool, bool]]:
    """The view of a default sandbox, as far as rules on the host's own files can make it."""
    assert isinstance(spec.landlock, Landlock)
    for fact in facts.layout.values():
        if fact.kind != "link":
            yield fact.real, READING, fact.kind == "dir", False
    for path in ETC_HOST:
        yield path, READING, False, False
    for _, real in facts.python:
        yield real, READING, True, False
    yield "/proc", READING, True, False
    for path in DEVICES:
        yield path, OF_FILES, False, False
    for paths, rights in ((spec.landlock.read, READING), (spec.landlock.write, ~NOT_GIVEN)):
        for path in paths:
            yield facts.paths[path].real, rights, facts.paths[path].kind == "dir", True
