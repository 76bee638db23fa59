"""The flags that share nothing do something else: each effect, with the flag and without."""

from __future__ import annotations

import errno
import os

from ramet import lowlevel
from ramet.flags import CLONE, format_clone
from ramet.lab.numbers import NR
from ramet.lab.script import is_clones
from ramet.lowlevel import Buffer, Call, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_C = CLONE
_ARM = os.uname().machine == "aarch64"


class Unknown(Exception):
    """It can't be told here; the text says why."""


class Effect:
    """One flag. happens: does it, with these flags? sentence: what the manual says happens.

    company: the flags it is tried with. control: those of the try without; the company alone, unless given.
    note: what to say where the kernel does something else.
    """

    __slots__ = ("company", "control", "flag", "happens", "note", "page", "sentence")

    def __init__(
        self,
        flag: CLONE,
        sentence: str,
        happens: Callable[[int], bool],
        *,
        company: int = 0,
        control: int | None = None,
        page: str = "clone(2)",
        note: str = "",
    ) -> None:
        self.flag, self.sentence, self.happens = flag, sentence, happens
        self.company, self.page, self.note = CLONE(company), page, note
        self.control = self.company if control is None else CLONE(control)


def measure() -> list[dict[str, Any]]:
    """Each effect with its flag and without. JSON-able::

    [{"flag", "with", "sentence", "page", "happens", "without", "control", "agrees", "why_not", "note"}]

    happens and without are whether it happened with the flag (and the flags "with"), and with those of control, which
    lack it; None where it could not be told, and why_not says why. agrees is whether it happened with and not without;
    note is what to say where it did not. To be called in a process of `ramet.lab.ground`.
    """
    return [_measured(effect) for effect in EFFECTS]


def _measured(effect: Effect) -> dict[str, Any]:
    with_it, why = _ask(effect, effect.company | effect.flag)
    without = None
    if not why:
        without, why = _ask(effect, effect.control)
    return {
        "flag": format_clone(effect.flag),
        "with": format_clone(effect.company) if effect.company else "",
        "sentence": effect.sentence,
        "page": effect.page,
        "happens": with_it,
        "without": without,
        "control": format_clone(effect.control) if effect.control else "",
        "agrees": None if why else bool(with_it and not without),
        "why_not": why,
        "note": effect.note,
    }


def _ask(effect: Effect, flags: int) -> tuple[bool | None, str]:
    try:
        return effect.happens(flags), ""
    except Unknown as why:
        return None, str(why)
    except OSError as error:
        if not is_clones(error):
            raise
        return None, errno.errorcode.get(error.errno or 0, str(error.errno))


def _nap() -> Call:
    from struct import pack

    return Call(NR["nanosleep"], pack("qq", 0, 3_000_000), 0)


def _pidfd(flags: int) -> bool:
    with lowlevel.clone3(flags, child=[_nap()]) as made:
        known = None
        if made.pidfd is not None:
            with open(f"/proc/self/fdinfo/{made.pidfd}", encoding="ascii") as file:
                known = [int(line.split()[1]) for line in file if line.startswith("Pid:")]
        made.wait()
    return known == [made.pid]


def _vfork(flags: int) -> bool:
    """The child waits for a word of the caller's: one that hears nothing for a while has a caller that sleeps.

    Without the flag it may wait long, since it will be told.
    """
    from struct import pack

    patience = (0, 150_000_000) if flags & _C.VFORK else (10, 0)
    read, write = os.pipe()
    try:
        made = lowlevel.clone3(
            flags, child=[Call(NR["ppoll"], pack("ihh", read, 1, 0), 1, pack("qq", *patience), 0, 8)]
        )
        os.write(write, b".")
        made.wait()
    finally:
        os.close(read)
        os.close(write)
    return made.results[0] == 0


class _Word:
    """32 bits that a child in a copy of the memory writes to all the same."""

    def __init__(self, value: int) -> None:
        import ctypes
        import mmap

        self._page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        self._word = ctypes.c_int.from_buffer(self._page)
        self.address = ctypes.addressof(self._word)
        self._word.value = value

    @property
    def value(self) -> int:
        return int(self._word.value)


def _parent_settid(flags: int) -> bool:
    word = _Word(0)
    made = lowlevel.clone3(flags, parent_tid=word.address, child=[])
    made.wait()
    return word.value == made.pid


def _child_settid(flags: int) -> bool:
    word = _Word(0)
    made = lowlevel.clone3(flags, child_tid=word.address, child=[])
    made.wait()
    return word.value == made.pid


