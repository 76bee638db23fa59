"""The zygote: a Python process in a sandbox that has imported what calls need, and puts forth a copy of itself for each.

It takes orders from the caller and from nobody else. A copy is a child with namespaces of its own nested in the zygote's: it can't
name the zygote, and may not touch it, since that is in another user namespace. Between two orders the zygote has no descriptor of
any copy, and no copy has one of the zygote's.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from time import sleep

from ramet import _core
from ramet.pool import hooks
from ramet.pool.shelf import shelve
from ramet.run.fork import CLONED, FAILED, NEWS, default_handlers, forget_handlers, guard_numbers, new_streams
from ramet.run.image import LOWEST, above, init_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, NoReturn

#: Orders: a copy; a bud, which is all of a copy's sandbox but the copy; the copy that the last bud waits for.
MAKE, BUD, BREAK = b"M", b"B", b"O"
ORDER_FDS = 4
ONE = struct.Struct("i")
PAYLOAD, VIEW = 5, 7
EXIT_FAILED = 125
#: Pids of the copies, each in its own namespace: another one than the zygote's, since libraries tell a fork by that.
PID_LEAST, PID_MOST = 1000, 30000
STEPS_AT_ONCE = 64
THREADS_GONE_WITHIN = 1.0


class Failed(Exception):
    """The zygote can't serve: which module, if it was one, and why."""

    def __init__(self, module: str | None, why: str, trace: str = "") -> None:
        super().__init__(why)
        self.module, self.why, self.trace = module, why, trace


def main(control: int, setup: int) -> NoReturn:
    """Import, say so, and serve until the caller hangs up. control: a socket of whole messages; setup: what to do."""
    import json

    code = EXIT_FAILED
    try:
        try:
            warm = _made_ready(control, setup)
        except BaseException as error:
            failure = error if isinstance(error, Failed) else _failed(None, error)
            told = {"failed": failure.module, "why": failure.why[:10_000], "traceback": failure.trace[-20_000:]}
            os.write(control, json.dumps(told).encode())
        else:
            os.write(control, json.dumps({"ready": True}).encode())
            warm.serve()
            code = 0
    finally:
        os._exit(code)


def _made_ready(control: int, setup: int) -> _Zygote:
    from ramet.pool import inside

    _core.watch_arenas()
    orders = _read(setup)
    _prepare(orders)
    warm = _Zygote(control, orders)
    gc.collect()
    gc.freeze()
    shelve()
    inside.practise()
    return warm


def _read(setup: int) -> Mapping[str, Any]:
    import pickle

    with open(setup, "rb") as file:
        found: Mapping[str, Any] = pickle.load(file)  # the caller's own
    return found


def _prepare(orders: Mapping[str, Any]) -> None:
    from ramet.pool import inside

    inside.load()
    for name in orders["preload"]:
        _import(name)
    for name in ("prepare", "rehearse"):  # the latter here too, where its mistakes are told at once
        if orders[name]:
            _run(name, orders[name])
    _only_thread()
    hooks.lighten()
    inside.note_generator()


def _import(name: str) -> None:
    import importlib

    try:
        importlib.import_module(name)
    except BaseException as error:
        raise _failed(name, error) from None
    settle_threads(name)


