"""Launch: from a plan to a running child. Descriptors in, the C core's spawn, errors out."""

from __future__ import annotations

import fcntl
import os

from ramet import _core
from ramet.errors import SpecError, StepError, UnsupportedError
from ramet.plan.compile import join_slot
from ramet.plan.encode import encodings
from ramet.plan.finish import INIT_EXE, TAIL
from ramet.plan.idmap import CONTROL, CONTROL_CALLER_END
from ramet.plan.life import CALLER
from ramet.plan.steps import Slot
from ramet.run import control, idmapped, image
from ramet.run.failure import step_failed
from ramet.run.spawner import in_lasting_thread
from ramet.run.sync import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from ramet.plan.encode import Encoded, Encodings
    from ramet.plan.steps import Plan


class Launched:
    """A child that has exec'd. control: the caller's end of init's socket, or None without init."""

    __slots__ = ("control", "pid", "pidfd", "terminal")

    def __init__(self, pid: int, pidfd: int, control: socket.socket | None, terminal: int | None) -> None:
        self.pid, self.pidfd, self.control, self.terminal = pid, pidfd, control, terminal


class _Descriptors:
    """What a launch opens for itself; closed again, whatever happens, in reverse."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.inputs: dict[Slot, int] = {}

    def own(self, fd: int) -> int:
        self.opened.append(fd)
        return fd

    def give(self, slot: Slot, fd: int, lowest: int) -> None:
        """An input, at a number above all that the plan hands out."""
        self.inputs[slot] = fd if fd >= lowest else self.own(image.above(fd, lowest))

    def close(self) -> None:
        for fd in reversed(self.opened):
            os.close(fd)
        self.opened.clear()


def launch(
    plan: Plan, stdio: tuple[int, int, int], *, encoded: Encodings | None = None, wait: bool = True
) -> Launched:
    """Start the plan's child with these standard streams; returns when the payload has exec'd.

    With wait=False already when init has: then the first message of its socket may tell of a step that failed.

    Raises StepError, CommandError, HelperError, UnsupportedError; then nothing of it is left.
    """
    for fd in plan.command.pass_fds:
        _check_open(fd)
    made = _Descriptors()
    ours = None
    try:
        if plan.init or plan.sync or plan.tty:
            ours, theirs = control.pair()
            made.give(CONTROL, made.own(theirs.detach()), _lowest(plan))
            made.give(CONTROL_CALLER_END, ours.fileno(), _lowest(plan))
        _give_inputs(made, plan, stdio, encoded or encodings(plan), quiet=not wait)
        if plan.init:
            pid, pidfd = _spawn(plan, made, ours, encoded or encodings(plan))
        else:
            pid, pidfd = in_lasting_thread(lambda: _spawn(plan, made, ours, encoded or encodings(plan)))
    except BaseException:
        if ours is not None:
            ours.close()
        raise
    finally:
        made.close()
    return _settle(plan, pid, pidfd, ours, wait=wait)


def _check_open(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        raise SpecError(f"descriptor {fd} is not open", field="pass_fds") from None


def _lowest(plan: Plan) -> int:
    """Above 0 to 2, init's four and everything passed on."""
    return max(8, *plan.command.pass_fds, 0) + 1 + (4 if plan.init else 0)


