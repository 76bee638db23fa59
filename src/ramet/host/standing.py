"""What a process may do and where it stands: ids and their maps, capabilities, seccomp, cgroup. See proc_pid_status(5).

Everybody may read these of every process that /proc shows.
"""

from __future__ import annotations

from ramet.proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    IdMap = tuple[tuple[int, int, int], ...]

CAPABILITY_SETS = {"Eff": "effective", "Prm": "permitted", "Inh": "inheritable", "Bnd": "bounding", "Amb": "ambient"}
SECCOMP_MODES = {"0": "off", "1": "strict", "2": "filter"}
EVERY_ID = 0xFFFF_FFFF
"""The length of a map of all ids."""


class Standing:
    """None is what could not be read.

    uids, gids: real, effective, saved, file system. uid_map, gid_map: (inside, outside, length), outside as the
    caller's user namespace counts. capabilities: the five sets as bits, by name. seccomp: off, strict or
    filter; seccomp_filters: how many, since Linux 5.9. cgroups: (hierarchy, path); the hierarchy of version 2
    is "". pids: its pid in each pid namespace that it is in, the caller's first. thread_group: the pid of its
    process, if this is a thread of one.
    """

    __slots__ = (
        "capabilities",
        "cgroups",
        "gid_map",
        "gids",
        "no_new_privs",
        "pids",
        "seccomp",
        "seccomp_filters",
        "thread_group",
        "threads",
        "uid_map",
        "uids",
    )

    def __init__(self, status: dict[str, str], *, uid_map: IdMap | None, gid_map: IdMap | None) -> None:
        self.uid_map, self.gid_map = uid_map, gid_map
        self.uids, self.gids = _numbers(status.get("Uid")), _numbers(status.get("Gid"))
        self.capabilities = {
            name: int(status[f"Cap{short}"], 16) for short, name in CAPABILITY_SETS.items() if f"Cap{short}" in status
        }
        self.no_new_privs = status["NoNewPrivs"] == "1" if "NoNewPrivs" in status else None
        self.seccomp = SECCOMP_MODES.get(status.get("Seccomp", ""))
        self.seccomp_filters = (_numbers(status.get("Seccomp_filters")) or (None,))[0]
        self.pids = _numbers(status.get("NSpid"))
        self.thread_group = (_numbers(status.get("Tgid")) or (None,))[0]
        self.threads = (_numbers(status.get("Threads")) or (None,))[0]
        self.cgroups: tuple[tuple[str, str], ...] | None = None


def read_standing(pid: int, *, proc: str = "/proc") -> Standing:
    """Look at one process; what can't be read, or is gone, is None."""
    lines = (read(f"{proc}/{pid}/status") or "").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    found = Standing(status, uid_map=_id_map(f"{proc}/{pid}/uid_map"), gid_map=_id_map(f"{proc}/{pid}/gid_map"))
    cgroups = read(f"{proc}/{pid}/cgroup")
    if cgroups:
        parts = [line.split(":", 2) for line in cgroups.splitlines()]
        found.cgroups = tuple((hierarchy, path) for _, hierarchy, path in parts)
    return found


def _numbers(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(map(int, text.split()))


def _id_map(path: str) -> IdMap | None:
    text = read(path)
    if text is None:
        return None
    return tuple((int(a), int(b), int(c)) for a, b, c in (line.split() for line in text.splitlines()))
