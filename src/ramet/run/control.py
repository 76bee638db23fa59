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
MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT = 2, 0x20, 0x40
#: socketpair, sendto, recvfrom
_NUMBERS = {"x86_64": (53, 44, 45), "aarch64": (199, 206, 207)}[os.uname().machine]
TELL_DISK = -1
#: ms; init answers in microseconds, but it may be held to as little CPU time as its sandbox.
ANSWER_AT_MOST = 20

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
    """Its report; None when the other end is closed. Blocks."""
    data = bytes(COMMAND.size)
    while len(data) == COMMAND.size:  # an answer that came too late
        try:
            data = os.read(control, MESSAGE.size)
        except ConnectionResetError:
            return None
    return Message(*MESSAGE.unpack(data)) if len(data) == MESSAGE.size else None


def receive_descriptor(control: int) -> int | None:
    """What a plan hands over (`ramet.plan.life.hand_over`), before it says anything else; None if it never came."""
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


def disk_is_full(control: int) -> bool:
    """Ask init, which is about to be killed and will not report. False also where it does not answer in time, or has reported."""
    from ramet.run.streams import readable

    answer = bytearray(COMMAND.size)
    try:
        send(control, COMMAND.pack(TELL_DISK))
        readable(control, ANSWER_AT_MOST)
        # A report is longer, and for `receive`. Linux tells its whole length with MSG_TRUNC.
        flags = MSG_DONTWAIT | MSG_TRUNC
        if _received(control, answer, flags | MSG_PEEK) != COMMAND.size:
            return False
        _received(control, answer, flags)
    except OSError:
        return False  # it has ended, or another thread was faster
    return bool(COMMAND.unpack(answer)[0])


def _received(control: int, buffer: bytearray, flags: int) -> int:
    return _core.syscall("recvfrom", _NUMBERS[2], control, buffer, len(buffer), flags, 0, 0)


def forward_signal(control: int, number: int) -> None:
    """Ask init to send this signal to the payload. A sandbox that is gone needs none."""
    try:
        send(control, COMMAND.pack(number))
    except (BrokenPipeError, ConnectionResetError):
        return