def _give_inputs(
    made: _Descriptors, plan: Plan, stdio: tuple[int, int, int], encoded: Encodings, *, quiet: bool
) -> None:
    lowest = _lowest(plan)
    for name, fd in zip(("stdin", "stdout", "stderr"), stdio, strict=True):
        made.give(Slot(name), fd, lowest)
    for fd in plan.command.pass_fds:
        made.inputs[Slot(f"fd{fd}")] = made.own(image.above(fd, lowest))
    made.give(CALLER, image.own_pidfd(), lowest)
    if plan.init:
        made.give(TAIL, made.own(image.plan_memory(encoded.tail(quiet=quiet))), lowest)
        made.give(INIT_EXE, image.init_image(), lowest)
    for bind in plan.idmapped:
        made.give(bind.slot, made.own(idmapped.make(bind)), lowest)
    for join in plan.spec.join:
        if join.pidfd is not None:
            made.inputs[join_slot(join)] = join.pidfd
            continue
        path = join.path or f"/proc/{join.pid}/ns/{join.kind.value}"
        try:
            made.inputs[join_slot(join)] = made.own(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise StepError(
                f"open the {join.kind.value} namespace to join",
                errno=error.errno or 0,
                call=f"open({path!r})",
                origin=f"Sandbox.join = {join!r}",
                stage="caller",
            ) from None


def _values(encoded: Encoded, inputs: dict[Slot, int]) -> list[tuple[int, int]]:
    return [(offset, inputs[slot]) for slot, offset in encoded.offsets.items() if slot in inputs]


def _spawn(plan: Plan, made: _Descriptors, ours: socket.socket | None, encoded: Encodings) -> tuple[int, int]:
    inputs = made.inputs
    sync = None
    if plan.sync:
        assert ours is not None
        end: socket.socket = ours

        def sync(pid: int, pidfd: int) -> None:
            serve(plan, end, pid)

    try:
        pid, pidfd, stage, step, errno = _core.spawn(
            encoded.child.blob,
            _values(encoded.child, inputs),
            plan.clone_flags,
            join=encoded.join.blob if encoded.join else None,
            join_inputs=_values(encoded.join, inputs) if encoded.join else (),
            sync=sync,
        )
    except OSError as error:
        if isinstance(error, StepError) or error.filename != "mmap":
            raise
        raise UnsupportedError(
            "a child needs a stack of its own",
            fact=f"mmap says {error.strerror}",
            needs="256 KiB of address space (RLIMIT_AS, vm.max_map_count)",
        ) from None
    if stage:
        raise step_failed(plan, stage, step, errno)
    return pid, pidfd


def _settle(plan: Plan, pid: int, pidfd: int, ours: socket.socket | None, *, wait: bool) -> Launched:
    """Receive the terminal; wait until init says that the payload has started, or which step failed."""
    terminal = None
    try:
        if plan.tty and ours is not None:
            terminal = control.receive_terminal(ours)
        if not plan.init:
            if ours is not None:
                ours.close()
            return Launched(pid, pidfd, None, terminal)
        assert ours is not None
        if not wait:
            return Launched(pid, pidfd, ours, terminal)
        message = control.receive(ours)
        if message is not None and message.kind == control.STARTED:
            return Launched(pid, pidfd, ours, terminal)
    except BaseException:
        _end(pidfd, ours, terminal)
        raise
    _end(pidfd, ours, terminal)
    if message is None:
        raise StepError(
            "start init",
            errno=32,
            call="recv(control)",
            origin="init",
            stage="init",
            hint="the sandbox was killed while it started",
        )
    raise step_failed(plan, message.stage, message.step, message.value)


def _end(pidfd: int, ours: socket.socket | None, terminal: int | None) -> None:
    """Kill and reap; close what is ours."""
    kill(pidfd)
    reap(pidfd)
    os.close(pidfd)
    if terminal is not None:
        os.close(terminal)
    if ours is not None:
        ours.close()


SIGKILL = 9
WALL = 0x40000000  # __WALL: also children whose exit signal is not SIGCHLD


def kill(pidfd: int) -> None:
    """SIGKILL, unless it has ended."""
    import signal

    try:
        signal.pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        return


PIDFD_GET_INFO, PIDFD_INFO_EXIT = 0xC040FF0B, 1 << 3
CLD_EXITED, CLD_KILLED = 1, 2


def _left_word(pidfd: int) -> tuple[int, int] | None:
    """The wait status of a process that was reaped, from struct pidfd_info (linux/pidfd.h)."""
    import fcntl
    import select
    import struct

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.poll()  # ECHILD may come before the end, where the kernel reaps for a caller that ignores SIGCHLD
    info = bytearray(struct.pack("<Q", PIDFD_INFO_EXIT).ljust(64, b"\0"))
    try:
        fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, status = struct.unpack_from("<Q", info)[0], struct.unpack_from("<i", info, 60)[0]
    if not mask & PIDFD_INFO_EXIT:
        return None
    return (CLD_KILLED, status & 0x7F) if status & 0x7F else (CLD_EXITED, status >> 8 & 0xFF)


def reap(pidfd: int) -> tuple[int, int] | None:
    """Wait for the end; (si_code, si_status), or None where somebody else, or the kernel, has reaped it and left no
    word (before Linux 6.15)."""
    try:
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | WALL)
    except ChildProcessError:
        return _left_word(pidfd)
    return (found.si_code, found.si_status) if found else None
