"""Memory, file-system information, descriptors, handlers, undo lists, I/O context: what a process is made of."""

from __future__ import annotations

import os
from struct import pack, unpack_from

from ramet import _core
from ramet.lab.numbers import NR
from ramet.lab.resources.base import NEW, SHARED, Finding, Resource, judge
from ramet.lowlevel import Buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.ground import Ground
    from ramet.lab.script import Script, Seen

AT_FDCWD = -100
SIGUSR1 = 10
_A, _B = b"caller's", b"child's!"
_SIZE = len(_A)


class Memory(Resource):
    """A private page of the caller's. The child copies it to a file, then overwrites it from another file."""

    key, heading, title = "memory", "memory", "the memory"
    kcmp = 1

    def __init__(self, ground: Ground, proc: int) -> None:
        import ctypes
        import mmap

        super().__init__(ground, proc)
        self.page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        self.copy, self.source = os.memfd_create("copy", 0), os.memfd_create("source", 0)
        os.pwrite(self.source, _B, 0)

    def mark(self) -> None:
        self.page[:_SIZE] = _A
        os.ftruncate(self.copy, 0)

    def read(self, script: Script) -> None:
        script.add("pwrite64", self.copy, self.address, _SIZE, 0)

    def write(self, script: Script) -> None:
        script.add("pread64", self.source, self.address, _SIZE, 0)

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=self.page[:_SIZE] == _B,
            was_seen=os.pread(self.copy, _SIZE, 0) == _A,
            mark="the caller's bytes at their address",
            change="overwrites them",
        )


class Cwd(Resource):
    """The current directory."""

    key, heading, title = "cwd", "cwd", "the current directory"
    kcmp = 3

    def mark(self) -> None:
        self.ours, self.theirs = self.ground.two_directories()
        os.makedirs(self.ours, exist_ok=True)
        os.makedirs(self.theirs, exist_ok=True)
        self.changed = _identity(self.theirs)
        os.chdir(self.ours)

    def read(self, script: Script) -> None:
        self.found = script.add("getcwd", Buffer(256), 256)

    def write(self, script: Script) -> None:
        script.add("chdir", os.fsencode(self.theirs))

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=_identity(".") == self.changed,  # getcwd fails if the child has moved our root too
            was_seen=seen.text(self.found, 0) == self.ours,
            mark=self.ours,
            change="calls chdir",
        )


class Root(Resource):
    """The root directory. `find` puts the caller's back, so that those after it have paths again."""

    key, heading, title = "root", "root", "the root directory"
    kcmp = 3
    needs_ground = True

    def __init__(self, ground: Ground, proc: int) -> None:
        super().__init__(ground, proc)
        self.root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        self.identity = _identity(self.root)

    def mark(self) -> None:
        here = os.open(".", os.O_PATH | os.O_DIRECTORY)
        os.fchdir(self.root)
        os.chroot(".")
        os.fchdir(here)
        os.close(here)
        self.theirs = f"{self.ground.directory}/root"
        os.makedirs(self.theirs, exist_ok=True)

    def read(self, script: Script) -> None:
        self.found = script.add("newfstatat", AT_FDCWD, b"/", Buffer(144), 0)

    def write(self, script: Script) -> None:
        script.add("chroot", os.fsencode(self.theirs))

    def find(self, seen: Seen) -> Finding:
        moved = _identity("/") != self.identity
        self.mark()
        return judge(
            reaches_caller=moved,
            was_seen=unpack_from("QQ", seen.output(self.found, 2).ljust(16, b"\0")) == self.identity,
            mark="the caller's /",
            change="calls chroot",
        )


def _identity(place: str | int) -> tuple[int, int]:
    found = os.stat(place)
    return found.st_dev, found.st_ino


class Umask(Resource):
    """The file mode creation mask."""

    key, heading, title = "umask", "umask", "the umask"
    kcmp = 3

    def mark(self) -> None:
        os.umask(0o027)

    def read(self, script: Script) -> None:
        pass

    def write(self, script: Script) -> None:
        self.found = script.add("umask", 0o077)  # returns the one before

    def find(self, seen: Seen) -> Finding:
        now = os.umask(0o027)
        return judge(
            reaches_caller=now == 0o077,
            was_seen=seen.result(self.found) == 0o027,
            mark="umask 027",
            change="sets 077",
        )


class Descriptors(Resource):
    """The table of file descriptors. The child makes one the caller did not have."""

    key, heading, title = "descriptors", "files", "the descriptor table"
    kcmp = 2

    def __init__(self, ground: Ground, proc: int) -> None:
        super().__init__(ground, proc)
        self.fd = os.memfd_create("descriptor", 0)
        self.theirs = self.fd + 50  # above what a child opens while it looks

    def mark(self) -> None:
        if self._there():
            os.close(self.theirs)

    def read(self, script: Script) -> None:
        self.found = script.add("fcntl", self.fd, 1, 0)  # F_GETFD

    def write(self, script: Script) -> None:
        script.add("dup3", self.fd, self.theirs, 0)

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=self._there(),
            was_seen=seen.result(self.found) >= 0,
            mark=f"the caller's descriptor {self.fd} open",
            change=f"opens descriptor {self.theirs}",
        )

    def _there(self) -> bool:
        try:
            os.fstat(self.theirs)
        except OSError:
            return False
        return True


