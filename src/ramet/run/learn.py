"""Learn what a program needs that its sandbox refuses: `ramet run --learn`.

The program runs with a filter that refuses nothing and tells us of the calls that matter (seccomp_unotify(2)): those that the
sandbox's own filter would refuse, those that open or execute files, and connections. Each goes on as it is: we look, and decide
nothing, since between our look and the kernel's own the arguments may change. So this is for programs that one trusts. Namespaces
and mounts stand meanwhile.

Then it runs again, with the sandbox's own filter, to see which of the options that would help it does need.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from threading import Thread

from ramet import _core
from ramet.bpf import ALLOW
from ramet.plan.compile import compile
from ramet.run.process import Popen
from ramet.seccomp.filters import policy_of, programs_of
from ramet.seccomp.simulate import answer
from ramet.spec import Bind, Namespace, Sandbox, Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ramet.plan.steps import Plan
    from ramet.run.planning import Argv

NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
NOTIFICATION = struct.Struct("<QIIiIQ6Q")
CONTINUE = 1
O_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
AT_FDCWD = -100
OPENAT2 = 437
RESOLVE_IN_ROOT = 0x10
LOOKUPS = 10000
PATH_MOST = 4096
#: At which argument the path is, and at which the directory it is relative to (None: the working directory), and the flags.
PATHS: dict[str, tuple[int, int | None, int | None]] = {
    "open": (0, None, 1), "openat": (1, 0, 2), "openat2": (1, 0, None), "creat": (0, None, None), "execve": (0, None, None),
    "execveat": (1, 0, None), "stat": (0, None, None), "lstat": (0, None, None), "newfstatat": (1, 0, None),
    "access": (0, None, None), "faccessat": (1, 0, None), "faccessat2": (1, 0, None), "statx": (1, 0, None),
    "readlink": (0, None, None), "readlinkat": (1, 0, None), "mkdir": (0, None, None), "mkdirat": (1, 0, None),
    "chdir": (0, None, None),
}  # fmt: skip
MAKING = ("mkdir", "mkdirat", "creat")
#: Nobody needs these of the host: what is asked for there is answered by the sandbox's own, or is none of its business.
NEVER = ("/proc", "/dev", "/sys", "/etc/ld.so.preload", "/etc/shadow", "/etc/gshadow")


class Lesson:
    """What was seen. refused: names of system calls, each with how often; missing: paths that the host has and the sandbox has not;
    written: directories of the host that are read-only inside and were to be written to; connected: addresses beyond the loopback."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self.connected: dict[str, int] = {}

    def options(self) -> list[tuple[str, str]]:
        """Each need as an option of `ramet run`: (name, value)."""
        found = [("--bind", f"{path}:rw") for path in _outermost(self.written)]
        above = [path + "/" for path in self.written]
        found += [
            ("--bind", path)
            for path in _outermost(self.missing)
            if not any(f"{path}/".startswith(one) for one in above)
        ]
        if self.connected:
            found.append(("--net", "host"))
        return found + [("--seccomp", f"default+{name}") for name in sorted(self.refused)]


def _outermost(paths: dict[str, int]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths):
        if not any(path.startswith(one + "/") for one in found):
            found.append(path)
    return found


def widened(sandbox: Sandbox, options: Sequence[tuple[str, str]]) -> Sandbox:
    """The sandbox with these options."""
    mounts, calls, namespaces = list(sandbox.mounts), [], sandbox.namespaces
    for name, value in options:
        if name == "--bind":
            path = value.removesuffix(":rw")
            mounts.append(Bind(path, writable=value.endswith(":rw")))
        elif name == "--net":
            namespaces = namespaces - {Namespace.NET}
        else:
            calls.append(value.removeprefix("default+"))
    policy = sandbox.seccomp
    if calls:
        base = (
            policy
            if isinstance(policy, Seccomp)
            else Seccomp.default(sandbox.capabilities, nested=bool(sandbox.nested_namespaces))
        )
        policy = base.allow(*calls, why="learnt")
    return sandbox.replace(mounts=tuple(mounts), namespaces=namespaces, seccomp=policy)


