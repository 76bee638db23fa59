"""Who made whom: from records to tasks, each with its calls, each call with the task that it made. Pure."""

from __future__ import annotations

import errno as _errno
import os
from functools import lru_cache

from ramet.flags import CLONE, CSIGNAL, NAMESPACES, format_clone, signal_name
from ramet.trace import records
from ramet.trace.calls import ARCHES, NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ramet.trace.records import Record

KINDS = {
    CLONE.NEWUSER: "user",
    CLONE.NEWNS: "mount",
    CLONE.NEWPID: "pid",
    CLONE.NEWNET: "network",
    CLONE.NEWIPC: "ipc",
    CLONE.NEWUTS: "uts",
    CLONE.NEWCGROUP: "cgroup",
    CLONE.NEWTIME: "time",
}
_FOR_CHILDREN = CLONE.NEWPID | CLONE.NEWTIME
#: Programs make many calls with few kinds of flags, and an enum's own arithmetic is slow.
_flags = lru_cache(256)(CLONE)
_THREAD, _NONE = int(CLONE.THREAD), CLONE(0)
MAKING = ("clone", "clone3", "fork", "vfork")
_CLONE_ARGS = (
    "flags",
    "pidfd",
    "child_tid",
    "parent_tid",
    "exit_signal",
    "stack",
    "stack_size",
    "tls",
    "set_tid",
    "set_tid_size",
    "cgroup",
)
_EXIT_SIGNAL = 8 * _CLONE_ARGS.index("exit_signal")

#: Never seen by programs: the kernel makes the call again, after the signal.
RESTARTED = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}


@lru_cache(256)
def kinds_of(flags: int) -> tuple[str, ...]:
    """("user", "mount") for CLONE_NEWUSER|CLONE_NEWNS, in the order in which people name them."""
    found = [KINDS[flag] for flag in NAMESPACES if flags & int(flag)]
    if flags & CLONE.EMPTY_MNTNS and "mount" not in found:
        found.append("mount")
    return tuple(found)


class Call:
    """One call of a task.

    name: "clone3". arch: "x86_64", or "i386" and "arm" for a 32-bit call. arguments: its six, as numbers. flags:
    of those that have some; None where they could not be read. exit_signal: of clone and clone3. structure:
    clone3's struct clone_args. path, argv: of execve and execveat; argv is None where it could not be read,
    and `cut` says that there was more than is kept. result: what the caller got, None if the call never ended.
    errno: 0 if it did not fail. child: the task that it made. leader: of an exec by a thread: the task in
    which the process goes on. reason: why it failed, where that is known.
    """

    __slots__ = (
        "arch",
        "arguments",
        "argv",
        "child",
        "cut",
        "errno",
        "exit_signal",
        "flags",
        "leader",
        "name",
        "path",
        "reason",
        "result",
        "structure",
        "task",
    )

    def __init__(self, task: Task, name: str, *, arch: str = "x86_64", arguments: Sequence[int] = ()) -> None:
        self.task, self.name, self.arch, self.arguments = task, name, arch, tuple(arguments)
        self.flags: CLONE | None = _NONE
        self.exit_signal = 0
        self.structure = b""
        self.path: str | None = None
        self.argv: tuple[str, ...] | None = None
        self.cut = False
        self.result: int | None = None
        self.errno = 0
        self.child: Task | None = None
        self.leader: Task | None = None
        self.reason: str | None = None

    @property
    def fields(self) -> dict[str, int]:
        """The structure by its fields' names; empty for a call that has none."""
        words = (self.structure[at : at + 8] for at in range(0, len(self.structure), 8))
        return {name: int.from_bytes(word, "little") for name, word in zip(_CLONE_ARGS, words, strict=False)}

    @property
    def dropped(self) -> int:
        """The bits above 32 that were given to clone, which takes no more and says nothing."""
        wide = self.name == "clone" and self.arch not in ("i386", "arm") and self.arguments
        return self.arguments[0] >> 32 << 32 if wide else 0

    @property
    def errno_name(self) -> str | None:
        """ "EPERM"; None if it did not fail."""
        if not self.errno:
            return None
        if self.errno == _errno.EOPNOTSUPP:  # which is also ENOTSUP; this is the manual's name
            return "EOPNOTSUPP"
        return RESTARTED.get(self.errno) or _errno.errorcode.get(self.errno, str(self.errno))

    @property
    def failed(self) -> bool:
        """Did it fail? A call that a signal interrupted, and that the kernel makes again by itself, did not."""
        return self.errno != 0 and self.errno not in RESTARTED

    @property
    def new(self) -> tuple[str, ...]:
        """The kinds of namespace that it made for whom it is about: the child, or of unshare the caller itself."""
        if self.errno or self.result is None or self.name == "setns":
            return ()
        own = self.flags or 0
        return kinds_of(own & ~_FOR_CHILDREN if self.name == "unshare" else own)

    @property
    def new_for_children(self) -> tuple[str, ...]:
        """The kinds that an unshare made for the children which are to come: pid, time."""
        if self.name != "unshare" or self.errno or self.result is None:
            return ()
        return kinds_of((self.flags or 0) & _FOR_CHILDREN)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        found: dict[str, Any] = {"call": self.name, "arch": self.arch}
        if self.name in ("execve", "execveat"):
            found |= {"path": self.path, "argv": None if self.argv is None else list(self.argv), "cut": self.cut}
        elif self.name not in ("fork", "vfork"):
            found["flags"] = None if self.flags is None else _flag_names(self.flags)
        if self.name in ("clone", "clone3"):
            found["exit_signal"] = signal_name(self.exit_signal) if self.exit_signal else None
        if self.dropped:
            found["dropped"] = hex(self.dropped)
        if self.name == "setns":
            found["fd"] = _signed(self.arguments[0])
        found |= {"result": self.result, "errno": self.errno_name, "reason": self.reason}
        if self.name not in ("execve", "execveat"):
            found |= {"new_namespaces": list(self.new), "new_namespaces_for_children": list(self.new_for_children)}
        found["child"] = None if self.child is None else self.child.index
        if self.leader is not None:
            found["goes_on_as"] = self.leader.index
        return found


