"""A copy of a zygote, seen by the caller: made ready ahead of need, then one call.

It has the shape of a run (`ramet.run.process.Popen`), so pipes, limits, verdict, usage and time are those of any.
"""

from __future__ import annotations

import errno
import os
import struct
from time import monotonic

from ramet.call import channel
from ramet.call.inbox import Inbox
from ramet.call.isolated import RESULTS_MAX, FunctionProcess, FunctionResult
from ramet.errors import Error, StepError
from ramet.pool.zygote import BREAK
from ramet.run import control
from ramet.run.failure import step_failed
from ramet.run.fork import CLONED, FAILED, NEWS, READY
from ramet.run.guard import Guard
from ramet.run.launch import Launched, kill, pid_of
from ramet.run.process import finish
from ramet.run.result import Ending
from ramet.run.streams import PIPE, Pump, Streams, readable
from ramet.run.trays import tray_for
from ramet.run.verdict import Evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from ramet.cgroups import Group
    from ramet.plan.steps import Plan
    from ramet.pool.tasks import Task
    from ramet.pool.warm import Zygote
    from ramet.run.result import Result
    from ramet.run.trays import Tray
    from ramet.spec import Sandbox

ARRIVED = 4
CREDENTIALS = struct.Struct("<3i")
#: What a copy may be made to wait for at most, by a machine that has much else to do.
SECONDS_MOST = 60.0
#: ms from a copy's end to what its zygote has to say of it.
TOLD_WITHIN = 2000


class _Told(Exception):
    """The value has come, or an exception: there is nothing more to wait for."""


class NotReady(Exception):
    """A copy did not come to be ready. why: StepError, or OSError where it is gone."""

    def __init__(self, why: OSError | Error) -> None:
        super().__init__(why)
        self.why = why