def smallest(
    works: Callable[[Sandbox], bool], sandbox: Sandbox, options: list[tuple[str, str]]
) -> list[tuple[str, str]] | None:
    """Those options that the program does not do without, by running it without each; None where it does not work with all."""
    if works(sandbox):
        return []
    if not works(widened(sandbox, options)):
        return None
    for one in list(options):
        fewer = [other for other in options if other != one]
        if works(widened(sandbox, fewer)):
            options = fewer
    return options


def program_for(sandbox: Sandbox) -> bytes:
    """A filter that allows everything, and tells of what matters."""
    from ramet.seccomp.library import USER_NOTIF, Program, known

    programs, machine, policy = programs_of(sandbox), os.uname().machine, policy_of(sandbox)
    rules = (*policy.rules, *policy.vetoes) if policy is not None else ()
    by_argument = {name for rule in rules if rule.when for name in rule.names}
    with Program(ALLOW) as program:
        for name, number in known().items():
            plain = all(answer(programs, machine, number, arguments) == ALLOW for arguments in ((), (2**64 - 1,) * 6))
            # What the start itself makes before anybody listens must not wait for an answer.
            if name in ("sendmsg", "close", "rt_sigprocmask"):
                continue
            if name in PATHS or name == "connect" or not plain or name in by_argument:
                program.add(number, USER_NOTIF, (), name)
        return program.bytes()


def written(options: Sequence[tuple[str, str]]) -> list[str]:
    """As words of a command line: all calls in one option, since of these the last one counts."""
    calls = [value.removeprefix("default+") for name, value in options if name == "--seccomp"]
    words = [word for name, value in options if name != "--seccomp" for word in (name, value)]
    return words + (["--seccomp", "+".join(["default", *calls])] if calls else [])


class Learning(Popen):
    """A process whose calls a `Teacher` looks at."""

    def __init__(self, argv: Argv, sandbox: Sandbox, teacher: Teacher, **streams: Any) -> None:
        self._teacher = teacher
        super().__init__(argv, sandbox, pass_fds=(teacher.theirs,), **streams)

    def _compile(self, argv: Argv, pass_fds: Sequence[int]) -> Plan:
        own = super()._compile(argv, pass_fds)
        filters = (program_for(self.sandbox),)
        return compile(own.spec, own.facts, own.command, groups=own.groups, filters=filters, learn=self._teacher.theirs)