def _child_cleartid(flags: int) -> bool:
    word = _Word(77)
    lowlevel.clone3(flags, child_tid=word.address, child=[]).wait()
    return word.value == 0


def _settls(flags: int) -> bool:
    if _ARM:
        raise Unknown("no system call tells the thread pointer on aarch64")
    word = _Word(0)
    made = lowlevel.clone3(flags, tls=word.address, child=[Call(158, 0x1003, Buffer(8))])  # arch_prctl(ARCH_GET_FS)
    made.wait()
    return int.from_bytes(made.output(0, 1), "little") == word.address


def _status_line(name: str, flags: int) -> int:
    """A number of the child's own /proc/self/status."""
    calls = [
        Call(NR["openat"], -100, b"/proc/thread-self/status", os.O_RDONLY, 0),
        Call(NR["read"], Result(0), Buffer(4096), 4096),
    ]
    with lowlevel.clone3(flags, child=calls) as made:
        if made.flags & CLONE.AUTOREAP:
            _until_gone(made.pid)
        else:
            made.wait()
        lines = made.output(1, 1).partition(b"\0")[0].decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _until_gone(pid: int) -> None:
    while os.path.exists(f"/proc/{pid}"):
        os.sched_yield()


def _ptrace(flags: int) -> bool:
    from ramet.lab.tracing import traced

    return _in_tracee(traced(lambda: _status_line("TracerPid", flags) != 0))


def _untraced(flags: int) -> bool:
    from ramet.lab.tracing import FOLLOW, traced

    return not _in_tracee(traced(lambda: _status_line("TracerPid", flags) != 0, FOLLOW))


def _in_tracee(answer: int) -> bool:
    if answer not in (0, 1):
        raise Unknown("the traced process died")
    return bool(answer)


def _autoreap(flags: int) -> bool:
    made = lowlevel.clone3(flags, child=[], exit_signal=0)
    if flags & CLONE.AUTOREAP:
        _until_gone(made.pid)
    try:
        os.waitpid(made.pid, lowlevel.WALL)
    except ChildProcessError:
        return True
    return False


def _nnp(flags: int) -> bool:
    return _status_line("NoNewPrivs", flags) == 1


def _autokill(flags: int) -> bool:
    import signal

    made = lowlevel.clone3(flags, exit_signal=0, child=[Call(NR["ppoll"], 0, 0, 0, 0, 8)])
    observer = lowlevel.pidfd_open(made.pid)
    try:
        made.close()
        ended = _ends(observer)
        if not ended:
            lowlevel.pidfd_send_signal(observer, signal.SIGKILL)
        _until_gone(made.pid)
    finally:
        os.close(observer)
    return ended


def _ends(pidfd: int) -> bool:
    from select import POLLIN, poll

    poller = poll()
    poller.register(pidfd, POLLIN)
    return bool(poller.poll(2000))


EFFECTS = (
    Effect(_C.PIDFD, "the caller gets a descriptor for the child", _pidfd),
    Effect(_C.PTRACE, "the caller's tracer traces the child too", _ptrace),
    Effect(_C.VFORK, "the caller sleeps until the child ends or execs", _vfork),
    Effect(_C.SETTLS, "the child's thread pointer is the one given", _settls),
    Effect(_C.PARENT_SETTID, "the child's thread id is written for the caller", _parent_settid),
    Effect(_C.CHILD_SETTID, "the child's thread id is written in the child", _child_settid),
    Effect(
        _C.CHILD_CLEARTID,
        "child_tid is zeroed when the child ends",
        _child_cleartid,
        note="Nobody else used the child's memory, and then the kernel leaves the word as it is: set_tid_address(2) "
        "says so, clone(2) does not. A word in a shared mapping shows it.",
    ),
    Effect(  # lowlevel sets the flag itself beside CLONE_VM, so the control is the other way round
        _C.CHILD_CLEARTID,
        "the same, in memory that is shared",
        _child_cleartid,
        company=_C.VM,
        control=_C.CHILD_CLEARTID,
        page="set_tid_address(2)",
    ),
    Effect(_C.UNTRACED, "a tracer that follows children can't follow it", _untraced),
    Effect(_C.AUTOREAP, "the child leaves nothing to wait for", _autoreap),
    Effect(_C.NNP, "the child has no_new_privs", _nnp),
    Effect(_C.PIDFD_AUTOKILL, "closing the pidfd kills the child", _autokill, company=_C.PIDFD | _C.AUTOREAP),
)
