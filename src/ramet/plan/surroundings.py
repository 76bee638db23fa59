"""Network, host name, clocks, nested namespaces: what else is new around the payload."""

from __future__ import annotations

import math
import os
import struct

from ramet.plan.steps import Block, Builder
from ramet.spec import Namespace
from ramet.spec.sandbox import DEFAULT_HOSTNAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.spec import Sandbox, TimeOffsets

AF_INET, SOCK_DGRAM, SOCK_CLOEXEC = 2, 2, 0o2000000
SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40
CLONE_NEWTIME = 0x80


def bring_up_loopback(b: Builder) -> None:
    """lo of a new network namespace is down; see network_namespaces(7) and netdevice(7)."""
    b.about("Sandbox.loopback", "bring lo up")
    sock = b.open("socket", "socket", AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    request = struct.pack("<16sH22x", b"lo", IFF_UP | IFF_RUNNING)
    b.call("ioctl", sock, SIOCSIFFLAGS, Block(request, text='{"lo", IFF_UP|IFF_RUNNING}'))
    b.close(sock)


def set_names(b: Builder, spec: Sandbox) -> None:
    """Host and NIS domain name of a new UTS namespace."""
    hostname = DEFAULT_HOSTNAME if spec.hostname is None else spec.hostname
    b.about("Sandbox.hostname", f"set the host name to {hostname!r}")
    b.call("sethostname", hostname, len(os.fsencode(hostname)))
    if spec.domainname is not None:
        b.about("Sandbox.domainname", f"set the domain name to {spec.domainname!r}")
        b.call("setdomainname", spec.domainname, len(os.fsencode(spec.domainname)))


def forbid_user_namespaces(b: Builder) -> None:
    """A payload that may not make user namespaces can't get capabilities in one, and with them kernel surface."""
    b.about("Sandbox.nested_namespaces", "forbid user namespaces inside")
    b.write_file("/proc/sys/user/max_user_namespaces", "0")


def new_time_namespace(b: Builder, offsets: TimeOffsets | None) -> None:
    """Not by clone: a CLONE_VM child can't be in another time namespace than the memory's (time_namespaces(7)).

    unshare puts the children to come, and what is exec'd, into it; the offsets must be written before anyone is.
    """
    b.about("Sandbox.namespaces", "make a time namespace")
    b.call("unshare", CLONE_NEWTIME)
    if offsets is None:
        return
    b.about("Sandbox.time_offsets", "set the clocks' offsets")
    lines = [
        f"{clock} {math.floor(offset)} {round((offset - math.floor(offset)) * 1e9)}\n"
        for clock, offset in (("monotonic", offsets.monotonic), ("boottime", offsets.boottime))
        if offset
    ]
    if lines:
        b.write_file("/proc/self/timens_offsets", "".join(lines))


def surround(b: Builder, spec: Sandbox, *, ahead: bool) -> None:
    """All of it, in order; without what was done when namespaces were made ahead."""
    if Namespace.NET in spec.namespaces and spec.loopback and not ahead:
        bring_up_loopback(b)
    if Namespace.UTS in spec.namespaces:
        set_names(b, spec)
    if Namespace.USER in spec.namespaces and not spec.nested_namespaces and not ahead:
        forbid_user_namespaces(b)