class Teacher:
    """Receives the listener, and looks at every notification until the last process with the filter is gone."""

    def __init__(self, sandbox: Sandbox) -> None:
        from ramet.seccomp.library import known

        self.lesson = Lesson()
        self._programs = programs_of(sandbox)
        self._names = {number: name for name, number in known().items()}
        self._machine = os.uname().machine
        import socket

        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs = theirs.detach()
        self._thread = Thread(target=self._teach, name="ramet-learn", daemon=True)
        self._thread.start()

    def launched(self) -> None:
        """The child has its own copy of the other end."""
        if self.theirs >= 0:
            os.close(self.theirs)
            self.theirs = -1

    def finish(self) -> Lesson:
        """When the sandbox has ended."""
        self.launched()
        self._thread.join()
        return self.lesson

    def _teach(self) -> None:
        import socket

        with self._ours:
            _, fds, _, _ = socket.recv_fds(self._ours, 1, 1)
        if not fds:
            return
        listener = fds[0]
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        try:
            while not poller.poll()[0][1] & select.POLLHUP:
                self._one(listener)
        finally:
            os.close(listener)

    def _one(self, listener: int) -> None:
        buffer = bytearray(NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return  # whoever asked is gone
            raise
        token, pid, _, number, _, _, *arguments = NOTIFICATION.unpack(buffer)
        try:
            self._look(pid, number, arguments)
        except OSError:
            pass  # a process that can't be looked into (it has just begun, or ended) goes on unseen
        try:
            fcntl.ioctl(listener, NOTIF_SEND, bytearray(struct.pack("<QqiI", token, 0, 0, CONTINUE)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def _look(self, pid: int, number: int, arguments: list[int]) -> None:
        name = self._names.get(number, str(number))
        if answer(self._programs, self._machine, number, arguments) != ALLOW:
            if name != "clone3":  # libc takes clone
                _count(self.lesson.refused, name)
        elif name == "connect":
            self._look_at_address(pid, arguments)
        elif name in PATHS:
            self._look_at_path(pid, name, arguments)

    def _look_at_address(self, pid: int, arguments: list[int]) -> None:
        import socket

        data = _memory(pid, arguments[1], min(arguments[2], 28))
        family = int.from_bytes(data[:2], "little")
        if family == socket.AF_INET:
            address = socket.inet_ntop(family, data[4:8])
        elif family == socket.AF_INET6:
            address = socket.inet_ntop(family, data[8:24])
        else:
            return
        port = int.from_bytes(data[2:4], "big")
        if port and not address.startswith("127.") and address != "::1":
            _count(self.lesson.connected, f"{address} port {port}")

    def _look_at_path(self, pid: int, name: str, arguments: list[int]) -> None:
        at, relative_to, flags_at = PATHS[name]
        given = os.fsdecode(_memory(pid, arguments[at], PATH_MOST).partition(b"\0")[0])
        if not given:
            return
        directory = (
            -100
            if relative_to is None
            else struct.unpack("<i", struct.pack("<I", arguments[relative_to] & 2**32 - 1))[0]
        )
        if not given.startswith("/"):
            base = os.readlink(f"/proc/{pid}/cwd" if directory == AT_FDCWD else f"/proc/{pid}/fd/{directory}")
            given = f"{base}/{given}"
        path = os.path.normpath(given)
        if path == "/" or any(path == one or path.startswith(one + "/") for one in NEVER):
            return
        writes = name in MAKING or (flags_at is not None and bool(arguments[flags_at] & O_WRITING))
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if writes:
                self._look_at_writing(root, path)
            elif not _exists(root, path) and os.path.exists(path) and os.access(path, os.R_OK):
                # A link that is there and leads nowhere wants what it points to.
                link = _exists(root, path, follow=False)
                _count(self.lesson.missing, os.path.realpath(path) if link else path)
        finally:
            os.close(root)

    def _look_at_writing(self, root: int, path: str) -> None:
        """Read-only inside, and writable for the caller outside."""
        above = os.path.dirname(path)
        if not os.access(above, os.W_OK):
            return
        fd = _open_in(root, above)
        if fd is None:
            _count(self.lesson.written, above)
            return
        try:
            if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                _count(self.lesson.written, above)
        finally:
            os.close(fd)


def _count(where: dict[str, int], what: str) -> None:
    where[what] = where.get(what, 0) + 1


def _memory(pid: int, address: int, size: int) -> bytes:
    """Of another process: so many bytes, or fewer where a zero byte or the end of what is mapped comes before."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = b""
        while len(found) < size and b"\0" not in found:
            step = min(
                size - len(found), 4096 - (address + len(found)) % 4096
            )  # a page at a time: the next may be missing
            more = os.pread(fd, step, address + len(found))
            if not more:
                break
            found += more
        return found
    finally:
        os.close(fd)


def _open_in(root: int, path: str, *, follow: bool = True) -> int | None:
    """O_PATH, as the process with this root sees it; None where it sees none."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    how = struct.pack("<QQQ", flags, 0, RESOLVE_IN_ROOT)
    left = LOOKUPS
    while True:
        try:
            return _core.syscall("openat2", OPENAT2, root, os.fsencode(path) + b"\0", how, len(how))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            left -= 1
            if error.errno != errno.EAGAIN or not left:  # somebody has mounted or renamed something (csrc/steps.c)
                raise


def _exists(root: int, path: str, *, follow: bool = True) -> bool:
    fd = _open_in(root, path, follow=follow)
    if fd is None:
        return False
    os.close(fd)
    return True
