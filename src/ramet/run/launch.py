"""Launch: from a plan to a running child. Descriptors in, the C core's spawn, errors out."""

from __future__ import annotations

import errno
import fcntl
import os
import sys

from ramet import _core
from ramet.descriptors import ASIDE, aside
from ramet.errors import SpecError, StepError, UnsupportedError
from ramet.plan.compile import join_slot
from ramet.plan.encode import encodings
from ramet.plan.finish import INIT_EXE, INIT_RUNNING, PAYLOAD_PID
from ramet.plan.idmap import CONTROL, CONTROL_CALLER_END
from ramet.plan.life import CALLER, DESCRIPTORS_END
from ramet.plan.steps import Slot
from ramet.run import control, image, prepared
from ramet.run.failure import caller_failed, step_failed
from ramet.run.hold import Signals
from ramet.run.spawner import in_lasting_thread
from ramet.run.streams import readable
from ramet.run.sync import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ramet.plan.encode import Encoded, Encodings
    from ramet.plan.steps import Plan
    from ramet.run.fork import Function
    from ramet.spec import Join


class Closed:
    """A child that nobody has to end any more: no `__del__`, for an exception from a signal handler would be lost in it, and
    Ctrl-C with it."""

    __slots__ = ("control", "over", "owner", "pid", "pidfd", "terminal")

    def __init__(self) -> None:
        self.pid = self.pidfd = -1
        self.owner = os.getpid()  # a fork copies this object, and dropping the copy must not end the child
        self.control: int | None = None
        self.terminal: int | None = None
        self.over = False  # ended, and reaped

    def move_aside(self) -> None:
        """Leave the lower descriptors to the children to come. To be called with signals held."""
        self.pidfd = aside(self.pidfd)
        if self.control is not None:
            self.control = aside(self.control)

    def end(self) -> tuple[int, int] | None:
        """Kill and reap, where the child is ours; what `reap` says."""
        if self.over or self.owner != os.getpid():
            return None
        kill(self.pidfd)
        found = reap(self.pidfd)
        self.over = True
        return found

    def close(self) -> None:
        """End what still runs; close every descriptor."""
        if self.pidfd >= 0:
            self.end()
            fd, self.pidfd = self.pidfd, -1
            os.close(fd)
        if self.terminal is not None:
            fd, self.terminal = self.terminal, None
            os.close(fd)
        if self.control is not None:
            fd, self.control = self.control, None
            os.close(fd)
        self.__class__ = Closed


class Launched(Closed):
    """A child that has exec'd. control: the caller's end of init's socket, or None without init.

    It is there before the child is, so that an exception from a signal handler, which can come between any two
    operations, finds somebody who knows the child: whoever drops this object ends the child.
    """

    __slots__ = ()

    def __del__(self) -> None:
        if hasattr(self, "terminal") and not sys.is_finalizing():
            self.close()


