"""User and group ids: the maps of a new user namespace, and becoming the payload's user in it."""

from __future__ import annotations

import struct
from collections import namedtuple

from ramet.errors import SpecError, UnsupportedError
from ramet.plan.life import die_with_caller
from ramet.plan.steps import Block, Builder, CallerStep, Slot
from ramet.spec import IdMapping, Namespace
from ramet.spec.sandbox import DEFAULT_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.host.facts import Facts, IdRange
    from ramet.spec import Sandbox

#: Who a root caller's payload is outside. No distribution gives this id to anyone (Debian policy 9.2.2 reserves it,
#: systemd lists it as unused), and unlike 65534 no unmapped file shows up as its own.
UNPRIVILEGED_ID = 65533
SUBORDINATE_SIZE = 65536

PR_SET_KEEPCAPS = 8
CAP_CHOWN = 0
CAPABILITY_VERSION_3 = 0x20080522
CONTROL_CALLER_END = Slot("control_caller_end")
CONTROL = Slot("control")

DOING = "map the payload's ids"

Maps = namedtuple("Maps", "uid gid uids gids by_child deny_setgroups helper")
"""uid, gid: of the payload inside; uids, gids: the lines; by_child: written by the child itself, no sync."""


def payload_ids(spec: Sandbox, facts: Facts) -> tuple[int, int]:
    """The payload's uid and gid inside."""
    if Namespace.USER in spec.namespaces or spec.joined(Namespace.USER):
        own_uid = own_gid = DEFAULT_ID  # what a sandbox maps, unless told otherwise
    elif facts.privileged:
        own_uid = own_gid = UNPRIVILEGED_ID
    else:
        own_uid, own_gid = facts.uid, facts.gid
    return (own_uid if spec.uid is None else spec.uid, own_gid if spec.gid is None else spec.gid)


def choose_maps(spec: Sandbox, facts: Facts) -> Maps:
    """The lines of uid_map and gid_map, and who may write them; see user_namespaces(7)."""
    uid, gid = payload_ids(spec, facts)
    outside = (UNPRIVILEGED_ID, UNPRIVILEGED_ID) if facts.privileged else (facts.uid, facts.gid)
    uids = _lines(spec.uid_mappings, "uid_mappings", uid, outside[0], facts.subuids, "/etc/subuid", facts)
    gids = _lines(spec.gid_mappings, "gid_mappings", gid, outside[1], facts.subgids, "/etc/subgid", facts)
    one_line = uids == (IdMapping(uid, facts.uid),) and gids == (IdMapping(gid, facts.gid),)
    by_child = one_line and not facts.privileged
    helper = not by_child and not facts.privileged
    if helper:
        _need_helpers(facts)
    if by_child and spec.groups:
        raise SpecError(
            "needs more than the caller's own group to be mapped",
            field="Sandbox.groups",
            hint='gid_mappings="subordinate" maps the caller\'s range of /etc/subgid',
        )
    return Maps(uid, gid, uids, gids, by_child, by_child, helper)


def owner_outside(spec: Sandbox, facts: Facts, maps: Maps | None, uid: int, gid: int) -> tuple[int, int] | None:
    """Who the payload is outside, where the caller can give it what is made for it: /dev/stdin is opened anew."""
    if not (facts.privileged and facts.capable(CAP_CHOWN)) or spec.joined(Namespace.USER):
        return None
    if maps is None:
        return uid, gid
    return outside_id(maps.uids, uid), outside_id(maps.gids, gid)


def outside_id(lines: tuple[IdMapping, ...], inside: int) -> int:
    return next(line.outside + inside - line.inside for line in lines if line.covers(inside))


def _lines(
    wanted: tuple[IdMapping, ...] | str | None,
    field: str,
    inside: int,
    outside: int,
    ranges: tuple[IdRange, ...],
    file: str,
    facts: Facts,
) -> tuple[IdMapping, ...]:
    if wanted is None:
        return (IdMapping(inside, outside),)
    if not isinstance(wanted, str):
        return wanted
    if not ranges:
        raise UnsupportedError(
            f'Sandbox.{field}="subordinate"',
            fact=f"{file} has no line for uid {facts.uid}",
            needs="a range of ids that are the caller's to give",
            hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un {facts.uid})",
        )
    return _around(inside, outside, ranges[0])


def _around(inside: int, outside: int, range_: IdRange) -> tuple[IdMapping, ...]:
    """Map 0..65535 to the range, but `inside` to `outside`, so that the caller's own files are the payload's."""
    size = min(SUBORDINATE_SIZE, range_.size)
    lines = []
    if 0 < inside:
        lines.append(IdMapping(0, range_.start, min(inside, size)))
    lines.append(IdMapping(inside, outside))
    if inside + 1 < size:
        lines.append(IdMapping(inside + 1, range_.start + inside + 1, size - inside - 1))
    return tuple(lines)


