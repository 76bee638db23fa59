"""`ramet trace`: run a command, print the processes, threads and namespaces that it made."""

from __future__ import annotations

import gc
import os
import select
import signal
from contextlib import contextmanager
from importlib import import_module

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import OutputError, ReaderGone, say, visible, write_all
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ramet.trace.collect import Trace, Tracee

ABOUT = """\
Run a command and print, as a tree, every clone, clone3, fork, vfork, unshare,
setns, execve and execveat that it and all it starts make: flags by name,
threads, processes and new namespaces told apart, and why a call failed.

The command runs as it would without: no sandbox, your streams, your rights;
only set-user-ID programs (sudo, newuidmap) have no privilege, unless you are
root. The tree comes when the last process has ended, on stderr."""
AFTER = """\
Ctrl-C goes to the command, and the tree is still printed. What the command
leaves running is waited for; a second Ctrl-C ends it.

exit codes: the command's own; 125 ramet itself failed; 126 it can't be
executed; 127 it was not found; 128+n signal n ended it."""
JSON = options.JSON._replace(help="print JSON, with every argument whole")
OUTPUT = Option("-o --output", "FILE", "print to this file instead; - is stdout")
SLOW = Option(
    "--no-seccomp", "", "stop at every system call, without a filter: slower, but no_new_privs is left as it is"
)
TABLE = (OUTPUT, JSON, SLOW, options.DEBUG, options.HELP)

#: What the tree is made and printed with.
LATER = ("ramet.trace.records", "ramet.trace.tree", "ramet.trace.why", "ramet.trace.render")
#: The terminal sends the first two to the command as well, the others are for us alone.
OF_KEYS = (signal.SIGINT, signal.SIGQUIT)
PASSED_ON = (*OF_KEYS, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def command(args: Sequence[str]) -> int:
    """Run and print; the command's exit code."""
    line = options.read(args, TABLE)
    given = {option: value for option, _, value in line.given}
    if options.HELP in given:
        from ramet.cli.output import put

        put(options.help_text("ramet trace [OPTION...] [--] COMMAND [ARG...]", ABOUT, [("options", TABLE)], AFTER))
        return 0
    if not line.operands:
        raise SpecError("needs a command", field="trace", hint="as in: ramet trace -- sh -c 'ls | wc'")
    target = _opened(given.get(OUTPUT))
    env = _environment()
    with _everything_kept():
        found = follow(line.operands, filtered=SLOW not in given, env=env)
        if found.unfiltered_for:
            say(f"no seccomp filter ({found.unfiltered_for}), so the command was stopped at every system call")
        _print(found, target, given.get(OUTPUT, "stderr"), json=JSON in given, env=env)
        return found.exit_code


@contextmanager
def _everything_kept() -> Iterator[None]:
    """Nothing of a trace is dropped before it is printed, and then we end: looking for garbage is a tenth of our time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _environment() -> dict[str, str]:
    """The caller's: without a locale, the interpreter has added LC_CTYPE to ours (PEP 538)."""
    env = dict(os.environ)
    try:
        with open("/proc/self/environ", "rb") as file:
            if not any(line.startswith(b"LC_CTYPE=") for line in file.read().split(b"\0")):
                env.pop("LC_CTYPE", None)
    except OSError:
        return env  # no /proc: who can't tell leaves it
    return env


def _opened(path: str | None) -> int:
    """Where the tree goes: found out before the command runs."""
    if path is None:
        return 2
    if path == "-":
        return 1
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(path, error.errno or 0) from None


def _print(found: Trace, target: int, name: str, *, json: bool, env: Mapping[str, str]) -> None:
    from ramet.host.namespaces import kernel_version
    from ramet.trace.why import explain_refusals

    explain_refusals(found.tasks, kernel_version())
    if json:
        from json import dumps

        text = dumps(found.as_dict(), indent=2)
    else:
        from ramet.trace.render import marks_for, render

        text = render(found, marks_for(env))
    try:
        write_all(target, visible(text + "\n"))
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise OutputError(name, error.errno or 0) from None


def follow(argv: Sequence[str], *, filtered: bool, env: Mapping[str, str] | None = None) -> Trace:
    """Run the command to the end of all that it starts; signals that we get are for it."""
    from ramet.trace.collect import Tracee

    with _Signals() as signals:  # before the command is there: who has seen it run may send one
        tracee = Tracee(argv, filtered=filtered, env=env)
        for name in LATER:
            import_module(name)  # now, while nobody waits for us
        poller = select.poll()
        for fd in (signals.arrive, tracee.done):
            poller.register(fd, select.POLLIN)
        ending = False
        while True:
            ready = {fd for fd, _ in poller.poll(100 if ending else None)}
            if tracee.done in ready:
                return tracee.result()
            for number in signals.take() if signals.arrive in ready else ():
                ending = _pass_on(tracee, number) or ending
            if ending:
                tracee.end_all()


def _pass_on(tracee: Tracee, number: int) -> bool:
    """Hand a signal on to the command. Where that has ended: is what it left to end too?"""
    if select.select([tracee.pidfd], [], [], 0)[0]:
        return number not in (signal.SIGUSR1, signal.SIGUSR2)
    if not (number in OF_KEYS and _from_our_terminal()):
        signal.pidfd_send_signal(tracee.pidfd, number)
    return False


def _from_our_terminal() -> bool:
    """Are we the ones to whom the terminal sends its keys' signals? Then the command has got them too."""
    try:
        fd = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(fd)


class _Signals:
    """While the command runs, signals arrive as bytes; who ignored one (nohup) goes on ignoring it."""

    def __enter__(self) -> _Signals:
        self.arrive, self._wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self._before = {
            number: signal.signal(number, _seen)
            for number in PASSED_ON
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self.arrive)
        os.close(self._wakes)

    def take(self) -> Iterator[int]:
        """Those that have come."""
        try:
            yield from os.read(self.arrive, 4096)
        except BlockingIOError:
            return


def _seen(number: int, frame: object) -> None:
    """Something must be installed for the byte to be written."""
