"""The typed face of the C core. Private; see ramet.lowlevel."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

# collections.abc.Buffer is Python 3.12's; these are what the callers have.
_ReadBuffer: TypeAlias = bytes | bytearray | memoryview
_Inputs: TypeAlias = Iterable[tuple[int, int]]
_WriteBuffer: TypeAlias = object  # bytearray, mmap.mmap, memoryview: writable, contiguous

def spawn(
    program: _ReadBuffer,
    inputs: _Inputs,
    flags: int,
    *,
    join: tuple[_ReadBuffer, _Inputs] | None = None,
    join_shares: bool = False,
    payload: tuple[_ReadBuffer, _Inputs] | None = None,
    init: tuple[_ReadBuffer, _Inputs] | None = None,
    gate: int = -1,
    pid_text: int = -1,
    sync: Callable[[int, int], object] | None = None,
    cgroup: int = -1,
    clone3: bool = True,
    into: object = None,
    meanwhile: bool = False,
) -> tuple[int, int, int, int, int]:
    """Clone a child that runs program; (pid, pidfd, 0, 0, 0), or (-1, -1, stage, step, errno)."""

class Begun:
    """A child that was started by begin, and the memory that it runs in."""

    def meet(self, sync: Callable[[int, int], object], /) -> None:
        """Call sync(pid, pidfd) while the child waits."""

    def end(self) -> bool:
        """Wait until it has ended; were all of its steps made?"""

def begin(program: _ReadBuffer, inputs: _Inputs, flags: int, /) -> Begun:
    """Start what spawn would start, and return at once."""

def call(
    fn: object,
    args: tuple[object, ...],
    kwargs: dict[str, object] | None,
    died: object,
    flags: int,
    *,
    exit_signal: int = 0,
    join: object = (),
    uid_map: object = None,
    gid_map: object = None,
    clone3: bool = True,
) -> Any:
    """Call a Python function in a CLONE_VM child."""

def clone3(
    fields: _ReadBuffer, set_tid: _ReadBuffer = b"", plain: _WriteBuffer | None = None, *, old: bool = False
) -> tuple[int, int, int, int]:
    """Clone with a struct clone_args; (pid, pidfd, parent_tid, child_tid)."""

def trace(
    pid: int,
    every: bool,
    calls: _ReadBuffer,
    ready: Callable[[], object],
    sink: Callable[[bytes], object],
) -> None:
    """Follow a child and all that it starts by ptrace, until all have ended."""

def vmsplice(fd: int, data: _ReadBuffer, /) -> int:
    """Put pages into a pipe as they are; how many bytes, 0 where it is full."""

def fork() -> int:
    """As os.fork; no warning of a caller that has threads."""

def run(program: _ReadBuffer, inputs: _Inputs, text_at: int = -1, text: _ReadBuffer = b"", /) -> tuple[int, int] | None:
    """Make the program's steps in this process; None, or (step, errno)."""

def branch(
    child: _ReadBuffer,
    child_inputs: _Inputs,
    init: _ReadBuffer,
    init_inputs: _Inputs,
    pid_text: int,
    flags: int,
    tid: int,
    cgroup: int = -1,
    hooks: bool = True,
    /,
) -> tuple[int, int, int, int, int] | None:
    """A copy of this process in a sandbox; None in the copy, else (pid or -1, pidfd or -1, stage, step, errno)."""

class Bud:
    """A sandbox in which a process waits to put forth a copy of this one."""

    def put_forth(self) -> bool | None:
        """None in the copy, and True here. Works once."""

def bud(
    child: _ReadBuffer,
    child_inputs: _Inputs,
    init: _ReadBuffer,
    init_inputs: _Inputs,
    pid_text: int,
    flags: int,
    tid: int,
    view: _ReadBuffer,
    view_inputs: _Inputs,
    channel: int,
    /,
) -> tuple[Bud, tuple[int, int, int, int, int]]:
    """What branch makes, without the copy; the second as what branch returns."""

def map_shared(fd: int, size: int, /) -> memoryview:
    """The first bytes of a file, to be written to, for as long as this process lives; no descriptor of it is kept."""

def lay(tray: memoryview, at: int, data: _ReadBuffer, hands: int = 1, /) -> None:
    """Copy data to a place, a multiple of 64 KiB, of what map_shared gave; OSError where there is no memory for it."""

def watch_arenas() -> None:
    """From now on note where Python's allocator has its memory."""

def shelve(fd: int, heap: int, data: tuple[tuple[int, int, bool], ...] = (), /) -> int:
    """Put the heap from that address on (0: none), the noted arenas, and data of libraries (start, end, writable) into a file, and map that
    in their place; how many bytes."""

def loaded_data() -> list[tuple[int, int]]:
    """Start and end of the writable segments of the program and its libraries."""

def fetch_shelved() -> int:
    """Map what has been shelved, as looking at it would; how many bytes."""

def note_generator(capsule: object, state: bytes, /) -> bool:
    """Remember numpy's generator of this capsule, if that is its state."""

def renew_generator() -> bool:
    """Give it a random one."""

def msgpack_check(data: _ReadBuffer, /) -> bool:
    """Is it one msgpack value with text for every key?"""

def syscall(call: str, number: int, /, *arguments: int | _ReadBuffer) -> int:
    """Make one system call; raises OSError with its name."""

def identity(file: int | bytes, /) -> bytes:
    """What tells a file from every other one: of a descriptor, or of a path, with the mount that it is on."""

def unchanged(known: Iterable[tuple[int | bytes, bytes]], /) -> bool:
    """Has every file of these, (file, identity) each, this identity?"""

def shares_memory(pid: int, /) -> bool:
    """Has this process our memory? Raises OSError where that can't be asked."""
