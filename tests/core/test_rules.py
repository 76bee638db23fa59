"""The rules that no pair of flags shows: fields, older kernels, what the caller is."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from ramet.errors import SpecError
from ramet.flags import CLONE
from ramet.rules import NEWEST, ORDINARY, Caller, Violation, check, newtime_in_clone3

THREAD = CLONE.VM | CLONE.SIGHAND | CLONE.THREAD
NEW = CLONE.NEWUSER | CLONE.NEWPID


def errnos(found: tuple[Violation, ...]) -> list[str]:
    return [errno.errorcode[each.errno] for each in found]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"exit_signal": 17}, []),
        ({"exit_signal": 64}, []),
        ({"exit_signal": 65}, ["EINVAL"]),
        ({"exit_signal": 0x111}, ["EINVAL"]),
        ({"flags": 17}, ["EINVAL"]),
        ({"flags": 17, "call": "clone"}, []),
        ({"flags": 65, "call": "clone"}, ["EINVAL"]),
        ({"flags": 65, "call": "clone", "kernel": (6, 12)}, []),
        ({"stack": 4096}, ["EINVAL"]),
        ({"stack_size": 4096}, ["EINVAL"]),
        ({"stack": 4096, "stack_size": 4096}, []),
        ({"stack": 4096, "stack_size": 1 << 63}, ["EINVAL"]),
        ({"stack": 4096, "call": "clone"}, []),
        ({"flags": CLONE.PIDFD, "pidfd": 0}, ["EFAULT"]),
        ({"flags": CLONE.PIDFD, "pidfd": 4096}, []),
        ({"flags": CLONE.PIDFD | CLONE.PARENT_SETTID, "pidfd": 4096, "parent_tid": 4096}, ["EINVAL"]),
        ({"flags": CLONE.PIDFD | CLONE.PARENT_SETTID, "pidfd": 4096, "parent_tid": 8192}, []),
        ({"flags": CLONE.PIDFD | CLONE.PARENT_SETTID, "call": "clone"}, ["EINVAL"]),
        ({"flags": CLONE.SETTLS, "tls": (1 << 47) - 4096}, ["EPERM"]),
        ({"flags": CLONE.SETTLS, "tls": (1 << 47) - 4097}, []),
        ({"flags": CLONE.SETTLS, "tls": 1 << 47, "caller": Caller(machine="aarch64")}, []),
        ({"tls": 1 << 47}, []),
        ({"flags": CLONE.INTO_CGROUP}, ["EBADF"]),
        ({"flags": CLONE.INTO_CGROUP, "cgroup": 3}, []),
        ({"flags": CLONE.INTO_CGROUP, "cgroup": 1 << 31}, ["EINVAL"]),
        ({"flags": CLONE.INTO_CGROUP, "cgroup": 3, "caller": Caller(cgroup_errno=errno.EACCES)}, ["EACCES"]),
        ({"cgroup": 3}, []),
        ({"flags": 0x0040_0000, "call": "clone"}, []),
        ({"flags": 0x0040_1000, "call": "clone"}, ["EINVAL"]),
    ],
)
def test_fields(fields: dict[str, Any], expected: list[str]) -> None:
    """Each field of clone_args has its limits, and what is inside them is accepted."""
    flags = fields.pop("flags", 0)
    assert errnos(check(flags, **fields)) == expected
    fields["flags"] = flags


@pytest.mark.parametrize(
    ("flags", "set_tid", "caller", "expected"),
    [
        (0, [100], Caller(), []),
        (0, [100], ORDINARY, ["EPERM"]),
        (0, [100], Caller(capabilities=["CAP_CHECKPOINT_RESTORE"]), []),
        (0, [0], Caller(), ["EINVAL"]),
        (0, [1 << 22], Caller(), ["EINVAL"]),
        (0, [100], Caller(pid_max=100), ["EINVAL"]),
        (0, [100, 101], Caller(), ["EINVAL"]),
        (0, [100, 101], Caller(pid_level=1), []),
        (0, [1] * 33, Caller(), ["EINVAL"]),
        (CLONE.NEWPID, [1], Caller(), []),
        (CLONE.NEWPID, [2], Caller(), ["EINVAL"]),
        (CLONE.NEWPID, [1, 100], Caller(), []),
        (NEW, [1], ORDINARY, []),
        (NEW, [1, 100], ORDINARY, ["EPERM"]),
    ],
)
def test_set_tid(flags: int, set_tid: list[int], caller: Caller, expected: list[str]) -> None:
    """set_tid is limited by the depth of pid namespaces, by what a pid can be, and by privilege."""
    assert errnos(check(flags, set_tid=set_tid, caller=caller)) == expected


def test_set_tid_needed_cap_sys_admin_before_5_9() -> None:
    """Before 5.9 CAP_CHECKPOINT_RESTORE did not exist, and CAP_SYS_ADMIN was needed."""
    caller = Caller(capabilities=["CAP_CHECKPOINT_RESTORE"])
    assert errnos(check(0, set_tid=[100], caller=caller, kernel=(5, 8))) == ["EPERM"]
    assert check(0, set_tid=[100], kernel=(5, 8)) == ()


@pytest.mark.parametrize(
    ("flags", "refused", "accepted"),
    [
        (CLONE.AUTOREAP, (7, 0), (7, 1)),
        (CLONE.EMPTY_MNTNS, (6, 18, 44), (7, 1)),
        (CLONE.CLEAR_SIGHAND, (5, 4), (5, 5)),
        (THREAD | CLONE.PIDFD, (6, 8, 12), (6, 9)),
        (CLONE.NEWTIME, (6, 2), (6, 3)),
        (CLONE.NEWTIME, (5, 10, 174), (5, 10, 175)),
        (CLONE.NEWTIME, (6, 1, 19), (6, 1, 20)),
        (CLONE.NEWTIME, (5, 14, 500), (6, 2, 7)),
    ],
)
def test_kernels(flags: int, refused: tuple[int, ...], accepted: tuple[int, ...]) -> None:
    """What came with a kernel is EINVAL on the one before, and accepted from then on."""
    assert set(errnos(check(flags, kernel=refused))) == {"EINVAL"}
    assert check(flags, kernel=accepted) == ()
    assert check(flags) == check(flags, kernel=NEWEST) == ()


def test_clone3_itself_came_with_5_3() -> None:
    """Before 5.3 clone3 is ENOSYS; clone is not. A struct longer than the kernel's is E2BIG."""
    assert errnos(check(0, kernel=(5, 2)))[0] == "ENOSYS"
    assert check(0, kernel=(5, 2), call="clone") == ()
    assert errnos(check(0, set_tid=[100], kernel=(5, 4)))[0] == "E2BIG"
    assert errnos(check(0, cgroup=3, kernel=(5, 6)))[0] == "E2BIG"


