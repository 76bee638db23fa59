"""Holding signals back while a descriptor is known only to the call that makes it.

A handler that raises, as Ctrl-C's does, runs as soon as a call returns: before its result is stored anywhere, and so
before anybody could close it. Signals that come meanwhile are handled when they are let go.
"""

from __future__ import annotations

import os
from _thread import get_ident

from ramet import _core
from ramet.plan.calls import numbers

SIG_BLOCK, SIG_SETMASK = 0, 2
ALL, NONE = b"\xff" * 8, bytes(8)
_NUMBER = numbers(os.uname().machine)["rt_sigprocmask"]


class Signals:
    """``try: signals.hold() ... finally: signals.release()``. Cheap; may be called again and again.

    Of the thread that made this object, and of no other: called from another (run/spawner.py), they do nothing. Holding twice is
    holding once, so that a start can hold for all of its parts.
    """

    __slots__ = ("_before", "_held", "_thread")

    def __init__(self) -> None:
        self._before = bytearray(8)
        self._held = False
        self._thread = get_ident()

    def hold(self) -> None:
        if self._held or self._thread != get_ident():
            return
        # Asked first: should a handler raise after either call, release knows what to go back to.
        _core.syscall("rt_sigprocmask", _NUMBER, SIG_BLOCK, NONE, self._before, 8)
        self._held = True
        _core.syscall("rt_sigprocmask", _NUMBER, SIG_BLOCK, ALL, 0, 8)

    def release(self) -> None:
        if self._held and self._thread == get_ident():
            self._held = False
            _core.syscall("rt_sigprocmask", _NUMBER, SIG_SETMASK, self._before, 0, 8)
