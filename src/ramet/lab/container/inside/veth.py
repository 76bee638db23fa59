"""Two network namespaces joined by a veth pair: run in a process of its own, which becomes the caller's side.

It moves itself into a new user and network namespace (so an ordinary user may do all this, and the host's network is
left alone), clones a child into another network namespace, and joins the two with pyroute2. Prints JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from ramet import lowlevel
from ramet.errors import errno_name
from ramet.flags import CLONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

OUR_NAME, THEIR_NAME = "veth-caller", "veth-child"
OUR_ADDRESS, THEIR_ADDRESS, PREFIX = "10.11.12.1", "10.11.12.2", 24
GREETING = b"hello from the child's network namespace"
PATIENCE = 10


def become_root_of_a_user_namespace() -> None:
    """uid 0 in here, the caller's own uid outside. See user_namespaces(7)."""
    uid, gid = os.geteuid(), os.getegid()
    lowlevel.unshare(CLONE.NEWUSER | CLONE.NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def interfaces() -> list[str]:
    """The names of those in our network namespace."""
    return [name for _, name in socket.if_nameindex()]


def reach(port: int) -> str:
    """Connect to the child's listener: what it says, or the error's name."""
    try:
        with socket.create_connection((THEIR_ADDRESS, port), timeout=PATIENCE) as peer:
            return peer.recv(200).decode()
    except OSError as error:
        return errno_name(error.errno) if error.errno else str(error)


def child_side(talk: socket.socket) -> None:
    """Listen on every address there may come to be; take one's own end of the pair up when told to."""
    from pyroute2 import IPRoute

    with socket.create_server(("", 0)) as server, talk, talk.makefile("r") as told:
        send(talk, {"port": server.getsockname()[1], "interfaces": interfaces(), **identity()})
        if not told.readline():
            return  # there is to be no pair
        with IPRoute() as ip:
            index = ip.link_lookup(ifname=THEIR_NAME)[0]
            ip.addr("add", index=index, address=THEIR_ADDRESS, prefixlen=PREFIX)
            ip.link("set", index=index, state="up")
        send(talk, {"interfaces": interfaces()})
        server.settimeout(PATIENCE)
        peer, address = server.accept()
        with peer:
            peer.sendall(GREETING)
        send(talk, {"caller_address": address[0]})
        told.readline()


def identity() -> dict[str, Any]:
    """Which network namespace this is."""
    return {"namespace": os.readlink("/proc/self/ns/net")}


def send(sock: socket.socket, value: dict[str, Any]) -> None:
    """One line of JSON."""
    sock.sendall(json.dumps(value).encode() + b"\n")


def caller_side() -> dict[str, Any]:
    """Make the child, join the two, and part them again; what was seen at each point."""
    outside = os.readlink("/proc/self/ns/net")
    become_root_of_a_user_namespace()
    ours, theirs = socket.socketpair()
    child = lowlevel.clone3(CLONE.NEWNET, pidfd=True)
    if child.pid == 0:
        status = 1
        try:
            ours.close()
            child_side(theirs)
            status = 0
        finally:
            os._exit(status)
    theirs.close()
    ours.settimeout(4 * PATIENCE)
    with child:
        with ours, ours.makefile("r") as lines:
            seen = {"host": {"namespace": outside}, **joined(child.pid, ours, lines)}
        seen["child_ended"] = child.wait(PATIENCE)
    return seen


def joined(child: int, ours: socket.socket, lines: IO[str]) -> dict[str, Any]:
    """Before, while and after there is a pair. "refused": the errno, where the kernel makes none."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    first = json.loads(lines.readline())
    seen: dict[str, Any] = {
        "caller": {**identity(), "address": OUR_ADDRESS, "before": interfaces()},
        "child": {"namespace": first["namespace"], "address": THEIR_ADDRESS, "before": first["interfaces"]},
        "reached_before": reach(first["port"]),
    }
    with IPRoute() as ip:
        peer = {"ifname": THEIR_NAME, "net_ns_pid": child}
        try:
            ip.link("add", ifname=OUR_NAME, kind="veth", peer=peer)
        except NetlinkError as error:
            return {"refused": error.code}
        index = ip.link_lookup(ifname=OUR_NAME)[0]
        ip.addr("add", index=index, address=OUR_ADDRESS, prefixlen=PREFIX)
        ip.link("set", index=index, state="up")
        ours.sendall(b"up\n")
        seen["child"]["joined"] = json.loads(lines.readline())["interfaces"]
        seen["caller"]["joined"] = interfaces()
        seen["reached"] = reach(first["port"])
        seen["seen_by_child"] = json.loads(lines.readline())["caller_address"]
        ip.link("del", index=index)
    seen["caller"]["parted"] = interfaces()
    seen["reached_after"] = reach(first["port"])
    ours.sendall(b"end\n")
    return seen


if __name__ == "__main__":
    print(json.dumps(caller_side()))
    sys.stdout.flush()
