"""Popen and run: a sandboxed process in the shape of the standard library's subprocess."""

from __future__ import annotations

import codecs
import os
import sys
from _thread import allocate_lock
from _weakref import ref
from errno import EACCES
from time import monotonic

from ramet.errors import ExitError, SpecError, SpecTypeError, StepError, TimeoutExpired
from ramet.run import ahead, control
from ramet.run.guard import Guard
from ramet.run.hold import Signals
from ramet.run.launch import RUSAGE_SIZE, SIGKILL, kill, launch, reap
from ramet.run.planning import plan_for, plan_in, sandbox_with
from ramet.run.result import Ending, Result, usage_of
from ramet.run.streams import DEVNULL, PIPE, Pump, Streams, readable, wait_guarded
from ramet.run.verdict import Evidence, decide
from ramet.seccomp.filters import kills
from ramet.spec import Sandbox, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import IO, Any, Self, TypeVar

    from ramet.cgroups import Group
    from ramet.plan.steps import Plan, Slot
    from ramet.run.ahead import Preparing
    from ramet.run.launch import Launched
    from ramet.run.planning import Argv
    from ramet.run.result import Usage

    R = TypeVar("R", bound=Result)

CLONE_NEWPID = 0x20000000


class Popen:
    """A command running in a sandbox of its own.

    stdin, stdout, stderr: PIPE, DEVNULL, a descriptor, a file, or None for the caller's own; stderr may be STDOUT. Unlike
    subprocess, stdin is DEVNULL unless given. text, encoding, errors: decode what is
    captured (bytes that can't be are escaped, unless errors says otherwise). pass_fds: descriptors
    passed on under their own numbers. Any field of Sandbox may be given by name; its timeout and cpu_time are held by who waits (`wait`,
    `communicate`, `poll`).

    The sandbox dies when the caller dies, and when this object is closed or collected. As a context manager it closes
    stdin and waits at the end of the block, and kills the sandbox if the block raises.

    Raises SpecError, UnsupportedError, StepError, CommandError (the command can't be executed), HelperError. Needs
    Linux 5.14.
    """

    #: Does whoever starts it communicate with it at once? Then namespaces for the next can be begun while it is built.
    _is_waited_for = False

    # What there is of a process before there is one.
    _launched: Launched | None = None
    _group: Group | None = None
    _evidence: tuple[Evidence, Usage] | None = None
    _seen: Usage | None = None
    _asked = _disk_full = False
    _preparing: Preparing | None = None
    _ending: Ending | None = None
    _text: tuple[str, str] | None = None
    _pumping: Pump | None = None

    def _begin_empty(self) -> None:
        """And what each has of its own."""
        self._files: dict[int, Any] = {}
        self._read_ahead: dict[int, bytes] = {}
        self._lock = allocate_lock()

    def __init__(
        self,
        argv: Argv,
        sandbox: Sandbox | None = None,
        *,
        stdin: object = DEVNULL,
        stdout: object = None,
        stderr: object = None,
        text: bool = False,
        encoding: str | None = None,
        errors: str | None = None,
        pass_fds: Sequence[int] = (),
        **fields: Any,
    ) -> None:
        self._begin_empty()
        self.sandbox = sandbox_with(sandbox, fields)
        self.plan = self._compile(argv, pass_fds)
        self.args = self.plan.command.argv
        decoded = text or encoding or errors
        self._text = _known_encoding(encoding or "utf-8", errors or "backslashreplace") if decoded else None
        self._started = monotonic()
        signals = Signals()
        try:
            self._streams = Streams(stdin, stdout, stderr, self.plan.owner, signals=signals)
            self._make_group(signals)
            theirs = self._streams.theirs
            stdio = theirs[0], theirs[1], theirs[2]
            try:
                self._launched = self._launch(stdio, signals)
            except StepError as error:
                if not self._was_moved(error):
                    raise
                self.plan = self._compile(argv, pass_fds)
                self._make_group(signals)
                self._launched = self._launch(stdio, signals)
            if self._group is not None:
                self._group.opened()
            self._streams.close_theirs()
            self._guard = Guard(self.sandbox, self._group, self._killer(), began=self._started)
            signals.release()
        except BaseException:  # also a Ctrl-C in the last of these lines, when the payload runs already
            try:
                self._undo()
            finally:
                signals.release()
            raise

    def _undo(self) -> None:
        """End what has been started of it."""
        if hasattr(self, "_streams"):
            self._streams.close_all()
        if self._launched is not None:
            launched, self._launched = self._launched, None
            launched.close()
        self._preparing = None
        self._close_group()

    def _compile(self, argv: Argv, pass_fds: Sequence[int]) -> Plan:
        return plan_for(argv, self.sandbox, pass_fds)

    def _start(
        self, stdio: tuple[int, int, int], given: Mapping[Slot, int], into: int | None, signals: Signals
    ) -> Launched:
        meanwhile = self._prepare if self._is_waited_for and self.plan.ahead is not None else None
        lives = not self._is_waited_for
        return launch(self.plan, stdio, given=given, into=into, signals=signals, meanwhile=meanwhile, lives=lives)

    def _launch(self, stdio: tuple[int, int, int], signals: Signals) -> Launched:
        """In namespaces made ahead, if there are any."""
        own, kit = self.plan, self.plan.kit
        given: dict[Slot, int] = {}
        into = None
        if self._group is not None:
            from ramet.run.groups import inputs

            given, into = inputs(self._group), self._group.into
        pair = ahead.take(kit) if kit is not None else None
        if kit is None or pair is None:
            return self._start(stdio, given, into, signals)
        self.plan = plan_in(pair.kit, own)
        try:
            return self._start(stdio, {**given, **pair.inputs}, into, signals)
        except StepError as error:
            if error.stage != "join":
                raise
            # They could be made and not entered: a filter that refuses setns, say. The sandbox can make its own.
            ahead.refuse(pair.kit)
            self.plan = own
            return self._start(stdio, given, into, signals)
        finally:
            pair.close(sure=True)

    def _make_group(self, signals: Signals) -> None:
        if self.plan.groups is None or not self.plan.groups.made:
            return
        from ramet.run.groups import make

        signals.hold()  # a group that nobody knows would stay until this process ends
        self._group = make(self.plan)

    def _was_moved(self, error: StepError) -> bool:
        """Has somebody moved the caller out of what is delegated to it? Then its place is another one, or none that has a fix to be told:
        it is looked for again. clone3 has no other use for EACCES than CLONE_INTO_CGROUP's."""
        if error.stage != "clone" or error.errno != EACCES or self._group is None or self._group.into is None:
            return False
        from ramet import cgroups

        self._close_group()
        cgroups.forget()
        return True

    def _close_group(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            group.close()

    # What it is

    @property
    def pid(self) -> int:
        """Of init, or of the payload where there is no init, in the caller's pid namespace."""
        return self._alive().pid

    @property
    def pidfd(self) -> int:
        """Readable when everything in the sandbox has ended (pidfd_open(2)). Closed with this object."""
        return self._alive().pidfd

    @property
    def terminal(self) -> int | None:
        """With tty=True: the master side of the payload's terminal, a descriptor of this object."""
        return self._alive().terminal

    @property
    def returncode(self) -> int | None:
        """As subprocess has it: None while it runs, then the exit code, or minus the signal."""
        if self._ending is None:
            return None
        return self._ending.exit_code if self._ending.exit_code is not None else -(self._ending.signal or 0)

    @property
    def stdin(self) -> IO[Any] | None:
        """A file to write to, with stdin=PIPE."""
        return self._file(0, "wb")

    @property
    def stdout(self) -> IO[Any] | None:
        """A file to read from, with stdout=PIPE."""
        return self._file(1, "rb")

    @property
    def stderr(self) -> IO[Any] | None:
        """A file to read from, with stderr=PIPE."""
        return self._file(2, "rb")

    def _file(self, number: int, mode: str) -> IO[Any] | None:
        if number not in self._files and self._streams.ours[number] is not None:
            fd, self._streams.ours[number] = self._streams.ours[number], None
            assert fd is not None
            os.set_blocking(fd, True)
            import io

            raw = open(fd, mode)  # noqa: SIM115  kept, and closed by close()
            self._files[number] = io.TextIOWrapper(raw, *self._text, write_through=True) if self._text else raw
        return self._files.get(number)

    def _alive(self) -> Launched:
        if self._launched is None:
            raise SpecError("this sandbox is closed", field="Popen")
        return self._launched

    # Waiting

    def poll(self) -> int | None:
        """The return code if it has ended, else None."""
        if self._ending is None and self._launched is not None:
            self._guard.look()
            if readable(self._ended_fd(), 0):
                self._settle()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; the return code. Raises TimeoutExpired; the sandbox goes on then.

        KeyboardInterrupt while waiting kills the sandbox: it has a session of its own and hears no Ctrl-C.
        """
        deadline = None if timeout is None else monotonic() + timeout
        try:
            while self._ending is None:
                if wait_guarded(self._ended_fd(), self._guard, deadline):
                    self._settle()
                elif deadline is not None and monotonic() >= deadline:
                    raise TimeoutExpired("the sandbox still ran", seconds=timeout or 0)
        except KeyboardInterrupt:
            self.kill()
            raise
        code = self.returncode
        assert code is not None
        return code

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Feed stdin, collect stdout and stderr until their end, wait. (stdout, stderr), None where no PIPE.

        Raises TimeoutExpired; then the sandbox goes on, and another call takes up where this one stopped.
        """
        pump = self._communicate(input, None if timeout is None else monotonic() + timeout, timeout)
        return self._captured(pump)[:2]

    def _communicate(self, input: bytes | str | None, deadline: float | None, timeout: float | None) -> Pump:
        try:
            pump = self._pump(input)
            self._prepare()
            if self._preparing is not None:
                pump.watch(self._preparing.ready, self._preparing.meet)
            pump.run(self._ended_fd(), deadline, self._guard)
            self._settle()
            if self._preparing is not None:
                self._preparing.finish()
                self._preparing = None
        except KeyboardInterrupt:
            self.kill()
            raise
        except TimeoutExpired:
            raise TimeoutExpired("the sandbox still ran", seconds=timeout or 0) from None
        return pump

    def _prepare(self) -> None:
        """Let the next sandbox's namespaces be made, while this one's are built or its payload works."""
        if self.plan.kit is not None and self._preparing is None:
            self._preparing = ahead.prepare(self.plan.kit)

    def _pump(self, input: bytes | str | None) -> Pump:
        """The one pump of this object: what it has read before a timeout is not lost."""
        if self._pumping is None:
            self._take_back()
            self._pumping = self._new_pump(self._encoded(input))
            self._pumping.alone = bool(self.plan.clone_flags & CLONE_NEWPID)
        elif input is not None:
            raise SpecError("has been given already", field="input")
        return self._pumping

    def _new_pump(self, data: bytes | memoryview) -> Pump:
        return Pump(self._streams, data, self.sandbox.output, self._read_ahead)

    def _take_back(self) -> None:
        """Streams that were used as files become descriptors again; what such a file had read ahead is kept."""
        for number, file in self._files.items():
            if file.closed:
                continue
            if number == 0:
                _flush(file)
            elif self._text is not None:
                name = ("stdin", "stdout", "stderr")[number]
                raise SpecError("was read as text by hand; read it on to its end", field=name)
            fd = os.dup(file.fileno())
            os.set_blocking(fd, False)
            self._streams.ours[number] = fd
            if number:
                self._read_ahead[number] = file.peek()
            _close_file(file)
        self._files.clear()

    def _captured(self, pump: Pump) -> tuple[Any, Any, tuple[str, ...]]:
        names = {1: "stdout", 2: "stderr"}
        truncated = tuple(names[n] for n, capture in pump.captures.items() if capture.truncated)
        out, err = (self._decoded(pump.captures[n].value()) if n in pump.captures else None for n in (1, 2))
        return out, err, truncated

    def _encoded(self, input: bytes | str | None) -> bytes | memoryview:
        if input is None:
            return b""
        if self._streams.ours[0] is None:
            raise SpecError("can only be given with stdin=PIPE", field="input")
        if isinstance(input, str):
            encoding, errors = self._text or ("utf-8", "surrogateescape")
            return input.encode(encoding, errors)
        try:
            return memoryview(input).cast("B")
        except TypeError:
            raise SpecTypeError(f"must be bytes or text, not {type(input).__name__}", field="input") from None

    def _decoded(self, data: bytes) -> bytes | str:
        return data.decode(*self._text) if self._text else data

    def _ended_fd(self) -> int:
        """Readable at the end: init's socket, where it reports; else the pidfd."""
        launched = self._alive()
        return launched.control if launched.control is not None else launched.pidfd

    def _settle(self) -> None:
        """The end has come: take the report, reap. Once, whichever thread is first."""
        with self._lock:
            if self._ending is not None:
                return
            launched = self._alive()
            message = control.receive(launched.control) if launched.control is not None else None
            if message is not None and self._group is None and self._is_waited_for:
                # All is told, and the kernel takes a while to end the namespaces with init: `close` waits for that.
                self._evidence = self._take_evidence(message)
                self._ending = Ending.from_init(message)
                return
            # Of an init that was killed it would say nothing: those below it are gone without having been waited for.
            rusage = bytearray(RUSAGE_SIZE) if message is None and not self.plan.init else None
            found = reap(launched.pidfd, rusage)
            launched.over = True
            ended = Ending.from_wait(found, init=self.plan.init)
            self._evidence = self._take_evidence(message, control.message_of(rusage) if rusage else None)
            self._ending = ended if message is None else Ending.from_init(message)

    def _take_evidence(
        self, message: control.Message | None, waited: control.Message | None = None
    ) -> tuple[Evidence, Usage]:
        """What the group knows, which ends with it. waited: what the kernel said in place of an init that was killed."""
        group, wall = self._group, monotonic() - self._started
        full = self._disk_full if message is None else bool(message.disk_full)
        limit = self.sandbox.cpu_time
        if group is None:
            # RLIMIT_CPU at most: of one process, but if one alone has used it up, all together have.
            told = message or waited
            used = 0.0 if told is None else (told.user_usec + told.system_usec) / 1e6
            used_up = limit is not None and _used_up_alone(used, limit)
            self._guard.ended()
            evidence = Evidence(self._guard.cause, disk_full=full, cpu_used_up=used_up)
            return evidence, usage_of(told, None, wall) if told or not self._seen else self._seen.after(wall)
        try:
            kills, refused, account = group.account()
            evidence = Evidence(
                self._guard.cause,
                oom_kills=kills,
                memory_refused=group.starved,
                forks_refused=refused,
                disk_full=full,
                cpu_used_up=limit is not None and account.cpu is not None and account.cpu >= float(limit),
            )
        finally:
            self._guard.ended()
            self._close_group()
        return evidence, usage_of(message or waited, account, wall)

    def usage(self) -> Usage:
        """What it has used until now; after the end, in all. Without a control group only what /proc tells of init's children."""
        if self._evidence is not None:
            return self._evidence[1]
        wall = monotonic() - self._started
        if self._group is not None:
            return usage_of(None, self._group.usage(), wall)
        from ramet.run.living import living

        return living(self.pid, wall, init=self.plan.init)

    def _result(self, pump: Pump) -> Result:
        return self._result_with(*self._captured(pump))

    def _result_with(self, out: bytes | str | None, err: bytes | str | None, truncated: tuple[str, ...]) -> Result:
        return self._result_of(Result, out, err, truncated)

    def _result_of(
        self, kind: type[R], out: bytes | str | None, err: bytes | str | None, truncated: tuple[str, ...]
    ) -> R:
        assert self._ending is not None
        assert self._evidence is not None
        evidence, usage = self._evidence
        return kind(
            argv=self.args,
            ending=self._ending,
            verdict=decide(
                self._ending, evidence._replace(filter_kills=kills(self.sandbox), overran=self._guard.overran)
            ),
            usage=usage,
            protections=self.plan.protections,
            stdout=out,
            stderr=err,
            truncated=truncated,
            duration=monotonic() - self._started,
        )

    # Signals

    def send_signal(self, signal: int) -> None:
        """Send a signal to the payload, through init where there is one. SIGKILL ends the whole sandbox."""
        values.integer(signal, "signal", most=64)
        if self._ending is not None or self._launched is None:
            return
        if signal == SIGKILL or self._launched.control is None:
            import signal as signals

            try:
                signals.pidfd_send_signal(self._launched.pidfd, signal)
            except ProcessLookupError:
                return
        else:
            control.forward_signal(self._launched.control, signal)

    def terminate(self) -> None:
        """Send SIGTERM to the payload."""
        self.send_signal(15)

    def kill(self) -> None:
        """End everything in the sandbox, at once."""
        if self._ending is None and self._launched is not None:
            self._kill()

    def _killer(self) -> Callable[[], None]:
        """Our end, without holding us: a Popen that is dropped ends its sandbox at once, not when the collector finds a cycle."""
        held = ref(self)

        def kill() -> None:
            found = held()
            if found is not None:
                found._look_at_disk()
                found._kill()

        return kill

    def _look_at_disk(self) -> None:
        """Before a kill for another limit: was the disk full, too? It goes with the sandbox, and init can't report."""
        launched = self._launched
        if self._asked or launched is None or launched.over or launched.control is None:
            return
        self._asked = True
        self._disk_full = control.disk_is_full(launched.control)

    def _kill(self) -> None:
        """Init's end is everybody's; without a pid namespace of its own the group knows who belongs to it."""
        if self._launched is not None and not self._launched.over:
            if self._group is None and self.plan.init:
                from ramet.run.living import living

                self._seen = living(self._launched.pid, 0, init=True)  # nobody will be left to tell
            kill(self._launched.pidfd)
            if self._group is not None and not self.plan.clone_flags & CLONE_NEWPID:
                self._group.kill()

    # Letting go

    def close(self) -> None:
        """Kill it if it still runs, reap it, and close every descriptor of this object."""
        launched, self._launched = self._launched, None
        self._preparing = None
        if launched is None:
            return
        if self._ending is None:
            self._ending = Ending.from_wait(launched.end(), init=self.plan.init)
            self._evidence = self._take_evidence(None)
        for file in self._files.values():
            _close_file(file)
        self._streams.close_all()
        launched.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._ending is None and self._launched is not None:
            for number in (0,):
                if number in self._files:
                    _close_file(self._files[number])
            self._streams.close_ours(0)
            self.wait()
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_launched", None) is not None and not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self._launched is None else "running" if self._ending is None else f"ended {self.returncode}"
        )
        return f"<ramet.Popen {self.args[0]!r} {state}>"


