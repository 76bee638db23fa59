"""Which Python runs the scripts: the caller's own, unless the container's user could not reach that."""

from __future__ import annotations

import os
import sys

from ramet.errors import UnsupportedError
from ramet.host.facts import facts_for
from ramet.spec import Sandbox

SYSTEM = "/usr/bin/python3"


def caller_python() -> str:
    """The interpreter we run on."""
    return sys.executable or SYSTEM


def container_python() -> str:
    """One that somebody else may run: a root caller's payload is another user outside, with the host's root still in view."""
    facts = facts_for(Sandbox())
    if not (facts.privileged and facts.guarded_python):
        return caller_python()
    if os.access(SYSTEM, os.X_OK):
        return SYSTEM
    raise UnsupportedError(
        "building a container in view",
        fact=f"only root may pass to {sys.executable}, and there is no {SYSTEM}",
        needs="an interpreter that other users can run",
        hint="apt-get install python3",
    )
