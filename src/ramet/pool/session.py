"""Session: a sandboxed interpreter that keeps its state from one piece of code to the next."""

from __future__ import annotations

import atexit
import os
import select
import sys
import weakref
from threading import Lock, RLock
from time import monotonic

from ramet.call import channel
from ramet.call.build import refuse_free_threaded
from ramet.call.inbox import Inbox
from ramet.call.isolated import RESULTS_MAX
from ramet.call.wire import need_msgspec
from ramet.errors import PoolError, ResultError, SpecError, SpecTypeError, StepError, TimeLimitError
from ramet.pool.clone import Clone
from ramet.pool.kernel import FORK, GET, PUT
from ramet.pool.pool import as_executed, check_preload, code_task
from ramet.pool.result import ExecResult
from ramet.pool.tasks import Task
from ramet.pool.warm import Recipe, Zygote
from ramet.run import control
from ramet.run.planning import sandbox_with
from ramet.run.result import Ending, Usage
from ramet.run.streams import Capture, milliseconds, readable
from ramet.run.verdict import Verdict
from ramet.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from ramet.spec import Sandbox

START_SECONDS = 120.0
#: How long code that is out of time has to come to its end after it was interrupted.
GRACE = 2.0
SIGINT = 2
CHUNK = 1 << 16


class _Base:
    """What a session and its forks have in common: the zygote, which ends with the last of them."""

    def __init__(self, zygote: Zygote, most: int) -> None:
        self.zygote, self.most, self.owner = zygote, most, os.getpid()
        self.users = 0
        self.lock = Lock()

    def enter(self) -> None:
        """One more uses it."""
        with self.lock:
            self.users += 1

    def leave(self) -> None:
        """One fewer."""
        with self.lock:
            self.users -= 1
            over = self.users == 0
        if over and self.owner == os.getpid():
            self.zygote.close()


