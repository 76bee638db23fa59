"""Each errno that clone and clone3 can return, produced for real, or why not here.

Every case runs in a forked process of its own, which limits, filters, nests or unmaps itself first and then makes the
call. What is refused by a combination of flags or fields comes from `ramet.rules`: each of its rules is tried.
"""

from __future__ import annotations

import errno
import os

from ramet import lowlevel
from ramet.flags import CLONE, OBSOLETE_CLONE, format_clone, signal_name
from ramet.lab.apart import apart
from ramet.lab.numbers import NR
from ramet.lab.script import is_clones

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

NOT_IN_MANUAL = "not in clone(2)"
_SUBREAPER, _DUMPABLE = 36, 4
#: An id that no account has: RLIMIT_NPROC counts the processes of the real uid.
_NOBODYS = 2_147_400_000


class NotHere(Exception):
    """This host can't produce it; the text says why."""


class Case:
    """One refusal. call: what is called. errno: its name, as expected. situation: what was done first.

    manual: where the manual tells of it. why: the reason, in a sentence. make: does it; OSError is the answer.
    """

    __slots__ = ("call", "errno", "make", "manual", "situation", "why")

    def __init__(
        self, errno: str, call: str, make: Callable[[], object], *, why: str, manual: str = "", situation: str = ""
    ) -> None:
        self.errno, self.call, self.make = errno, call, make
        self.why, self.manual, self.situation = why, manual or NOT_IN_MANUAL, situation


def refusals() -> dict[str, Any]:
    """Produce every case. JSON-able::

        {"kernel", "uid", "cases": [{"errno", "call", "situation", "answered", "agrees", "not_here", "why", "manual"}]}

    answered is the errno's name, or "a child" where the kernel did not refuse, or "" where not_here says why it was
    not tried. agrees is whether answered is errno; None where it was not tried.
    """
    return dict(apart("ramet.lab.refusals", "_produce_all"))


def _produce_all() -> dict[str, Any]:
    """In a process of its own."""
    from ramet import _core

    _core.syscall("prctl", NR["prctl"], _SUBREAPER, 1, 0, 0, 0)
    # What a clone and an answer load is loaded now: in a chroot, or without descriptors, it could not be.
    lowlevel.clone3(child=[]).wait()
    import json  # noqa: F401

    return {
        "kernel": os.uname().release,
        "uid": os.geteuid(),
        "cases": [_told(case) for case in cases()],
    }


def _told(case: Case) -> dict[str, Any]:
    answered, not_here = produce(case)
    return {
        "errno": case.errno,
        "call": case.call,
        "situation": case.situation,
        "answered": answered,
        "agrees": None if not_here else answered == case.errno,
        "not_here": not_here,
        "why": case.why,
        "manual": case.manual,
    }


