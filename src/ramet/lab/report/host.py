"""Where and when the page was made."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def host() -> dict[str, Any]:
    """Kernel, machine, who ran it, when, and with what. Plain data."""
    import sys
    from importlib.metadata import PackageNotFoundError, version
    from time import localtime, strftime

    named = os.uname()
    try:
        ours = version("ramet")
    except PackageNotFoundError:
        ours = ""  # used from its sources
    now = localtime()
    return {
        "kernel": named.release,
        "build": named.version,
        "machine": named.machine,
        "name": named.nodename,
        "processors": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "uid": os.geteuid(),
        "python": sys.version.split()[0],
        "ramet": ours,
        "date": strftime("%Y-%m-%d %H:%M %z", now),
        "instant": strftime("%Y-%m-%dT%H:%M:%S%z", now),
    }