class _Descriptors:
    """What a launch opens for itself; closed again, whatever happens, in reverse."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.inputs: dict[Slot, int] = {}

    def own(self, fd: int) -> int:
        self.opened.append(fd)
        return fd

    def give(self, slot: Slot, fd: int, lowest: int) -> None:
        """An input, at a number above all that the plan hands out, and otherwise low."""
        self.inputs[slot] = fd if lowest <= fd < ASIDE else self.own(image.above(fd, lowest))

    def close(self) -> None:
        while self.opened:
            fd = self.opened[-1]
            del self.opened[-1]
            os.close(fd)


def launch(
    plan: Plan,
    stdio: tuple[int, int, int],
    *,
    encoded: Encodings | None = None,
    given: Mapping[Slot, int] | None = None,
    into: int | None = None,
    signals: Signals | None = None,
    function: Function | None = None,
    meanwhile: Callable[[], None] | None = None,
    lives: bool = False,
) -> Launched:
    """Start the plan's child with these standard streams; returns when the payload has exec'd.

    given: more inputs: the descriptors of namespaces made ahead, of control groups. into: a cgroup to be born into. signals: who holds
    them already; let go when the child is known. function: the payload, where it is no program but is called in a forked copy of this
    process. meanwhile: called while the payload's process is at its steps; only for a plan in namespaces made ahead. lives: it may
    outlive other starts, and leaves the lower descriptors to those.

    Raises StepError, CommandError, HelperError, UnsupportedError; then nothing of it is left.
    """
    passed = {fd: fd for fd in plan.command.pass_fds} if function is None else function.pass_fds
    for fd in passed.values():
        _check_open(fd)
    made = _Descriptors()
    launched = Launched()
    signals = signals or Signals()
    try:
        signals.hold()
        if plan.init or plan.sync or plan.tty:
            launched.control, theirs = control.pair()
            made.give(CONTROL, made.own(theirs), _lowest(plan))
            # As it is, not a copy: it is closed in the child, and a copy would leave the child the original.
            made.inputs[CONTROL_CALLER_END] = launched.control
        made.inputs.update(given or {})
        _give_inputs(made, plan, stdio, passed)
        made.inputs[DESCRIPTORS_END] = max(made.inputs.values()) + 1
        encoded = encoded or encodings(plan)
        if function is not None:
            _fork(plan, made, launched, encoded, signals, into, function)
        elif plan.init:
            _spawn(plan, made, launched, encoded, signals, into, meanwhile)
        else:
            in_lasting_thread(lambda: _spawn(plan, made, launched, encoded, signals, into))
        made.close()
        if lives:
            launched.move_aside()
        signals.release()
        _settle(plan, launched)
    except BaseException as error:
        made.close()
        launched.close()
        if isinstance(error, OSError):
            raise caller_failed(error) from None
        raise
    finally:
        signals.release()
    return launched


def _check_open(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        raise SpecError(f"descriptor {fd} is not open", field="pass_fds") from None


def _lowest(plan: Plan) -> int:
    """Above 0 to 2, init's and everything passed on."""
    return max((8, *plan.command.pass_fds)) + 1


def _give_inputs(made: _Descriptors, plan: Plan, stdio: tuple[int, int, int], passed: Mapping[int, int]) -> None:
    lowest = _lowest(plan)
    for name, fd in zip(("stdin", "stdout", "stderr"), stdio, strict=True):
        made.give(Slot(name), fd, lowest)
    for number, fd in passed.items():
        made.inputs[Slot(f"fd{number}")] = made.own(image.above(fd, lowest))
    made.give(CALLER, image.own_pidfd(), lowest)
    if plan.init:
        made.give(INIT_EXE, image.init_image(), lowest)
    for bind in plan.prepared:
        made.give(bind.slot, made.own(prepared.make(bind)), lowest)
    for join in plan.spec.join:
        made.inputs[join_slot(join)] = made.own(_open_namespace(join))


def _open_namespace(join: Join) -> int:
    """The namespace's own descriptor, for a pidfd too: setns(2) with that asks anew for each kind whether the process may
    be traced, and once we are in its user namespace we may not look at an init any more."""
    path = join.path or f"/proc/{join.pid}/ns/{join.kind.value}"
    try:
        if join.pidfd is None:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        pid = pid_of(join.pidfd)
        if not pid:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        path = f"/proc/{pid}/ns/{join.kind.value}"
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if readable(join.pidfd, 0):  # it has ended: the number may be another's by now
            os.close(fd)
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return fd
    except OSError as error:
        raise StepError(
            f"open the {join.kind.value} namespace to join",
            errno=error.errno or 0,
            call=f"open({path!r})",
            origin=f"Sandbox.join = {join!r}",
            stage="caller",
        ) from None


def pid_of(pidfd: int) -> int:
    """In the caller's pid namespace; 0 where it has ended, or is in none of ours (proc_pid_fdinfo(5))."""
    file = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(file, 4096).splitlines()
    finally:
        os.close(file)
    return next((max(0, int(line[4:])) for line in lines if line.startswith(b"Pid:")), 0)


def values_of(encoded: Encoded, inputs: Mapping[Slot, int]) -> list[tuple[int, int]]:
    """Where the caller puts what, in this program's data."""
    return [(offset, inputs[slot]) for slot, offset in encoded.inputs if slot in inputs]


def _program(encoded: Encoded | None, inputs: Mapping[Slot, int]) -> tuple[bytes, list[tuple[int, int]]] | None:
    return (encoded.blob, values_of(encoded, inputs)) if encoded is not None else None


def _sync(plan: Plan, launched: Launched, signals: Signals) -> Callable[[int, int], None] | None:
    """What the caller does while the child waits for it; None: nothing."""
    end = launched.control
    helped = any(step.action == "helper" for step in plan.sync)
    if not plan.sync or end is None:
        return None

    def sync(pid: int, pidfd: int) -> None:
        if helped:
            signals.release()  # a helper may hang, and should not be started with every signal blocked
        try:
            serve(plan.sync, end, pid)
        finally:
            if helped:
                signals.hold()  # on an exception too: spawn restores the mask that it has found

    return sync


