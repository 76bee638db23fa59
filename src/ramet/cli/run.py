"""`ramet run`: a command in a sandbox, its streams relayed, its exit code ours."""

from __future__ import annotations

import os
import select
import signal
from time import monotonic

from ramet.cli import box, options
from ramet.cli.options import Option
from ramet.cli.output import EXIT_CODES, EXIT_TIMED_OUT, SIGNALED, error_mapping, put, put_json, say
from ramet.cli.relay import Relay, to_descriptor, up_to
from ramet.errors import Error, SpecError
from ramet.run.guard import sooner
from ramet.run.process import Popen
from ramet.run.streams import DEVNULL, PIPE, Capture, milliseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from ramet.cli.terminal import Terminal
    from ramet.run.result import Result

ABOUT = """\
Run a command in a sandbox of its own. Without options it sees what programs
need of this host, read-only, and no network, no other process, no home
directory. Its input and output are relayed; it never holds a descriptor of
yours."""
AFTER = f"""\
{box.DETAILS}

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command; a second one,
or 5 seconds, ends everything in the sandbox.

{EXIT_CODES}"""
JSON = options.JSON._replace(help="print the result, output included, as JSON")
STATS = Option("--stats", "", "at the end, say on stderr how it ended and what it cost")
LEARN = Option("--learn", "", "for a program that you trust: say what it was refused, and which options let it run")
GENERAL = (box.CONFIG, JSON, STATS, LEARN, *box.OUTPUT, options.DEBUG, options.HELP)
TABLE = (*(option for _, group in box.GROUPS for option in group), *GENERAL)

#: The status of what ramet itself could not start: where Python gets an exception, and no Result.
SETUP_FAILED = "setup-failed"
#: Verdicts that end with exit code 124.
OUT_OF_TIME = ("timed-out", "cpu-time")
#: Seconds between a signal that asks the payload to end, and the end.
PATIENCE = 5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
OF_TERMINALS = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)


def command(args: Sequence[str]) -> int:
    """Run what the command line says; the exit code."""
    wanted = box.order(args, TABLE)
    if wanted is None:
        groups = [*box.GROUPS, ("general", GENERAL)]
        put(options.help_text("ramet run [OPTION...] [--] COMMAND [ARG...]", ABOUT, groups, AFTER))
        return 0
    if wanted.learn:
        from ramet.cli.learn import learn

        return learn(wanted)
    if not wanted.json:
        return _run(wanted)
    if wanted.sandbox.tty:
        raise SpecError("can't go with --tty: a terminal's output is for eyes", field="--json")
    try:
        return _run_json(wanted)
    except Error as error:
        put_json({"status": SETUP_FAILED, **error_mapping(error)})
        raise


def _start(wanted: box.Order, **streams: Any) -> Popen:
    try:
        return Popen(wanted.command.argv, wanted.sandbox, **streams)
    except SpecError as error:
        raise wanted.draft.renamed(error) from None


def _run(wanted: box.Order) -> int:
    if wanted.sandbox.tty:
        return _run_in_terminal(wanted)
    return relayed(_start(wanted, stdin=PIPE, stdout=PIPE, stderr=PIPE), wanted)


def relayed(process: Popen, wanted: box.Order) -> int:
    """Our streams to and from the payload's until it ends; its exit code."""
    watch = Watch(process)
    for number, name in ((1, "stdout"), (2, "stderr")):
        sink = to_descriptor(number)
        if "output" in wanted.draft.fields:
            sink = up_to(process.sandbox.output, sink, watch.too_much)
        watch.relay.drain(_taken(process, name), sink, name)
    watch.relay.feed(_taken(process, "stdin"))
    return _finish(watch, wanted)


