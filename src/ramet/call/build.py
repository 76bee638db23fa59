"""Which builds of Python functions can run in.

A free-threaded build is refused, as a whole and whether or not its GIL is on (sys._is_gil_enabled): what these ways rest on are facts
of the build. `call` goes on in another process on a thread's own state: csrc/call.c puts back what that held after a killed child, and
there it holds more (a list of objects to be merged, a heap, the parking lot's queue), in forms that change from version to version. `isolated`,
pools and sessions clone copies of a process, past what CPython does after its own fork: without a GIL that is to renew locks that each object has.
The extension says nothing of being fit for such a build either, so importing it there switches the GIL on.
"""

from __future__ import annotations

import sys

from ramet.errors import UnsupportedError

FREE_THREADED = "t" in getattr(sys, "abiflags", "")


def refuse_free_threaded() -> None:
    """Raises UnsupportedError where this is a free-threaded build."""
    if not FREE_THREADED:
        return
    enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    raise UnsupportedError(
        "cannot run a function in a clone of this interpreter",
        fact=f"it is a free-threaded build, its GIL {'enabled' if enabled else 'disabled'}",
        needs="a build of CPython with the GIL",
        hint="ramet.run and Popen, which start programs, are not affected: run the function in a python3 of the other build",
    )
