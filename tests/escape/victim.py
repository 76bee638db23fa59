"""A process of the host's that probes try to reach. argv: a token to be found by, what to offer. It ends with its stdin."""

import ctypes
import json
import os
import signal
import socket
import sys
import threading

signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # probes send it
given = json.loads(sys.argv[2])
memory = ctypes.create_string_buffer(given["secret"].encode())


def accept(listener):
    while True:
        listener.accept()[0].close()


def answer(datagrams):
    while True:
        _, sender = datagrams.recvfrom(16)
        datagrams.sendto(b"pong", sender)


def listening(family, address):
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen(64)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    return listener


tcp = listening(socket.AF_INET, ("127.0.0.1", 0))
listening(socket.AF_UNIX, "\0" + given["abstract"])
listening(socket.AF_UNIX, given["socket"])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
threading.Thread(target=answer, args=(udp,), daemon=True).start()
print(
    json.dumps({"address": ctypes.addressof(memory), "port": tcp.getsockname()[1], "udp": udp.getsockname()[1]}),
    flush=True,
)
sys.stdin.read()
os._exit(0)