class Offset(Resource):
    """The offset in a file that was open before. It belongs to the open file, which all copies of a descriptor name."""

    key, heading, title = "offset", "offset", "the offset of open files"

    def __init__(self, ground: Ground, proc: int) -> None:
        super().__init__(ground, proc)
        self.fd = os.memfd_create("offset", 0)

    def mark(self) -> None:
        os.lseek(self.fd, 1000, os.SEEK_SET)

    def read(self, script: Script) -> None:
        self.found = script.add("lseek", self.fd, 0, os.SEEK_CUR)

    def write(self, script: Script) -> None:
        script.add("lseek", self.fd, 2000, os.SEEK_SET)

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=os.lseek(self.fd, 0, os.SEEK_CUR) == 2000,
            was_seen=seen.result(self.found) == 1000,
            mark="the offset 1000 in an open file",
            change="moves it to 2000",
        )


def _nothing(*_: object) -> None:
    """A handler of the caller's."""


class Handlers(Resource):
    """What is done at SIGUSR1: the caller has a handler for it."""

    key, heading, title = "handlers", "signal", "the signal handlers"
    kcmp = 4
    IGNORE = 1

    def mark(self) -> None:
        import signal

        signal.signal(SIGUSR1, _nothing)
        self.handler = self._handler()

    def read(self, script: Script) -> None:
        self.found = script.add("rt_sigaction", SIGUSR1, 0, Buffer(32), 8)

    def write(self, script: Script) -> None:
        script.add("rt_sigaction", SIGUSR1, pack("4Q", self.IGNORE, 0, 0, 0), 0, 8)

    def find(self, seen: Seen) -> Finding:
        data = seen.output(self.found, 2)
        return judge(
            reaches_caller=self._handler() == self.IGNORE,
            was_seen=len(data) >= 8 and unpack_from("Q", data)[0] == self.handler,
            mark="the caller's handler of SIGUSR1",
            change="sets it to be ignored",
        )

    def _handler(self) -> int:
        """As the kernel has it; Python remembers only what it has set itself."""
        old = bytearray(32)
        _core.syscall("rt_sigaction", NR["rt_sigaction"], SIGUSR1, 0, old, 8)
        return int(unpack_from("Q", old)[0])


class Undo(Resource):
    """The list of semaphore operations to undo. The child adds 1, to be undone; was it, when the child ended?"""

    key, heading, title = "undo", "undo", "the semaphore undo list"
    kcmp = 6
    needs_ground = True
    _UNDO = 0x1000
    _KEY = 0x52414D01

    def __init__(self, ground: Ground, proc: int) -> None:
        super().__init__(ground, proc)
        self.id = _core.syscall("semget", NR["semget"], self._KEY, 1, 0o1600)  # IPC_CREAT
        # kcmp compares lists, so the caller needs one
        self._operate(1, self._UNDO)
        self._operate(-1, self._UNDO)

    def _operate(self, by: int, flags: int) -> None:
        _core.syscall("semop", NR["semop"], self.id, pack("Hhh", 0, by, flags), 1)

    def _value(self) -> int:
        """semctl(GETVAL) has no number here: take down what is there, one by one."""
        value = 0
        while True:
            try:
                self._operate(-1, 0o4000)  # IPC_NOWAIT
            except OSError:
                return value
            value += 1

    def mark(self) -> None:
        self._value()

    def write(self, script: Script) -> None:
        self.done = script.add("semop", self.id, pack("Hhh", 0, 1, self._UNDO), 1)

    def find(self, seen: Seen) -> Finding:
        if seen.result(self.done) < 0:
            return Finding(NEW, "the caller's semaphore is not there for the child, nor what there is to undo")
        if self._value():
            return Finding(
                SHARED, "the child adds 1 to a semaphore, to be undone, and ends: it stays, the list is shared"
            )
        return Finding(
            NEW, "the child adds 1 to a semaphore, to be undone, and ends: it is undone, by a list of its own"
        )


class IoContext(Resource):
    """The I/O context, seen by the I/O priority that lies in it."""

    key, heading, title = "io", "io", "the I/O context"
    kcmp = 5
    OURS, THEIRS = 2 << 13 | 7, 2 << 13 | 2  # best effort, 7 and 2

    def mark(self) -> None:
        _core.syscall("ioprio_set", NR["ioprio_set"], 1, 0, self.OURS)

    def read(self, script: Script) -> None:
        self.found = script.add("ioprio_get", 1, 0)

    def write(self, script: Script) -> None:
        script.add("ioprio_set", 1, 0, self.THEIRS)

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=_core.syscall("ioprio_get", NR["ioprio_get"], 1, 0) == self.THEIRS,
            was_seen=seen.result(self.found) == self.OURS,
            mark="the caller's I/O priority",
            change="sets another",
        )


ALL = (Memory, Cwd, Root, Umask, Descriptors, Offset, Handlers, Undo, IoContext)
