"""Hierarchies: where control groups are mounted, and where in each the caller sits. Text in, values out.

See proc_pid_mountinfo(5) and the third field of /proc/PID/cgroup in cgroups(7).
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Hierarchy(NamedTuple):
        """See below."""

        version: int
        controllers: frozenset[str]
        mount: str
        own: str | None
        writable: bool
else:

    class Hierarchy(namedtuple("Hierarchy", "version controllers mount own writable")):
        """A tree of groups as this mount namespace shows it.

        controllers: version 1's, by their names there but for "io" (blkio); none for version 2, whose are enabled group
        by group. mount: where it is mounted. own: the directory of the caller's group, or None where no mount shows it.
        writable: not mounted read-only.
        """

        __slots__ = ()


#: Names of version 1 that version 2 has changed.
RENAMED = {"blkio": "io"}


def unescaped(path: str) -> str:
    r"""A path of mountinfo, with its \040 for a space and so on."""
    if "\\" not in path:
        return path
    head, *rest = path.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def hierarchies(mountinfo: str, own_groups: str) -> list[Hierarchy]:
    """Every hierarchy that is mounted, each once: by the mount that shows the caller's own group, and is writable."""
    owns = _own_groups(own_groups)
    best: dict[frozenset[str] | None, Hierarchy] = {}
    for line in mountinfo.splitlines():
        words = line.split()
        if "-" not in words[6:]:
            continue
        dash = words.index("-", 6)
        kind, options = words[dash + 1], words[dash + 3].split(",")
        if kind not in ("cgroup", "cgroup2"):
            continue
        key = None if kind == "cgroup2" else _key(options, owns)
        if kind == "cgroup" and not key:
            continue  # a named hierarchy, as systemd's own: it has no controllers
        writable = "rw" in words[5].split(",") and "rw" in options
        mount = unescaped(words[4])
        own = _shown(owns.get(key), unescaped(words[3]), mount)
        names = frozenset(RENAMED.get(name, name) for name in key or ())
        found = Hierarchy(2 if key is None else 1, names, mount, own, writable)
        if key not in best or _worth(found) > _worth(best[key]):
            best[key] = found
    return list(best.values())


def _worth(one: Hierarchy) -> tuple[bool, bool]:
    return one.own is not None, one.writable


def _own_groups(text: str) -> dict[frozenset[str] | None, str]:
    """Controllers, or None for version 2, -> the path of the caller's group."""
    found: dict[frozenset[str] | None, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names.startswith("name="):
            continue
        found[frozenset(names.split(",")) if names else None] = path
        if number == "0":
            found[None] = path
    return found


def _key(options: list[str], owns: dict[frozenset[str] | None, str]) -> frozenset[str]:
    """Which controllers a mount of version 1 has: the options among which they are have others too."""
    present = set(options)
    return next((names for names in owns if names and names <= present), frozenset())


def _shown(own: str | None, root: str, mount: str) -> str | None:
    """The directory of a group in a mount whose root is the group `root`. None where that doesn't contain it."""
    if own is None or own.startswith("/.."):
        return None  # outside of the caller's cgroup namespace
    if root in ("/", own):
        inside = own if root == "/" else ""
    elif own.startswith(root + "/"):
        inside = own[len(root) :]
    else:
        return None
    return mount.rstrip("/") + inside.rstrip("/") or "/"
