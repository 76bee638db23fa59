"""Namespaces: new, shared with the caller, or joined. See namespaces(7)."""

from __future__ import annotations

import enum

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.record import Record, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Namespace(enum.Enum):
    """A kind of namespace; the value is its name in /proc/PID/ns and in the OCI runtime spec's style."""

    USER = "user"
    MOUNT = "mnt"
    PID = "pid"
    NET = "net"
    IPC = "ipc"
    UTS = "uts"
    CGROUP = "cgroup"
    TIME = "time"

    #: There is one object of each kind. Enum's own is a function of Python, called for each look into a set or dict.
    __hash__ = object.__hash__

    @property
    def clone_flag(self) -> int:
        """The CLONE_NEW* bit of this kind."""
        return _CLONE_FLAGS[self.value]

    @classmethod
    def of(cls, value: object, field: str) -> Namespace:
        """A Namespace by itself or by name ("net", "mount", "network"...)."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise SpecTypeError(f"must be a Namespace or its name, not {type(value).__name__}", field=field)
        name = value.lower()
        name = _OCI_NAMES.get(name, name)
        for member in cls:
            if member.value == name:
                return member
        meant = nearest(name, [*(m.value for m in cls), *_OCI_NAMES])
        raise SpecError(
            f"there is no namespace {value!r}", field=field, hint=f"did you mean {meant!r}?" if meant else None
        )


_OCI_NAMES = {"mount": "mnt", "network": "net"}
_CLONE_FLAGS = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}

#: What a sandbox has of its own unless told otherwise: all but time.
DEFAULT_NAMESPACES = frozenset(Namespace) - {Namespace.TIME}


def namespace_set(value: Iterable[object], field: str) -> frozenset[Namespace]:
    """A set of namespaces from members and names."""
    items = values.several(value, field, "namespaces")
    return frozenset(Namespace.of(item, f"{field}[{n}]") for n, item in enumerate(items))


class Join(Record):
    """Enter a namespace that exists, by setns(2). Name it by exactly one of pid, pidfd and path.

    kind: which; pid: of a process in it; pidfd: of a process in it (since Linux 5.8); path: of a namespace
    file, as /run/netns/blue. The user and pid namespaces must be joined from a process or path the caller has
    CAP_SYS_ADMIN over.
    """

    kind: Namespace
    pid: int | None = None
    pidfd: int | None = None
    path: str | None = None

    def _settle(self) -> None:
        self._put("kind", Namespace.of(self.kind, "Join.kind"))
        given = [name for name in ("pid", "pidfd", "path") if getattr(self, name) is not None]
        if len(given) != 1:
            raise self._bad("kind", f"takes exactly one of pid, pidfd and path, not {' and '.join(given) or 'none'}")
        if self.pid is not None:
            values.integer(self.pid, "Join.pid", least=1, most=2**22)
        if self.pidfd is not None:
            values.integer(self.pidfd, "Join.pidfd", most=2**31 - 1)
        if self.path is not None:
            self._put("path", values.host_path(self.path, "Join.path"))


class TimeOffsets(Record):
    """Clock offsets of a new time namespace, in seconds, to the nanosecond. See time_namespaces(7); since Linux 5.6.

    monotonic also moves CLOCK_MONOTONIC_COARSE and _RAW; boottime moves /proc/uptime. No clock may become negative.
    """

    monotonic: float = 0
    boottime: float = 0

    def _settle(self) -> None:
        for name in ("monotonic", "boottime"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 2**63 / 1e9:
                raise self._bad(name, f"must be seconds, at most 292 years, not {value!r}")
