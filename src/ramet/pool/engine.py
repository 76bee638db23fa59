"""The engine of a pool: tickets in queues, copies made ahead, and the threads that bring the two together.

    who calls   puts a ticket into the queue of its tenant; a granted one is served in the caller's own thread (`run`), or in
                one of at most `size` workers (`submit`)
    keeper      one thread: asks the zygote for copies, hears when they are ready, starts another zygote when that has died. Where no
                copies are made ahead it has a *bud* ready, when there is nothing else to do: all of the next copy but that itself,
                which who calls asks for then

Tenants are granted in turn. No thread holds the pool itself, so that one that is dropped ends.
"""

from __future__ import annotations

import os
import select
import threading
from collections import OrderedDict, deque
from time import monotonic

from ramet.errors import Error, PoolError
from ramet.pool.clone import NotReady, not_made
from ramet.pool.warm import Zygote
from ramet.run.failure import caller_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future
    from typing import Any

    from ramet.call.isolated import FunctionResult
    from ramet.pool.clone import Clone
    from ramet.pool.tasks import Task
    from ramet.pool.warm import Recipe
    from ramet.spec import Sandbox

#: Seconds that a zygote's end may come after that of its copies, which its init kills first.
ENDS_WITHIN = 2.0
#: The same where somebody waits for a copy.
DIES_WITHIN = 0.3
#: Copies that have done their work and whose end takes time, besides as many as may be at work.
DYING_MOST = 16
#: Seconds between attempts to make copies where that fails.
AGAIN_LEAST, AGAIN_MOST = 0.01, 1.0


class Ticket:
    """One call. future: of a call that a worker serves; None where its own thread does. unpack: what is made of the whole result; None: only
    the value is wanted. at_once: nobody waits for the end of the process after it has told."""

    __slots__ = ("at_once", "clone", "future", "granted", "options", "stopped", "task", "tenant", "unpack")

    def __init__(
        self, task: Task, options: Options, tenant: str, unpack: Callable[[FunctionResult[Any]], Any] | None
    ) -> None:
        self.task, self.options, self.tenant, self.unpack = task, options, tenant, unpack
        self.future: Future[Any] | None = None
        self.clone: Clone | None = None
        self.granted = self.stopped = False
        self.at_once = True


class Options:
    """What holds for a call: the sandbox with its limits of time and output, bytes that may come out, exceptions."""

    __slots__ = ("exceptions", "most", "sandbox")

    def __init__(self, sandbox: Sandbox, most: int, exceptions: tuple[type[BaseException], ...]) -> None:
        self.sandbox, self.most, self.exceptions = sandbox, most, exceptions


