"""A process of the caller's with everything that a container should not reach: neighbour.py TOKEN FOLDER.

It listens on 127.0.0.1 and on an abstract socket, holds the token in its memory and in SysV shared memory, and says so
when it gets SIGUSR1. It ends with its stdin, and then the folder is gone.
"""

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import sys

PR_SET_PTRACER = 0x59616D61
ANYBODY = ctypes.c_ulong(-1).value
IPC_RMID = 0


def shared_memory(libc: ctypes.CDLL, token: bytes) -> int:
    """A SysV segment that holds the token; destroyed as soon as we end, however we do."""
    libc.shmat.restype = ctypes.c_void_p
    segment: int = libc.shmget(0, len(token), 0o600)
    address = libc.shmat(segment, None, 0) if segment >= 0 else None
    if segment < 0 or address in (None, ANYBODY):
        return -1
    ctypes.memmove(address, token, len(token))
    libc.shmctl(segment, IPC_RMID, None)
    return segment


def main() -> None:
    """Say where everything is, then serve until stdin ends."""
    token = sys.argv[1].encode()
    libc = ctypes.CDLL(None, use_errno=True)
    # Where Yama is on, only a process's own parents may look into it, unless it says otherwise.
    libc.prctl(PR_SET_PTRACER, ctypes.c_ulong(ANYBODY), 0, 0, 0)
    memory = ctypes.create_string_buffer(token)
    inet = socket.create_server(("127.0.0.1", 0))
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind("")  # the kernel chooses an abstract name
    abstract.listen()
    signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"signal\n"))
    found = {
        "pid": os.getpid(),
        "address": ctypes.addressof(memory),
        "port": inet.getsockname()[1],
        "abstract": abstract.getsockname().decode().lstrip("\0"),
        "segment": shared_memory(libc, token),
    }
    os.write(1, json.dumps(found).encode() + b"\n")
    waiting = selectors.DefaultSelector()
    for source in (inet, abstract, sys.stdin):
        waiting.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is sys.stdin:
                return
            assert isinstance(key.fileobj, socket.socket)
            client, _ = key.fileobj.accept()
            with client:
                client.sendall(token)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(sys.argv[2])
