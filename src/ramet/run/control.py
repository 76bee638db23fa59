"""The control socket between caller and init: csrc/init.h from the other side."""

from __future__ import annotations

import _socket
import struct
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

STARTED, FAILED, EXITED = 1, 2, 3
MESSAGE = struct.Struct("<iiiI7q")
COMMAND = struct.Struct("<i")

Message = namedtuple(
    "Message",
    "kind value stage step user_usec system_usec max_rss_kib minor_faults major_faults voluntary involuntary",
)
"""What init says. kind: STARTED (value: pid inside), FAILED (value: errno) or EXITED (value: wait status)."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The caller's end and the child's. SEQPACKET keeps messages whole, and ends when the other side is gone.

    _socket, since the socket module costs 5 ms to import and adds nothing needed here.
    """
    pair_of: tuple[socket.socket, socket.socket]
    pair_of = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)  # type: ignore[assignment]
    return pair_of


def receive(control: socket.socket) -> Message | None:
    """The next message; None when the other end is closed. Blocks."""
    try:
        data = control.recv(MESSAGE.size)
    except ConnectionResetError:
        return None
    return Message(*MESSAGE.unpack(data)) if len(data) == MESSAGE.size else None


def receive_terminal(control: socket.socket) -> int | None:
    """The master of the pseudo-terminal that the child opened, sent before anything else; None if it never came."""
    data, ancillary, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and data == b"T":
            return int(struct.unpack("<i", payload[:4])[0])
    return None


def forward_signal(control: socket.socket, number: int) -> None:
    """Ask init to send this signal to the payload. A sandbox that is gone needs none."""
    try:
        control.send(COMMAND.pack(number), _socket.MSG_NOSIGNAL)
    except (BrokenPipeError, ConnectionResetError):
        return