class Session:
    """A sandboxed interpreter that keeps its state, as the kernel of a notebook does.

        with ramet.Session(preload=["pandas"], memory="1G", timeout=30) as session:
            session.put("data.csv", content)
            session.exec("frame = pandas.read_csv('data.csv')", inputs={...})
            session.exec("frame.describe()").text

    preload, prepare, results_max: as of `Pool`; any field of Sandbox by name, or a Sandbox. timeout: of each `exec`, unless that has its own.
    memory, processes, disk and cpu_time hold for the session as a whole.

    forkable: `fork` makes independent copies of the live state. For that, the process of a session must be able to make namespaces:
    its sandbox is one with nested_namespaces=True, without Landlock's wall for files, so more of the kernel is within its reach.

    Raises SpecError, UnsupportedError, StepError, ZygoteError; PoolError when used after its end. Needs Linux 5.14.
    """

    def __init__(
        self,
        preload: Iterable[str] = (),
        sandbox: Sandbox | None = None,
        *,
        forkable: bool = False,
        prepare: str = "",
        results_max: int | str = RESULTS_MAX,
        start_timeout: float | str = START_SECONDS,
        **fields: Any,
    ) -> None:
        refuse_free_threaded()
        need_msgspec()
        names = check_preload(preload)
        if not isinstance(prepare, str):
            raise SpecTypeError(f"must be code, as text, not {type(prepare).__name__}", field="prepare")
        box = sandbox_with(sandbox, fields)
        if values.flag(forkable, "forkable"):
            box = _forkable(box)
        most = values.size(results_max, "results_max")
        recipe = Recipe(box, names, prepare, filled=True)
        zygote = Zygote(recipe, values.duration(start_timeout, "start_timeout"))
        base = _Base(zygote, most)
        base.enter()
        try:
            clone = zygote.put_forth()
            _wait_until_ready(clone)
            channel.send(clone.channel_end, channel.TASK_KIND, channel.TASK.pack(channel.SESSION, most, 1))
        except BaseException:
            base.leave()
            raise
        self._open(base, clone, None, forkable=forkable)

    def _open(self, base: _Base, clone: Clone, parent: Session | None, *, forkable: bool) -> None:
        self._base, self._clone, self._parent, self._forkable = base, clone, parent, forkable
        self._recipe = base.zygote.recipe
        self._lock, self._talking = RLock(), False
        self._owner = os.getpid()
        self._closed, self._forks = False, 0
        clone.begin_session()
        _living.add(self)

    # Code

    def exec(
        self,
        code: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        outputs: Sequence[str] | None = None,
        timeout: float | str | None = None,
    ) -> ExecResult:
        """Run code in the session. inputs, outputs, and what comes back: as of `Pool.exec`.

        Code that is out of time is interrupted, and the session goes on; what does not come to its end for that within two seconds is killed,
        and the session with it. `alive` says which. Waits while another thread's code runs.
        """
        task = code_task(self._recipe.reach, code, inputs, outputs)
        limit = self._recipe.spec.timeout if timeout is None else values.duration(timeout, "timeout")
        with self._lock:
            return self._converse(task, limit)

    def interrupt(self) -> None:
        """Interrupt the code that runs, from another thread: KeyboardInterrupt is raised in it, and the session goes on. Without any, nothing
        happens."""
        self._check()
        launched = self._clone.launched
        if self._talking and launched is not None and launched.control is not None:
            control.forward_signal(launched.control, SIGINT)

    # Files

    def put(self, path: str, content: bytes | bytearray | memoryview | str) -> None:
        """Write a file in the sandbox; a relative path begins at the home directory. Raises what writing raises there."""
        if not isinstance(content, (bytes, bytearray, memoryview, str)):
            raise SpecTypeError(f"must be bytes or text, not {type(content).__name__}", field="content")
        data = content.encode() if isinstance(content, str) else bytes(content)
        self._file(PUT, path, data)

    def get(self, path: str, *, most: int | str = RESULTS_MAX) -> bytes:
        """The content of a file in the sandbox: a regular one, no symbolic link, of `most` bytes at most. It is read inside, with the rights of
        the sandbox. Raises what reading raises there, ValueError for another kind of file or a larger one."""
        found = self._file(GET, path, values.size(most, "most"))
        if not isinstance(found, bytes):
            raise ResultError("the sandbox sent what is no file")
        return found

    def _file(self, kind: bytes, path: object, what: object) -> Any:
        name = values.text(path, "path")
        plain = self._recipe.reach.pack(kind, "file", None, (name, what), {})
        with self._lock:
            result = self._converse(Task(kind, "file", plain.data, plain.buffers), None)
        if result.error is not None:
            raise result.error
        return result.value

    # Copies

    def fork(self) -> Session:
        """An independent copy of the live state in a sandbox of its own, in milliseconds: variables, modules, and copies of the files in /tmp, the
        home directory and /dev/shm. File systems of `mounts` are new and empty; open files and sockets are /dev/null in it.

        The copy ends with this session's process: so that stays, idle, until its copies are closed. Raises SpecError without forkable=True,
        StepError, and ResultError where the state can't be copied: threads are running in it.
        """
        if not self._forkable:
            raise SpecError(
                "this session can't be copied",
                field="Session.forkable",
                hint="forkable=True, which leaves its process the right to make namespaces",
            )
        with self._lock:
            self._check()
            clone = Clone(self._recipe.plan, self._base.zygote)
            try:
                clone.ask_through(self._clone.channel_end, FORK)
                _wait_until_ready(clone)
            except StepError:
                clone.close()
                raise
            except OSError as error:
                clone.close()
                raise ResultError(f"the session could not be copied: {error}") from None
            except BaseException:
                clone.close()
                raise
            self._forks += 1
        self._base.enter()
        made = Session.__new__(Session)
        made._open(self._base, clone, self, forkable=True)
        return made

    # Underneath

    def _check(self) -> None:
        if self._owner != os.getpid():
            raise PoolError(f"this session belongs to process {self._owner}, of which this one is a fork")
        if self._closed:
            raise PoolError("this session is closed")
        if not self.alive:
            raise PoolError("this session has ended; what ended it is the error of the call before")

    @property
    def alive(self) -> bool:
        """Does its process run?"""
        return not self._closed and not self._clone.has_ended and self._clone.running

    def _converse(self, task: Task, limit: float | None) -> ExecResult:
        """Send, and take what comes until the answer."""
        self._check()
        talk = _Talk(self._clone, self._base.most)
        self._talking = True
        try:
            channel.send(self._clone.channel_end, channel.TASK_KIND, task.message(self._base.most), task.buffers)
            late = talk.listen(limit)
        except (BrokenPipeError, ConnectionResetError):
            late = False
            talk.wait_for_end()
        except KeyboardInterrupt:
            self.interrupt()
            talk.listen(GRACE)
            raise
        finally:
            self._talking = False
        return talk.result(late)

    # The end

    def close(self) -> None:
        """End it. A session that has copies stays, as their ground, until the last of these is closed."""
        if self._closed or self._owner != os.getpid():
            return
        self._closed = True
        if not self._forks:
            self._end()

    def _end(self) -> None:
        self._clone.end()
        self._clone.close()
        parent, self._parent = self._parent, None
        if parent is not None:
            parent._forks -= 1
            if parent._closed and not parent._forks:
                parent._end()
        self._base.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "alive" if self.alive else "ended"
        return f"<ramet.Session {state}>"


def _forkable(box: Sandbox) -> Sandbox:
    """What a process needs that makes sandboxes of copies of itself."""
    from ramet.seccomp import profile

    if box.landlock is True:
        raise SpecError("and forkable exclude each other: behind Landlock nobody can mount", field="Sandbox.landlock")
    seccomp = profile.zygote() if box.seccomp == "default" else box.seccomp
    return box.replace(nested_namespaces=True, seccomp=seccomp)


