"""Control groups: limits and accounts of a whole sandbox, in version 2, version 1, or both (a hybrid host).

    place    where the caller may make groups, found by trying; kept for the process
    group    one group: made with its limits, entered by a child, read, killed, removed
    sweep    what dead callers left behind

How a caller uses it:

    limits = cgroups.Limits(memory=64 << 20, processes=32, cpus=0.5)
    group = cgroups.make(limits)                  # UnsupportedError names the limit, the cause and the fix
    try:
        # The child is born in group.into (clone3's CLONE_INTO_CGROUP), where that is not None, and its first
        # steps write "0" to each of group.entries. No step of the caller's comes between clone and exec.
        ...
        group.opened()                            # the child has exec'd: the entries can be closed
        group.cpu_usec(), group.usage()           # while it runs
        ...
        group.events(), group.usage()             # after its end: the evidence, and the account
    finally:
        group.close()                             # kills what is still inside, removes, closes; True if all is gone

A new cgroup namespace has the cgroup of whoever *makes* it as its root. With CLONE_INTO_CGROUP | CLONE_NEWCGROUP that is
the caller's, not the child's; so a child takes unshare(CLONE_NEWCGROUP) as a step after it has entered its group.

A process is never moved here, but into a group made for it. Where the caller itself stands in the way (version 2's "no
internal processes"), `make_room` moves it, and only when called.
"""

from __future__ import annotations

from ramet.cgroups.group import Group, make, ways_in
from ramet.cgroups.place import Place, find, forget, make_room, sweep
from ramet.spec.group_limits import GroupLimits as Limits
from ramet.spec.group_limits import IoLimit

__all__ = ["Group", "IoLimit", "Limits", "Place", "find", "forget", "make", "make_room", "sweep", "ways_in"]
