"""CLONE_VM | CLONE_NEWNET | SIGCHLD: the links differ. A socket can be made anywhere; what it reaches is another matter."""

import os
import signal
import socket

import ramet
from ramet import CLONE

# An ordinary user may do this in a user namespace of its own, as its root.
flags, root = (CLONE.VM, None) if os.geteuid() == 0 else (CLONE.VM | CLONE.NEWUSER, 0)


def child(address):
    with socket.socket() as client:
        print("child: ", os.readlink("/proc/self/ns/net"), "has a socket, and", socket.if_nameindex())
        try:
            client.connect(address)
        except OSError as error:
            print("child: ", "127.0.0.1 of the caller:", error.strerror)
        else:
            print("child: ", "127.0.0.1 of the caller: reached")


with socket.create_server(("127.0.0.1", 0)) as server:
    print("caller:", os.readlink("/proc/self/ns/net"))
    ramet.call(child, server.getsockname(), flags=flags | CLONE.NEWNET, exit_signal=signal.SIGCHLD, map_uid=root)
    ramet.call(child, server.getsockname(), flags=CLONE.VM)  # without the flag