class Task:
    """A process or thread.

    index: its place among all. tid: as we see it; inside: in its own pid namespace, where that is not ours (0 where
    unknown). thread: of `process`, which is itself for a process. maker: the call that made it; None for the command.
    calls: in order. status: how it ended, as os.waitpid gives it; None where an exec of another thread ended it.
    """

    __slots__ = ("calls", "index", "inside", "maker", "others_pid", "process", "status", "thread", "tid")

    def __init__(self, index: int, tid: int, maker: Call | None) -> None:
        self.index, self.tid, self.maker = index, tid, maker
        self.inside: int | None = None
        self.thread = False
        self.process = self
        self.calls: list[Call] = []
        self.status: int | None = None
        self.others_pid = False  # its children go to another pid namespace: it has called unshare or setns

    @property
    def exit_code(self) -> int | None:
        """As a shell tells it: 128+n for a signal; None where it is not known."""
        if self.status is None:
            return None
        code = os.waitstatus_to_exitcode(self.status)
        return code if code >= 0 else 128 - code

    @property
    def signal(self) -> int:
        """The signal that ended it, or 0."""
        return 0 if self.status is None else self.status & 0x7F

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        ended = None if self.status is None else self.exit_code
        return {
            "task": self.index,
            "kind": "thread" if self.thread else "process",
            "pid": self.tid,
            "pid_inside": self.inside,
            "process": self.process.index,
            "maker": None if self.maker is None else self.maker.task.index,
            "new_namespaces": [] if self.maker is None else list(self.maker.new),
            "exit_code": None if self.signal else ended,
            "signal": signal_name(self.signal) if self.signal else None,
            "calls": [call.as_dict() for call in self.calls],
        }


def _flag_names(flags: CLONE) -> list[str]:
    text = format_clone(flags)
    return [] if text == "0" else text.split("|")


def assemble(found: Iterable[Record], root: int) -> list[Task]:
    """The tasks, in the order in which they were made; the first is the command itself, whose pid is `root`."""
    return _Assembly(root).of(found)


