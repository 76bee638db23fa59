"""Capabilities by name. See capabilities(7)."""

from __future__ import annotations

from ramet.errors import SpecError, SpecTypeError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: In the order of their numbers: CAP_CHOWN is 0.
NAMES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def capability_set(value: object, field: str) -> frozenset[str]:
    """Names as CAP_NET_RAW or net_raw; "ALL" is every one."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise SpecTypeError("must be a set of names", field=field)
    names: Iterable[object] = value
    found = set()
    for item in names:
        name = str(item).upper()
        if name == "ALL":
            return frozenset(NAMES)
        name = name if name.startswith("CAP_") else f"CAP_{name}"
        if name not in NUMBERS:
            meant = nearest(name, NUMBERS)
            hint = f"did you mean {meant}?" if meant else "capabilities(7) lists them"
            raise SpecError(f"there is no capability {item!r}", field=field, hint=hint)
        found.add(name)
    return frozenset(found)


def mask(names: Iterable[str]) -> int:
    """The 64-bit set, as in /proc/PID/status."""
    return sum(1 << NUMBERS[name] for name in names)