def _run_json(wanted: box.Order) -> int:
    process = _start(wanted, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    watch = Watch(process)
    captured = {name: Capture(process.sandbox.output) for name in ("stdout", "stderr")}
    for name, capture in captured.items():
        watch.relay.drain(_taken(process, name), _captured(capture, watch), name)
    watch.relay.feed(_taken(process, "stdin"))
    code = watch.until_the_end()
    result = process._result_with(
        captured["stdout"].value(),
        captured["stderr"].value(),
        tuple(name for name, capture in captured.items() if capture.truncated),
    )
    process.close()
    if wanted.stats:
        say_stats(result)
    put_json(result.to_mapping())
    return code


def _captured(capture: Capture, watch: Watch) -> Callable[[bytes], None]:
    """A sink that keeps what `output` allows."""

    def sink(data: bytes) -> None:
        capture.add(data)
        if capture.truncated:
            watch.too_much()

    return sink


def _run_in_terminal(wanted: box.Order) -> int:
    from ramet.cli.terminal import Terminal, size

    sandbox = wanted.sandbox
    if "TERM" in os.environ and "TERM" not in sandbox.env:
        sandbox = sandbox.replace(env={**sandbox.env, "TERM": os.environ["TERM"]})
    found = size()
    if found is not None and sandbox.terminal_size is None:
        rows, columns = (int.from_bytes(found[n : n + 2], "little") for n in (0, 2))
        if rows and columns:
            sandbox = sandbox.replace(terminal_size=(rows, columns))
    wanted.sandbox = sandbox
    process = _start(wanted, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert process.terminal is not None
    with Terminal() as terminal:
        watch = Watch(process, terminal)
        watch.relay.drain(os.dup(process.terminal), to_descriptor(1), "stdout")
        watch.relay.feed(os.dup(process.terminal), terminal=True)
        return _finish(watch, wanted)


def _taken(process: Popen, name: str) -> int:
    """Our end of a stream, for a relay thread to own."""
    file = getattr(process, name)
    fd = os.dup(file.fileno())
    file.close()
    return fd


def _finish(watch: Watch, wanted: box.Order) -> int:
    code = watch.until_the_end()
    watch.process.close()
    if wanted.stats:
        say_stats(watch.process._result_with(None, None, ()))
    if watch.relay.failed is not None:
        raise watch.relay.failed
    return code


class Watch:
    """The main thread, while the sandbox runs: its end, signals, the time limit, the relay's end.

    It listens to signals from the first: before anybody could see that the payload runs.
    """

    def __init__(self, process: Popen, terminal: Terminal | None = None) -> None:
        self.process, self.relay, self.terminal = process, Relay(), terminal
        self.deadline: float | None = None  # of who was asked to end; that of `timeout` is the guard's
        self.asked: int | None = None
        self.killed_for: int | None = None
        self._wake, self._wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._listen()

    def until_the_end(self) -> int:
        """Wait for payload and relay; the exit code."""
        poller = select.poll()
        for fd in (self._wake, self.process.pidfd, self.relay.done):
            poller.register(fd, select.POLLIN)
        guard = self.process._guard
        if guard.watched is not None:
            poller.register(guard.watched, select.POLLIN)
        waiting = {self.process.pidfd, self.relay.done}
        while waiting:
            ready = {fd for fd, _ in poller.poll(milliseconds(sooner(self.deadline, guard.next_look())))}
            guard.look()
            for fd in ready & waiting:
                poller.unregister(fd)
                waiting.discard(fd)
                if fd == self.process.pidfd:
                    self.process.wait()
                    self.deadline = None
                    self.relay.stop_feeding()
            running = self.process.returncode is None and self.asked is None
            if self.terminal and self.relay.reader_gone and running:
                self._obey(signal.SIGHUP)  # what a terminal does whose screen is gone
            for number in self._signals() if self._wake in ready else ():
                self._obey(number)
                if self.killed_for is not None and self.process.returncode is not None:
                    return SIGNALED + self.killed_for  # it has ended; only a reader of ours does not read
            if self.deadline is not None and not ready and monotonic() >= self.deadline:
                self._late()
        return self._code()

    def _listen(self) -> None:
        """Signals arrive as bytes in a pipe of ours; who ignored one (nohup) goes on ignoring it."""
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for number in (*ENDING, *PASSED_ON, *(OF_TERMINALS if self.terminal else ())):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _seen)
        if self.terminal:
            self._resize()

    def _signals(self) -> Iterator[int]:
        try:
            yield from os.read(self._wake, 4096)
        except BlockingIOError:
            return

    def _obey(self, number: int) -> None:
        if number in ENDING:
            if self.asked is None and self.process.returncode is None:
                self.asked = number
                self.process.send_signal(number)
                self.deadline = monotonic() + PATIENCE
            else:
                self.killed_for = number
                self.process.kill()
        elif number in PASSED_ON:
            self.process.send_signal(number)
        elif number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP and self.terminal:
            self.terminal.restore()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif number == signal.SIGCONT and self.terminal:
            self.terminal.make_raw()
            self._resize()

    def _resize(self) -> None:
        from ramet.cli.terminal import resize

        if self.process.returncode is None and self.process.terminal is not None:
            resize(self.process.terminal)

    def too_much(self) -> None:
        """The payload has written more than it may. Called by the relay's threads."""
        self.process._guard.too_much_output()

    def _late(self) -> None:
        self.deadline, self.killed_for = None, self.asked
        self.process.kill()

    def _code(self) -> int:
        code = self.process.returncode
        assert code is not None
        verdict = self.process._result_with(None, None, ())
        if verdict.ended_by_limit:
            return EXIT_TIMED_OUT if verdict.status in OUT_OF_TIME else SIGNALED + signal.SIGKILL
        if self.killed_for is not None and code < 0:
            return SIGNALED + self.killed_for
        return code if code >= 0 else SIGNALED - code


def say_stats(result: Result) -> None:
    """One line for people; --json has all of it."""
    used, parts = result.usage, [str(result)]
    parts += [f"hit {name}" for name in result.limits_hit if name != result.status]
    parts.append(f"{used.wall or 0:.3f} s")
    if used.cpu_user is not None and used.cpu_system is not None:
        parts.append(f"{used.cpu_user:.3f} s user, {used.cpu_system:.3f} s system")
    if used.memory_peak is not None:
        if used.memory_peak_of == "caller":
            parts.append("no process larger than ramet itself")
        else:
            whose = "" if used.memory_peak_of == "group" else " in its largest process"
            parts.append(f"{used.memory_peak / 2**20:.1f} MiB at most{whose}")
    if used.processes_peak is not None:
        parts.append(f"{used.processes_peak} process{'' if used.processes_peak == 1 else 'es'} at most")
    if used.read_bytes or used.written_bytes:
        parts.append(f"{used.read_bytes or 0} bytes read, {used.written_bytes or 0} written")
    parts += [f"{one.name} {one.state}" for one in result.protections if one.state != "enforced"]
    say("; ".join(parts))


def _seen(number: int, frame: object) -> None:
    """Something must be installed for the byte to be written."""
