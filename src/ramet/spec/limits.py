"""Resource limits by setrlimit(2). Names are those of the man page without RLIMIT_."""

from __future__ import annotations

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.record import FrozenMap, nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The kernel's numbers, the same on x86-64 and aarch64 (asm-generic/resource.h).
RLIMITS = {
    "CPU": 0,
    "FSIZE": 1,
    "DATA": 2,
    "STACK": 3,
    "CORE": 4,
    "RSS": 5,
    "NPROC": 6,
    "NOFILE": 7,
    "MEMLOCK": 8,
    "AS": 9,
    "LOCKS": 10,
    "SIGPENDING": 11,
    "MSGQUEUE": 12,
    "NICE": 13,
    "RTPRIO": 14,
    "RTTIME": 15,
}
RLIM_INFINITY = 2**64 - 1

#: No core dumps, nor a program of the host's that core_pattern names for them: the kernel starts it at a limit of 0 as well, and at
#: 1 alone it does not. Processes: counted for each user namespace, since Linux 5.14.
DEFAULT_RLIMITS: Mapping[str, tuple[int, int]] = FrozenMap({"CORE": (1, 1), "NPROC": (1024, 1024)})


def check_rlimits(value: object, field: str) -> FrozenMap:
    """Name -> (soft, hard). One number sets both; None means unlimited. The defaults stay for names not given."""
    if not isinstance(value, dict):
        raise SpecTypeError(f"must be a mapping of limits, not {type(value).__name__}", field=field)
    found: dict[str, tuple[int, int]] = dict(DEFAULT_RLIMITS)
    for key, limit in value.items():
        name = str(key).upper().removeprefix("RLIMIT_")
        where = f"{field}[{key!r}]"
        if name not in RLIMITS:
            meant = nearest(name, RLIMITS)
            raise SpecError("no such limit", field=where, hint=f"did you mean {meant!r}?" if meant else None)
        pair = tuple(limit) if isinstance(limit, (tuple, list)) else (limit, limit)
        if len(pair) != 2:
            raise SpecError("must be one number or (soft, hard)", field=where)
        soft, hard = (RLIM_INFINITY if one is None else values.integer(one, where, most=RLIM_INFINITY) for one in pair)
        if soft > hard:
            raise SpecError(f"the soft limit {soft} is above the hard one {hard}", field=where)
        found[name] = (soft, hard)
    return FrozenMap(found)
