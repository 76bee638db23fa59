"""The control socket between caller and init: csrc/init.h from the other side. Its ends are plain descriptors.

By raw system calls, since the socket module costs 5 ms to import, and a socket object 10 us to make.
"""

from __future__ import annotations

import os
import struct
from collections import namedtuple

from ramet import _core

AF_UNIX, SOCK_SEQPACKET = 1, 5
MSG_NOSIGNAL = 0x4000
#: socketpair, sendto
_NUMBERS = {"x86_64": (53, 44), "aarch64": (199, 206)}[os.uname().machine]

MESSAGE = struct.Struct("<ii9q")
COMMAND = struct.Struct("<i")

Message = namedtuple(
    "Message",
    "status disk_full user_usec system_usec max_rss_kib minor_faults major_faults blocks_in blocks_out voluntary involuntary",
)
"""How the payload ended. status: as wait4(2) gives it; disk_full: the sandbox's own file system had no room left; the rest: of everything that init reaped."""


def message_of(rusage: bytes | bytearray) -> Message | None:
    """What init could not report any more, from struct rusage; None where the kernel has told nothing."""
    numbers = struct.unpack("<18q", rusage)
    if not any(numbers):
        return None
    user, system = (numbers[n] * 1_000_000 + numbers[n + 1] for n in (0, 2))
    return Message(0, 0, user, system, numbers[4], *numbers[8:10], *numbers[11:13], *numbers[16:18])


def pair() -> tuple[int, int]:
    """The caller's end and the child's. SEQPACKET keeps messages whole, and ends when the other side is gone."""
    ends = bytearray(8)
    _core.syscall("socketpair", _NUMBERS[0], AF_UNIX, SOCK_SEQPACKET | os.O_CLOEXEC, 0, ends)
    ours, theirs = struct.unpack("ii", ends)
    return ours, theirs


def send(control: int, data: bytes) -> None:
    """Raises BrokenPipeError, and no signal, where the other end is closed."""
    _core.syscall("sendto", _NUMBERS[1], control, data, len(data), MSG_NOSIGNAL, 0, 0)


def receive(control: int) -> Message | None:
    """The next message; None when the other end is closed. Blocks."""
    try:
        data = os.read(control, MESSAGE.size)
    except ConnectionResetError:
        return None
    return Message(*MESSAGE.unpack(data)) if len(data) == MESSAGE.size else None


def receive_terminal(control: int) -> int | None:
    """The master of the pseudo-terminal that the child opened, sent before anything else; None if it never came."""
    import _socket

    wrapped = _socket.socket(fileno=os.dup(control))
    try:
        data, ancillary, _, _ = wrapped.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    finally:
        wrapped.close()
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and data == b"T":
            return int(struct.unpack("<i", payload[:4])[0])
    return None


def forward_signal(control: int, number: int) -> None:
    """Ask init to send this signal to the payload. A sandbox that is gone needs none."""
    try:
        send(control, COMMAND.pack(number))
    except (BrokenPipeError, ConnectionResetError):
        return
