"""The keeper of a pool's copies: one thread that has them made by the zygote, and buries those that have ended.

It asks for as many as are to be kept ready, and as somebody waits for; it hears when they are ready, and starts another zygote when that has
died. Where none is kept ready, and there is nothing else to do, it has a *bud* made: all of the next copy but that itself. Whoever comes
next has the zygote make the copy, without the keeper.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from time import monotonic

from ramet.errors import Error, PoolError
from ramet.pool.clone import not_made
from ramet.pool.warm import Zygote
from ramet.run.failure import caller_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from ramet.pool.clone import Clone
    from ramet.pool.warm import Recipe

#: Seconds that a zygote's end may come after that of its copies, which its init kills first, where somebody waits for a copy.
DIES_WITHIN = 0.3
#: Copies that have done their work and whose end takes time, besides as many as may be at work.
DYING_MOST = 16
#: Seconds between attempts to make copies where that fails.
AGAIN_LEAST, AGAIN_MOST = 0.01, 1.0


class Keeper:
    """Of one pool. lock: the pool's. What is said to need it is called with it."""

    def __init__(self, recipe: Recipe, *, size: int, spare: int, seconds: float, lock: Any) -> None:
        self._recipe, self._size, self._spare, self._seconds = recipe, size, spare, seconds
        # For those who wait for a copy: each that comes is told to one of them.
        self._lock = threading.Condition(lock)
        self._takers = 0
        self._ready: deque[Clone] = deque()
        self._making: list[Clone] = []
        self._dying: list[Clone] = []
        self._failures: deque[BaseException] = deque()
        self._bud: Clone | None = None
        self._budding: Clone | None = None
        self._may_bud = True
        self._closed = False
        self.restarts = 0
        self._zygote: Zygote | None = Zygote(recipe, seconds)
        self._mourned: Zygote | None = None
        self._wake_fd, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.thread = threading.Thread(target=self._keep, name="ramet-pool-keeper", daemon=True)
        self.thread.start()

    @property
    def zygote(self) -> Zygote | None:
        """The one that lives, if it does."""
        return self._zygote

    @property
    def ready(self) -> int:
        """How many copies wait for a call."""
        return len(self._ready)

    # For who calls

    def take(self, is_stopped: Callable[[], bool], *, alone: bool) -> Clone:
        """A copy that is ready, or the reason why there is none; or, if not alone that is wanted, one that is made of the bud. With the lock,
        which is let go of meanwhile. is_stopped: does nobody want it any more?"""
        self._takers += 1
        if not self._ready and (alone or self._bud is None):
            self._wake()
        try:
            while True:
                if self._closed:
                    raise PoolError("this pool was closed")
                if is_stopped():
                    raise PoolError("this call was given up before it began")
                if self._ready:
                    clone = self._ready.popleft()
                    if not clone.has_ended:
                        break
                    self._let_die(clone)  # with its zygote, a moment ago
                elif self._failures:
                    raise self._failures.popleft()
                elif not alone and (bud := self._break_bud()) is not None:
                    clone = bud
                    break
                else:
                    self._lock.wait()
        finally:
            self._takers -= 1
            if self._ready and self._takers:
                self._lock.notify()  # who leaves without it may have been the one who was told of it
        if self._spare and not self._ready:
            self._wake()  # else when this one has done its work: making the next would only delay it
        return clone

    def look_again(self) -> None:
        """For those who wait: somebody may not want to any more. With the lock."""
        self._lock.notify_all()

    def dispose(self, clone: Clone) -> None:
        """Nobody needs it any more: end it; the keeper waits for that."""
        clone.end()
        with self._lock:
            kept = not self._closed
            if kept:
                self._let_die(clone)
        if not kept:
            clone.close()

    def _let_die(self, clone: Clone) -> None:
        self._dying.append(clone)
        self._wake()

    def _wake(self) -> None:
        """Have the keeper look again. With the lock: once the pool is closed the descriptor may be anybody's."""
        if self._closed:
            return
        try:
            os.write(self._waker, b"w")
        except BlockingIOError:
            return  # it will wake up

    # In its thread

    def _keep(self) -> None:
        again = 0.0
        pause = AGAIN_LEAST
        try:
            while True:
                with self._lock:
                    if self._closed:
                        return
                    lacking = (
                        self._spare + self._takers - len(self._ready) - len(self._making) - (self._budding is not None)
                    )
                    lacking = min(lacking, DYING_MOST + self._size - len(self._dying))
                if lacking > 0 and monotonic() >= again:
                    error = self._ask(lacking)
                    if error is not None:
                        pause = self._failed(error, pause)
                        again = monotonic() + pause
                        continue
                    lacking = 0
                if not (self._spare or self._making or self._dying or self._budding or self._bud):
                    self._begin_bud()
                told = self._listen(again if lacking > 0 else None)
                self._bury(told)
                failed = self._hear(told)
                self._hear_bud(told)
                if failed is not None:
                    pause = self._failed(failed, pause)
                    again = monotonic() + pause
                elif self._ready:
                    pause = AGAIN_LEAST
        finally:
            for clone in (*self._making, *self._dying, *self._drop_bud()):
                clone.close()

    def _ask(self, lacking: int) -> BaseException | None:
        try:
            zygote = self._living_zygote()
            for _ in range(lacking):
                with self._lock:
                    bud = self._break_bud()
                self._making.append(bud or zygote.put_forth())
        except (OSError, Error) as error:
            return error if isinstance(error, Error) or not self._lives else caller_failed(error)
        return None

    def _living_zygote(self) -> Zygote:
        """The zygote, or another one where it has died."""
        zygote = self._zygote
        if zygote is None or not zygote.serves:
            if zygote is not None:
                self._mourn(zygote)
                self._zygote = self._mourned = None
                zygote.close()
            started = Zygote(self._recipe, self._seconds)
            with self._lock:
                if self._closed:
                    started.close()
                    raise PoolError("this pool was closed")
                self._zygote = zygote = started
                self.restarts += 1
        return zygote

    def _listen(self, again: float | None) -> set[int]:
        """Wait for news; the descriptors that have some."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        zygote = self._zygote
        if zygote is not None and zygote is not self._mourned:
            poller.register(zygote.pidfd, select.POLLIN)
        for clone in self._making:
            poller.register(clone.watched, select.POLLIN)
        if self._budding is not None:
            poller.register(self._budding.told_of_child, select.POLLIN)
        for clone in list(self._dying):
            poller.register(clone.pidfd, select.POLLIN)
        wait = None if again is None else max(1, int((again - monotonic()) * 1000) + 1)
        if self._making or self._budding:
            wait = min(wait or 1000, 1000)
        told = {fd for fd, _ in poller.poll(wait)}
        if self._wake_fd in told:
            os.read(self._wake_fd, 4096)
        return told

    def _hear(self, told: Collection[int]) -> BaseException | None:
        """Whoever is ready is put with the others; the last failure."""
        failed: BaseException | None = None
        for clone in list(self._making):
            try:
                if clone.watched in told and clone.hear():
                    self._making.remove(clone)
                    self._may_bud = True  # what has prevented one may be over
                    with self._lock:
                        self._ready.append(clone)
                        self._lock.notify()
                elif clone.is_overdue:
                    raise TimeoutError(f"a copy of the zygote was not ready after {clone.age:.0f} s")
            except (OSError, Error) as error:
                self._making.remove(clone)
                clone.close()
                failed = error if isinstance(error, Error) or not self._lives else not_made(error)
        zygote = self._zygote
        if zygote is not None and zygote is not self._mourned and zygote.pidfd in told:
            self._mourn(zygote)
        return failed

    def _bury(self, told: Collection[int]) -> None:
        """Close those that have ended."""
        for clone in list(self._dying):
            if clone.pidfd in told:
                clone.bury()
                with self._lock:
                    self._dying.remove(clone)  # nothing of it is left

    @property
    def _lives(self) -> bool:
        """Is there a zygote, and will be in a moment? Its copies end before it, since its init kills them first."""
        zygote = self._zygote
        return zygote is not None and not zygote.hung_up and not zygote.ends(DIES_WITHIN)

    def _mourn(self, zygote: Zygote) -> None:
        """It has ended, and its spares with it. Another is started when somebody needs one."""
        self._mourned = zygote
        with self._lock:
            dead, self._ready = list(self._ready), deque()
        for clone in (*dead, *self._drop_bud()):
            clone.close()

    def _failed(self, error: BaseException, pause: float) -> float:
        """Tell whoever waits; the next pause. That the zygote has died is no reason to tell: another one is started."""
        died = not isinstance(error, Error) and (self._zygote is None or not self._zygote.serves)
        with self._lock:
            if self._takers and not died:
                while len(self._failures) < self._takers:
                    self._failures.append(error)
                self._lock.notify_all()
            else:
                self._failures.clear()
        return min(pause * 2, AGAIN_MOST)

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
        if bud is None or (bud.told_of_child not in told and not bud.is_overdue):
            return
        try:
            if bud.told_of_child not in told:
                raise TimeoutError("the zygote does not answer")
            bud.hear_of_child()
        except (OSError, Error):
            self._may_bud = False
            bud.close()
            bud = None
        with self._lock:
            self._budding, self._bud = None, bud

    def _break_bud(self) -> Clone | None:
        """Have the copy made that the bud is for, if that stands. With the lock: the next bud is asked for after that."""
        bud, self._bud = self._bud, None
        if bud is None:
            return None
        if bud.break_bud():
            return bud
        bud.end()
        self._let_die(bud)
        return None

    def _drop_bud(self) -> list[Clone]:
        """All that there is of buds."""
        with self._lock:
            found = [one for one in (self._bud, self._budding) if one is not None]
            self._bud = self._budding = None
        return found

    # The end

    def begin_to_close(self) -> None:
        """Nothing is taken or made from now on. With the lock."""
        self._wake()
        self._closed = True
        self._lock.notify_all()

    def close(self) -> None:
        """After `begin_to_close`, by one thread."""
        if threading.current_thread() is not self.thread:
            self.thread.join()
        with self._lock:
            ready, self._ready = list(self._ready), deque()
            zygote, self._zygote = self._zygote, None
        for clone in ready:
            clone.close()
        if zygote is not None:
            zygote.close()
        for fd in (self._wake_fd, self._waker):
            os.close(fd)