def _run(name: str, code: str) -> None:
    try:
        exec(compile(code, f"<{name}>", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        raise _failed(name, error) from None


def _failed(name: str | None, error: BaseException) -> Failed:
    import traceback

    try:
        text = f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
    except Exception:
        text, trace = type(error).__name__, ""
    return Failed(name, text, trace)


def settle_threads(name: str) -> None:
    """A copy has one thread; locks that others hold would stay locked in it."""
    waited = 0.0
    while len(names := _threads()) > 1 and waited < THREADS_GONE_WITHIN:
        sleep(0.01)  # one that has just been joined may be on its way out
        waited += 0.01
    if len(names) > 1:
        raise Failed(name, f"it starts threads, which a copy of the process would not have: {', '.join(names[1:])}")


def _only_thread() -> None:
    settle_threads("prepare")


def _threads() -> list[str]:
    found = []
    for task in sorted(map(int, os.listdir("/proc/self/task"))):
        try:
            with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
                found.append(file.read().strip())
        except OSError:
            continue  # it has just ended
    return found


class Warm:
    """What it takes to make a copy. Descriptors are plain numbers: no object of this process owns one that is closed in copies."""

    def __init__(self, orders: Mapping[str, Any]) -> None:
        import _socket

        self._socket = _socket  # without the public module's classes, which are Python
        self._programs: Mapping[str, tuple[bytes, dict[str, int]]] = orders["programs"]
        self._flags: int = orders["flags"]
        self._pass_fds: tuple[int, ...] = tuple(orders["pass_fds"])
        self.places: Mapping[str, str] = orders["places"]
        self.rehearsal = compile(orders["rehearse"], "<rehearse>", "exec") if orders["rehearse"] else None
        self._last_pid = os.getpid()
        self._steps: list[int] = []
        self._init = self._self = self._null = -1
        self._bud: tuple[Any, tuple[int, int, int, int]] | None = None

    def open_tools(self) -> None:
        """A sealed init; what init looks at for our end; /dev/null."""
        self._init = above(init_image(), LOWEST)
        self._self = moved(os.pidfd_open(os.getpid()))
        self._null = moved(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))

    def close_tools(self) -> None:
        for fd in (self._init, self._self, self._null):
            os.close(fd)

    def put_forth(
        self,
        fds: tuple[int, int, int, int],
        theirs: Collection[int],
        then: Callable[[int], NoReturn],
        before: Callable[[], None] | None = None,
    ) -> int:
        """A copy, which goes on with then(number of its channel). fds: its channel, its init's control, its stdout and stderr; closed here.
        theirs: numbers that objects here own. before: called in the copy while it still sees what we see. The pid of its init, or -1."""
        made = _core.branch(*self._to_clone(fds[1]))
        if made is None:
            self._become(fds, theirs, then, before=before)
        return self._tell_of_child(fds, made)

    def bud(self, fds: tuple[int, int, int, int]) -> None:
        """All of a copy's sandbox but the copy, for `break_bud`. fds: as for `put_forth`; what waits in the sandbox has them."""
        self._bud = None  # who waits in the last one, if anybody does, leaves it
        view = self._programs["view"][0]
        bud, made = _core.bud(*self._to_clone(fds[1]), view, [], fds[0])
        self._bud = bud, fds
        self._tell_of_child(fds, made)

    def break_bud(self, theirs: Collection[int], then: Callable[[int], NoReturn]) -> None:
        """The copy that the bud waits for. Of one that has failed that is told already."""
        found, self._bud = self._bud, None
        if found is not None and found[0].put_forth() is None:
            self._become(found[1], theirs, then, seen=True)

    def _to_clone(self, control: int) -> tuple[bytes, list[Any], bytes, list[tuple[int, int]], int, int, int]:
        """Arguments of what makes the child."""
        init, slots = self._programs["init"]
        inputs = [(slots["control"], control), (slots["caller"], self._self), (slots["init"], self._init)]
        child = self._programs["child"][0]
        return child, [], init, inputs, slots["payload_pid"], self._flags, self._next_pid()

    def _tell_of_child(self, fds: tuple[int, int, int, int], made: tuple[int, int, int, int, int]) -> int:
        pid, pidfd, stage, step, errno = made
        self._tell(fds[1], NEWS.pack(FAILED, stage, step, errno) if stage else NEWS.pack(CLONED, pid, 0, 0), pidfd)
        for fd in (*fds, pidfd):
            if fd >= 0:
                os.close(fd)
        return -1 if stage else pid

    def _next_pid(self) -> int:
        if not self._steps:
            self._steps = list(os.urandom(STEPS_AT_ONCE))
        self._last_pid = PID_LEAST + (self._last_pid + 1 + self._steps.pop() % 97) % (PID_MOST - PID_LEAST)
        return self._last_pid

    def _tell(self, control: int, news: bytes, pidfd: int) -> None:
        socket = self._socket
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, control)
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, ONE.pack(pidfd))] if pidfd >= 0 else ()
        try:
            end.sendmsg((news,), beside)
        except OSError:
            pass  # the caller has given it up meanwhile; its init sees the same
        finally:
            end.detach()

    def _become(
        self,
        fds: tuple[int, int, int, int],
        theirs: Collection[int],
        then: Callable[[int], NoReturn],
        *,
        before: Callable[[], None] | None = None,
        seen: bool = False,
    ) -> NoReturn:
        """In the copy: make its sandbox, and do what the caller wants. seen: its view is made."""
        channel, _, out, err = fds
        ready = False
        try:
            hooks.restore()
            if before is not None:
                before()
            given = {"stdin": self._null, "stdout": out, "stderr": err, "fd3": channel, "fd4": self._null}
            for stage, number in (("view", VIEW), ("payload", PAYLOAD)):
                if seen and stage == "view":
                    continue
                program, slots = self._programs[stage]
                failed = _core.run(program, [(slots[name], fd) for name, fd in given.items() if name in slots])
                if failed is not None:
                    self._tell_failure(channel, number, failed)
                    os._exit(EXIT_FAILED)
            default_handlers()
            handed = guard_numbers(self._pass_fds, theirs)
            ready = True
        except BaseException as error:
            os.write(err, f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace"))
        finally:
            if not ready:
                os._exit(EXIT_FAILED)
        then(handed[0])

    def _tell_failure(self, channel: int, stage: int, failed: tuple[int, int]) -> None:
        """After the steps that place descriptors the channel is at its number, before them where it was."""
        for fd in (channel, self._pass_fds[0]):
            try:
                os.write(fd, NEWS.pack(FAILED, stage, *failed))
                return
            except OSError:
                continue


class _Zygote:
    """The process that serves the caller."""

    def __init__(self, control: int, orders: Mapping[str, Any]) -> None:
        import signal
        import socket

        forget_handlers()
        # The kernel reaps; how a copy ended its own init tells the caller.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(orders["environment"])
        new_streams()
        self._socket, self._control = socket, control
        self._theirs = open_now() - {control}
        self._warm = Warm(orders)
        self._warm.open_tools()

    def serve(self) -> None:
        """Until the caller hangs up."""
        from ramet.pool import inside

        own = self._socket.socket(fileno=self._control)
        size = self._socket.CMSG_SPACE(4 * ORDER_FDS)

        def then(number: int) -> NoReturn:
            own.detach()  # its number is closed here, and may be another's
            inside.serve(number, self._warm)

        while True:
            data, ancillary, _, _ = own.recvmsg(16, size, self._socket.MSG_CMSG_CLOEXEC)
            if not data:
                return
            fds = [moved(fd) for _, _, payload in ancillary for (fd,) in ONE.iter_unpack(payload)]
            if data == MAKE and len(fds) == ORDER_FDS:
                self._warm.put_forth((fds[0], fds[1], fds[2], fds[3]), self._theirs, then)
            elif data == BUD and len(fds) == ORDER_FDS:
                self._warm.bud((fds[0], fds[1], fds[2], fds[3]))
            elif data == BREAK and not fds:
                self._warm.break_bud(self._theirs, then)
            else:
                for fd in fds:
                    os.close(fd)


def open_now() -> set[int]:
    """The numbers of all descriptors."""
    listed = os.listdir("/proc/self/fd")  # by a descriptor of its own, which is closed now
    return {int(name) for name in listed if os.path.islink(f"/proc/self/fd/{name}")}


def moved(fd: int) -> int:
    """The same above all numbers that a plan hands out."""
    moved = above(fd, LOWEST)
    os.close(fd)
    return moved


def command(path: list[str], control: int, setup: int) -> list[str]:
    """The words of a command that runs `main`."""
    code = f"import sys; sys.path[:] = {path!r}; from ramet.pool.zygote import main; main({control}, {setup})"
    return [sys.executable, "-c", code]