@pytest.mark.parametrize(
    ("flags", "caller"),
    [
        (CLONE.PARENT, Caller(init=True)),
        (CLONE.PARENT, Caller(autoreap=True)),
        (THREAD, Caller(other_pid_ns=True)),
        (CLONE.NEWPID, Caller(other_pid_ns=True)),
    ],
)
def test_what_the_caller_is(flags: int, caller: Caller) -> None:
    """An init, a child made with CLONE_AUTOREAP, and one that has left its pid namespace are refused more."""
    assert errnos(check(flags, caller=caller)) == ["EINVAL"]
    assert check(flags) == ()


def test_time_namespace_and_shared_memory_before_6_2() -> None:
    """After unshare(CLONE_NEWTIME) neither thread nor CLONE_VM, until Linux 6.2."""
    caller = Caller(other_time_ns=True)
    assert errnos(check(CLONE.VM, caller=caller, kernel=(6, 1))) == ["EINVAL"]
    assert check(CLONE.VM, caller=caller, kernel=(6, 2)) == ()
    assert check(CLONE.VM, kernel=(6, 1)) == ()


def test_the_first_violation_is_the_kernels_answer() -> None:
    """EINVAL of the flags comes before EPERM of the privilege, and that before EINVAL of the semaphores."""
    both = CLONE.NEWNS | CLONE.FS
    assert errnos(check(both, caller=ORDINARY)) == ["EINVAL", "EPERM"]
    semaphores = CLONE.NEWIPC | CLONE.SYSVSEM
    assert errnos(check(semaphores, caller=ORDINARY)) == ["EPERM", "EINVAL"]
    assert errnos(check(semaphores)) == ["EINVAL"]


def test_a_user_namespace_that_may_not_be_made() -> None:
    """Where the caller may make no user namespace, that is the reason, and not the others it was to allow."""
    found = check(CLONE.NEWUSER | CLONE.NEWNET, caller=Caller(capabilities=(), newuser_errno=errno.EPERM))
    assert [(each.errno, each.flags) for each in found] == [(errno.EPERM, CLONE.NEWUSER)]


def test_a_violation_says_where_it_comes_from() -> None:
    """A violation names the reason, the flags, the kernel function, since when, and the manual's place."""
    (found,) = check(CLONE.SIGHAND)
    assert found.source == "copy_process" and found.flags == CLONE.SIGHAND and found.since == (2, 6, 0)
    assert "CLONE_VM" in found.reason and found.manual.startswith("clone(2)")
    assert str(found).startswith("EINVAL (Invalid argument): CLONE_SIGHAND needs CLONE_VM")
    assert found == check(CLONE.SIGHAND)[0] != check(CLONE.THREAD)[0]


@pytest.mark.parametrize("bad", [{"flags": -1}, {"flags": 1 << 64}, {"flags": 0, "call": "fork"}])
def test_what_is_no_call_is_a_spec_error(bad: dict[str, Any]) -> None:
    """A number that is no flags word, and a call that is none, are errors of the one who asks."""
    with pytest.raises(SpecError):
        check(**bad)


def test_clone_cannot_say_the_high_flags() -> None:
    """The older call would drop flags above 32 bits without a word, so asking about it is an error."""
    with pytest.raises(SpecError, match="CLONE_NNP"):
        check(CLONE.NNP | CLONE.VM, call="clone")
    assert check(CLONE.VM, call="clone") == ()


def test_newtime_in_clone3_reads_stable_series() -> None:
    """A version of two numbers counts as the series' first release."""
    assert not newtime_in_clone3((6, 1)) and newtime_in_clone3((6, 1, 90)) and newtime_in_clone3((7, 2))