def _spawn(
    plan: Plan,
    made: _Descriptors,
    launched: Launched,
    encoded: Encodings,
    signals: Signals,
    into: int | None,
    meanwhile: Callable[[], None] | None = None,
) -> None:
    inputs = made.inputs
    sync = _sync(plan, launched, signals)
    if meanwhile is not None:
        assert sync is None

        def sync(pid: int, pidfd: int) -> None:
            meanwhile()

    try:
        _, _, stage, step, number = _core.spawn(
            encoded.child.blob,
            values_of(encoded.child, inputs),
            plan.clone_flags,
            join=_program(encoded.join, inputs),
            join_shares=plan.ahead is not None,
            payload=_program(encoded.payload, inputs),
            init=_program(encoded.init, inputs),
            gate=encoded.payload.offsets[INIT_RUNNING] if encoded.payload and plan.gated else -1,
            pid_text=encoded.init.offsets[PAYLOAD_PID] if encoded.init else -1,
            sync=sync,
            cgroup=-1 if into is None else into,
            into=launched,
            meanwhile=meanwhile is not None,
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
        raise step_failed(plan, stage, step, number)


def _fork(
    plan: Plan,
    made: _Descriptors,
    launched: Launched,
    encoded: Encodings,
    signals: Signals,
    into: int | None,
    function: Function,
) -> None:
    from ramet.run.fork import fork_into

    def values(program: Encoded) -> list[tuple[int, int]]:
        return values_of(program, made.inputs)

    def job() -> None:
        fork_into(plan, encoded, values, launched, _sync(plan, launched, signals), into, function, made.close)

    # As with programs: without init the parent-death signal stays tied to the thread.
    job() if plan.init else in_lasting_thread(job)


def _settle(plan: Plan, launched: Launched) -> None:
    """Receive the terminal; without init, the socket has done its work then."""
    ours = launched.control
    if ours is None:
        return
    if plan.tty:
        launched.terminal = control.receive_descriptor(ours)
    if not plan.init:
        launched.control = None
        os.close(ours)


SIGKILL = 9
WALL = 0x40000000  # __WALL: also children whose exit signal is not SIGCHLD


def kill(pidfd: int) -> None:
    """SIGKILL, unless it has ended."""
    import signal

    try:
        signal.pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        return


CLD_EXITED, CLD_KILLED = 1, 2


def _left_word(pidfd: int) -> tuple[int, int] | None:
    """The same of a process that somebody else, or the kernel, has reaped."""
    from ramet.left_status import left_status

    status = left_status(pidfd)
    if status is None:
        return None
    return (CLD_KILLED, status & 0x7F) if status & 0x7F else (CLD_EXITED, status >> 8 & 0xFF)


#: waitid, and its P_PIDFD; the offsets of si_code and si_status, the same on x86-64 and aarch64.
_WAITID = {"x86_64": 247, "aarch64": 95}[os.uname().machine]
SIGINFO_SIZE, SI_CODE, SI_STATUS = 128, 8, 24
RUSAGE_SIZE = 144


def reap(pidfd: int, rusage: bytearray | None = None) -> tuple[int, int] | None:
    """Wait for the end; (si_code, si_status), or None where somebody else, or the kernel, has reaped it and left no
    word (before Linux 6.15). rusage: filled with struct rusage of it and of all that it had waited for."""
    try:
        if rusage is not None:
            return _reap_counting(pidfd, rusage)
        found = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | WALL)
    except ChildProcessError:
        return _left_word(pidfd)
    return (found.si_code, found.si_status) if found else None


def _reap_counting(pidfd: int, rusage: bytearray) -> tuple[int, int]:
    """os.waitid does not pass on what the kernel's waitid says of usage."""
    import struct

    info = bytearray(SIGINFO_SIZE)
    while True:
        try:
            _core.syscall("waitid", _WAITID, os.P_PIDFD, pidfd, info, os.WEXITED | WALL, rusage)
        except InterruptedError:
            continue  # signal handlers have run
        return struct.unpack_from("<i", info, SI_CODE)[0], struct.unpack_from("<i", info, SI_STATUS)[0]