def produce(case: Case) -> tuple[str, str]:
    """What the kernel answered, and why it was not asked. In a forked process; nothing of it is left afterwards."""
    import json

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            os.write(write, json.dumps(_answer(case)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    _reap()
    if not data:
        return "", "the process that was to try it died"
    answered, not_here = json.loads(data)
    return str(answered), str(not_here)


def _answer(case: Case) -> tuple[str, str]:
    try:
        case.make()
    except NotHere as why:
        return "", str(why)
    except OSError as error:
        if is_clones(error):
            return name_of(error.errno or 0), ""
        return "", f"it could not be tried: {error.filename or 'a system call'}: {name_of(error.errno or 0)}"
    except Exception as error:  # to be told, not to be lost with the process
        return "", f"it could not be tried: {type(error).__name__}: {error}"
    return "a child", ""


def answer_of_clone(number: int) -> OSError:
    """An answer that came from another process, as that process had it."""
    return OSError(number, os.strerror(number), "clone3")


def name_of(number: int) -> str:
    """The manual's name: of two names for one number, Python has ENOTSUP and clone(2) EOPNOTSUPP."""
    if number == _ERESTARTNOINTR:
        return "ERESTARTNOINTR"
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


def _reap() -> None:
    """All that the case has left: as their subreaper, its orphans are ours."""
    import signal

    own = os.getpid()
    while True:
        try:
            if os.waitpid(-1, lowlevel.WALL | os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        with open(f"/proc/self/task/{own}/children", encoding="ascii") as file:
            for pid in file.read().split():
                os.kill(int(pid), signal.SIGKILL)
        os.waitpid(-1, lowlevel.WALL)


def cases() -> Iterator[Case]:
    """All of them, by errno where they are of one kind."""
    from ramet.lab import refused_by_cgroups, refused_by_limits, refused_by_rights

    yield from _by_rule()
    yield from _by_field()
    yield from _by_structure()
    yield from refused_by_rights.cases()
    yield from refused_by_limits.cases()
    yield from refused_by_cgroups.cases()
    yield from _elsewhere()


# Combinations and fields


def running_kernel() -> tuple[int, ...]:
    """Its version as exactly as it is told, since rules were changed in stable releases too."""
    from ramet.host.namespaces import kernel_version

    texts = [os.uname().version]
    if os.path.exists("/proc/version_signature"):
        with open("/proc/version_signature", encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
    return stable_release(kernel_version(), texts)


def stable_release(named: tuple[int, ...], texts: Iterable[str]) -> tuple[int, ...]:
    """(6, 1, 158) for a kernel named 6.1.0-41-amd64 whose text says "Debian 6.1.158-1".

    Debian and Ubuntu keep the first release's name, so that modules fit, and say the stable release elsewhere.
    """
    import re

    told = [tuple(map(int, each)) for text in texts for each in re.findall(r"\b(\d+)\.(\d+)\.(\d+)\b", text)]
    return max([named, *(each for each in told if each[:2] == named[:2])])


def _describe(flags: int, call: str = "clone3", **fields: object) -> str:
    more = "".join(f", {name}={value}" for name, value in fields.items())
    return (
        f"{call}({{flags={format_clone(flags)}{more}}})" if call == "clone3" else f"clone({format_clone(flags)}{more})"
    )


def _by_rule() -> Iterator[Case]:
    """The smallest combination of flags for each rule that says EINVAL; through the older call too, where that can say it."""
    for flags, exit_signal, violation in combinations_refused():
        older = _older_refuses(flags, exit_signal)

        def make(flags: int = flags, exit_signal: int = exit_signal, older: bool = older) -> None:
            if older and _older_makes_a_child(flags, exit_signal):
                return
            cgroup = os.open("/", os.O_RDONLY | os.O_CLOEXEC) if flags & CLONE.INTO_CGROUP else None
            _clone(flags, exit_signal=exit_signal, cgroup=cgroup)

        shown = {"exit_signal": signal_name(exit_signal)} if exit_signal else {}
        call = _describe(flags, **shown) + (", and clone likewise" if older else "")
        yield Case("EINVAL", call, _as_privileged_as_can_be(make), why=violation.reason, manual=violation.manual)


def _as_privileged_as_can_be(make: Callable[[], object]) -> Callable[[], object]:
    """In a user namespace, so that root and ordinary users ask the same. Where there is none, as whoever we are: most
    combinations are refused before privilege is looked at."""

    def made() -> None:
        missing: NotHere | None = None
        try:
            enter_user_namespace()
        except NotHere as why:
            missing = why
        try:
            make()
        except OSError as error:
            if missing is not None and is_clones(error) and error.errno == errno.EPERM:
                raise missing from None
            raise

    return made


def _older_refuses(flags: int, exit_signal: int) -> bool:
    from ramet.rules import check

    if flags >> 32 or flags & 0xFF:
        return False
    found = check(flags, exit_signal=exit_signal, call="clone", kernel=running_kernel())
    return bool(found) and found[0].errno == errno.EINVAL


def _older_makes_a_child(flags: int, exit_signal: int) -> bool:
    """Does clone take what clone3 is to refuse?"""
    try:
        lowlevel.clone(flags, exit_signal=exit_signal, child=[])
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def combinations_refused() -> list[tuple[int, int, Any]]:
    """(flags, exit_signal, violation): for each rule of `ramet.rules` about flags, the least that breaks it first."""
    from itertools import combinations

    from ramet.rules import check

    kernel = running_kernel()
    bits = [*CLONE, OBSOLETE_CLONE["DETACHED"], 1 << 40]
    bases = [0, CLONE.VM | CLONE.SIGHAND | CLONE.THREAD, CLONE.PIDFD | CLONE.AUTOREAP | CLONE.PIDFD_AUTOKILL]
    least: dict[tuple[str, str], tuple[int, int, Any]] = {}
    for base in bases:
        for count in (0, 1, 2):
            for chosen in combinations(bits, count):
                flags = int(base)
                for bit in chosen:
                    flags |= int(bit)
                for exit_signal in (0, lowlevel.SIGCHLD):
                    found = check(flags, exit_signal=exit_signal, kernel=kernel, cgroup=3)
                    if not found or found[0].errno != errno.EINVAL:
                        continue
                    key = found[0].source, found[0].reason
                    now = flags, exit_signal, found[0]
                    if key not in least or _size(now) < _size(least[key]):
                        least[key] = now
    return [case for case in least.values() if not _is_sum(case, least.values())]


def _is_sum(case: tuple[int, int, Any], others: Iterable[tuple[int, int, Any]]) -> bool:
    """Is it two of the others at once, refused for what refuses each of them?"""
    _, exit_signal, violation = case
    parts = [
        int(other.flags)
        for _, signal, other in others
        if signal == exit_signal
        and (other.source, other.manual) == (violation.source, violation.manual)
        and other.flags != violation.flags
        and other.flags & violation.flags == other.flags
    ]
    return any(one | two == violation.flags for one in parts for two in parts)


def _size(case: tuple[int, int, Any]) -> int:
    return case[0].bit_count() + (case[1] != 0)


def _clone(flags: int, **fields: Any) -> None:
    """Make it, and wait for what should not have been made."""
    made = lowlevel.clone3(flags, child=[], **fields)
    if not made.flags & (CLONE.PARENT | CLONE.AUTOREAP):
        made.wait()


def _by_field() -> Iterator[Case]:
    """Fields of struct clone_args. The rules say why."""
    from ramet.rules import check

    page = {"stack": 0x1000, "stack_size": 0x1000}
    top = {"stack": 1 << 63, "stack_size": 0x1000}
    for flags, fields in (
        (0, {"exit_signal": 65}),
        (0, {"exit_signal": 0x100}),
        (0, {"stack_size": page["stack_size"]}),
        (0, top),
        (0, {"set_tid": [7] * 33}),
        (0, {"set_tid": [0]}),
        (CLONE.NEWPID, {"set_tid": [7]}),
        (CLONE.INTO_CGROUP, {"cgroup": 1 << 31}),
    ):
        found = check(int(flags), **fields)

        def make(flags: int = int(flags), fields: dict[str, Any] = fields) -> None:
            if "stack_size" in fields or "stack" in fields:
                _raw_clone3(flags, fields.get("stack", 0), fields["stack_size"])
            else:
                _clone(flags, **fields)

        shown = {name: _shown(value) for name, value in fields.items()}
        tried = _as_privileged_as_can_be(make)
        yield Case("EINVAL", _describe(flags, **shown), tried, why=found[0].reason, manual=found[0].manual)
    yield Case(
        "EINVAL",
        "clone3({flags=0, set_tid=[7, ...] (32 of them)})",
        lambda: _clone(0, set_tid=[7] * 32),
        why="set_tid names more pids than the child will be in pid namespaces",
        manual="clone(2), ERRORS, EINVAL: set_tid",
    )
    for flags, why in (
        (CLONE.PIDFD | CLONE.PARENT_SETTID, "clone returns both through parent_tid, and there is room for one"),
        (CLONE.PIDFD | OBSOLETE_CLONE["DETACHED"], "CLONE_DETACHED is kept free beside CLONE_PIDFD"),
    ):
        yield Case(
            "EINVAL",
            _describe(flags, "clone"),
            lambda flags=flags: lowlevel.clone(flags, child=[]).wait(),  # type: ignore[misc]
            why=why,
            manual="clone(2), ERRORS, EINVAL: CLONE_PIDFD",
        )
    yield Case(
        "EINVAL",
        "clone(NULL, NULL, SIGCHLD, NULL), libc's function",
        _libc_clone,
        why="libc wants a function and a stack; it answers by itself, without the kernel",
        manual="clone(2), ERRORS, EINVAL: glibc wrapper",
    )


def _libc_clone() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clone(None, None, lowlevel.SIGCHLD, None) == -1:
        number = ctypes.get_errno()
        raise answer_of_clone(number)


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"[{value[0]}, ...] ({len(value)} of them)"
    return hex(value) if isinstance(value, int) and value > 0xFFFF else str(value)


def _raw_clone3(flags: int, stack: int, stack_size: int) -> None:
    """With fields that lowlevel would fill. Not to be called with what the kernel takes."""
    from struct import pack

    raw_clone3(pack("11Q", flags, 0, 0, 0, lowlevel.SIGCHLD, stack, stack_size, 0, 0, 0, 0), 88)


def raw_clone3(arguments: bytes | int, size: int) -> None:
    """The bare call, for what is refused: a child of it would be a copy that nobody expects, and ends at once."""
    from ramet import _core

    if _core.syscall("clone3", NR["clone3"], arguments, size) == 0:
        os._exit(0)


def _by_structure() -> Iterator[Case]:
    from struct import pack

    known = pack("11Q", 0, 0, 0, 0, lowlevel.SIGCHLD, 0, 0, 0, 0, 0, 0)
    yield Case(
        "EINVAL",
        "clone3(args, 63)",
        lambda: raw_clone3(known, 63),
        why="the first version of struct clone_args was 64 bytes long",
    )
    newer = known + pack("Q", 1)
    yield Case(
        "E2BIG",
        "clone3(args, 96) with a field behind the last, not 0",
        lambda: raw_clone3(newer, 96),
        why="the kernel does not know that field, so it can't do what was asked for",
    )
    yield Case(
        "E2BIG",
        "clone3(args, 65536)",
        lambda: raw_clone3(known + bytes(65536), 65536),
        why="the structure is longer than a page",
    )
    yield Case(
        "EFAULT",
        "clone3((void *)8, 88)",
        lambda: raw_clone3(8, 88),
        why="there is no memory at that address to read the structure from",
    )
    nowhere = pack("11Q", 0, 0, 0, 0, lowlevel.SIGCHLD, 0, 0, 0, 8, 1, 0)
    yield Case(
        "EFAULT",
        "clone3({flags=0, set_tid=(void *)8, set_tid_size=1})",
        lambda: raw_clone3(nowhere, 88),
        why="there is no memory at that address to read the pids from",
    )
    pidfd = pack("11Q", CLONE.PIDFD, 8, 0, 0, lowlevel.SIGCHLD, 0, 0, 0, 0, 0, 0)
    yield Case(
        "EFAULT",
        "clone3({flags=CLONE_PIDFD, pidfd=(void *)8})",
        lambda: raw_clone3(pidfd, 88),
        why="there is no memory at that address to write the pidfd to; the child is unmade",
    )


def _elsewhere() -> Iterator[Case]:
    """What the manual lists and nobody can have here."""

    def never(why: str) -> Callable[[], object]:
        def make() -> None:
            raise NotHere(why)

        return make

    yield Case(
        "ERESTARTNOINTR",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _interrupted,
        why="the kernel makes no child with a signal pending, and calls again by itself: only a tracer sees this",
        manual="clone(2), ERRORS, ERESTARTNOINTR",
        situation="with a signal pending, as a tracer sees it",
    )
    yield Case(
        "EUSERS",
        "clone(CLONE_NEWUSER), nested too deep",
        never("Linux 3.11 to 4.8 said this; since 4.9 the answer is ENOSPC, which is tried above"),
        why="there were 32 user namespaces above the caller's already",
        manual="clone(2), ERRORS, EUSERS",
    )
    yield Case(
        "EINVAL",
        "clone or clone3 with a kind of namespace that was left out of the kernel",
        _missing_kind,
        why="the kernel was built without it (CONFIG_NET_NS and the like)",
        manual="clone(2), ERRORS, EINVAL",
    )
    yield Case(
        "EINVAL",
        "clone with a stack that is not a multiple of 16",
        never("only aarch64 refused that, up to Linux 4.6"),
        why="the stack pointer was not aligned",
        manual="clone(2), ERRORS, EINVAL (AArch64 only)",
    )
    yield Case(
        "EPERM",
        "clone(CLONE_PID)",
        never("Linux 2.5.16 took the flag away, and CLONE_PIDFD has its bit"),
        why="only process 0 may have given its child its own pid",
        manual="clone(2), ERRORS, EPERM: CLONE_PID",
    )
    yield Case(
        "EAGAIN",
        "clone3({flags=0}), too many threads on the whole machine",
        never("kernel.threads-max is the whole machine's: to reach it would stop everybody else's clones too"),
        why="kernel.threads-max is reached",
        manual="clone(2), ERRORS, EAGAIN; fork(2)",
    )


_ERESTARTNOINTR = 513


def _interrupted() -> None:
    from ramet.lab.tracing import interrupted

    def clone() -> int:
        made = lowlevel.clone3()
        return made.pid and made.wait()

    try:
        answer = interrupted(clone, NR["clone3"])
    except PermissionError as error:
        raise NotHere(f"tracing is not allowed here: {error.strerror}") from None
    if answer < 0:
        raise answer_of_clone(-answer)


def _missing_kind() -> None:
    from ramet.flags import NAMESPACE_FILES

    missing = [flag for flag, name in NAMESPACE_FILES.items() if not os.path.exists(f"/proc/self/ns/{name}")]
    if not missing:
        raise NotHere("this kernel has all eight kinds")
    _clone(missing[0] | CLONE.NEWUSER if CLONE.NEWUSER not in missing else missing[0])


# What the cases do to themselves first


def enter_user_namespace() -> None:
    """Be root in a user namespace of one's own, so that root and ordinary users ask the same."""
    from ramet.errors import UnsupportedError
    from ramet.lab.ground import own_user_namespace

    try:
        own = own_user_namespace(os.geteuid(), os.getegid())
    except UnsupportedError as error:
        raise NotHere(f"{error.fact}, so there is no user namespace to try it in") from None
    if not own:
        raise NotHere("this host gives root no user namespace to try it in")


def become_ordinary() -> int:
    """As root: a user that has no account and no processes. The uid."""
    from ramet import _core

    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODYS, _NOBODYS, _NOBODYS)
        os.setresuid(_NOBODYS, _NOBODYS, _NOBODYS)
        _core.syscall("prctl", NR["prctl"], _DUMPABLE, 1, 0, 0, 0)  # or /proc/self is root's
    return os.geteuid()


# The page


def wrong(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases in which the kernel answered something else."""
    return [case for case in found["cases"] if case["agrees"] is False]


def text(found: dict[str, Any], only: str = "") -> str:
    """The page, within 80 columns. only: one errno's name."""
    from ramet.lab.matrix import wrapped

    who = "root" if found["uid"] == 0 else f"the ordinary user {found['uid']}"
    names = list(dict.fromkeys(case["errno"] for case in found["cases"]))
    lines = wrapped(f"What clone and clone3 refuse, each produced on Linux {found['kernel']} as {who}.")
    for name in names:
        if only and name != only:
            continue
        lines += _section(name, [case for case in found["cases"] if case["errno"] == name])
    if not only:
        lines += ["", *_summary(found)]
    return "\n".join(lines)


def _section(name: str, found: list[dict[str, Any]]) -> list[str]:
    from ramet.lab.matrix import wrapped

    number = getattr(errno, name, 0)
    lines = ["", f"{name} ({os.strerror(number)})" if number else name]
    alike: dict[tuple[str, str, str, str, str], list[str]] = {}
    for case in found:
        answered = "" if case["agrees"] is not False else case["answered"]
        key = case["situation"], case["why"], case["manual"], case["not_here"], answered
        alike.setdefault(key, []).append(case["call"])
    for (situation, why, manual, not_here, answered), calls in alike.items():
        for call in calls:
            lines += wrapped(call, indent=2, hanging=2)
        lines += wrapped(f"{situation}{': ' if situation else ''}{why} [{manual}]", indent=6)
        if not_here:
            lines += wrapped(f"not here: {not_here}", indent=6)
        if answered:
            lines += wrapped(f"! the kernel answered {answered}", indent=6)
    return lines


def _summary(found: dict[str, Any]) -> list[str]:
    from ramet.lab.matrix import wrapped

    produced: dict[str, int] = {}
    for case in found["cases"]:
        if case["agrees"]:
            produced[case["errno"]] = produced.get(case["errno"], 0) + 1
    tried = sum(case["agrees"] is not None for case in found["cases"])
    told = ", ".join(f"{name} {count}" for name, count in sorted(produced.items()))
    lines = wrapped(f"{sum(produced.values())} of {tried} tried were answered as said: {told}.")
    for case in wrong(found):
        lines += wrapped(f"! {case['call']}: {case['errno']} expected, {case['answered']} answered", hanging=2)
    missing = [case for case in found["cases"] if case["not_here"]]
    if missing:
        lines += wrapped(f"{len(missing)} could not be had here; each says why.")
    return lines
