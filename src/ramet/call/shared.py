"""A function in a child that shares the caller's memory. csrc/call.c does it, and lists the hazards."""

from __future__ import annotations

import os

from ramet import _core
from ramet.call.build import FREE_THREADED, refuse_free_threaded
from ramet.errors import ChildDied, SpecError, SpecTypeError
from ramet.spec import Join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn, Protocol, TypeVar

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    T = TypeVar("T")
    Namespace = str | os.PathLike[str] | int | HasFileno
    Joined = Namespace | tuple[Namespace, int] | Join

# linux/sched.h
_VM, _FS, _FILES, _SIGHAND = 0x100, 0x200, 0x400, 0x800
_PIDFD, _PTRACE, _VFORK, _PARENT, _THREAD = 0x1000, 0x2000, 0x4000, 0x8000, 0x10000
_NEWNS, _SYSVSEM, _SETTLS, _PARENT_SETTID = 0x20000, 0x40000, 0x80000, 0x100000
_CHILD_CLEARTID, _DETACHED, _UNTRACED, _CHILD_SETTID = 0x200000, 0x400000, 0x800000, 0x1000000
_NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER = 0x2000000, 0x4000000, 0x8000000, 0x10000000
_NEWPID, _NEWNET, _IO = 0x20000000, 0x40000000, 0x80000000
_CLEAR_SIGHAND, _INTO_CGROUP, _NEWTIME = 1 << 32, 1 << 33, 0x80

_ALLOWED = (
    *(_VM, _FS, _FILES, _SIGHAND, _PIDFD, _PTRACE, _VFORK, _SYSVSEM, _UNTRACED, _IO, _CLEAR_SIGHAND),
    *(_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET),
)
_REFUSED = ~sum(_ALLOWED)

_WHY_NOT = {
    _THREAD: ("CLONE_THREAD", "the child would be a thread, with no exit to wait for; use threading"),
    _PARENT: ("CLONE_PARENT", "the child would be the parent's, and only its parent can wait for it"),
    _SETTLS: ("CLONE_SETTLS", "the child runs on the caller's Python thread state, which lives in its TLS"),
    _PARENT_SETTID: ("CLONE_PARENT_SETTID", "it needs an address; the function can return os.getpid()"),
    _CHILD_SETTID: ("CLONE_CHILD_SETTID", "it needs an address; the function can return os.getpid()"),
    _CHILD_CLEARTID: ("CLONE_CHILD_CLEARTID", "call uses it itself, to see the child leave the memory"),
    _DETACHED: ("CLONE_DETACHED", "it means nothing since Linux 2.6.2, and CLONE_PIDFD forbids it"),
    _NEWTIME: ("CLONE_NEWTIME", "a time namespace belongs to the memory, and the child shares the caller's"),
    _INTO_CGROUP: ("CLONE_INTO_CGROUP", "memory is charged to the caller's cgroup in any case"),
}
_PAIRS = (
    (_NEWNS, "CLONE_NEWNS", _FS, "CLONE_FS", "root and working directory lie in one mount namespace"),
    (_NEWUSER, "CLONE_NEWUSER", _FS, "CLONE_FS", "the child could change the caller's root with chroot"),
    (_NEWIPC, "CLONE_NEWIPC", _SYSVSEM, "CLONE_SYSVSEM", "the undo list names the semaphores outside"),
    (_SIGHAND, "CLONE_SIGHAND", _CLEAR_SIGHAND, "CLONE_CLEAR_SIGHAND", "share handlers or clear them"),
)
_PAIRED = _FS | _SYSVSEM | _SIGHAND


