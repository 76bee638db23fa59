"""How a process ended that the caller can't wait for: the word that the kernel leaves at its pidfd, since Linux 6.15."""

from __future__ import annotations

import errno
import fcntl
import struct

#: linux/pidfd.h: the ioctl, and what is asked for; where struct pidfd_info says what it has, and the status.
PIDFD_GET_INFO, PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3
SIZE, MASK, EXIT_CODE = 64, 0, 60
#: ms. Somebody else's child may be reaped much later.
REAPED_WITHIN = 1000


def left_status(pidfd: int) -> int | None:
    """Wait for its end; its status as os.waitpid gives it, or None where the kernel keeps none, or nobody has reaped it within a second.

    That waitid(2) says ECHILD may come before the end, where the kernel reaps for a caller that ignores SIGCHLD; and where it reaps by
    itself (CLONE_AUTOREAP, since Linux 7.1), between the end and the moment when the word is left, which is told by POLLHUP (since 6.9).
    """
    import select

    poller = select.poll()
    for event, most in ((select.POLLIN, None), (0, REAPED_WITHIN)):
        poller.register(pidfd, event)
        poller.poll(most)
        info = bytearray(struct.pack("<Q", PIDFD_INFO_EXIT).ljust(SIZE, b"\0"))
        try:
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL):  # before Linux 6.13
                return None
            continue
        if struct.unpack_from("<Q", info, MASK)[0] & PIDFD_INFO_EXIT:
            return int(struct.unpack_from("<i", info, EXIT_CODE)[0])
    return None
