"""Whether two processes share memory, descriptors and the like: kcmp(2), and what it leaves open.

kcmp compares pointers. Where neither process has the thing at all, both are NULL, and kcmp says "equal" of two
that share nothing: most processes have neither an I/O context nor a semaphore undo list. So these two are held
against two children of our own as well, which have none either, as they show by being equal to each other.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ARM = os.uname().machine == "aarch64"
_NR_KCMP = 272 if _ARM else 312
_NR_READ = 63 if _ARM else 0
TYPES = {"VM": 1, "FS": 3, "FILES": 2, "SIGHAND": 4, "SYSVSEM": 6, "IO": 5}
"""linux/kcmp.h, under the names of the clone flags that share them."""
_MAY_BE_NONE = ("SYSVSEM", "IO")

SHARED, APART, NEITHER, UNKNOWN = "shared", "apart", "neither", "?"


class Comparison:
    """relations: of each of TYPES "shared", "apart", "neither" (has one), or "?". why: what kcmp answered to "?"."""

    __slots__ = ("relations", "why")

    def __init__(self, relations: dict[str, str], why: int = 0) -> None:
        self.relations, self.why = relations, why


def compare(first: int, second: int) -> Comparison:
    """Compare two processes, or threads, by kcmp(2). Nothing is raised: what it refuses is "?"."""
    relations = {}
    for name, number in TYPES.items():
        try:
            relations[name] = SHARED if _equal(first, second, number) else APART
        except OSError as error:
            return Comparison(dict.fromkeys(TYPES, UNKNOWN), error.errno or errno.EPERM)
    in_doubt = [name for name in _MAY_BE_NONE if relations[name] == SHARED]
    if in_doubt and first != second:
        relations.update(_settled(in_doubt, first))
    return Comparison(relations)


def _settled(in_doubt: list[str], pid: int) -> dict[str, str]:
    """Of what two processes are equal in: do they share one, or do both have none?"""
    for one, other in _two_with_nothing():
        try:
            found = {}
            for name in in_doubt:
                if not _equal(one, other, TYPES[name]):
                    found[name] = UNKNOWN  # ours have one each (the caller set an I/O priority): no measure
                else:
                    found[name] = NEITHER if _equal(pid, one, TYPES[name]) else SHARED
            return found
        except OSError:
            break
    return dict.fromkeys(in_doubt, UNKNOWN)


def _two_with_nothing() -> Iterator[tuple[int, int]]:
    """The pids of two children of ours that wait, and are gone afterwards; nothing if they can't be made."""
    from ramet import lowlevel
    from ramet.flags import CLONE

    read, write = os.pipe()
    made: list[lowlevel.Clone] = []
    try:
        wait = lowlevel.Call(_NR_READ, read, lowlevel.Buffer(8), 1)
        made += [lowlevel.clone3(CLONE.VM | CLONE.PIDFD, child=[wait]) for _ in range(2)]
        yield made[0].pid, made[1].pid
    except OSError:
        return
    finally:
        os.write(write, bytes(len(made)))
        for each in made:
            each.wait()
            each.close()
        os.close(read)
        os.close(write)


def _equal(first: int, second: int, kind: int) -> bool:
    from ramet import _core

    return _core.syscall("kcmp", _NR_KCMP, first, second, kind, 0, 0) == 0
