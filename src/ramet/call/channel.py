"""The channel on which a function's process tells what it has: frames on a stream socket, large buffers beside them.

A frame is its kind, how many descriptors belong to it, and a length, then so many bytes. Each descriptor is a memfd, sealed so that
nobody can change or shorten it any more. The reader trusts nothing of it: lengths are checked before anything is kept,
and once it has seen a frame that can't be it takes no more from there.

Buffers of four mebibytes and more together lie in a tray of the reader's, where there is one (`ramet.run.trays`): a LAID frame says how long
each of them is, and then comes the frame they belong to. They are not looked at before the sender is gone.

Else buffers of a mebibyte and more together come by a pipe that the reader has made: their pages are put into it as they are, so they
are copied once, into memory that is the reader's own, and count once for a sandbox's memory limit. A POUR frame says how long each
of them is; every time that something has been put in, a MORE frame says so, and the reader takes what is there and waits for no
more; then comes the frame they belong to. The read end is the reader's alone: nobody else can make it block.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct

from ramet import _core
from ramet.call.wire import LARGE_MOST
from ramet.run import trays

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

    from ramet.call.wire import Buffer
    from ramet.run.trays import Tray

HEADER = struct.Struct("<4sIQ")
VALUE, RAISED, UNSENDABLE, LOG, WARNING, PICKLED = b"VALU", b"RAIS", b"CANT", b"LOG ", b"WARN", b"PICK"
POUR, MORE, LAID = b"POUR", b"MORE", b"LAID"
KINDS = frozenset({VALUE, RAISED, UNSENDABLE, LOG, WARNING, PICKLED, POUR, MORE, LAID})
#: A task, which the caller sends: what kind of it, and how many bytes may come back; a pickle follows. The descriptor behind those of its
#: buffers is that of a tray.
TASK_KIND = b"TASK"
TASK = struct.Struct("<4sQB")
FUNCTION, CODE, SESSION = b"FUNC", b"CODE", b"SESS"
#: Read at once: no more, or memory for it would be mapped and unmapped each time (mallopt(3), M_MMAP_THRESHOLD).
CHUNK = 1 << 16
#: From so many bytes on buffers go by the pipe; it is made as large as anybody may make one. Memory from so many on has large pages.
POUR_LEAST, PIPE_SIZE, HUGE_LEAST = 1 << 20, 1 << 20, 4 << 20
F_SETPIPE_SZ = 1031
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEALS = 0xF  # SEAL | SHRINK | GROW | WRITE


class Broken(Exception):
    """What came is no frame, or more than is taken."""


def send(
    to: socket.socket,
    kind: bytes,
    data: bytes,
    buffers: Sequence[Buffer] = (),
    *,
    pages: int | None = None,
    tray: memoryview | None = None,
    hands: int = 1,
    beside: Sequence[int] = (),
) -> None:
    """Blocks until the other side has taken it. Raises OSError when that has hung up.

    pages: the write end of the reader's pipe, if it has one; then buffers must stay as they are until this process ends. tray: the
    reader's, mapped; hands: threads that may lay into it. beside: descriptors that belong to no buffer.
    """
    fds: list[int] = []
    size = sum(memoryview(one).nbytes for one in buffers)
    if tray is not None and size >= trays.LEAST and laid(to, tray, buffers, hands):
        buffers = ()
    elif pages is not None and size >= POUR_LEAST:
        pour(to, pages, buffers)
        buffers = ()
    try:
        for buffer in buffers:
            fds.append(sealed(buffer))
        import socket

        head = HEADER.pack(kind, len(fds), len(data))
        sent = socket.send_fds(to, [head], [*fds, *beside]) if fds or beside else to.send(head)
        to.sendall(head[sent:])
        to.sendall(data)
    finally:
        for fd in fds:
            os.close(fd)


def laid(to: socket.socket, tray: memoryview, buffers: Sequence[Buffer], hands: int) -> bool:
    """Lay them into the tray, and say so. False where it has no room, or the machine no memory for them."""
    views = [memoryview(one).cast("B") for one in buffers]
    total, places = trays.layout([view.nbytes for view in views])
    if total > tray.nbytes:
        return False
    hands = min(hands, len(os.sched_getaffinity(0)))
    try:
        for view, at in zip(views, places, strict=True):
            _core.lay(tray, at, view, hands)
    except OSError:
        return False
    to.sendall(_announced(LAID, views))
    return True


def _announced(kind: bytes, views: Sequence[memoryview]) -> bytes:
    """The frame that says how long buffers are that do not come with theirs: see `Reader._sizes`."""
    return HEADER.pack(kind, 0, 8 * len(views)) + struct.pack(f"<{len(views)}Q", *[view.nbytes for view in views])


def pour(to: socket.socket, pages: int, buffers: Sequence[Buffer]) -> None:
    """Through the pipe. Every byte in it is told of on the socket before we wait for room."""
    import select

    views = [memoryview(one).cast("B") for one in buffers]
    to.sendall(_announced(POUR, views))
    _enlarge(pages)
    os.set_blocking(pages, False)
    room = select.poll()
    room.register(pages, select.POLLOUT)
    put, more = _core.vmsplice, HEADER.pack(MORE, 0, 0)
    for view in views:
        at = 0
        while at < view.nbytes:
            try:
                count = put(pages, view[at:])
            except BlockingIOError:
                count = 0
            except OSError as error:
                if put is os.write or error.errno not in (errno.EPERM, errno.ENOSYS):
                    raise
                put = os.write  # a policy of the user's without vmsplice(2)
                continue
            if count:
                at += count
                to.sendall(more)
            else:
                room.poll()


def _enlarge(pages: int) -> bool:
    """Fewer turns; it works without, where all of this user's pipes together hold as much as they may."""
    try:
        return fcntl.fcntl(pages, F_SETPIPE_SZ, PIPE_SIZE) >= PIPE_SIZE
    except OSError:
        return False


