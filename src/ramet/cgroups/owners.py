"""Owners: whose a group is, by its name; so that a sweep removes what a dead caller left, and only that.

The name of a group is ``ramet-PID-START-DOMAIN-SERIAL``. START is when the process began, in clock ticks since boot
(field 22 of /proc/PID/stat): a pid is given again, the pair is not. DOMAIN names the pid and the time namespace in which the
two mean anything. Groups don't outlive a boot, so the boot need not be named.
"""

from __future__ import annotations

import os
from itertools import count

from ramet.proc import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Owner(NamedTuple):
        """See below."""

        pid: int
        start: int
        domain: str
else:
    from collections import namedtuple

    class Owner(namedtuple("Owner", "pid start domain")):
        """Who made a group."""

        __slots__ = ()


PREFIX = "ramet"
_serial = count(1)
_own: dict[int, str] = {}


def new_name() -> str:
    """A name that nobody has: this process's, and a number."""
    pid = os.getpid()
    found = _own.get(pid)
    if found is None:
        owner = own()
        _own.clear()  # the parent's, after a fork
        found = _own[pid] = f"{PREFIX}-{owner.pid}-{owner.start}-{owner.domain}-"
    return found + str(next(_serial))


def own() -> Owner:
    """This process. The pid is that of the pid namespace which /proc shows, as for everybody whom a sweep looks up."""
    content = read("/proc/self/stat")
    if content is None:
        from ramet.errors import UnsupportedError

        raise UnsupportedError("a group needs an owner", fact="/proc/self/stat can't be read", needs="/proc mounted")
    return Owner(int(content.split(" ", 1)[0]), _start(content), _domain())


def parsed(name: str) -> Owner | None:
    """The owner that a name tells, or None for a name that isn't of this form."""
    parts = name.split("-")
    if len(parts) != 5 or parts[0] != PREFIX or not (parts[1].isdigit() and parts[2].isdigit() and parts[4].isdigit()):
        return None
    return Owner(int(parts[1]), int(parts[2]), parts[3])


def dead(owner: Owner, mine: Owner) -> bool:
    """Is it certain that the owner is gone? Not for one of another pid namespace, of whom nothing can be known."""
    if owner.domain != mine.domain or (owner.pid, owner.start) == (mine.pid, mine.start):
        return False
    content = read(f"/proc/{owner.pid}/stat")
    if content is None:
        return _no_such_process(owner.pid)
    return _start(content) != owner.start or _has_ended(content)


def _no_such_process(pid: int) -> bool:
    """/proc does not show it: where it is mounted with hidepid, that says nothing."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _fields(stat: str) -> list[str]:
    """From the third on; the second, the command's name, may hold anything."""
    return stat.rpartition(")")[2].split()


def _start(stat: str) -> int:
    return int(_fields(stat)[19])


def _has_ended(stat: str) -> bool:
    """A zombie without threads. (One whose leader has ended while others run is alive.)"""
    fields = _fields(stat)
    return fields[0] in "ZX" and int(fields[17]) <= 1


def _domain() -> str:
    """The inodes of the two namespaces that pid and start are numbers of."""
    found = []
    for name in ("pid", "time"):
        try:
            found.append(f"{os.stat(f'/proc/self/ns/{name}').st_ino:x}")
        except OSError:
            found.append("0")  # a kernel without time namespaces
    return ".".join(found)