class Clone(FunctionProcess):
    """One copy. `ask` for it, `hear` until it is ready, `call` once, `close`."""

    def __init__(self, plan: Plan, zygote: Zygote) -> None:
        import socket

        self._zygote = zygote
        self.plan, self.sandbox, self.args = plan, plan.spec, plan.command.argv
        self._begin_empty()
        self._relay = self._stop_when_told = False
        self._started = monotonic()
        self.is_ready, self._known, self._settled = False, False, False
        self._their_control = -1
        self._tray: Tray | None = None
        self._ours, self._theirs = socket.socketpair()
        self.inbox = Inbox(self._ours, 0, pickled=False, mine=())
        try:
            self._tray = tray_for(plan.spec, RESULTS_MAX)  # now, while nobody waits: its size is the call's affair
            self._streams = Streams(None, PIPE, PIPE, plan.owner)  # its stdin is the zygote's /dev/null
            self._launched = Launched()
            self._launched.control, self._their_control = control.pair()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        self._ours.close()
        self._close_theirs()
        self._close_tray()
        if hasattr(self, "_streams"):
            self._streams.close_all()
        launched, self._launched = self._launched, None
        if launched is not None:
            launched.close()

    # Being made

    def ask(self, word: bytes) -> None:
        """Send the order. Raises OSError where nobody takes it."""
        import socket

        self._ask(lambda fds: socket.send_fds(self._zygote.control, [word], fds))

    def ask_through(self, session: socket.socket, word: bytes) -> None:
        """The same of a session's process, which makes a copy of itself."""
        import socket

        self._ask(lambda fds: socket.send_fds(session, [channel.HEADER.pack(word, len(fds), 0)], fds))

    def _ask(self, send: Callable[[list[int]], object]) -> None:
        import socket

        self._started = monotonic()
        if self.plan.groups is not None and self.plan.groups.made:
            self._group = _make_group(self.plan)
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        theirs = self._streams.theirs
        try:
            send([self._theirs.fileno(), self._their_control, theirs[1], theirs[2]])
        finally:
            self._close_theirs()
            self._streams.close_theirs()

    def _close_theirs(self) -> None:
        self._theirs.close()
        end, self._their_control = self._their_control, -1
        if end >= 0:
            os.close(end)

    @property
    def has_reported(self) -> bool:
        """Has its init said how the call ended?"""
        return self._ending is not None and self._ending.reported

    def zygote_ends(self, seconds: float) -> bool:
        """Is its zygote gone, or its init within so many seconds?"""
        return self._zygote.hung_up or self._zygote.ends(seconds)

    @property
    def has_ended(self) -> bool:
        """Is its init gone, and all with it?"""
        return self._launched is None or readable(self._launched.pidfd, 0)

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return monotonic() - self._started

    @property
    def is_overdue(self) -> bool:
        """Should it have been ready long ago?"""
        return self.age > SECONDS_MOST

    # A bud: all of it is there but the copy

    @property
    def told_of_child(self) -> int:
        """A descriptor that becomes readable when there is something for `hear_of_child`."""
        control = self._alive().control
        assert control is not None
        return control

    def hear_of_child(self) -> None:
        """Take what the zygote tells of its init. Raises StepError, or OSError where it is gone."""
        self._hear_of_child(self._alive())

    def break_bud(self) -> bool:
        """Have the copy made; False where nobody can. It is to be waited for as any other."""
        import socket

        self._started = monotonic()
        if self.has_ended or readable(self._ours.fileno(), 0):
            return False  # what there is to be heard before is of a failure
        try:
            self._zygote.control.send(BREAK, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def _wait_until_ready(self) -> None:
        """Raises NotReady."""
        try:
            while not self.hear():
                if self.is_overdue:
                    raise TimeoutError(f"a copy of the zygote was not ready after {self.age:.0f} s")
                readable(self.watched, 1000)
        except (OSError, Error) as error:
            raise NotReady(error) from None

    @property
    def watched(self) -> int:
        """A descriptor that becomes readable when there is something to `hear`. What is told of the child comes before the copy itself is
        ready, or gone: that is heard with the copy's own news, and seldom waited for."""
        return self.told_of_child if self._settled else self._ours.fileno()

    def hear(self) -> bool:
        """Take what has been told; is it ready? Raises StepError, or OSError where it is gone."""
        launched = self._alive()
        assert launched.control is not None
        if not self._known and readable(launched.control, 0):
            self._hear_of_child(launched)
        if not self._settled and readable(self._ours.fileno(), 0):
            self._hear_payload()
        self.is_ready = self._known and self._settled
        return self.is_ready

    def _hear_of_child(self, launched: Launched) -> None:
        """From the zygote: the child's pidfd, or why there is none."""
        import socket

        assert launched.control is not None
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, launched.control)
        try:
            data, fds, _, _ = socket.recv_fds(end, NEWS.size, 1, socket.MSG_CMSG_CLOEXEC)
        finally:
            end.detach()
        if len(data) != NEWS.size:
            raise ConnectionResetError(f"nobody made it{self._last_words()}")
        kind, first, second, third = NEWS.unpack(data)
        if kind == FAILED:
            raise step_failed(self.plan, first, second, third)
        if kind != CLONED or len(fds) != 1:
            for fd in fds:
                os.close(fd)
            self._hear_why()  # init was faster, and tells of the end
            raise ConnectionResetError("the zygote told nonsense")
        try:
            pid = pid_of(fds[0])
        except OSError:  # no descriptor is left to look with
            os.close(fds[0])
            raise
        if pid <= 0:  # ended already; or, from a session, whatever its code has put in the place of a pidfd
            os.close(fds[0])
            self._hear_why()
            raise ConnectionResetError(f"its init has ended{self._last_words()}")
        launched.pid, launched.pidfd = pid, fds[0]
        self._known = True

    def _hear_why(self) -> None:
        """What a copy that has ended may have told before; it has no more to tell than that it has arrived, and one thing more."""
        for _ in range(2):
            if readable(self._ours.fileno(), 0):
                self._hear_payload()

    def _hear_payload(self) -> None:
        """From the copy itself."""
        import socket

        data, ancillary, _, _ = self._ours.recvmsg(NEWS.size, socket.CMSG_SPACE(CREDENTIALS.size))
        if len(data) != NEWS.size:
            launched = self._alive()
            assert launched.control is not None
            if not self._known and readable(launched.control, TOLD_WITHIN):
                self._hear_of_child(launched)  # it was faster than the zygote, which knows what has failed
            raise ConnectionResetError(f"the copy has ended{self._last_words()}")
        kind, first, second, third = NEWS.unpack(data)
        if kind == FAILED:
            raise step_failed(self.plan, first, second, third)
        if kind == ARRIVED and self._group is not None:
            pid = next(
                (CREDENTIALS.unpack(found)[0] for _, what, found in ancillary if what == socket.SCM_CREDENTIALS), 0
            )
            self._enter(pid)
        elif kind == READY:
            self._settled = True
            self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        else:
            raise ConnectionResetError("the copy told nonsense")

    def _last_words(self) -> str:
        fd = self._streams.ours[2]
        said = os.read(fd, 10_000) if fd is not None and readable(fd, 0) else b""
        return f": {said.decode('utf-8', 'backslashreplace').strip()}" if said else ""

    def _enter(self, pid: int) -> None:
        assert self._group is not None
        if pid <= 0:
            raise ConnectionResetError("the copy has no pid here")
        self._group.adopt(pid)
        self._ours.send(b"G")

    # Its call

    def _begin(
        self, task: Task, sandbox: Sandbox, most: int, exceptions: tuple[type[BaseException], ...], *, relay: bool
    ) -> None:
        self.sandbox, self.args, self._relay = sandbox, (task.name,), relay
        if self._tray is not None and not self._tray.resize(most):
            self._close_tray()
        tray = self._tray
        parts = task.kind == channel.CODE
        self.inbox = Inbox(self._ours, most, pickled=False, mine=exceptions, tray=tray, parts=parts, forked=False)
        # A copy that has to be made finds its task there. With a group it waits for a word of ours before, on the same channel.
        early = not self.is_ready and self._group is None
        if early:
            self._send(task, most, tray)
        if not self.is_ready:
            self._wait_until_ready()
        self._tray = None  # it is the value's from now on
        self._begin_guard(sandbox)
        if not early:
            self._send(task, most, tray)

    def _begin_guard(self, sandbox: Sandbox) -> None:
        self._started = monotonic()
        self._guard = Guard(sandbox, self._group, self._killer())

    def _send(self, task: Task, most: int, tray: Tray | None) -> None:
        beside, hands = ((tray.fd,), tray.hands) if tray is not None else ((), 1)
        try:
            channel.send(self._ours, channel.TASK_KIND, task.message(most, hands), task.buffers, beside=beside)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it is gone; what became of it is found out by waiting for it

    def ask_value(
        self, task: Task, sandbox: Sandbox, most: int, exceptions: tuple[type[BaseException], ...]
    ) -> FunctionResult[Any] | None:
        """Have it do this, until it tells how it went: then None, and `inbox` knows. What comes to no such word has a result.

        What the process does after that is nobody's concern: whoever asked is to `kill` it, and to `close` it when it has ended.
        """
        self._begin(task, sandbox, most, exceptions, relay=True)
        self._stop_when_told = True
        try:
            return self._result_of_clone(finish(self, None))
        except _Told:
            if not self._drained():
                return self._result_of_clone(finish(self, None))
            self._settle_inbox()
            return None

    def _drained(self) -> bool:
        """All that it had written when it told is taken. Was it not ended meanwhile for a limit?"""
        pump = self._pump(None)
        pump.others.clear()
        pump.drain()
        return self._guard.cause is None

    def _new_pump(self, data: bytes | memoryview) -> Pump:
        pump = super()._new_pump(data)
        if self._stop_when_told:
            pump.watch(self._ours.fileno(), self._take_word)
        return pump

    def _take_word(self) -> bool:
        ended = self.inbox.take()
        if self.inbox.has_told:
            raise _Told
        return ended

    def _settle_inbox(self) -> None:
        """Take what lies in the tray, which has to wait until nobody of the sandbox can write there any more."""
        if self.inbox.awaits_end:
            self.end()
            readable(self._alive().pidfd, None)
            self.inbox.settle()

    def call(
        self, task: Task, sandbox: Sandbox, most: int, exceptions: tuple[type[BaseException], ...], *, at_once: bool
    ) -> FunctionResult[Any]:
        """Have it do this, to its end; at_once: until it tells how it went, where there is no control group, whose account is of the end.
        Never raises because of what the function does."""
        self._begin(task, sandbox, most, exceptions, relay=False)
        self._stop_when_told = at_once and self._group is None
        try:
            result = finish(self, None)
        except _Told:
            result = self._result_so_far() if self._drained() else finish(self, None)
        return self._result_of_clone(result)

    def _result_so_far(self) -> Result:
        """It has told, and only has to end: what happens to it from now on is no part of the call."""
        usage = self.usage()
        self._settle_inbox()
        self._ending = Ending(0 if self.inbox.has_value else 1, None, reported=True)
        self._evidence = Evidence(), usage
        return self._result(self._pump(None))

    def end(self) -> None:
        """Kill it, whatever is known of it."""
        if self._launched is not None and not self._launched.over:
            kill(self._launched.pidfd)

    @staticmethod
    def _result_of_clone(result: Result) -> FunctionResult[Any]:
        assert isinstance(result, FunctionResult)
        if result.usage.memory_peak_of == "caller":
            result.usage.memory_peak_of = "process"  # it never had the caller's memory
        return result

    # As a session

    def begin_session(self) -> None:
        """Many tasks are to come."""
        self.args = ("exec",)
        self._close_tray()
        self._begin_guard(self.sandbox)

    @property
    def channel_end(self) -> socket.socket:
        """On which tasks go and answers come."""
        return self._ours

    @property
    def launched(self) -> Launched | None:
        """Its init."""
        return self._launched

    @property
    def running(self) -> bool:
        """Has nobody seen its end yet?"""
        return self._ending is None and self._launched is not None

    @property
    def ended_fd(self) -> int:
        """Readable at its end."""
        return self._ended_fd()

    @property
    def outputs(self) -> tuple[int | None, int | None]:
        """stdout and stderr."""
        return self._streams.ours[1], self._streams.ours[2]

    def close_output(self, number: int) -> None:
        """It is at its end."""
        self._streams.close_ours(number)

    def look(self) -> None:
        """Has a limit been reached that only we hold?"""
        self._guard.look()

    def last_result(self, out: bytes, err: bytes, *, late: bool, since: float) -> FunctionResult[Any]:
        """After its end. late: for its time; since: when the code that it ended with began."""
        self._started = since
        if late and self._evidence is not None:
            self._evidence = self._evidence[0]._replace(cause="timed-out"), self._evidence[1]
        self.inbox = Inbox(self._ours, 0, pickled=False, mine=())
        return self._result_of_clone(self._result_with(out, err, ()))

    def bury(self) -> None:
        """Close it, when it has ended and nobody is going to ask how."""
        launched = self._launched
        if launched is not None and self._group is None:
            launched.over = True
            self._ending = self._ending or Ending.from_wait(None, init=True)
        self.close()

    def close(self) -> None:
        """End it, if it still runs, and wait for that."""
        if self._launched is not None and not self._known:
            # Not told of yet: whoever is there ends when its init finds that we have hung up.
            self._drop()
        elif self._launched is not None and not hasattr(self, "_guard"):
            kill(self._launched.pidfd)
            self._drop()
        super().close()
        self._close_tray()
        self._close_group()

    def _close_tray(self) -> None:
        """One that no call had."""
        tray, self._tray = self._tray, None
        if tray is not None:
            tray.close()


def _make_group(plan: Plan) -> Group:
    """Of the payload alone: init is the zygote's child, and small."""
    from ramet.run.groups import make

    group = make(plan, building=False)
    assert group is not None
    return group


def not_made(error: OSError) -> StepError:
    """A copy that did not come to be ready, and could not say which step failed."""
    return StepError(
        "make a copy of the zygote",
        errno=error.errno or errno.ECHILD,
        call="read(news)",
        origin="Pool",
        stage="payload",
        hint=f"{error}; a limit that is too tight can be the reason, or somebody's SIGKILL",
    )
