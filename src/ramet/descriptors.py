"""Where descriptors lie: the lower numbers are for what is passed to a child, which copies them (`ramet.plan.life.own_descriptors`)."""

from __future__ import annotations

import fcntl
import os

#: What lives as long as a sandbox lies from here on, since a caller may have a thousand of them.
ASIDE = 256


def aside(fd: int) -> int:
    """The same descriptor, close-on-exec, at a number from ASIDE on; where it is, if none of those is free."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ASIDE)
    except OSError:  # RLIMIT_NOFILE
        return fd
    os.close(fd)
    return moved
