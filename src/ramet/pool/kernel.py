"""What a session's process does: task after task in one module, whose state stays; and a copy of itself where one is asked for."""

from __future__ import annotations

import os
import stat
import sys

from ramet.call import channel
from ramet.call.inside import flush, forward_logs
from ramet.call.wire import Packer, Part, Unsendable
from ramet.pool import cell
from ramet.run.streams import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from types import FrameType, ModuleType
    from typing import Any, NoReturn

    from ramet.pool.zygote import Warm

#: What may be asked of a session, besides channel.CODE.
PUT, GET, FORK = b"PUT ", b"GET ", b"FORK"
FORK_FDS = 4
READ_CHUNK = 1 << 20


class Kernel:
    """Of one process. warm: what copies of it are made by."""

    def __init__(self, end: socket.socket, warm: Warm) -> None:
        import shutil  # noqa: F401  before there is little left to import it with
        import signal
        import types

        self._end, self._warm = end, warm
        self._module: ModuleType = types.ModuleType("__main__")
        self._count = 0
        self._working = False  # code runs, and may be interrupted
        self._busy = self._asked = False  # a task is here, and its code was to be interrupted before it ran
        self._copies: list[int] = []
        signal.signal(signal.SIGINT, self._interrupted)

    def serve(self) -> NoReturn:
        """Until the caller hangs up."""
        import signal

        sys.modules["__main__"] = self._module
        forward_logs(self._end, Packer(None))
        own = os.getpid()
        while True:
            signal.signal(signal.SIGINT, self._interrupted)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # code may have blocked it
            readable(self._end.fileno(), None)
            self._busy = True
            task = channel.receive(self._end, raw=FORK)
            if task is None:
                os._exit(0)
            kind, data, buffers, fds = task
            answer = self._do(data, buffers) if kind != FORK else {}
            self._busy = self._asked = False  # now: when the answer is told, an interrupt may be for what comes next
            if kind == FORK:
                self._fork(fds)
                continue
            if os.getpid() != own:
                flush()
                os._exit(0)  # a copy that the code has forked comes out of it too
            self._tell(answer, channel.TASK.unpack_from(data)[1])

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """SIGINT interrupts code, and nothing else. Of code that is on its way it is remembered."""
        if self._working:
            self._working = False
            raise KeyboardInterrupt
        self._asked = self._asked or self._busy or readable(self._end.fileno(), 0)

    def _do(self, data: bytearray, buffers: list[memoryview]) -> dict[str, Any]:
        import pickle

        packer = Packer(None)
        try:
            kind, _, _ = channel.TASK.unpack_from(data)
            _, args, _ = pickle.loads(memoryview(data)[channel.TASK.size :], buffers=buffers)  # the caller's own
            if kind == PUT:
                return cell.empty() | {"value": Part(_put(*args))}
            if kind == GET:
                return cell.empty() | {"value": Part(_get(*args))}
            return self._run(packer, *args)
        except KeyboardInterrupt as error:
            return cell.failed(error, packer)
        except Exception as error:
            return cell.failed(error, packer)

    def _run(self, packer: Packer, code: str, inputs: dict[str, Any], wanted: list[str] | None) -> dict[str, Any]:
        self._count += 1
        name = f"<exec {self._count}>"
        self._working = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            return cell.run_in(self._module, packer, code, inputs, wanted, name)
        finally:
            self._working = False

    def _tell(self, answer: dict[str, Any], most: int) -> None:
        packer = Packer(None)
        flush()
        try:
            data = packer.pack(answer)
            size = len(data) + sum(memoryview(one).nbytes for one in packer.attached)
            if size > most:
                raise Unsendable(f"takes {size} bytes, and results_max is {most}")
            channel.send(self._end, channel.VALUE, data, packer.attached)
        except (Unsendable, RecursionError, MemoryError) as error:
            channel.send(self._end, channel.UNSENDABLE, str(error).encode("utf-8", "backslashreplace"))

    def _fork(self, received: list[int]) -> None:
        """A copy of this process in a sandbox of its own; here nothing changes, and the copy tells by its own channel."""
        from ramet.pool.zygote import moved, open_now, settle_threads

        for pid in self._copies:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # reaped already, by us or by the code
        theirs = open_now() - set(received)
        fds = [moved(fd) for fd in received]
        try:
            settle_threads("session")
        except Exception as error:
            os.write(fds[3], str(error).encode())
            for fd in fds:
                os.close(fd)
            return
        self._warm.open_tools()
        flush()
        pid = self._warm.put_forth((fds[0], fds[1], fds[2], fds[3]), theirs, self._resume, self._copy_places)
        self._warm.close_tools()
        if pid > 0:
            self._copies.append(pid)

    def _copy_places(self) -> None:
        copy_places(self._warm.places)

    def _resume(self, number: int) -> NoReturn:
        """In the copy, behind its walls."""
        import socket

        from ramet.pool.inside import ready, reseed

        reseed()
        self._copies = []
        self._end = socket.socket(fileno=number)
        ready(self._end)
        self.serve()


def _put(path: str, content: bytes) -> int:
    fd = os.open(
        _place(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644
    )
    with open(fd, "wb") as file:
        return file.write(content)


def _get(path: str, most: int) -> bytes:
    """Only a regular file, no link, and not more than that."""
    fd = os.open(_place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no regular file")
        if found.st_size > most:
            raise ValueError(f"{path} has {found.st_size} bytes, and {most} may come")
        chunks, size = [], 0
        while size <= most and (chunk := file.read(READ_CHUNK)):
            chunks.append(chunk)
            size += len(chunk)
        if size > most:
            raise ValueError(f"{path} has more than {most} bytes")
        return b"".join(chunks)


def _place(path: str) -> str:
    """Relative ones begin at the home directory, wherever the code has gone."""
    return os.path.join(os.environ.get("HOME", "/"), path)


def copy_places(names: Mapping[str, str]) -> None:
    """What lies in the places that are written to: into parts of the new store, the working directory, by these names."""
    import shutil

    for where, name in names.items():
        if os.path.isdir(where):
            shutil.copytree(where, name, symlinks=True, ignore=_special, ignore_dangling_symlinks=True)


def _special(directory: str, names: list[str]) -> set[str]:
    """Sockets, FIFOs and mount points have no content to copy."""
    found = set()
    for name in names:
        path = os.path.join(directory, name)
        try:
            status = os.lstat(path)
        except OSError:
            found.add(name)
            continue
        other = not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode))
        if other or os.path.ismount(path):
            found.add(name)
    return found
