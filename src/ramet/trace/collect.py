"""Running a command under ptrace: the child that asks for it, the thread that follows it, what was seen.

Neither root nor a capability is needed to follow one's own children. What changes for the command: an ordinary user's
has no_new_privs set, as a seccomp filter demands, and set-user-ID programs run without privilege under any tracer that
has none itself; it can't be traced by others, nor trace what it starts; it ends when the tracer does.
"""

from __future__ import annotations

import _thread
import errno
import os
import signal
import struct

from ramet import _core
from ramet.errors import CommandError, Error, UnsupportedError, errno_name
from ramet.trace import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ramet.trace.tree import Task

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
_NUMBER = {"x86_64": {"seccomp": 317, "prctl": 157}, "aarch64": {"seccomp": 277, "prctl": 167}}


class Trace:
    """What was seen. tasks: the command first, then in the order in which they were made. command: as it was given.

    filtered: a seccomp filter stopped the tasks at the calls of interest only; without one they were stopped at each.
    unfiltered_for: why there was none, where it was asked for.
    """

    def __init__(
        self, command: Sequence[str], tasks: list[Task], *, filtered: bool, unfiltered_for: str | None
    ) -> None:
        self.command, self.tasks = tuple(command), tasks
        self.filtered, self.unfiltered_for = filtered, unfiltered_for

    @property
    def exit_code(self) -> int:
        """The command's own, as a shell tells it: 128+n for a signal."""
        code = self.tasks[0].exit_code
        return 128 + signal.SIGKILL if code is None else code

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "command": list(self.command),
            "exit_code": self.exit_code,
            "filtered": self.filtered,
            "tasks": [task.as_dict() for task in self.tasks],
        }


class Tracee:
    """A command that runs under ptrace, and all that it starts. Linux 5.14 and later. Follows ptrace(2), seccomp(2).

    pid, pidfd: of the command. done: a descriptor that is readable once the last of them has ended.
    The command has our standard streams, environment and working directory. Raises UnsupportedError where ptrace is
    refused. Start it from the main thread: it forks.
    """

    def __init__(self, command: Sequence[str], *, filtered: bool = True, env: Mapping[str, str] | None = None) -> None:
        self.command = tuple(command)
        self.env = dict(os.environ if env is None else env)
        self.path = find(self.command[0], self.env.get("PATH", os.defpath))
        self._records: list[bytes] = []
        self._failed: BaseException | None = None
        self.done = os.eventfd(0, os.EFD_CLOEXEC)
        told, tell = os.pipe2(os.O_CLOEXEC)
        waits, self._go = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)  # or it would wait for itself, if we end
            self._become_the_command(tell, waits, filtered)
        os.close(tell)
        os.close(waits)
        self._told = told
        self.pidfd = os.pidfd_open(self.pid)
        self._filter_errno = _word(told)
        self.filtered = filtered and self._filter_errno == 0
        self._begun = _thread.allocate_lock()
        self._begun.acquire()
        self.tracer = _thread.start_new_thread(self._follow, ())
        self._begun.acquire()  # the interpreter is the tracer's until then

    # the child

    def _become_the_command(self, tell: int, waits: int, filtered: bool) -> None:
        """Until the exec: it is alone in its memory, and says by four bytes what went wrong."""
        try:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # Python ignores them
            for number in signal.valid_signals():
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)  # as exec will: no handler of ours on the way there
            os.write(tell, struct.pack("i", _install_filter() if filtered else 0))
            if os.read(waits, 1):
                os.execve(self.path, self.command, self.env)
        except OSError as error:
            os.write(tell, struct.pack("i", error.errno or 0))
        finally:
            os._exit(127)

    # the thread that is the tracer

    def _follow(self) -> None:
        try:
            # The main thread takes them. But for SIGCHLD: where it is blocked, the kernel can't drop it as nobody's
            # concern, and every stop of a tracee would wake the main thread.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - {signal.SIGCHLD})
            machine = os.uname().machine
            _core.trace(self.pid, not self.filtered, calls.table(machine), self._let_go, self._records.append)
        except BaseException as error:
            self._failed = error
            self._close_gate()
        finally:
            os.eventfd_write(self.done, 1)

    def _let_go(self) -> None:
        os.write(self._go, b"x")
        self._close_gate()

    def _close_gate(self) -> None:
        if self._go >= 0:
            os.close(self._go)
            self._go = -1
            self._begun.release()

    # the end

    def end_all(self) -> None:
        """Kill whatever of them is still there. They are found in /proc, by their tracer."""
        ours = _threads()
        for name in os.listdir("/proc"):
            if name.isdecimal() and _tracer_of(name) in ours:
                try:
                    os.kill(int(name), signal.SIGKILL)
                except ProcessLookupError:
                    continue  # it was quicker

    def result(self) -> Trace:
        """What was seen; after `done`. Raises CommandError if the command could not be executed."""
        problem = _word(self._told)
        self.close()
        if self._failed is not None:
            os.waitpid(self.pid, 0)
            raise self._refused(self._failed) from None
        if problem:
            raise _not_executed(self.path, self.command, problem)
        from ramet.trace import records, tree

        why = None if self.filtered or not self._filter_errno else errno_name(self._filter_errno)
        tasks = tree.assemble(records.parse(self._records), self.pid)
        return Trace(self.command, tasks, filtered=self.filtered, unfiltered_for=why)

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._told, self.pidfd, self.done):
            os.close(fd)

    @staticmethod
    def _refused(failed: BaseException) -> BaseException:
        if isinstance(failed, OSError) and not isinstance(failed, Error) and failed.filename == "ptrace":
            number = failed.errno or 0
            return UnsupportedError(
                "can't follow the command",
                fact=f"ptrace says {errno_name(number)}",
                needs="a kernel and a container that allow ptrace of one's own children",
                hint="docker run --cap-add=SYS_PTRACE; kernel.yama.ptrace_scope below 3",
            )
        return failed