def call(
    fn: Callable[..., T],
    /,
    *args: object,
    flags: int = _VM,
    join: Iterable[Joined] = (),
    exit_signal: int = 0,
    map_uid: int | None = None,
    map_gid: int | None = None,
    **kwargs: object,
) -> T:
    """Return ``fn(*args, **kwargs)``, run in another process that shares this one's memory.

    The process is new, and has its own pid, signal handlers and whatever `flags` does not share: descriptors
    (without CLONE_FILES), working directory, root and umask (without CLONE_FS), and a namespace for every
    CLONE_NEW*. The memory is the same, so nothing is pickled: any object comes back as itself, any exception
    with its traceback, and it costs what a process costs, however big the caller is.

        call(os.getpid)                                                              # another pid
        call(socket.create_server, ("127.0.0.1", 80), flags=CLONE.FILES, join=["/run/netns/web"])
        call(os.getuid, flags=CLONE.NEWUSER, map_uid=0)                              # 0, and no root needed

    **It isolates the environment, not the memory. It is for code you trust.** Use `run` for other code.

    flags: CLONE_ flags. CLONE_VM, CLONE_VFORK and CLONE_PIDFD are implied. With CLONE_SIGHAND signal handlers
        are shared on purpose; with CLONE_CLEAR_SIGHAND they are default, and a signal may kill the function.
    join: namespaces the child enters (setns) first, in order, each a path, an open descriptor,
        (pidfd, CLONE_NEW... flags), or a Join, which also takes the pid of somebody in it. A pid namespace is entered only by what the function starts.
    exit_signal: sent to this process when the child ends. With SIGCHLD, a wait() for any child may get it.
    map_uid, map_gid: what the caller's own id is in the new user namespace; unmapped it is the overflow id.

    While the function runs, the calling thread stands still and other threads go on. What to know:

    - Descriptors, unless shared with CLONE_FILES, are the child's. An object that holds one opened in the
      child is useless and dangerous to the caller: closing it closes whatever has that number here. Likewise
      an object of the caller's that dies in the child leaves its descriptor open here.
    - Python's state is memory: os.environ, signal.signal(), caches, locks, the buffer of sys.stdout are the
      caller's. setuid and the like are the child's alone.
    - Ctrl-C raises KeyboardInterrupt in a function called from the main thread. Other signals that would end
      a process pass the child by; the caller's own are delivered to it as soon as the function has returned.
      With other threads in the caller, a handler of Python's may run while the child is the main thread.
    - Nothing runs at the child's exit. The call lasts until all threads the function started have ended.
    - A running asyncio loop is blocked; use asyncio.to_thread. Don't switch greenlets out of it.

    Raises `SpecError` for a combination that can't work, with the reason; OSError when the kernel refuses the
    clone, a map or a namespace; and `ChildDied` when the child was killed, called os._exit, or became
    another program by os.exec*. After a killed one, as after a killed thread, locks it held stay held and
    what it was changing may be half changed: save what you must, and end the process. One killed while it
    allocated memory may have taken malloc's lock with it; then this process hangs, and no `ChildDied` comes.
    """
    if not callable(fn):
        raise SpecTypeError(f"{fn!r} can't be called", field="fn")
    if flags & _REFUSED or flags & _PAIRED:
        _check_flags(flags)
    if FREE_THREADED:
        refuse_free_threaded()
    if not join and not exit_signal and map_uid is None and map_gid is None:
        result: T = _core.call(fn, args, kwargs or None, _died, flags)
        return result
    return _call_with(fn, args, kwargs, flags, join, exit_signal, map_uid, map_gid)


def _call_with(
    fn: Callable[..., T],
    args: tuple[object, ...],
    kwargs: dict[str, object],
    flags: int,
    join: Iterable[Joined],
    exit_signal: int,
    map_uid: int | None,
    map_gid: int | None,
) -> T:
    if not 0 <= exit_signal <= 64:
        raise SpecError(f"{exit_signal} is no signal number", field="exit_signal")
    uid_map = _one_line(map_uid, os.geteuid(), "map_uid", flags)
    gid_map = _one_line(map_gid, os.getegid(), "map_gid", flags)
    opened: list[int] = []
    try:
        joins = _open_all(join, opened)
        result: T = _core.call(
            fn,
            args,
            kwargs or None,
            _died,
            flags,
            exit_signal=exit_signal,
            join=joins,
            uid_map=uid_map,
            gid_map=gid_map,
        )
        return result
    finally:
        for fd in opened:
            os.close(fd)


def _one_line(inside: int | None, outside: int, field: str, flags: int) -> str | None:
    if inside is None:
        return None
    if not flags & _NEWUSER:
        raise SpecError("ids are mapped in a new user namespace, and flags lack CLONE_NEWUSER", field=field)
    if not 0 <= inside < 2**32 - 1:
        raise SpecError(f"{inside} is no id", field=field)
    return f"{inside} {outside} 1"


def _open_all(join: Iterable[Joined], opened: list[int]) -> tuple[tuple[int, int], ...]:
    if isinstance(join, (str, bytes, int, os.PathLike)):
        raise SpecTypeError(f"expected a list of namespaces, not {join!r}", field="join")
    joins = []
    for index, item in enumerate(join):
        namespace, nstype = _named(item) if isinstance(item, Join) else item if isinstance(item, tuple) else (item, 0)
        if isinstance(namespace, int):
            fd = namespace
        elif isinstance(namespace, (str, os.PathLike)):
            fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            opened.append(fd)
        elif hasattr(namespace, "fileno"):
            fd = namespace.fileno()
        else:
            raise SpecTypeError(
                f"expected a path, a descriptor, (pidfd, flags) or a Join, not {item!r}", field=f"join[{index}]"
            )
        joins.append((fd, int(nstype)))
    return tuple(joins)


def _named(join: Join) -> tuple[Namespace, int]:
    if join.pidfd is not None:
        return join.pidfd, join.kind.clone_flag
    return join.path or f"/proc/{join.pid}/ns/{join.kind.value}", join.kind.clone_flag


def _check_flags(flags: int) -> None:
    for bit, (name, reason) in _WHY_NOT.items():
        if flags & bit:
            raise SpecError(f"{name} can't be had: {reason}", field="flags")
    if flags & _REFUSED:
        raise SpecError(f"{flags & _REFUSED:#x} holds bits that are no CLONE_ flag", field="flags")
    for one, one_name, other, other_name, reason in _PAIRS:
        if flags & one and flags & other:
            raise SpecError(f"{one_name} and {other_name} exclude each other: {reason}", field="flags")


def _died(status: int) -> NoReturn:
    """The core calls this when the child left without returning."""
    code = os.waitstatus_to_exitcode(status) if status >= 0 else 0
    if status < 0:
        how = "ended, and another wait() took its status"
    elif code < 0:
        how = f"was killed by signal {-code}"
    else:
        how = f"exited with {code}"
    raise ChildDied(
        f"the function's process {how} before the function returned; it shared this process's memory: "
        "locks it held stay held, and what it was changing may be half changed",
        status=status,
    )
