"""The sharp layer: clone3 and clone with every field and any flags, namespaces, pidfds, execveat.

Everything here is one system call, done at once to the calling process, and nothing is undone for you. For a
program in a sandbox use `ramet.run`; for a Python function in a process of its own, `ramet.call`.

A child made here is one of two kinds:

- **Python's** (``child=None``): as after os.fork, it goes on where the caller was, in a copy of the memory,
  and `clone3` returns in it with ``pid == 0``. It can't have CLONE_VM or what needs that: a Python child on
  another stack doesn't work. `ramet.call` is for that.
- **Plain** (``child=[...]``): it makes the given system calls, keeps what each returned, and exits. It takes
  any flags at all, CLONE_VM and CLONE_THREAD included, and no Python runs in it.
"""

from __future__ import annotations

import errno as _errno
import os

from ramet import _core
from ramet.errors import SpecError, TimeoutExpired
from ramet.flags import AT, AT_FDCWD, CLONE, PIDFD, PIDFD_SIGNAL, SIGNAL_MAX, format_clone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import TypeAlias

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

SIGCHLD = 17
WALL = 0x4000_0000
"""__WALL: wait for a child whatever its exit signal is. Without it, exit_signal 0 goes unseen."""

_ARM = os.uname().machine == "aarch64"
_NR = {
    "execveat": 281 if _ARM else 322,
    "ioctl": 29 if _ARM else 16,
    "setns": 268 if _ARM else 308,
    "unshare": 97 if _ARM else 272,
    "pidfd_send_signal": 424,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
}

# csrc/plain.h
_STACK = 16 * 1024
_GUARD = 64 * 1024
_HEAD = 32
_CALL = 72
_IMMEDIATE, _ADDRESS, _RESULT = range(3)
_STATUS_AT, _CHILD_TID_AT, _SEEN_TID_AT, _MADE_AT = 4, 20, 24, 28


class Result:
    """As an argument of a `Call`: what an earlier one returned. `Result(0)` is that of the first call."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Buffer:
    """As an argument of a `Call`: the address of so many zeroed bytes, to be read with `Clone.output`."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class Call:
    """One raw system call of a plain child: its number and up to six arguments.

    An argument is an int, bytes (passed by address, with a NUL behind it), a `Buffer`, or a `Result`.
    """

    __slots__ = ("args", "nr")

    def __init__(self, nr: int, *args: int | bytes | Buffer | Result) -> None:
        if len(args) > 6:
            raise SpecError(f"a system call has up to six arguments, not {len(args)}", field="Call.args")
        self.nr, self.args = nr, args