class _Assembly:
    """The state of assembling: which task has which id now, and the call each is in."""

    def __init__(self, root: int) -> None:
        self.tasks: list[Task] = []
        self.now: dict[int, Task] = {}
        self.inside_call: dict[Task, Call] = {}
        self.orphans: dict[int, Task] = {}
        self._new(root, None)

    def of(self, found: Iterable[Record]) -> list[Task]:
        handlers = {
            records.ENTER: self.enter,
            records.LEAVE: self.leave,
            records.CHILD: self.child,
            records.EXEC: self.executed,
            records.INSIDE: self.inside,
            records.END: self.end,
        }
        for record in found:
            handlers[record.kind](record)
        return self.tasks

    def _new(self, tid: int, maker: Call | None) -> Task:
        task = self.now[tid] = Task(len(self.tasks), tid, maker)
        self.tasks.append(task)
        return task

    def enter(self, record: Record) -> None:
        """A call begins."""
        task = self.now[record.tid]
        call = Call(
            task,
            NAMES[record.arch, record.value],
            arch=ARCHES[record.arch],
            arguments=record.args,
        )
        _DECODE[call.name](call, record)
        task.calls.append(call)
        self.inside_call[task] = call

    def leave(self, record: Record) -> None:
        """A call has returned."""
        task = self.now[record.tid]
        call = self.inside_call.pop(task)
        if record.value < 0:
            call.errno, call.result = -record.value, -1
            return
        call.result = record.value
        if call.name in ("unshare", "setns") and call.flags and call.flags & CLONE.NEWPID:
            task.others_pid = True

    def child(self, record: Record) -> None:
        """A call has made a task."""
        maker = self.now[record.tid]
        call = self.inside_call[maker]  # stays: a maker in another pid namespace returns with a number of its own
        child = self.orphans.pop(record.value, None) or self._new(record.value, call)
        child.maker, call.child, call.result = call, child, record.value
        if call.flags and int(call.flags) & _THREAD:
            child.thread, child.process = True, maker.process

    def inside(self, record: Record) -> None:
        """A task is in another pid namespace."""
        if record.value != record.tid:
            self.now[record.tid].inside = record.value

    def executed(self, record: Record) -> None:
        """A task runs another program; a thread that asked for that is the leader from here on."""
        task, caller = self.now[record.tid], self.now[record.value]
        call = self.inside_call.pop(caller, None)
        if call is None:
            return
        call.result = 0
        if call.path is None and record.tail:
            _program(call, record)
        if caller is not task:
            self.inside_call.pop(task, None)
            call.leader = task
            del self.now[record.value]

    def end(self, record: Record) -> None:
        """A task has ended; it may be one whose maker has not told of it yet."""
        task = self.now.get(record.tid)
        if task is None or task.status is not None:
            task = self.orphans[record.tid] = self._new(record.tid, None)
        task.status = record.value  # the call it was in stays: it may turn out to have made a task


# What a call's arguments mean


def _text(raw: bytes) -> str:
    return os.fsdecode(raw)


def _signed(word: int) -> int:
    """An int in a register."""
    return (word & 0xFFFF_FFFF) - ((word & 0x8000_0000) << 1)


def _nothing(call: Call, record: Record) -> None:
    call.exit_signal = 17


def _clone(call: Call, record: Record) -> None:
    bits = record.args[0] & 0xFFFF_FFFF
    call.flags, call.exit_signal = _flags(bits & ~CSIGNAL), bits & CSIGNAL


def _clone3(call: Call, record: Record) -> None:
    if record.tail_state & records.UNREADABLE or len(record.tail) < 8:
        call.flags = None
        return
    call.structure = record.tail
    call.flags = _flags(int.from_bytes(record.tail[:8], "little"))
    call.exit_signal = int.from_bytes(record.tail[_EXIT_SIGNAL : _EXIT_SIGNAL + 8], "little")


def _unshare(call: Call, record: Record) -> None:
    call.flags = CLONE(record.args[0] & 0xFFFF_FFFF)


def _setns(call: Call, record: Record) -> None:
    call.flags = CLONE(record.args[1] & 0xFFFF_FFFF)


def _program(call: Call, record: Record) -> None:
    call.cut = bool(record.tail_state & records.CUT)
    if not record.tail:
        return
    path, *argv = record.tail.removesuffix(b"\0").split(b"\0")
    call.path = _text(path)
    if argv or not record.tail_state & records.UNREADABLE:
        call.argv = tuple(map(_text, argv))


_DECODE = {
    "clone": _clone,
    "clone3": _clone3,
    "fork": _nothing,
    "vfork": _nothing,
    "unshare": _unshare,
    "setns": _setns,
    "execve": _program,
    "execveat": _program,
}
