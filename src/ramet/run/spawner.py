"""A thread that spawns for others.

The parent-death signal comes when the *thread* that cloned ends, not the process (prctl(2)). Init gives it up once it
watches the caller's pidfd; a child without init can't. So where such a child is wanted from a thread that may
end, it is cloned by one that lasts as long as the process.
"""

from __future__ import annotations

import _thread
import os
from _queue import SimpleQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")
    Job = tuple[Callable[[], object], list[object], list[BaseException], _thread.LockType]

_lock = _thread.allocate_lock()
_jobs: SimpleQueue[Job] | None = None
_owner = 0  # the pid whose thread it is: a fork does not take threads along


def lasting_thread() -> bool:
    """Does the calling thread live as long as the process? Only the main one does."""
    return _thread.get_native_id() == os.getpid()


def in_lasting_thread(job: Callable[[], T]) -> T:
    """job()'s value, or exception, from a thread that outlives the calling one."""
    if lasting_thread():
        return job()
    value: list[T] = []
    error: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()
    _queue().put((job, value, error, done))  # type: ignore[arg-type]
    done.acquire()
    if error:
        raise error[0]
    return value[0]


def _queue() -> SimpleQueue[Job]:
    global _jobs, _owner
    with _lock:
        if _jobs is None or _owner != os.getpid():
            _jobs, _owner = SimpleQueue(), os.getpid()
            _thread.start_new_thread(_serve, (_jobs,))
        return _jobs


def _serve(jobs: SimpleQueue[Job]) -> None:
    while True:
        job, value, error, done = jobs.get()
        try:
            value.append(job())
        except BaseException as failure:  # it is the caller's, and raised there
            error.append(failure)
        done.release()
        del job, value, error, done
