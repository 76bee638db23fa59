"""Every flag and every pair is cloned on the running kernel, and ramet.rules held against the answers.

The clones are made by a process of their own, whose parent reaps what CLONE_PARENT makes; each only exits.
Root measures twice: as itself and as an ordinary user.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import re
import signal
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ramet import lowlevel, rules
from ramet.flags import CLONE, OBSOLETE_CLONE, format_clone

#: Thousands of clones in one go, a third of them of namespaces: half a minute and more on a machine that is busy with other tests.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

ORDINARY_UID = 65000
SIGCHLD = 17
UNKNOWN = 1 << 40
FLAGS = (*CLONE, OBSOLETE_CLONE["DETACHED"], UNKNOWN)
THREAD = int(CLONE.VM | CLONE.SIGHAND | CLONE.THREAD)
AUTOKILL = CLONE.PIDFD | CLONE.AUTOREAP | CLONE.PIDFD_AUTOKILL

Combination = tuple[int, int]  # flags, exit_signal
Answers = dict[Combination, int]  # errno, 0 for a child
Rule = Callable[..., tuple[rules.Violation, ...]]


def combinations_to_try() -> list[Combination]:
    """No flag, every bit, every pair, with and without an exit signal; and all pairs on top of what many
    flags need before the kernel looks at them.
    """
    bits = [0, *(1 << bit for bit in range(64))]
    pairs = [int(a | b) for a, b in combinations(FLAGS, 2)]
    tried = [(flags, exit_signal) for flags in bits + pairs for exit_signal in (0, SIGCHLD)]
    for base in (THREAD, AUTOKILL, CLONE.NEWUSER):
        tried += [(int(base | flags), 0) for flags in bits + pairs]
    tried += [(THREAD, SIGCHLD), (THREAD | CLONE.PARENT, SIGCHLD)]
    tried.append((int(AUTOKILL | THREAD), 0))
    tried += [(0, signal.SIGRTMAX), (0, signal.SIGRTMAX + 1), (0, 0x100)]
    return list(dict.fromkeys(tried))


def answer(flags: int, exit_signal: int, cgroup: int | None, call: str) -> int:
    """Clone a child that only exits; the errno, or 0. The child is gone afterwards."""
    try:
        if call == "clone":
            made = lowlevel.clone(flags, exit_signal=exit_signal, child=[])
        else:
            made = lowlevel.clone3(
                flags,
                exit_signal=exit_signal,
                cgroup=cgroup if flags & CLONE.INTO_CGROUP else None,
                child=[],
            )
    except OSError as error:
        return error.errno or -1
    if made.flags & CLONE.AUTOREAP and made.pidfd is None and not made.flags & CLONE.VM:
        return 0  # the kernel reaps it
    if not made.flags & CLONE.PARENT:
        with contextlib.suppress(ChildProcessError):
            made.wait()
    made.close()
    return 0


def measure(uid: int | None, tried: list[Combination], call: str = "clone3") -> Answers:
    """What the kernel answers to each combination, as the given user. In a process of its own."""
    read, write = os.pipe()
    reaper = os.fork()
    if reaper == 0:
        status = 1
        try:
            caller = os.fork()
            if caller == 0:
                os.close(read)
                become(uid)
                signal.signal(signal.SIGRTMAX, signal.SIG_IGN)  # an exit signal that is tried
                cgroup = own_cgroup()
                found = [(*each, answer(*each, cgroup, call)) for each in tried]
                with os.fdopen(write, "w") as pipe:
                    json.dump(found, pipe)
                status = 0
            else:
                os.close(write)
                status = os.waitstatus_to_exitcode(os.waitpid(caller, 0)[1])
                with contextlib.suppress(ChildProcessError):
                    while True:
                        os.waitpid(-1, lowlevel.WALL)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status & 0xFF)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    assert os.waitpid(reaper, 0)[1] == 0
    return {(flags, exit_signal): number for flags, exit_signal, number in json.loads(text)}


def become(uid: int | None) -> None:
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def own_cgroup() -> int | None:
    """A descriptor of the process's own version 2 cgroup, where one is mounted."""
    path = own_cgroup_path()
    return None if path is None else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def own_cgroup_path() -> str | None:
    with open("/proc/self/mountinfo") as mounts:
        roots = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    with open("/proc/self/cgroup") as cgroups:
        own = [line.strip()[3:] for line in cgroups if line.startswith("0::")]
    path = roots[0] + own[0] if roots and own else None
    return path if path and os.path.isdir(path) else None


def caller_facts(uid: int | None) -> rules.Caller:
    """What the rules need to know of the process that `measure` clones from."""
    privileged = uid is None and os.geteuid() == 0
    path = own_cgroup_path()
    writable = path is not None and (privileged or os.stat(path).st_uid == (uid or os.geteuid()))
    return rules.Caller(
        capabilities=("CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE") if privileged else (),
        newuser_errno=newuser_errno(privileged),
        cgroup_errno=0 if writable else errno.EACCES,
        machine=platform.machine(),
    )


def newuser_errno(privileged: bool) -> int:
    def sysctl(name: str) -> str | None:
        try:
            with open(f"/proc/sys/{name}") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    if sysctl("user/max_user_namespaces") == "0":
        return errno.ENOSPC
    return errno.EPERM if sysctl("kernel/unprivileged_userns_clone") == "0" and not privileged else 0


@functools.cache
def running_kernel() -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", os.uname().release)
    assert found
    return tuple(int(part) for part in found.groups() if part is not None)


def judge(flags: int, exit_signal: int, facts: rules.Caller, check: Rule = rules.check) -> tuple[rules.Violation, ...]:
    cgroup = 3 if OWN_CGROUP else None
    return check(flags, exit_signal=exit_signal, cgroup=cgroup, kernel=running_kernel(), caller=facts)