def _wait_until_ready(clone: Clone) -> None:
    while not clone.hear():
        poller = select.poll()
        poller.register(clone.watched, select.POLLIN)
        if not poller.poll(1000) and clone.is_overdue:
            raise ConnectionResetError(f"it was not ready after {clone.age:.0f} s")


class _Talk:
    """One exchange: what is printed, until the answer or the end."""

    def __init__(self, clone: Clone, most: int) -> None:
        self._clone = clone
        self._started = monotonic()
        self._inbox = Inbox(clone.channel_end, most, pickled=False, mine=(), parts=True, forked=False)
        self._captures = {number: Capture(clone.sandbox.output) for number in (1, 2)}
        self._before = clone.usage()
        self._ended = False

    def listen(self, limit: float | None) -> bool:
        """Until the answer, or the end. Over the limit the code is interrupted, then killed; was it?"""
        late, deadline = False, None if limit is None else self._started + limit
        while not self._answered:
            if self._step(deadline):
                continue
            launched = self._clone.launched
            if late or launched is None or launched.control is None:
                self._clone.end()
                self.wait_for_end()
                return True
            late, deadline = True, monotonic() + GRACE
            control.forward_signal(launched.control, SIGINT)
        self._drain()
        return late

    @property
    def _answered(self) -> bool:
        return self._ended or self._inbox.has_told

    def _step(self, deadline: float | None) -> bool:
        """Wait for something, and take it; False at the deadline."""
        clone = self._clone
        ended = clone.ended_fd
        poller = select.poll()
        for fd in (clone.channel_end.fileno(), ended, *(fd for fd in self._streams() if fd is not None)):
            poller.register(fd, select.POLLIN)
        clone.look()
        ready = [fd for fd, _ in poller.poll(min(milliseconds(deadline) or 1000, 1000) if deadline else 1000)]
        if not ready and deadline is not None and monotonic() >= deadline:
            return False
        for number, stream in enumerate(self._streams(), 1):
            if stream in ready:
                self._take(number, stream)
        if (clone.channel_end.fileno() in ready and self._inbox.take_open() and not self._answered) or (
            ended in ready and clone.channel_end.fileno() not in ready
        ):
            self.wait_for_end()
        return True

    def _streams(self) -> tuple[int | None, int | None]:
        return self._clone.outputs

    def _take(self, number: int, fd: int | None) -> bool:
        assert fd is not None
        data = os.read(fd, CHUNK)
        self._captures[number].add(data)
        if not data:
            self._clone.close_output(number)
        return bool(data)

    def _drain(self) -> None:
        for number, fd in enumerate(self._streams(), 1):
            while fd is not None and readable(fd, 0) and self._take(number, fd):
                pass

    def wait_for_end(self) -> None:
        """It has ended, or is about to."""
        self._ended = True
        self._clone.wait()
        self._drain()

    def result(self, late: bool) -> ExecResult:
        """What came of it."""
        if self._ended:
            return self._at_the_end(late)
        found = self._made(ExecResult, late)
        found.exception, found.value = self._inbox.exception, None
        found.take(self._inbox.value)
        self._inbox.warn()
        if late:
            found.exception = TimeLimitError(found)
        return found

    def _made(self, kind: type[ExecResult], late: bool) -> ExecResult:
        out, err = (self._captures[number].value().decode("utf-8", "backslashreplace") for number in (1, 2))
        truncated = tuple(name for name, n in (("stdout", 1), ("stderr", 2)) if self._captures[n].truncated)
        wall = monotonic() - self._started
        hits = ("timed-out",) if late else ()
        return kind(
            argv=("exec",),
            ending=Ending(0, None, reported=True),
            verdict=Verdict("timed-out" if late else "exited", hits, late),
            usage=_since(self._clone.usage(), self._before, wall),
            protections=self._clone.plan.protections,
            stdout=out,
            stderr=err,
            truncated=truncated,
            duration=wall,
        )

    def _at_the_end(self, late: bool) -> ExecResult:
        """The session is over: its own ending is the code's."""
        texts = [self._captures[number].value() for number in (1, 2)]
        return as_executed(self._clone.last_result(texts[0], texts[1], late=late, since=self._started))


def _since(now: Usage, before: Usage, wall: float) -> Usage:
    """What was used in between, as far as it adds up."""
    known = {**now.to_mapping(), "wall": wall}
    for name in ("cpu_user", "cpu_system", "read_bytes", "written_bytes", "minor_faults", "major_faults"):
        after, first = getattr(now, name), getattr(before, name)
        known[name] = after - first if after is not None and first is not None else after
    return Usage(**known)


_living: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for session in list(_living):
        session.close()
