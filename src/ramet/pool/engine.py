"""The engine of a pool: tickets in queues, and the threads that bring them and the keeper's copies together.

    who calls   puts a ticket into the queue of its tenant; a granted one is served in the caller's own thread (`run`), or in
                one of at most `size` workers (`submit`)
    keeper      has copies made, and buries them (`ramet.pool.keeper`)

Tenants are granted in turn. No thread holds the pool itself, so that one that is dropped ends.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque

from ramet.errors import Error, PoolError
from ramet.pool.clone import NotReady
from ramet.pool.keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

    from ramet.call.isolated import FunctionResult
    from ramet.pool.clone import Clone
    from ramet.pool.tasks import Task
    from ramet.pool.warm import Recipe, Zygote
    from ramet.spec import Sandbox

#: Seconds that a zygote's end may come after that of its copies, which its init kills first.
ENDS_WITHIN = 2.0


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
        self.recipe, self.size, self.max_tasks = recipe, size, max_tasks
        self._owner = os.getpid()
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._queues: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._handed: deque[Ticket] = deque()
        self._workers: list[threading.Thread] = []
        self._idle = self._running = self._accepted = 0
        self._in_flight: set[Ticket] = set()
        self._closing = self._closed = False
        self._closer: threading.Thread | None = None
        self._over = threading.Event()
        self._keeper = Keeper(recipe, size=size, spare=spare, seconds=seconds, lock=lock)

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
                self._keeper.dispose(clone)
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

    def _take(self, ticket: Ticket, *, alone: bool) -> Clone:
        with self._changed:
            clone = ticket.clone = self._keeper.take(lambda: ticket.stopped, alone=alone)
            self._in_flight.add(ticket)
            return clone

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
            self._keeper.look_again()  # it may be waiting for a copy

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

    # The end

    @property
    def zygote(self) -> Zygote | None:
        """The one that lives, if it does."""
        return self._keeper.zygote

    def counts(self) -> dict[str, int]:
        """How many there are of what, now."""
        with self._changed:
            queued = sum(map(len, self._queues.values()))
            keeper = self._keeper
            return {"running": self._running, "queued": queued, "ready": keeper.ready, "restarts": keeper.restarts}

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
                self._keeper.begin_to_close()
                self._closing = self._closed = True
                self._closer = current
        if first:
            try:
                self._close()
            finally:
                self._over.set()
        elif current not in (self._closer, self._keeper.thread, *self._workers):  # it waits for these
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
        current = threading.current_thread()
        for worker in list(self._workers):
            if worker is not current:
                worker.join()
        self._keeper.close()