def sealed(buffer: Buffer) -> int:
    """A memfd with these bytes, which stay as they are."""
    fd = os.memfd_create("ramet-value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(buffer).cast("B")
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def mapped(fd: int, most: int) -> memoryview:
    """The bytes of a sealed memfd, without copying; writing to them changes a copy. Raises Broken for any other descriptor."""
    try:
        seals = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError:
        raise Broken("a descriptor that is no memfd") from None
    found = os.fstat(fd)
    if seals & SEALS != SEALS:
        raise Broken("a memfd that is not sealed")
    if not 0 < found.st_size <= most:
        raise Broken(f"a buffer of {found.st_size} bytes, where {most} may come")
    if found.st_blocks * 512 < found.st_size:
        raise Broken("a memfd with holes")
    return memoryview(trays.mapped(fd, found.st_size))


def receive(end: socket.socket, raw: bytes = b"") -> tuple[bytes, bytearray, list[Any], list[int]] | None:
    """What the caller sends: its kind, bytes, buffers, and the descriptors beside them; None if it hangs up instead. Of the kind `raw` all
    descriptors are beside. Blocks. For the side that trusts the other."""
    import socket

    head, fds, _, _ = socket.recv_fds(end, HEADER.size, LARGE_MOST)
    if not head:
        return None
    while len(head) < HEADER.size:
        head += end.recv(HEADER.size - len(head))
    kind, count, length = HEADER.unpack(head)
    data = bytearray(length)
    view = memoryview(data)
    while view:
        got = end.recv_into(view)
        if not got:
            return None
        view = view[got:]
    if kind == raw:
        return kind, data, [], fds
    buffers = [mapped(fd, 1 << 62) for fd in fds[:count]]
    for fd in fds[:count]:
        os.close(fd)
    return kind, data, buffers, fds[count:]


class Frame:
    """What was sent at once. laid: how long its buffers are that lie in the tray, or None."""

    __slots__ = ("buffers", "data", "kind", "laid")

    def __init__(self, kind: bytes, data: bytearray, buffers: list[memoryview], laid: tuple[int, ...] | None) -> None:
        self.kind, self.data, self.buffers, self.laid = kind, data, buffers, laid


class Poured:
    """Buffers that come by a pipe."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.buffers = [memoryview(_fresh(size)) for size in sizes]
        self._waited_for = [view for view in self.buffers if view.nbytes]

    @property
    def complete(self) -> bool:
        return not self._waited_for

    def take(self, pages: int) -> None:
        """What is there now."""
        while self._waited_for:
            try:
                count = os.readv(pages, self._waited_for[:2])
            except BlockingIOError:
                return
            if not count:
                raise Broken("less than was to come")
            while count:
                view = self._waited_for.pop(0)
                taken = min(count, view.nbytes)
                count -= taken
                if taken < view.nbytes:
                    self._waited_for.insert(0, view[taken:])


def _fresh(size: int) -> mmap.mmap | bytearray:
    if not size:
        return bytearray()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_LEAST and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            return memory  # a kernel without large pages
    return memory


class Reader:
    """The caller's end. most: bytes that all frames together may have, buffers included; pages: the read end of a pipe for large buffers,
    which nobody else has and which does not block; it is closed with the reader, and so is the tray."""

    def __init__(self, end: socket.socket, most: int, pages: int | None = None, tray: Tray | None = None) -> None:
        self._end, self._left, self._pages, self._tray = end, most, pages, tray
        self._poured: Poured | None = None
        self._laid: tuple[int, ...] | None = None
        self._bytes = bytearray()
        self._head: tuple[bytes, int, int] | None = None
        self._fds: list[int] = []

    def take(self) -> tuple[list[Frame], bool]:
        """The frames that are complete now, and: is that the end? Raises Broken."""
        import _socket

        try:
            data, ancillary, flags, _ = self._end.recvmsg(
                CHUNK, _socket.CMSG_SPACE(4 * (LARGE_MOST + 3)), _socket.MSG_CMSG_CLOEXEC | _socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return [], False
        except ConnectionResetError:
            return [], True
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                self._fds += struct.unpack(f"<{len(payload) // 4}i", payload[: len(payload) // 4 * 4])
        if len(self._fds) > LARGE_MOST or flags & _socket.MSG_CTRUNC:
            raise Broken("more descriptors than a frame can have")
        if not data:
            return [], True
        self._bytes += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames, False

    def _next(self) -> Frame | None:
        while (whole := self._whole()) is not None:
            kind, data, count = whole
            if kind in (POUR, MORE):
                self._pour(kind, data, count)
                continue
            if kind == LAID:
                self._lie(data, count)
                continue
            buffers, laid = self._buffers(count), None
            if kind in (VALUE, PICKLED) and self._poured is not None:
                if not self._poured.complete:
                    raise Broken("a value before its buffers")
                buffers, self._poured = self._poured.buffers + buffers, None
            if kind == VALUE:
                laid, self._laid = self._laid, None
            return Frame(kind, data, buffers, laid)
        return None

    def _whole(self) -> tuple[bytes, bytearray, int] | None:
        """The next frame's kind, bytes, and how many descriptors it has; None as long as it is not here."""
        if self._head is None:
            if len(self._bytes) < HEADER.size:
                return None
            kind, count, length = HEADER.unpack_from(self._bytes)
            if kind not in KINDS or count > LARGE_MOST:
                raise Broken("bytes that are no frame")
            if length > self._left:
                raise Broken(f"a message of {length} bytes, where {self._left} may come")
            self._left -= length
            self._head = kind, count, length
            del self._bytes[: HEADER.size]
        kind, count, length = self._head
        if len(self._bytes) < length:
            return None
        data, self._bytes = self._bytes[:length], self._bytes[length:]
        self._head = None
        return kind, data, count

    def _pour(self, kind: bytes, data: bytearray, count: int) -> None:
        if self._pages is None or count:
            raise Broken("a buffer by a pipe that is not there")
        if kind == POUR:
            self._poured = Poured(self._sizes(data))
        elif self._poured is not None:
            self._poured.take(self._pages)

    def _lie(self, data: bytearray, count: int) -> None:
        if self._tray is None or count:
            raise Broken("a buffer in a tray that is not there")
        self._laid = self._sizes(data)
        if trays.layout(self._laid)[0] > self._tray.size:
            raise Broken("buffers that have no room in the tray")

    def _sizes(self, data: bytearray) -> tuple[int, ...]:
        """Of buffers that do not come with their frame."""
        another = self._poured is not None or self._laid is not None
        if another or not data or len(data) % 8 or len(data) // 8 > LARGE_MOST:
            raise Broken("buffers that can't be")
        sizes = struct.unpack(f"<{len(data) // 8}Q", data)
        if sum(sizes) > self._left:
            raise Broken(f"buffers of {sum(sizes)} bytes, where {self._left} may come")
        self._left -= sum(sizes)
        return sizes

    def in_tray(self, sizes: Sequence[int]) -> list[memoryview]:
        """Buffers of a frame that were laid there: when nobody of the sandbox is left."""
        tray, self._tray = self._tray, None
        if tray is None:
            raise Broken("a buffer in a tray that was closed")
        try:
            return tray.taken(sizes)
        except OSError as error:
            raise Broken(f"a tray that can't be mapped: {error.strerror or error}") from None

    def _buffers(self, count: int) -> list[memoryview]:
        if len(self._fds) < count:
            raise Broken("fewer descriptors than the frame has")
        taken = []
        for _ in range(count):
            taken.append(mapped(self._fds[0], self._left))
            self._left -= taken[-1].nbytes
            os.close(self._fds.pop(0))
        return taken

    def hang_up(self) -> None:
        """Whoever still sends, or waits for room in the pipe, learns it. What lies in the tray is still to be had."""
        self._end.close()
        pages, self._pages = self._pages, None
        if pages is not None:
            os.close(pages)
        while self._fds:
            os.close(self._fds.pop())

    def close(self) -> None:
        """Hang up, and let go of the tray."""
        self.hang_up()
        tray, self._tray = self._tray, None
        if tray is not None:
            tray.close()
