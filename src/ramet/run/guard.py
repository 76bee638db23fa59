"""Guard: what ends a run that goes beyond its limits where the kernel does not do so by itself."""

from __future__ import annotations

import os
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ramet.cgroups import Group
    from ramet.spec import Sandbox

POLLIN = 1
#: Seconds between two looks at the CPU time, at least.
LOOK_AGAIN = 0.002


class Guard:
    """Of one run. cause: why it was killed: "timed-out", "cpu-time", "output-limit"; the first one stays. overran: has it written more
    than it may, and that was to end it? Known also where its own end came first.

    Whoever waits for the run waits until `next_look` at most, or until `watched` is readable, and calls `look` then.
    began: on the monotonic clock; its timeout is counted from there. Without, that is for another to hold.
    """

    def __init__(
        self, spec: Sandbox, group: Group | None, kill: Callable[[], None], *, began: float | None = None
    ) -> None:
        self.cause: str | None = None
        self.overran = False
        self.watched: int | None = None
        self._output_kills = spec.output_action == "kill"
        self._kill, self._group = kill, group
        self._deadline = None if began is None or spec.timeout is None else began + float(spec.timeout)
        self._cpu_time: float | None = None
        self._look_at_cpu: float | None = None
        self._look_at_memory: float | None = None
        if group is not None and spec.cpu_time is not None:
            self._cpu_time = float(spec.cpu_time)
            self._cpus = min(spec.cpus or 1e9, len(os.sched_getaffinity(0)))
            self._look_at_cpu = self._no_sooner(self._cpu_time)
        if group is not None and spec.memory is not None:
            watched = group.watch_memory()
            # Version 2 kills all of the group itself (memory.oom.group); version 1 but one process.
            if watched is not None and watched[1] == POLLIN:
                self.watched = watched[0]

    def _no_sooner(self, left: float) -> float:
        """When so much CPU time can be used up, with all CPUs at work."""
        return monotonic() + max(left / self._cpus, LOOK_AGAIN)

    def next_look(self) -> float | None:
        """On the monotonic clock; None: never."""
        if self.cause is not None:
            return None
        if self._group is None:  # only of a group is there more to look at; asked whenever who waits is woken
            return self._deadline
        return sooner(self._deadline, sooner(self._look_at_cpu, self._look_at_memory))

    def look(self) -> None:
        """Is a limit reached? Then all is killed. Cheap; may be called at any time until the end."""
        if self.cause is not None:
            return
        if self._deadline is not None and monotonic() >= self._deadline:
            self.stop("timed-out")
        if self._group is None:
            return
        if self.watched is not None:
            self._look_at_kills(self._group, self.watched)
        if self._cpu_time is not None and self._look_at_cpu is not None and monotonic() >= self._look_at_cpu:
            left = self._cpu_time - self._group.cpu_usec() / 1e6
            if left <= 0:
                self.stop("cpu-time")
            else:
                self._look_at_cpu = self._no_sooner(left)

    def _look_at_kills(self, group: Group, watched: int) -> None:
        """The kernel rings when memory is short, and kills, or finds some yet, a moment later."""
        if _rang(watched):
            self._look_at_memory = monotonic()
        if self._look_at_memory is None:
            return
        if group.events().oom_kills:
            self.watched = self._look_at_memory = None
            self._kill()  # what it has left; the evidence is the group's
        else:
            self._look_at_memory = monotonic() + LOOK_AGAIN

    def stop(self, cause: str) -> None:
        """Kill all of it, for this cause, unless there was another one before."""
        if self.cause is None and not (self._group is not None and self._group.events().oom_kills):
            self.cause = cause
        self._kill()

    def too_much_output(self) -> None:
        """More has come out of it than `output` allows."""
        if self._output_kills:
            self.overran = True
            self.stop("output-limit")

    def ended(self) -> None:
        """The run is over, and its group gone: there is nothing to look at."""
        self._group = self.watched = self._deadline = self._look_at_cpu = self._look_at_memory = None


def sooner(first: float | None, second: float | None) -> float | None:
    """The earlier of two times, either of which may be never."""
    return second if first is None else first if second is None else min(first, second)


def _rang(event: int) -> bool:
    try:
        os.eventfd_read(event)
    except BlockingIOError:
        return False
    return True