class Engine:
    """Of one pool."""

    def __init__(self, recipe: Recipe, *, size: int, spare: int, max_tasks: int | None, seconds: float) -> None:
        self.recipe, self.size, self.spare, self.max_tasks = recipe, size, spare, max_tasks
        self._seconds = seconds
        self._owner = os.getpid()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # For those who wait for a copy: each that comes is told to one of them.
        self._arrived = threading.Condition(lock)
        self._queues: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._handed: deque[Ticket] = deque()
        self._ready: deque[Clone] = deque()
        self._dying: list[Clone] = []
        self._failures: deque[BaseException] = deque()
        self._workers: list[threading.Thread] = []
        self._idle = self._running = self._accepted = self._takers = 0
        self._in_flight: set[Ticket] = set()
        self._closing = self._closed = False
        self._closer: threading.Thread | None = None
        self._over = threading.Event()
        self.restarts = 0
        self._zygote: Zygote | None = Zygote(recipe, seconds)
        self._mourned: Zygote | None = None
        self._bud: Clone | None = None
        self._budding: Clone | None = None
        self._may_bud = True
        self._wake_fd, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._keeper = threading.Thread(target=self._keep, name="ramet-pool-keeper", daemon=True)
        self._keeper.start()

    def check(self) -> None:
        """Raise PoolError where nothing can be called."""
        if self._owner != os.getpid():
            raise PoolError(
                f"this pool belongs to process {self._owner}, of which this one is a fork",
                hint="make another pool after the fork",
            )
        if self._closing:
            raise PoolError("this pool is closed")

    # Tickets

    def enter(self, ticket: Ticket, *, wait: bool = True) -> bool:
        """Put it into its queue. Over `max_tasks` that waits, or, with wait=False, is refused: False."""
        self.check()
        with self._changed:
            while self.max_tasks is not None and self._accepted >= self.max_tasks:
                if not wait:
                    return False
                self._changed.wait()
                self.check()
            self.check()
            self._accepted += 1
            self._queues.setdefault(ticket.tenant, deque()).append(ticket)
            self._grant()
        return True

    def wait_for_room(self) -> None:
        """Until a ticket would be taken, as far as anybody can say."""
        with self._changed:
            while self.max_tasks is not None and self._accepted >= self.max_tasks and not self._closing:
                self._changed.wait()

    def _grant(self) -> None:
        """Give free places to the tenants in turn. With the lock."""
        while self._running < self.size and self._queues:
            tenant, queue = next(iter(self._queues.items()))
            ticket = queue.popleft()
            if queue:
                self._queues.move_to_end(tenant)
            else:
                del self._queues[tenant]
            if ticket.future is not None and not ticket.future.set_running_or_notify_cancel():
                self._accepted -= 1
                continue
            self._running += 1
            ticket.granted = True
            if ticket.future is not None:
                self._handed.append(ticket)
                if self._idle < len(self._handed):
                    self._hire()
        self._changed.notify_all()

    def serve(self, ticket: Ticket) -> Any:
        """In the thread that calls: wait for its turn, then for its end. Returns or raises what the call does."""
        try:
            with self._changed:
                while not ticket.granted:
                    if self._closed:
                        raise PoolError("this pool was closed before the call had its turn")
                    self._changed.wait()
            return self._perform(ticket)
        finally:
            self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket.granted:
                self._running -= 1
            else:
                queue = self._queues.get(ticket.tenant)
                if queue is not None and ticket in queue:
                    queue.remove(ticket)
                    if not queue:
                        del self._queues[ticket.tenant]
            self._accepted -= 1
            self._grant()
            over = self._closing and self._accepted == 0
        if over:
            self.close()

    def _perform(self, ticket: Ticket) -> Any:
        """What the call gives. Where only that is wanted, nobody waits for the end of the process."""
        whole, result, unmade = ticket.unpack, None, False
        while True:
            clone = self._take(ticket, alone=unmade)
            try:
                result = self._have_done(clone, ticket)
                break
            except NotReady as failure:
                self._check_unmade(failure.why, ticket)
                unmade = True
            finally:
                with self._changed:
                    self._in_flight.discard(ticket)
                    ticket.clone = None
                self._dispose(clone)
        if result is not None:
            self._explain(result, ticket, clone)
        if whole is not None:
            assert result is not None
            found = whole(result)
            clone.inbox.warn()
            return found
        exception = clone.inbox.exception if result is None else result.exception
        if exception is not None:
            raise exception
        clone.inbox.warn()
        return clone.inbox.value

    @staticmethod
    def _have_done(clone: Clone, ticket: Ticket) -> FunctionResult[Any] | None:
        task, options = ticket.task, ticket.options
        asked = task, options.sandbox, options.most, options.exceptions
        return clone.ask_value(*asked) if ticket.unpack is None else clone.call(*asked, at_once=ticket.at_once)

    def _check_unmade(self, why: BaseException, ticket: Ticket) -> None:
        """The copy that a bud was for did not come to be ready. Raise, if that is for what its making or the call itself has come to; else
        the bud or the zygote was killed, perhaps long before, and the call is to have a copy that is made for it from the beginning."""
        if self._closed:
            raise PoolError("this pool was closed") from None
        if ticket.stopped:
            raise PoolError("this call was given up before it began") from None
        if isinstance(why, Error):
            raise why from None

    def _dispose(self, clone: Clone) -> None:
        """The keeper waits for its end."""
        clone.end()
        with self._changed:
            kept = not self._closed
            if kept:
                self._dying.append(clone)
                self._wake()
        if not kept:
            clone.close()

    def _explain(self, result: FunctionResult[Any], ticket: Ticket, clone: Clone) -> None:
        """A copy whose init has not reported was killed from outside: it ends with its pool and with its zygote."""
        if result.exception is None or result.ended_by_limit or clone.has_reported:
            return
        if ticket.stopped or self._closed:
            result.exception.add_note("the pool was closed, or the call given up")
        elif clone.zygote_ends(ENDS_WITHIN):
            result.exception.add_note(
                "the pool's zygote has died, and all calls in flight with it; the next has a new one"
            )

    def stop(self, ticket: Ticket) -> None:
        """Nobody wants it any more."""
        with self._changed:
            ticket.stopped = True
            if ticket.clone is not None:
                ticket.clone.kill()
            self._arrived.notify_all()  # it may be waiting for a copy

    # Workers

    def _hire(self) -> None:
        if len(self._workers) < self.size:
            worker = threading.Thread(target=self._work, name=f"ramet-pool-{len(self._workers)}", daemon=True)
            self._workers.append(worker)
            worker.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._handed:
                    if self._closed:
                        self._idle -= 1
                        return
                    self._changed.wait()
                self._idle -= 1
                ticket = self._handed.popleft()
            self._serve_future(ticket)
            del ticket

    def _serve_future(self, ticket: Ticket) -> None:
        assert ticket.future is not None
        try:
            try:
                value = self._perform(ticket)
            except BaseException as error:
                ticket.future.set_exception(error)
            else:
                ticket.future.set_result(value)
        finally:
            self._leave(ticket)

    # Copies

    def _take(self, ticket: Ticket, *, alone: bool) -> Clone:
        """One that is ready, or the reason why there is none; or, if not alone that is wanted, one that is made of the bud."""
        with self._changed:
            self._takers += 1
            if not self._ready and (alone or self._bud is None):
                self._wake()
            try:
                while True:
                    if self._closed:
                        raise PoolError("this pool was closed")
                    if ticket.stopped:
                        raise PoolError("this call was given up before it began")
                    if self._ready:
                        clone = self._ready.popleft()
                        if not clone.has_ended:
                            break
                        self._dying.append(clone)  # with its zygote, a moment ago
                        self._wake()
                    elif self._failures:
                        raise self._failures.popleft()
                    elif not alone and (bud := self._break_bud()) is not None:
                        clone = bud
                        break
                    else:
                        self._arrived.wait()
            finally:
                self._takers -= 1
                if self._ready and self._takers:
                    self._arrived.notify()  # who leaves without it may have been the one who was told of it
            ticket.clone = clone
            self._in_flight.add(ticket)
            if self.spare and not self._ready:
                self._wake()  # else when this one has done its work: making the next would only delay it
            return clone

    def _wake(self) -> None:
        """Have the keeper look again. With the lock: once the pool is closed the descriptor may be anybody's."""
        if self._closed:
            return
        try:
            os.write(self._waker, b"w")
        except BlockingIOError:
            return  # it will wake up

    def _keep(self) -> None:
        making: list[Clone] = []
        again = 0.0
        pause = AGAIN_LEAST
        try:
            while True:
                with self._changed:
                    if self._closed:
                        return
                    lacking = self.spare + self._takers - len(self._ready) - len(making) - (self._budding is not None)
                    lacking = min(lacking, DYING_MOST + self.size - len(self._dying))
                if lacking > 0 and monotonic() >= again:
                    error = self._ask(making, lacking)
                    if error is not None:
                        pause = self._failed(error, pause)
                        again = monotonic() + pause
                        continue
                    lacking = 0
                if not (self.spare or making or self._dying or self._budding or self._bud):
                    self._begin_bud()
                told = self._listen(making, again if lacking > 0 else None)
                self._bury(told)
                failed = self._hear(making, told)
                self._hear_bud(told)
                if failed is not None:
                    pause = self._failed(failed, pause)
                    again = monotonic() + pause
                elif self._ready:
                    pause = AGAIN_LEAST
        finally:
            for clone in (*making, *self._dying, *self._drop_bud()):
                clone.close()

    # Buds

    def _begin_bud(self) -> None:
        """There is nothing to do: have ready all of the next copy but that itself."""
        zygote = self._zygote
        if zygote is None or zygote is self._mourned or not self._may_bud:
            return
        try:
            self._budding = zygote.bud()
        except (OSError, Error):
            self._may_bud = False  # for want of descriptors, say: who asks for a copy will be told

    def _hear_bud(self, told: Collection[int]) -> None:
        """One whose init is known is there for whoever comes."""
        bud = self._budding
        if bud is None or bud.told_of_child not in told:
            return
        try:
            bud.hear_of_child()
        except (OSError, Error):
            self._may_bud = False
            bud.close()
            bud = None
        with self._changed:
            self._budding, self._bud = None, bud

    def _break_bud(self) -> Clone | None:
        """Have the copy made that the bud is for, if that stands. With the lock: the next bud is asked for after that."""
        bud, self._bud = self._bud, None
        if bud is None:
            return None
        if bud.break_bud():
            return bud
        bud.end()
        self._dying.append(bud)
        self._wake()
        return None

    def _drop_bud(self) -> list[Clone]:
        """All that there is of buds."""
        with self._changed:
            found = [one for one in (self._bud, self._budding) if one is not None]
            self._bud = self._budding = None
        return found

    def _bury(self, told: Collection[int]) -> None:
        """Close those that have ended."""
        for clone in list(self._dying):
            if clone.pidfd in told:
                with self._changed:
                    self._dying.remove(clone)
                clone.bury()

    def _ask(self, making: list[Clone], lacking: int) -> BaseException | None:
        try:
            zygote = self._living_zygote()
            for _ in range(lacking):
                with self._changed:
                    bud = self._break_bud()
                making.append(bud or zygote.put_forth())
        except (OSError, Error) as error:
            return error if isinstance(error, Error) or not self._lives else caller_failed(error)
        return None

    def _living_zygote(self) -> Zygote:
        """The zygote, or another one where it has died."""
        zygote = self._zygote
        if zygote is None or not zygote.alive:
            if zygote is not None:
                self._mourn(zygote)
                self._zygote = self._mourned = None
                zygote.close()
            started = Zygote(self.recipe, self._seconds)
            with self._changed:
                if self._closed:
                    started.close()
                    raise PoolError("this pool was closed")
                self._zygote = zygote = started
                self.restarts += 1
        return zygote

    def _listen(self, making: list[Clone], again: float | None) -> set[int]:
        """Wait for news; the descriptors that have some."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        zygote = self._zygote
        if zygote is not None and zygote is not self._mourned:
            poller.register(zygote.pidfd, select.POLLIN)
        for clone in making:
            poller.register(clone.watched, select.POLLIN)
        if self._budding is not None:
            poller.register(self._budding.told_of_child, select.POLLIN)
        for clone in list(self._dying):
            poller.register(clone.pidfd, select.POLLIN)
        wait = None if again is None else max(1, int((again - monotonic()) * 1000) + 1)
        if making:
            wait = min(wait or 1000, 1000)
        told = {fd for fd, _ in poller.poll(wait)}
        if self._wake_fd in told:
            os.read(self._wake_fd, 4096)
        return told

    def _hear(self, making: list[Clone], told: Collection[int]) -> BaseException | None:
        """Whoever is ready is put with the others; the last failure."""
        failed: BaseException | None = None
        for clone in list(making):
            try:
                if clone.watched in told and clone.hear():
                    making.remove(clone)
                    self._may_bud = True  # what has prevented one may be over
                    with self._changed:
                        self._ready.append(clone)
                        self._arrived.notify()
                elif clone.is_overdue:
                    raise TimeoutError(f"a copy of the zygote was not ready after {clone.age:.0f} s")
            except (OSError, Error) as error:
                making.remove(clone)
                clone.close()
                failed = error if isinstance(error, Error) or not self._lives else not_made(error)
        zygote = self._zygote
        if zygote is not None and zygote is not self._mourned and zygote.pidfd in told:
            self._mourn(zygote)
        return failed

    @property
    def _lives(self) -> bool:
        """Is there a zygote, and will be in a moment? Its copies end before it, since its init kills them first."""
        zygote = self._zygote
        return zygote is not None and not zygote.ends(DIES_WITHIN)

    def _mourn(self, zygote: Zygote) -> None:
        """It has ended, and its spares with it. Another is started when somebody needs one."""
        self._mourned = zygote
        with self._changed:
            dead, self._ready = list(self._ready), deque()
        for clone in (*dead, *self._drop_bud()):
            clone.close()

    def _failed(self, error: BaseException, pause: float) -> float:
        """Tell whoever waits; the next pause. That the zygote has died is no reason to tell: another one is started."""
        died = not isinstance(error, Error) and (self._zygote is None or not self._zygote.alive)
        with self._changed:
            if self._takers and not died:
                while len(self._failures) < self._takers:
                    self._failures.append(error)
                self._arrived.notify_all()
            else:
                self._failures.clear()
        return min(pause * 2, AGAIN_MOST)

    # The end

    @property
    def zygote(self) -> Zygote | None:
        """The one that lives, if it does."""
        return self._zygote

    def counts(self) -> dict[str, int]:
        """How many there are of what, now."""
        with self._changed:
            queued = sum(map(len, self._queues.values()))
            return {"running": self._running, "queued": queued, "ready": len(self._ready), "restarts": self.restarts}

    def finish(self, *, wait: bool, cancel: bool) -> None:
        """Take no more; end when the last call has."""
        if self._owner != os.getpid():
            return
        with self._changed:
            self._closing = True
            if cancel:
                for queue in self._queues.values():
                    for ticket in [one for one in queue if one.future is not None and one.future.cancel()]:
                        ticket.future.set_running_or_notify_cancel()  # type: ignore[union-attr]
                        queue.remove(ticket)
                        self._accepted -= 1
                for name in [name for name, queue in self._queues.items() if not queue]:
                    del self._queues[name]
            self._changed.notify_all()
            while wait and self._accepted:
                self._changed.wait()
            over = self._accepted == 0
        if over:
            self.close()

    @property
    def is_over(self) -> bool:
        """Nothing is left of it here."""
        return self._closed or self._owner != os.getpid()

    def drop(self) -> None:
        """Its pool was collected, perhaps in a thread that holds our lock, or in one of ours: end it from another."""
        threading.Thread(target=self.close, name="ramet-pool-end", daemon=True).start()

    def close(self) -> None:
        """End everything now: calls in flight too. Whoever comes while another thread does it waits for that."""
        if self._owner != os.getpid():
            return
        current = threading.current_thread()
        with self._changed:
            first = not self._closed
            if first:
                self._wake()
                self._closing = self._closed = True
                self._closer = current
        if first:
            try:
                self._close()
            finally:
                self._over.set()
        elif current not in (self._closer, self._keeper, *self._workers):  # it waits for these
            self._over.wait()

    def _close(self) -> None:
        with self._changed:
            for queue in self._queues.values():
                for ticket in queue:
                    if ticket.future is not None and ticket.future.set_running_or_notify_cancel():
                        ticket.future.set_exception(PoolError("this pool was closed before the call had its turn"))
                        self._accepted -= 1
            self._queues.clear()
            for ticket in self._in_flight:
                if ticket.clone is not None:
                    ticket.clone.kill()
            self._changed.notify_all()
            self._arrived.notify_all()
        current = threading.current_thread()
        if current is not self._keeper:
            self._keeper.join()
        for worker in list(self._workers):
            if worker is not current:
                worker.join()
        with self._changed:
            ready, self._ready = list(self._ready), deque()
            zygote, self._zygote = self._zygote, None
        for clone in ready:
            clone.close()
        if zygote is not None:
            zygote.close()
        for fd in (self._wake_fd, self._waker):
            os.close(fd)