def _flush(file: Any) -> None:
    try:
        file.flush()
    except BrokenPipeError:
        return


def _known_encoding(encoding: str, errors: str) -> tuple[str, str]:
    try:
        "".encode(encoding, errors)
        codecs.lookup_error(errors)
    except (LookupError, TypeError, ValueError) as error:
        field = "errors" if "error" in str(error) else "encoding"
        raise SpecError(str(error), field=field) from None
    return encoding, errors


def _close_file(file: Any) -> None:
    try:
        file.close()
    except BrokenPipeError:
        return  # unread input of a payload that has ended


class _Awaited(Popen):
    _is_waited_for = True


def run(
    argv: Argv,
    sandbox: Sandbox | None = None,
    *,
    input: bytes | str | None = None,
    timeout: float | str | None = None,
    check: bool = False,
    stdin: object = None,
    stdout: object = PIPE,
    stderr: object = PIPE,
    text: bool = False,
    encoding: str | None = None,
    errors: str | None = None,
    pass_fds: Sequence[int] = (),
    **fields: Any,
) -> Result:
    """Run a command in a sandbox of its own, to its end; capture its output. Any field of Sandbox may be given by name.

    input: what it reads from stdin; without it stdin is empty. timeout: seconds, or text as "1m30s"; then everything in
    the sandbox is killed and the status is "timed-out". check: raise ExitError unless it exits with 0. The rest is as for
    Popen.

    Raises SpecError, UnsupportedError, StepError, CommandError, HelperError before anything runs; never because of what
    the payload does. KeyboardInterrupt kills the sandbox.
    """
    process = start_run(
        argv,
        sandbox,
        input=input,
        timeout=timeout,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=text,
        encoding=encoding,
        errors=errors,
        pass_fds=pass_fds,
        how=_Awaited,
        **fields,
    )
    try:
        result = finish(process, input)
    finally:
        process.close()
    if check and not result.ok:
        raise ExitError(result)
    return result


def start_run(
    argv: Argv,
    sandbox: Sandbox | None,
    *,
    input: object,
    timeout: object,
    stdin: object,
    how: type[Popen] = Popen,
    **rest: Any,
) -> Popen:
    """The process of a `run`. how: its class."""
    if input is not None and stdin is not None:
        raise SpecError("and stdin can't both be given", field="input")
    source = PIPE if input is not None else DEVNULL if stdin is None else stdin
    if timeout is not None:
        rest["timeout"] = timeout
    return how(argv, sandbox, stdin=source, **rest)


def finish(process: Popen, input: bytes | str | None) -> Result:
    """Feed and drain it to its end, or that of its time."""
    limit = process.sandbox.timeout
    try:
        process._communicate(input, None if limit is None else process._started + limit, limit)
    except TimeoutExpired:
        process._guard.stop("timed-out")
        process.wait()
        process._pump(None).drain()
    return process._result(process._pump(None))


def _used_up_alone(used: float, cpu_time: float | str) -> bool:
    from ramet.plan.limits import used_up_alone

    return used_up_alone(used, cpu_time)
