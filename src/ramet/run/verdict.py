"""The verdict: one word for how a run ended, from the kernel's own evidence. Pure.

Never from an exit code: a payload that exits with 137, or writes "out of memory", has exited.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.run.result import Ending

SIGKILL, SIGXCPU, SIGSYS = 9, 24, 31

#: The words that Result.status can be.
STATUSES = (
    *("exited", "signaled", "timed-out", "cpu-time", "out-of-memory", "output-limit", "disk-limit", "processes-limit"),
    "syscall-denied",
)


class Evidence(
    namedtuple(
        "Evidence",
        "cause oom_kills forks_refused disk_full cpu_used_up filter_kills memory_refused overran",
        defaults=(None, 0, 0, False, False, False, False, False),
    )
):
    """What is known besides how the payload's process ended.

    cause: why the caller killed it, if it did: "timed-out", "cpu-time", "output-limit". oom_kills: processes that the kernel killed
    for the group's memory. forks_refused: by the limit of processes. disk_full: at the end no room was left on the
    sandbox's own file system. cpu_used_up: the CPU time of all of it reached the limit. filter_kills: its filter
    ends it for a call that is denied; without that, a SIGSYS is one that it has sent itself.
    memory_refused: it came to its memory limit when that could not yet kill (version 1, until the caller knows of its exec), so
    system calls failed, or worse. overran: it wrote more than `output`, which was to end it, and may have done so by itself before it was
    killed: pipes hold 64 KiB that nobody has counted yet.
    """

    __slots__ = ()


class Verdict(namedtuple("Verdict", "status limits_hit ended_by_limit")):
    """status: one of `STATUSES`. limits_hit: all limits that were hit, the first first. ended_by_limit: was the run killed
    for one, or would have been, had it not just ended? Else it went on with what it was refused."""

    __slots__ = ()


def decide(ending: Ending, evidence: Evidence) -> Verdict:
    """The first cause wins; the others are listed."""
    hits = []
    # Where init has reported, the payload had ended before we killed anything.
    if evidence.cause is not None and ending.signal == SIGKILL and not ending.reported:
        hits.append(evidence.cause)
    if evidence.oom_kills:
        hits.append("out-of-memory")
    if evidence.cpu_used_up and ending.signal in (SIGKILL, SIGXCPU) and "cpu-time" not in hits:
        hits.append("cpu-time")
    if evidence.overran and "output-limit" not in hits:
        hits.append("output-limit")
    ended = bool(hits)
    if evidence.memory_refused and not evidence.oom_kills and (ending.signal is not None or ending.exit_code):
        hits.append("out-of-memory")
    if evidence.disk_full:
        hits.append("disk-limit")
    if evidence.forks_refused:
        hits.append("processes-limit")
    return Verdict(_status(ending, evidence, hits, ended=ended), tuple(hits), ended)


def _status(ending: Ending, evidence: Evidence, hits: list[str], *, ended: bool) -> str:
    if ended:
        return hits[0]
    if ending.signal == SIGSYS and evidence.filter_kills:
        return "syscall-denied"
    if hits and (ending.signal is not None or ending.exit_code):
        return hits[0]  # it failed, and this is what it was refused
    return "exited" if ending.signal is None else "signaled"