def _need_helpers(facts: Facts) -> None:
    if facts.newuidmap and facts.newgidmap:
        return
    missing = "newuidmap" if not facts.newuidmap else "newgidmap"
    raise UnsupportedError(
        "mapping more than one's own id",
        fact=f"{missing} is not installed",
        needs="a set-uid helper that checks /etc/subuid, since the caller has no CAP_SETUID",
        hint="apt-get install uidmap",
    )


def map_ids(b: Builder, maps: Maps) -> None:
    """The child's side: write the maps, or wait until the caller has."""
    if maps.by_child:
        b.about("Sandbox.uid_mappings", "map the payload's ids to the caller's")
        b.write_file("/proc/self/setgroups", "deny")  # required of an unprivileged writer of gid_map
        b.write_file("/proc/self/uid_map", maps.uids[0].line)
        b.write_file("/proc/self/gid_map", maps.gids[0].line)
        return
    wait_for_maps(b)


def wait_for_maps(b: Builder) -> None:
    """Stop until the caller has written the maps. One that lets go instead ends the child."""
    b.about("Sandbox.uid_mappings", "wait for the caller to map the ids")
    # The child's own copy of the caller's end would keep the socket open when the caller is gone.
    b.call("close", CONTROL_CALLER_END)
    b.call("read", CONTROL, Block(bytes(8), text='""'), 1, expect=1)


def caller_maps(maps: Maps, facts: Facts) -> tuple[CallerStep, ...]:
    """The caller's side of the sync."""
    if maps.by_child:
        return ()
    if not maps.helper:
        return caller_writes(maps)
    return tuple(
        CallerStep("helper", (program, "{pid}", *(w for m in lines for w in m.line.split())), f"Sandbox.{field}", DOING)
        for program, lines, field in (
            (facts.newuidmap, maps.uids, "uid_mappings"),
            (facts.newgidmap, maps.gids, "gid_mappings"),
        )
    )


def caller_writes(maps: Maps) -> tuple[CallerStep, ...]:
    """The maps as the caller writes them: as root, or an ordinary user's own one line (user_namespaces(7))."""
    denied = (CallerStep("write", ("setgroups", "deny"), "Sandbox.gid_mappings", DOING),) if maps.deny_setgroups else ()
    return denied + tuple(
        CallerStep("write", (name, "".join(f"{m.line}\n" for m in lines)), f"Sandbox.{field}", DOING)
        for name, lines, field in (("uid_map", maps.uids, "uid_mappings"), ("gid_map", maps.gids, "gid_mappings"))
    )


def as_they_are(facts: Facts) -> tuple[CallerStep, ...]:
    """An ordinary caller's own ids, as it writes the maps of a namespace in which they are to mean the same."""
    uids, gids = (IdMapping(facts.uid, facts.uid),), (IdMapping(facts.gid, facts.gid),)
    return caller_writes(Maps(facts.uid, facts.gid, uids, gids, True, True, False))


def become(b: Builder, uid: int, gid: int, groups: tuple[int, ...] | None, capabilities: int) -> None:
    """Take the payload's ids, and keep the capabilities that the set-up still needs: those the child has now.

    groups: None leaves them, as in a joined user namespace, which may not allow setgroups(2).
    """
    b.about("Sandbox.uid", f"become uid {uid} and gid {gid}")
    b.call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    if groups is not None:
        set_groups(b, groups)
    b.call("setresgid", gid, gid, gid)
    b.call("setresuid", uid, uid, uid)
    b.call("capset", *capability_blocks(capabilities, capabilities, 0))
    die_with_caller(b)  # again: commit_creds() in the kernel clears the signal when ids change


def set_groups(b: Builder, groups: tuple[int, ...]) -> None:
    """setgroups(2)."""
    packed = struct.pack(f"<{len(groups)}I", *groups)
    shown = "[" + ", ".join(str(g) for g in groups) + "]"
    b.call("setgroups", len(groups), Block(packed or bytes(4), text=shown))


def capability_blocks(effective: int, permitted: int, inheritable: int) -> tuple[Block, Block]:
    """The two structures of capset(2)."""
    low = 0xFFFFFFFF
    data = struct.pack(
        "<6I",
        *(effective & low, permitted & low, inheritable & low),
        *(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    text = f"{{effective={effective:#x}, permitted={permitted:#x}, inheritable={inheritable:#x}}}"
    return Block(struct.pack("<Ii", CAPABILITY_VERSION_3, 0), text="{_LINUX_CAPABILITY_VERSION_3, 0}"), Block(
        data, text=text
    )
