"""chroot beside pivot_root: the classic ways out, tried from inside a sandbox of our own."""

from __future__ import annotations

import os
import secrets

from ramet.errors import Error
from ramet.lab.container.inside import source
from ramet.lab.container.interpreter import container_python
from ramet.run.process import run
from ramet.spec import File, Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What lies outside the jails, in the sandbox that holds them.
_OUTSIDE = "/etc/outside"

JAILS = {
    "none": "no jail (the control)",
    "chroot": "chroot",
    "pivot_root": "pivot_root, the old root kept",
    "pivot_root, unmounted": "pivot_root, the old root unmounted",
    "as it is": "ramet.run",
}
WAYS = {
    "by_name": "open the file by its path",
    "up_and_up": 'chdir("..") again and again',
    "second_chroot": 'mkdir, chroot into it, chdir("..") again and again, chroot(".")',
    "kept_directory": 'open("/"), chroot below, fchdir to it, chdir("..")..., chroot(".")',
    "old_root": "look where the old root was put",
    "left_open": "fchdir to a directory outside that was left open",
}
SANDBOX = Sandbox(uid=0, gid=0, capabilities=frozenset({"SYS_CHROOT", "SYS_ADMIN"}), timeout=30)


def escape() -> dict[str, Any]:
    """For each jail and each way: did it lead out, and what was seen. Plain data.

    The jails are made in a sandbox, and what is outside them is a file of that sandbox. The last one is a sandbox
    itself; what is outside it is a file of the host's, and the ways are taken with the same rights.
    """
    token = secrets.token_hex(8)
    inner = [name for name in JAILS if name != "as it is"]
    holder = SANDBOX.replace(mounts=(File(_OUTSIDE, token, mode=0o444),))
    found = _tried(holder, _OUTSIDE, token, -1, inner)
    found["as it is"] = _out_of_a_sandbox(token)
    return {"jails": JAILS, "ways": WAYS, "tries": found}


def _out_of_a_sandbox(token: str) -> dict[str, Any]:
    """The caller leaves a directory open, inheritable, and does not pass it on."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ramet-lab-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        path = os.path.join(folder, "outside")
        with open(path, "w", encoding="ascii") as file:
            file.write(token)
        os.chmod(path, 0o644)
        fd = _left_open(folder)
        try:
            return dict(_tried(SANDBOX, path, token, fd, ["as it is"])["as it is"])
        finally:
            os.close(fd)


def _left_open(folder: str) -> int:
    """An inheritable descriptor, with a number that nothing inside would get by chance."""
    from fcntl import F_DUPFD, fcntl

    low = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd: int = fcntl(low, F_DUPFD, 200)
    finally:
        os.close(low)
    os.set_inheritable(fd, True)
    return fd


def _tried(sandbox: Sandbox, path: str, token: str, fd: int, jails: list[str]) -> dict[str, Any]:
    import json

    argv = [container_python(), "-I", "-S", "-c", source("escape.py"), path, token, str(fd), *jails]
    result = run(argv, sandbox, text=True)
    if not result.ok:
        raise Error(f"the ways out of a jail could not be tried: {result}\n  it said: {result.stderr!s}")
    found: dict[str, Any] = json.loads(result.stdout or "")
    return found
