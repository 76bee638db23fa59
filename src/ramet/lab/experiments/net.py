"""Experiment 5: what shows that the child's network is another one?"""

from __future__ import annotations

import os
import socket
from signal import SIGCHLD

import ramet
from ramet.flags import CLONE
from ramet.lab.experiment import CORRECTED, Experiment, Seen
from ramet.lab.kernel import link, outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings


def run(flags: CLONE, see: Notes) -> None:
    tcp = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0ramet-lab-{os.getpid()}")
    abstract.listen()

    def reach(server: socket.socket) -> None:
        with socket.socket(server.family) as client:
            client.settimeout(2)
            client.connect(server.getsockname())

    def child() -> None:
        see.child("ns/net", link("net"))
        see.child("socket()", outcome(lambda: socket.socket().close()))
        see.child("interfaces up", [i for i in interfaces() if is_up(i)])
        see.child("only lo is there", interfaces() == ["lo"])
        see.child("caller's 127.0.0.1", outcome(reach, tcp))
        see.child("its abstract socket", outcome(reach, abstract))

    with tcp, abstract:
        ramet.call(child, flags=flags, exit_signal=SIGCHLD)
    see.caller("ns/net", link("net"))


def interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def is_up(interface: str) -> bool:
    """ioctl(SIOCGIFFLAGS): is it IFF_UP?"""
    from fcntl import ioctl
    from struct import pack, unpack_from

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = ioctl(any_socket, 0x8913, pack("16s24x", interface.encode()))
    return bool(unpack_from("H", answer, 16)[0] & 1)


def conclude(seen: Seen, control: Seen) -> Findings:
    tcp, abstract = "caller's 127.0.0.1", "its abstract socket"
    return (
        ("the links differ; without the flag they don't", _differ(seen) and not _differ(control)),
        ("socket() works in both, so it shows nothing", seen.child["socket()"] == control.child["socket()"] == "done"),
        ("inside there is lo alone", bool(seen.child["only lo is there"])),
        ("and it is down", seen.child["interfaces up"] == []),
        ("the caller's port is out of reach", seen.child[tcp] != "done" == control.child[tcp]),
        ("so is its abstract socket", seen.child[abstract] != "done" == control.child[abstract]),
    )


def _differ(seen: Seen) -> bool:
    return bool(seen.caller["ns/net"] != seen.child["ns/net"])


EXPERIMENT = Experiment(
    number=5,
    name="net",
    title="a network of its own",
    question="What shows that the child's network is another one?",
    flags=CLONE.VM | CLONE.NEWNET,
    exit_signal=SIGCHLD,
    without=CLONE.NEWNET,
    needs="CAP_SYS_ADMIN",
    run=run,
    conclude=conclude,
    answer="The link in /proc/self/ns differs, and that is all it takes. Inside there is only lo, and it is down; "
    "neither a port nor an abstract socket of the caller can be reached. A socket can be made anywhere.",
    claimed="The links differ, and the successful creation of a socket shows the isolation.",
    verdict=CORRECTED,
    page="network_namespaces(7)",
    manual="It isolates devices, addresses, routes, ports, and the names of abstract sockets. At first it "
    "has a loopback device and nothing else.",
)
