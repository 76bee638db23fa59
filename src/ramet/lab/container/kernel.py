"""One kernel for all: what a container shares with its host, and a virtual machine would not."""

from __future__ import annotations

import os

from ramet.errors import Error
from ramet.lab.container.inside import source
from ramet.lab.container.interpreter import container_python
from ramet.run.process import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Key -> what it is, and what a virtual machine has instead (from its construction; nothing here starts one).
ROWS = {
    "release": ("kernel release (uname -r)", "a kernel of its own"),
    "build": ("kernel build (uname -v)", "a kernel of its own"),
    "boot_id": ("boot id", "booted by itself"),
    "boot_time": ("time of boot", "booted by itself"),
    "processor": ("processor", "what it is told of one"),
    "memory": ("memory, in all", "what it was given"),
    "disks": ("disks and partitions", "virtual ones"),
    "modules": ("loaded kernel modules", "its own"),
    "panic": ("kernel.panic", "its own settings"),
    "hostname": ("host name", "its own"),
    "init": ("name of process 1", "its own"),
    "processes": ("number of processes", "its own"),
    "interfaces": ("network interfaces", "virtual ones"),
    "root": ("root directory", "a disk of its own"),
    "uids": ("user ids (uid_map)", "its own"),
}


def kernel() -> dict[str, Any]:
    """Each fact, seen by the same script outside and in a sandbox with ramet's defaults. Plain data."""
    import json
    import subprocess

    argv = [container_python(), "-I", "-S", "-c", source("facts.py")]
    host = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    inside = run(argv, text=True, timeout=30)
    if not inside.ok:
        raise Error(f"the facts inside can't be asked for: {inside}\n  it said: {inside.stderr!s}")
    outside, within = json.loads(host.stdout), json.loads(inside.stdout or "")
    return {
        "rows": {
            key: {
                "what": what,
                "host": outside[key],
                "container": within[key],
                "same": outside[key] == within[key],
                "virtual_machine": instead,
            }
            for key, (what, instead) in ROWS.items()
        },
        "host_is_virtual": outside["hypervisor"],
        "caller_uid": os.geteuid(),
    }
