"""A veth pair that joins two network namespaces of our own: one reaches the other over TCP, before, while and after."""

from __future__ import annotations

import os

from ramet.errors import Error, UnsupportedError, errno_name
from ramet.lab.container.interpreter import caller_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATIENCE = 60
#: Where ramet itself is imported from.
_SOURCES = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))


def veth() -> dict[str, Any]:
    """What each side saw, and who reached whom. Plain data.

    Neither side is the host's network. Raises UnsupportedError without pyroute2.
    """
    import json
    import subprocess
    from importlib.util import find_spec

    if find_spec("pyroute2") is None:
        raise UnsupportedError(
            "joining two network namespaces",
            fact="pyroute2 is not installed",
            needs="a library that speaks rtnetlink(7)",
            hint="pip install 'ramet[net]'",
        )
    # A process of its own: it changes its namespaces, and pyroute2 its threads.
    paths = os.pathsep.join(path for path in (_SOURCES, os.environ.get("PYTHONPATH")) if path)
    done = subprocess.run(
        [caller_python(), "-m", "ramet.lab.container.inside.veth"],
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise Error(f"two network namespaces could not be joined\n  it said: {said[-1] if said else 'nothing'}")
    found: dict[str, Any] = json.loads(done.stdout)
    if "refused" in found:
        raise UnsupportedError(
            "joining two network namespaces",
            fact=f"the kernel makes no veth pair: {errno_name(found['refused'])}",
            needs="a kernel with CONFIG_VETH",
            hint="as root: modprobe veth",
        )
    return found