def disagreements(measured: Answers, facts: rules.Caller, check: Rule = rules.check) -> Iterator[str]:
    """Each combination on which the rules and the kernel differ, in words."""
    for (flags, exit_signal), answered in measured.items():
        violations = judge(flags, exit_signal, facts, check)
        expected = violations[0].errno if violations else 0
        if expected != answered:
            said = errno.errorcode.get(expected, "a child"), errno.errorcode.get(answered, "a child")
            yield f"{format_clone(flags, exit_signal)}: the rules say {said[0]}, the kernel {said[1]}"


OWN_CGROUP = own_cgroup_path()
USERS = [None, ORDINARY_UID] if os.geteuid() == 0 else [None]


@pytest.fixture(scope="module", params=USERS, ids=lambda uid: "self" if uid is None else "ordinary")
def measured(request: pytest.FixtureRequest) -> tuple[Answers, rules.Caller]:
    return measure(request.param, combinations_to_try()), caller_facts(request.param)


def test_the_kernel_answers_every_pair_as_the_rules_say(measured: tuple[Answers, rules.Caller]) -> None:
    """For every flag, every pair and more, the kernel's errno is that of the first violation."""
    answers, facts = measured
    assert list(disagreements(answers, facts)) == []
    assert len(answers) > len(FLAGS) * (len(FLAGS) - 1) // 2
    assert {0, errno.EINVAL} <= set(answers.values())


def test_a_rule_that_is_missing_would_be_noticed(measured: tuple[Answers, rules.Caller]) -> None:
    """Control: leaving out any one rule that applied makes the comparison fail."""
    answers, facts = measured
    applied: dict[tuple[str, str], Answers] = {}
    for (flags, exit_signal), answered in answers.items():
        for first in judge(flags, exit_signal, facts)[:1]:
            applied.setdefault((first.source, first.reason), {})[flags, exit_signal] = answered
    assert len(applied) > 30

    def without(rule: tuple[str, str]) -> Rule:
        def check(*asked: Any, **fields: Any) -> tuple[rules.Violation, ...]:
            found = rules.check(*asked, **fields)
            return tuple(each for each in found if (each.source, each.reason) != rule)

        return check

    unnoticed = [
        reason
        for (source, reason), where in applied.items()
        if not any(disagreements(where, facts, without((source, reason))))
    ]
    if running_kernel() < (7, 1):  # it needs CLONE_AUTOREAP, which is refused before it, or without it
        unnoticed.remove("CLONE_PIDFD_AUTOKILL came with Linux 7.1")
    assert unnoticed == []


def test_a_rule_too_many_would_be_noticed(measured: tuple[Answers, rules.Caller]) -> None:
    """Control: an invented rule makes the comparison fail, and names the pair."""
    answers, facts = measured
    invented = rules.Violation(
        errno.EINVAL, "invented", flags=CLONE.VM | CLONE.FILES, since=(1, 0), source="nowhere", manual=""
    )

    def check(flags: int, **fields: Any) -> tuple[rules.Violation, ...]:
        found = rules.check(flags, **fields)
        fits = flags == CLONE.VM | CLONE.FILES and not fields["exit_signal"]
        return found or ((invented,) if fits else ())

    assert list(disagreements(answers, facts, check)) == [
        "CLONE_VM|CLONE_FILES: the rules say EINVAL, the kernel a child"
    ]


def test_an_ordinary_user_gets_eperm_for_namespaces(measured: tuple[Answers, rules.Caller]) -> None:
    """Without privilege a new namespace is EPERM, unless CLONE_NEWUSER is beside it."""
    answers, facts = measured
    expected = 0 if facts.capabilities else errno.EPERM
    for flag in (CLONE.NEWNS, CLONE.NEWUTS, CLONE.NEWNET, CLONE.NEWPID, CLONE.NEWIPC, CLONE.NEWCGROUP):
        assert answers[int(flag), 0] == expected
        assert answers[int(flag | CLONE.NEWUSER), 0] == facts.newuser_errno


@pytest.mark.parametrize("uid", USERS, ids=lambda uid: "self" if uid is None else "ordinary")
def test_the_older_call_answers_as_the_rules_say(uid: int | None) -> None:
    """clone, too, answers every pair that it can say as the rules for it do; it takes what clone3 refuses."""
    pairs = [int(a | b) for a, b in combinations(FLAGS, 2) if not (a | b) >> 32 and not (a | b) & 0xFF]
    answers = measure(uid, [(flags, exit_signal) for flags in pairs for exit_signal in (0, SIGCHLD)], "clone")
    facts = caller_facts(uid)
    wrong = []
    for (flags, exit_signal), answered in answers.items():
        found = rules.check(flags, exit_signal=exit_signal, call="clone", kernel=running_kernel(), caller=facts)
        if answered != (found[0].errno if found else 0):
            wrong.append((format_clone(flags, exit_signal), answered, found))
    assert wrong == []
    assert answers[int(CLONE.VM | CLONE.PARENT), SIGCHLD] == 0
    assert answers[int(CLONE.PIDFD | CLONE.PARENT_SETTID), SIGCHLD] == errno.EINVAL


def test_nothing_is_left_behind() -> None:
    """After a measurement the process has the children, zombies too, and as many descriptors as before."""
    children = Path("/proc/thread-self/children")
    before, family = len(os.listdir("/proc/self/fd")), children.read_text()
    measure(None, [(int(flag), 0) for flag in CLONE])
    assert children.read_text() == family
    assert len(os.listdir("/proc/self/fd")) == before