class _Mapping:
    """The memory that a plain child runs on, and leaves its results in."""

    __slots__ = ("buffers", "is_shared", "memory", "n_calls")

    def __init__(self, calls: Sequence[Call], exit_status: int) -> None:
        import mmap
        from struct import pack_into

        self.n_calls, self.is_shared = len(calls), False
        self.buffers: dict[tuple[int, int], tuple[int, int]] = {}
        data_at = _HEAD + _CALL * len(calls)
        encoded, data = [], bytearray()
        for i, call in enumerate(calls):
            kinds, words = 0, [0] * 6
            for j, arg in enumerate(call.args):
                if isinstance(arg, int):
                    kind, words[j] = _IMMEDIATE, arg & 0xFFFF_FFFF_FFFF_FFFF
                elif isinstance(arg, Result):
                    if not 0 <= arg.index < i:
                        why = f"call {i} can't use the result of call {arg.index}, which is not before it"
                        raise SpecError(why, field=f"child[{i}].args[{j}]")
                    kind, words[j] = _RESULT, arg.index
                else:
                    kind, words[j] = _ADDRESS, data_at + len(data)
                    content = bytes(arg.size) if isinstance(arg, Buffer) else arg
                    self.buffers[i, j] = (words[j], len(content))
                    data += content + bytes(8 - len(content) % 8)
                kinds |= kind << (2 * j)
            encoded.append((call.nr, kinds, *words, 0))
        page = mmap.PAGESIZE
        room = -(-(data_at + len(data)) // page) * page
        self.memory = mmap.mmap(-1, room + _GUARD + _STACK, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        pack_into("Ii", self.memory, 0, len(calls), exit_status)
        for i, words_of_call in enumerate(encoded):
            pack_into("qQ6Qq", self.memory, _HEAD + _CALL * i, *words_of_call)
        self.memory[data_at : data_at + len(data)] = bytes(data)

    def word(self, at: int) -> int:
        return int.from_bytes(self.memory[at : at + 4], "little", signed=True)

    @property
    def in_use(self) -> bool:
        """May a child that shares our memory still be running on this?"""
        return self.is_shared and self.word(_CHILD_TID_AT) != 0


_in_use: list[_Mapping] = []
"""Mappings whose `Clone` is gone while the child is not. Unmapping one would crash the child, or us."""


class Clone:
    """What a clone returned. In a Python child, `pid` is 0.

    pid: of the child, in the caller's pid namespace (its thread id, with CLONE_THREAD).
    pidfd: with CLONE_PIDFD, else None. It is close-on-exec; `close` closes it.
    parent_tid: what the kernel wrote with CLONE_PARENT_SETTID, else None.
    flags, exit_signal: what it was made with.
    """

    __slots__ = ("_child_tid", "_mapping", "exit_signal", "flags", "parent_tid", "pid", "pidfd")

    def __init__(
        self,
        pid: int,
        *,
        flags: CLONE,
        exit_signal: int,
        pidfd: int | None,
        parent_tid: int | None,
        child_tid: int,
        mapping: _Mapping | None,
    ) -> None:
        self.pid, self.flags, self.exit_signal = pid, flags, exit_signal
        self.pidfd, self.parent_tid = pidfd, parent_tid
        self._child_tid, self._mapping = child_tid, mapping

    def __repr__(self) -> str:
        return f"<Clone {self.pid}, {format_clone(self.flags, self.exit_signal)}>"

    def __enter__(self) -> Clone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        mapping = getattr(self, "_mapping", None)
        if mapping is not None and mapping.in_use:
            _in_use.append(mapping)

    @property
    def child_tid(self) -> int | None:
        """With CLONE_CHILD_SETTID, the thread id found in the child's memory when it began; else None."""
        if not self.flags & CLONE.CHILD_SETTID:
            return None
        return self._child_tid if self._mapping is None else self._mapping.word(_SEEN_TID_AT)

    @property
    def results(self) -> tuple[int, ...]:
        """What the calls that a plain child has made so far returned: values, or -errno."""
        mapping = self._plain()
        made = mapping.word(_MADE_AT)
        at = [_HEAD + _CALL * i + _CALL - 8 for i in range(made)]
        return tuple(int.from_bytes(mapping.memory[i : i + 8], "little", signed=True) for i in at)

    def output(self, call: int, argument: int) -> bytes:
        """The bytes of a `Buffer` (or of given bytes) that the child's call has written to."""
        at, size = self._plain().buffers[call, argument]
        return bytes(self._plain().memory[at : at + size])

    @property
    def shares_memory(self) -> bool:
        """Is it a CLONE_VM child that has neither ended nor called exec yet?"""
        return self._mapping is not None and self._mapping.in_use

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child to end; its status as os.waitpid gives it (see os.waitstatus_to_exitcode).

        A thread has no status, and gives 0 once it has left. Raises TimeoutExpired, which leaves the child
        alone, and ChildProcessError if somebody else has waited for it. timeout needs a pidfd.
        """
        if self.flags & CLONE.THREAD:
            self._wait_thread(timeout)
            status = 0
        elif self.pidfd is not None:
            status = wait_pidfd(self.pidfd, timeout)
        elif timeout is None:
            status = _status(os.waitid(os.P_PID, self.pid, os.WEXITED | WALL))
        else:
            raise SpecError("waiting with a limit needs a pidfd (pidfd=True)", field="timeout")
        if self._mapping is not None:
            self._mapping.is_shared = False
        return status

    def close(self) -> None:
        """Close the pidfd. With CLONE_PIDFD_AUTOKILL that kills the child."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    def _plain(self) -> _Mapping:
        if self._mapping is None:
            raise SpecError("a Python child has no list of calls", field="Clone")
        return self._mapping

    def _wait_thread(self, timeout: float | None) -> None:
        from time import monotonic, sleep

        end = None if timeout is None else monotonic() + timeout
        while self.shares_memory and os.path.exists(f"/proc/self/task/{self.pid}"):
            if end is not None and monotonic() > end:
                raise TimeoutExpired(f"thread {self.pid} still runs", seconds=timeout or 0)
            sleep(0.0002)


def clone3(
    flags: int = 0,
    *,
    exit_signal: int | None = None,
    pidfd: bool = False,
    child_tid: int = 0,
    parent_tid: int = 0,
    stack: int = 0,
    stack_size: int = 0,
    tls: int = 0,
    set_tid: Sequence[int] = (),
    cgroup: int | None = None,
    child: Sequence[Call] | None = None,
    exit_status: int = 0,
    allow_threads: bool = False,
) -> Clone:
    """clone3(2), with every field of struct clone_args.

    exit_signal: SIGCHLD unless given; 0 with the flags that allow no other. A child with another one than
    SIGCHLD is seen only by a wait with __WALL, as `Clone.wait` does.
    pidfd: adds CLONE_PIDFD. cgroup: the descriptor of a version 2 cgroup; adds CLONE_INTO_CGROUP.
    child_tid, parent_tid: addresses of 32-bit words of your own, which must outlive the child; otherwise
    `Clone.child_tid` and `Clone.parent_tid` show what CLONE_CHILD_SETTID and CLONE_PARENT_SETTID gave. The
    word child_tid of a plain child with CLONE_VM is zeroed when it ends, CLONE_CHILD_CLEARTID or not.
    set_tid: the child's pid, in its innermost pid namespace first. stack, stack_size, tls: addresses, for a
    plain child; it has a stack of its own otherwise.
    child: None for a Python child, or the calls of a plain one, which then exits with exit_status.
    allow_threads: make a Python child although the caller has more threads than this one. Only this one is in
    the child, so a lock that another holds stays locked there for ever: libc's, Python's, any library's. Call
    os.execve or os._exit and nothing else in such a child.

    A Python child runs the hooks of os.register_at_fork, as after os.fork. Signals are blocked in a plain
    child. Raises OSError with what the kernel answered; `ramet.rules.check` says why.
    """
    return _clone(
        flags,
        exit_signal,
        pidfd=pidfd,
        words=(child_tid, parent_tid),
        stack=(stack, stack_size),
        tls=tls,
        set_tid=set_tid,
        cgroup=cgroup,
        child=child,
        exit_status=exit_status,
        allow_threads=allow_threads,
        old=False,
    )


def clone(
    flags: int = 0,
    *,
    exit_signal: int | None = None,
    pidfd: bool = False,
    child_tid: int = 0,
    parent_tid: int = 0,
    stack: int = 0,
    stack_size: int = 0,
    tls: int = 0,
    child: Sequence[Call] | None = None,
    exit_status: int = 0,
    allow_threads: bool = False,
) -> Clone:
    """clone(2), the older call: `clone3` without what only that can say (flags above 32 bits, set_tid)."""
    if flags >> 32 or flags & 0xFF:
        only = flags >> 32 << 32 | flags & 0xFF
        raise SpecError(f"clone can't say {format_clone(only)}; clone3 can", field="flags")
    return _clone(
        flags,
        exit_signal,
        pidfd=pidfd,
        words=(child_tid, parent_tid),
        stack=(stack, stack_size),
        tls=tls,
        set_tid=(),
        cgroup=None,
        child=child,
        exit_status=exit_status,
        allow_threads=allow_threads,
        old=True,
    )


def _clone(
    flags: int,
    exit_signal: int | None,
    *,
    pidfd: bool,
    words: tuple[int, int],
    stack: tuple[int, int],
    tls: int,
    set_tid: Sequence[int],
    cgroup: int | None,
    child: Sequence[Call] | None,
    exit_status: int,
    allow_threads: bool,
    old: bool,
) -> Clone:
    from struct import pack

    kept = CLONE(flags)
    if pidfd:
        kept |= CLONE.PIDFD
    if cgroup is not None:
        kept |= CLONE.INTO_CGROUP
    if exit_signal is None:
        exit_signal = 0 if kept & (CLONE.THREAD | CLONE.PARENT | CLONE.AUTOREAP) else SIGCHLD
    mapping = None
    if child is None:
        _check_python_child(kept, stack, allow_threads)
    else:
        if not 0 <= exit_status <= 255:
            raise SpecError(f"{exit_status} is no exit status (0 to 255)", field="exit_status")
        _in_use[:] = [mapping for mapping in _in_use if mapping.in_use]
        mapping = _Mapping(child, exit_status)
    try:
        fields = pack("11Q", kept, 0, *words, exit_signal, *stack, tls, 0, 0, 0 if cgroup is None else cgroup)
        tids = pack(f"{len(set_tid)}i", *set_tid)
    except Exception as error:
        raise SpecError(f"a field does not fit struct clone_args: {error}", field="clone3") from None
    if mapping is not None:
        # A child that shares our memory keeps the mapping busy from now on, until the kernel zeroes its word.
        # With a word of the user's own, until the wait.
        mapping.is_shared = bool(kept & CLONE.VM)
    try:
        pid, fd, written, child_tid = _core.clone3(fields, tids, None if mapping is None else mapping.memory, old=old)
    except BaseException:
        if mapping is not None:
            mapping.is_shared = False
        raise
    if mapping is not None and kept & CLONE.VFORK:
        mapping.is_shared = False  # it has ended already, or called exec
    return Clone(
        pid,
        flags=kept,
        exit_signal=exit_signal,
        pidfd=fd if kept & CLONE.PIDFD and pid else None,
        parent_tid=written if kept & CLONE.PARENT_SETTID and not words[1] and pid else None,
        child_tid=child_tid,
        mapping=mapping,
    )


def _check_python_child(flags: CLONE, stack: tuple[int, int], allow_threads: bool) -> None:
    unfit = flags & (CLONE.VM | CLONE.THREAD | CLONE.SIGHAND | CLONE.SETTLS)
    if unfit:
        raise SpecError(
            f"a Python child can't have {format_clone(unfit)}: it goes on in a copy of the memory",
            field="flags",
            hint="ramet.call runs Python with CLONE_VM; child=[] makes a plain child with any flags",
        )
    if any(stack):
        raise SpecError("a Python child can't go on with another stack", field="stack")
    threads = 1 if allow_threads else _settled_thread_count()
    if threads > 1:
        raise SpecError(
            f"the caller has {threads} threads; locks that the others hold would stay locked in the child",
            field="child",
            hint="ramet.call and ramet.run are safe from threads; allow_threads=True is for exec alone",
        )


def _settled_thread_count() -> int:
    """How many threads the caller has. One that was just joined may still be on its way out: wait for it.

    Longer where Python knows of this thread only: then it is such a one, on a busy machine, or a library's.
    """
    from sys import _current_frames
    from time import monotonic, sleep

    threads = _thread_count()
    end = monotonic() + (1 if len(_current_frames()) == 1 else 0.02)
    while threads > 1 and monotonic() < end:
        sleep(0.001)
        threads = _thread_count()
    return threads


def _thread_count() -> int:
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        import threading

        return threading.active_count()


def unshare(flags: int) -> None:
    """unshare(2): give the calling thread its own of what these flags name. There is no way back."""
    _core.syscall("unshare", _NR["unshare"], int(flags))


def setns(fd: int, nstype: int = 0) -> None:
    """setns(2): move the calling thread into the namespace that fd, a file of /proc/PID/ns, stands for.

    With a pidfd, nstype names which of that process's namespaces to join (since Linux 5.8); with a file it
    may be 0, or the one kind that is expected.
    """
    _core.syscall("setns", _NR["setns"], fd, int(nstype))


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2): a descriptor that stands for the process; close-on-exec. See `ramet.flags.PIDFD`."""
    return _core.syscall("pidfd_open", _NR["pidfd_open"], pid, int(PIDFD(flags)))


def pidfd_send_signal(pidfd: int, signal: int, flags: int = 0) -> None:
    """pidfd_send_signal(2): signal the process, never another one that has got its pid."""
    if not 0 <= signal <= SIGNAL_MAX:
        raise SpecError(f"there is no signal {signal}", field="signal")
    _core.syscall("pidfd_send_signal", _NR["pidfd_send_signal"], pidfd, int(signal), 0, int(PIDFD_SIGNAL(flags)))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a copy of the process's descriptor fd; close-on-exec. Needs the right to ptrace it."""
    return _core.syscall("pidfd_getfd", _NR["pidfd_getfd"], pidfd, fd, 0)


def wait_pidfd(pidfd: int, timeout: float | None = None) -> int:
    """Wait for the process to end, whatever its exit signal; its status as os.waitpid gives it.

    A child is reaped. Of one that nobody can wait for (CLONE_AUTOREAP, CLONE_PARENT, not a child at all) the
    status comes from the pidfd itself, where the kernel keeps it since Linux 6.15; before that, and for a
    child that was waited for already, ChildProcessError. Raises TimeoutExpired.
    """
    if timeout is not None:
        _poll(pidfd, timeout)
    try:
        return _status(os.waitid(os.P_PIDFD, pidfd, os.WEXITED | WALL))
    except ChildProcessError:
        from ramet.left_status import left_status

        status = left_status(pidfd)
        if status is None:
            raise
        return status


def _poll(pidfd: int, timeout: float) -> None:
    """Wait until the process has ended: its pidfd is readable from then on."""
    from select import POLLIN, poll

    poller = poll()
    poller.register(pidfd, POLLIN)
    if not poller.poll(max(0, int(timeout * 1000 + 0.999))):
        raise TimeoutExpired("the process still runs", seconds=timeout)


def _status(info: os.waitid_result | None) -> int:
    if info is None:
        raise ChildProcessError(_errno.ECHILD, os.strerror(_errno.ECHILD), "waitid")
    if info.si_code == os.CLD_EXITED:
        return info.si_status << 8
    return info.si_status | (0x80 if info.si_code == os.CLD_DUMPED else 0)


class PidfdInfo:
    """What PIDFD_GET_INFO told. What the kernel did not say is None.

    mask: the kernel's own word on which fields it filled. exit_code: as os.waitpid's status, when the process
    has ended and been reaped (since Linux 6.15). Of such a process nothing else but cgroup_id is left.
    """

    __slots__ = (
        "cgroup_id",
        "effective_gid",
        "effective_uid",
        "exit_code",
        "mask",
        "pid",
        "ppid",
        "real_gid",
        "real_uid",
        "tgid",
    )

    def __init__(
        self,
        mask: int,
        *,
        cgroup_id: int | None,
        pid: int | None,
        tgid: int | None,
        ppid: int | None,
        uids: tuple[int | None, int | None],
        gids: tuple[int | None, int | None],
        exit_code: int | None,
    ) -> None:
        self.mask, self.cgroup_id, self.exit_code = mask, cgroup_id, exit_code
        self.pid, self.tgid, self.ppid = pid, tgid, ppid
        self.real_uid, self.effective_uid = uids
        self.real_gid, self.effective_gid = gids

    def __repr__(self) -> str:
        return f"<PidfdInfo pid={self.pid} exit_code={self.exit_code} mask={self.mask:#x}>"


_INFO_SIZE = 64
_PIDFD_GET_INFO = 3 << 30 | _INFO_SIZE << 16 | 0xFF << 8 | 11
_INFO_PID, _INFO_CREDS, _INFO_CGROUPID, _INFO_EXIT = 1, 2, 4, 8


def pidfd_info(pidfd: int) -> PidfdInfo:
    """ioctl(PIDFD_GET_INFO), since Linux 6.13: ids, cgroup, and the exit status of one that is gone (6.15).

    Raises OSError: ENOTTY from a kernel without it, ESRCH if the process is gone and the kernel kept nothing,
    or is outside the caller's pid namespace.
    """
    from struct import unpack_from

    buffer = bytearray(_INFO_SIZE)
    buffer[0] = _INFO_PID | _INFO_CREDS | _INFO_CGROUPID | _INFO_EXIT
    _core.syscall("ioctl(PIDFD_GET_INFO)", _NR["ioctl"], pidfd, _PIDFD_GET_INFO, buffer)
    mask, cgroup, pid, tgid, ppid, ruid, rgid, euid, egid = unpack_from("QQ7I", buffer)
    alive, creds = bool(mask & _INFO_PID), bool(mask & _INFO_CREDS)
    return PidfdInfo(
        mask,
        cgroup_id=cgroup if mask & _INFO_CGROUPID else None,
        pid=pid if alive else None,
        tgid=tgid if alive else None,
        ppid=ppid if alive else None,
        uids=(ruid, euid) if creds else (None, None),
        gids=(rgid, egid) if creds else (None, None),
        exit_code=unpack_from("i", buffer, 60)[0] if mask & _INFO_EXIT else None,
    )


def execveat(
    dirfd: int, path: Path, argv: Sequence[str | bytes], env: Mapping[str, str] | None = None, flags: int = 0
) -> None:
    """execveat(2): become the program. With an empty path and AT.EMPTY_PATH, the one that dirfd is.

    Returns only with AT.EXECVE_CHECK, which asks whether it could (since Linux 6.14). Raises OSError. env is
    the caller's unless given. Note that a script can't be run from a close-on-exec descriptor.
    """
    if not argv:
        raise SpecError("empty: the program's own name belongs there", field="argv")
    environment = os.environb if env is None else {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    arguments = _Strings([os.fsencode(arg) for arg in argv], "argv")
    variables = _Strings([name + b"=" + value for name, value in environment.items()], "env")
    _core.syscall(
        "execveat",
        _NR["execveat"],
        dirfd,
        _c_string(os.fsencode(path), "path"),
        arguments.pointers,
        variables.pointers,
        int(AT(flags)),
    )


def _c_string(text: bytes, field: str) -> bytes:
    if b"\0" in text:
        raise SpecError(f"{text!r} has a NUL byte", field=field)
    return text + b"\0"


class _Strings:
    """A NULL-terminated array of pointers to C strings, as execve takes it."""

    __slots__ = ("pointers", "strings")

    def __init__(self, strings: list[bytes], field: str) -> None:
        from ctypes import addressof, create_string_buffer
        from struct import pack

        checked = [_c_string(text, f"{field}[{i}]") for i, text in enumerate(strings)]
        self.strings = [create_string_buffer(text, len(text)) for text in checked]
        self.pointers = pack(f"{len(checked) + 1}Q", *map(addressof, self.strings), 0)


__all__ = [
    "AT_FDCWD",
    "Buffer",
    "Call",
    "Clone",
    "PidfdInfo",
    "Result",
    "clone",
    "clone3",
    "execveat",
    "pidfd_getfd",
    "pidfd_info",
    "pidfd_open",
    "pidfd_send_signal",
    "setns",
    "unshare",
    "wait_pidfd",
]
