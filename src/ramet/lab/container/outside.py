"""What is outside: things of the caller's that a container should not reach, made for a while, each with a token in it."""

from __future__ import annotations

import os
import secrets

from ramet.errors import Error
from ramet.host.namespaces import read_process
from ramet.lab.container.inside import source
from ramet.lab.container.interpreter import caller_python

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

VARIABLE = "RAMET_LAB_SECRET"
#: Seconds until a signal that was sent counts as never arrived, and the neighbour as hanging.
_PATIENCE = 10
_KEYCTL = 219 if os.uname().machine == "aarch64" else 250


class Outside:
    """A file everybody may read, a private one that is open, and a neighbour: a process that listens. A context."""

    def __init__(self) -> None:
        self.token = f"ramet-lab-{secrets.token_hex(8)}"
        self.fd = -1
        self.namespaces = read_process(os.getpid()).ids

    def __enter__(self) -> Self:
        import subprocess
        import tempfile
        from fcntl import F_DUPFD_CLOEXEC, fcntl

        # Not where TMPDIR says: nobody else may be let in there, and then it would not be the container that hides it.
        self.folder = tempfile.mkdtemp(prefix="ramet-lab-", dir="/var/tmp")
        # It removes the folder at its end, which is also that of a caller that was killed. A session of its own: Ctrl-C
        # is for the caller.
        self._process = subprocess.Popen(
            [caller_python(), "-I", "-S", "-c", source("neighbour.py"), self.token, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        try:
            os.chmod(self.folder, 0o755)
            self.marker = self._file("for-everybody", 0o644)
            self.private = self._file("private", 0o600)
            with open(self.private, encoding="ascii") as file:
                self.fd = fcntl(file.fileno(), F_DUPFD_CLOEXEC, 3)  # never one of the standard streams
            self._places = self._ask_for_places()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()
            process.wait()
            if self.fd >= 0:
                os.close(self.fd)
            if os.path.isdir(self.folder):  # it could not do it
                from shutil import rmtree

                rmtree(self.folder)

    def _file(self, name: str, mode: int) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(self.token)
        os.chmod(path, mode)
        return path

    def _ask_for_places(self) -> dict[str, Any]:
        import json

        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Error("the lab's neighbour process ended before it had begun")
        found: dict[str, Any] = json.loads(line)
        return found

    def told(self, ids: dict[str, int | None]) -> dict[str, Any]:
        """What a probe in these namespaces is told: where all this is, and which of its namespaces are ours too."""
        dev = os.stat("/dev")
        return {
            "token": self.token,
            "marker": self.marker,
            "private": self.private,
            "fd": self.fd,
            "variable": VARIABLE,
            "dev": [dev.st_dev, dev.st_ino],
            "keyring": session_keyring(),
            "shared": [kind for kind, number in ids.items() if number == self.namespaces[kind]],
            **self._places,
        }

    def signal_arrived(self) -> bool:
        """Has the neighbour got a signal since this was last asked?"""
        from select import select

        assert self._process.stdout is not None
        found = False
        while select([self._process.stdout], [], [], 0 if found else _PATIENCE)[0]:
            found = bool(self._process.stdout.readline()) or found
        return found


def session_keyring() -> int | None:
    """The serial number of our session key ring; None where the kernel has none."""
    from ramet import _core

    try:
        return _core.syscall("keyctl", _KEYCTL, 0, -3, 0)
    except OSError:
        return None
