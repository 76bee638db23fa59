"""The verdict as a table: from evidence to a word. Pure."""

import pytest

from ramet.run.result import Ending, Result, Usage
from ramet.run.verdict import SIGKILL, SIGSYS, SIGXCPU, STATUSES, Evidence, decide

EXITED, FAILED, SPOOFED = (Ending(code, None, reported=True) for code in (0, 1, 137))
KILLED_BY_US = Ending(None, SIGKILL)  # with its pid namespace: init had no time to report
KILLED_INSIDE = Ending(None, SIGKILL, reported=True)
CRASHED = Ending(None, 11, reported=True)
DENIED = Ending(None, SIGSYS, reported=True)
XCPU = Ending(None, SIGXCPU, reported=True)

TABLE = [
    # how it ended, the evidence -> status, limits_hit, ended_by_limit
    ("nothing", EXITED, {}, "exited", (), False),
    ("a failure", FAILED, {}, "exited", (), False),
    ("137 by itself", SPOOFED, {}, "exited", (), False),
    ("its own SIGKILL", KILLED_INSIDE, {}, "signaled", (), False),
    ("somebody's kill of the whole", KILLED_BY_US, {}, "signaled", (), False),
    ("a crash", CRASHED, {}, "signaled", (), False),
    ("a denied call", DENIED, {"filter_kills": True}, "syscall-denied", (), False),
    ("a SIGSYS of its own making", DENIED, {}, "signaled", (), False),
    ("time", KILLED_BY_US, {"cause": "timed-out"}, "timed-out", ("timed-out",), True),
    ("time, a moment too late", EXITED, {"cause": "timed-out"}, "exited", (), False),
    ("time, while it killed itself", KILLED_INSIDE, {"cause": "timed-out"}, "signaled", (), False),
    ("cpu, seen by us", KILLED_BY_US, {"cause": "cpu-time", "cpu_used_up": True}, "cpu-time", ("cpu-time",), True),
    ("cpu, seen by RLIMIT_CPU", XCPU, {"cpu_used_up": True}, "cpu-time", ("cpu-time",), True),
    ("cpu, by its hard limit", KILLED_INSIDE, {"cpu_used_up": True}, "cpu-time", ("cpu-time",), True),
    ("its own SIGXCPU", XCPU, {}, "signaled", (), False),
    ("cpu used up by one who exits", EXITED, {"cpu_used_up": True}, "exited", (), False),
    ("output", KILLED_BY_US, {"cause": "output-limit"}, "output-limit", ("output-limit",), True),
    (
        "output, and it ended before the kill",
        EXITED,
        {"cause": "output-limit", "overran": True},
        "output-limit",
        ("output-limit",),
        True,
    ),
    (
        "output, and it failed before the kill",
        FAILED,
        {"cause": "output-limit", "overran": True},
        "output-limit",
        ("output-limit",),
        True,
    ),
    (
        "time, and then there was too much output",
        KILLED_BY_US,
        {"cause": "timed-out", "overran": True},
        "timed-out",
        ("timed-out", "output-limit"),
        True,
    ),
    ("memory, all killed", KILLED_BY_US, {"oom_kills": 5}, "out-of-memory", ("out-of-memory",), True),
    ("memory, the payload killed", KILLED_INSIDE, {"oom_kills": 1}, "out-of-memory", ("out-of-memory",), True),
    ("memory, a child killed", FAILED, {"oom_kills": 1}, "out-of-memory", ("out-of-memory",), True),
    ("memory, and it went on", EXITED, {"oom_kills": 1}, "out-of-memory", ("out-of-memory",), True),
    (
        "memory, refused in its first moment",
        CRASHED,
        {"memory_refused": True},
        "out-of-memory",
        ("out-of-memory",),
        False,
    ),
    ("memory, refused, and it did not mind", EXITED, {"memory_refused": True}, "exited", (), False),
    ("disk, and it failed", FAILED, {"disk_full": True}, "disk-limit", ("disk-limit",), False),
    ("disk, and it crashed", CRASHED, {"disk_full": True}, "disk-limit", ("disk-limit",), False),
    ("disk, and it did not mind", EXITED, {"disk_full": True}, "exited", ("disk-limit",), False),
    ("forks, and it failed", FAILED, {"forks_refused": 3}, "processes-limit", ("processes-limit",), False),
    ("forks, and it did not mind", EXITED, {"forks_refused": 3}, "exited", ("processes-limit",), False),
    (
        "a denied call, with a full disk",
        DENIED,
        {"disk_full": True, "filter_kills": True},
        "syscall-denied",
        ("disk-limit",),
        False,
    ),
    # Several: the first cause wins, the others are listed.
    (
        "forks refused, then time",
        KILLED_BY_US,
        {"cause": "timed-out", "forks_refused": 9},
        "timed-out",
        ("timed-out", "processes-limit"),
        True,
    ),
    (
        "time, while it was killed for memory",
        KILLED_BY_US,
        {"cause": "timed-out", "oom_kills": 1},
        "timed-out",
        ("timed-out", "out-of-memory"),
        True,
    ),
    (
        "cpu, with everything else",
        KILLED_BY_US,
        {"cause": "cpu-time", "cpu_used_up": True, "oom_kills": 1, "disk_full": True, "forks_refused": 1},
        "cpu-time",
        ("cpu-time", "out-of-memory", "disk-limit", "processes-limit"),
        True,
    ),
    (
        "disk and forks, and it failed",
        FAILED,
        {"disk_full": True, "forks_refused": 1},
        "disk-limit",
        ("disk-limit", "processes-limit"),
        False,
    ),
]


@pytest.mark.parametrize(("ending", "evidence", "status", "hits", "ended"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])  # fmt: skip
def test_verdict(ending, evidence, status, hits, ended):
    """This evidence gives this verdict."""
    assert decide(ending, Evidence(**evidence)) == (status, hits, ended)


def test_every_status_is_in_the_table():
    """No word is left out above, and none is given that `STATUSES` does not have."""
    assert {row[3] for row in TABLE} == set(STATUSES)


@pytest.mark.parametrize(("ending", "evidence"), [row[1:3] for row in TABLE], ids=[row[0] for row in TABLE])
def test_every_verdict_has_a_sentence(ending, evidence):
    """A result says in words how it ended, whatever the verdict; and as data it is complete."""
    result = Result(
        argv=("x",),
        ending=ending,
        verdict=decide(ending, Evidence(**evidence)),
        usage=Usage(wall=1.0),
        protections=(),
        stdout=None,
        stderr=None,
        truncated=(),
        duration=1.0,
    )
    assert str(result).startswith("'x' ")
    assert result.to_mapping()["limits_hit"] == list(result.limits_hit)
    assert result.ok == (result.status == "exited" and result.exit_code == 0)