def trace(command: Sequence[str], *, filtered: bool = True, env: Mapping[str, str] | None = None) -> Trace:
    """Run a command and say what it made: processes, threads, namespaces. Returns when the last of them has ended.

    Raises CommandError (it can't be executed), UnsupportedError (ptrace is refused). Follows ptrace(2).
    """
    tracee = Tracee(command, filtered=filtered, env=env)
    os.eventfd_read(tracee.done)
    return tracee.result()


def find(name: str, search: str) -> str:
    """The file that a shell would execute under this name. Raises CommandError, as 127 or 126."""
    if "/" in name:
        return name
    refused = None
    for folder in search.split(":"):
        path = os.path.join(folder or ".", name)
        if os.path.isfile(path):
            if os.access(path, os.X_OK):
                return path
            refused = path
    raise _not_executed(refused or name, (name,), errno.EACCES if refused else errno.ENOENT)


def _not_executed(path: str, command: Sequence[str], number: int) -> CommandError:
    from ramet.trace.render import execve_text

    return CommandError(
        f"execute {command[0]!r}",
        errno=number,
        call=execve_text(path, command),
        origin="command",
        stage="command",
    )


def _install_filter() -> int:
    """Install the filter for this thread and all that comes of it; 0, or the errno of the refusal."""
    from array import array

    machine = os.uname().machine
    number = _NUMBER[machine]
    program = array("B", calls.filter_program(machine))
    header = struct.pack("HxxxxxxQ", len(program) // 8, program.buffer_info()[0])
    try:
        _core.syscall("seccomp", number["seccomp"], SECCOMP_SET_MODE_FILTER, 0, header)
    except PermissionError:  # EACCES: only who has CAP_SYS_ADMIN may do without no_new_privs
        _core.syscall("prctl", number["prctl"], PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError as error:
        return error.errno or 0
    else:
        return 0
    try:
        _core.syscall("seccomp", number["seccomp"], SECCOMP_SET_MODE_FILTER, 0, header)
    except OSError as error:
        return error.errno or 0
    return 0


def _word(fd: int) -> int:
    """The next four bytes of a pipe, or 0 at its end."""
    return int.from_bytes(os.read(fd, 4), "little")


def _threads() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _tracer_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"TracerPid:"):
                    return int(line.split()[1])
    except OSError:
        return 0  # it has ended
    return 0
