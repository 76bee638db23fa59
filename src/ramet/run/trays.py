"""Trays: files of the caller's with large pages, for what is large of a function's result.

A tray goes into a sandbox as a mapping, made before anything of the function's runs, and its descriptor is closed there. A mapping
can't be passed on, and ends with its process: so when all of the sandbox is gone the bytes can't change any more, and the caller
maps them where they lie. What it was told of them meanwhile it does not look at before (`ramet.call.inbox`).

Trays lie in a file system that this process has had made once (`ramet.plan.tray`), and keeps by a descriptor. Where there is none,
results come by other ways; nothing but time is lost.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys

from ramet.descriptors import aside
from ramet.host.facts import facts
from ramet.plan import tray
from ramet.plan.encode import encode
from ramet.run import control, image
from ramet.run.hold import Signals
from ramet.run.made import Made, Making
from ramet.spec import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.spec import Sandbox

#: Bytes. Results from LEAST on go by a tray; no tray has more than MOST; each buffer in it begins at a multiple of ALIGNED.
LEAST, MOST, ALIGNED = 4 << 20, 64 << 30, 1 << 16
#: Threads that lay into one: more would not have more of the memory's speed.
HANDS = 4
#: There is room for as many to be aligned: more than a frame has.
BUFFERS = 256
#: The kernel gives no tmpfs large pages where it has none.
LARGE_PAGES = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"

SHORTER = "the tray has become shorter"

#: The directory that trays lie in, and which one it was.
_ground: dict[str, tuple[int, bytes]] = {}
_refused: list[str] = []


class Closed:
    """A tray that has been let go: no `__del__`, for an exception from a signal handler would be lost in it."""

    __slots__ = ("fd", "hands", "size")

    def __init__(self, fd: int, size: int, hands: int = 1) -> None:
        self.fd, self.size, self.hands = fd, size, hands

    def close(self) -> None:
        """Let go of it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        self.__class__ = Closed


class Tray(Closed):
    """One, empty, of `size` bytes. Owns its descriptor, fd. hands: threads of the sandbox's that may lay into it."""

    __slots__ = ()

    def resize(self, most: int) -> bool:
        """Make it one for a result of at most so many bytes. False where there can be none."""
        if most < LEAST:
            return False
        size = min(most + ALIGNED * BUFFERS, MOST)
        try:
            os.truncate(self.fd, size)
        except OSError:
            return False  # RLIMIT_FSIZE
        self.size = size
        return True

    def taken(self, sizes: Sequence[int]) -> list[memoryview]:
        """The buffers of these sizes that were laid into it: in place, and writing to them changes a copy. To be called once, when
        nobody is left who could have it mapped; where somebody could write to it all the same, they are copies. Raises OSError."""
        total, places = layout(sizes)
        total = max(total, 1)  # 0 would be all of the file
        ours = self._for_reading()
        try:
            whole = memoryview(mapped(ours, total) if _nobody_writes(ours) else _copied(ours, total))
        finally:
            os.close(ours)
        return [whole[at : at + size] for at, size in zip(places, sizes, strict=True)]

    def _for_reading(self) -> int:
        """Its file, opened anew where /proc is there to do that; this object's descriptor is closed."""
        try:
            return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return os.dup(self.fd)
        finally:
            self.close()

    def __del__(self) -> None:
        self.close()


def layout(sizes: Sequence[int]) -> tuple[int, list[int]]:
    """How many bytes buffers of these sizes take in a tray, and where each begins."""
    places, at = [], 0
    for size in sizes:
        places.append(at)
        at += -(-size // ALIGNED) * ALIGNED
    return at, places


def tray_for(sandbox: Sandbox, most: int) -> Tray | None:
    """One for a result of at most so many bytes; None where there can be none.

    Nor where the sandbox has a limit that what lies in a tray would count for, once more: of memory, or of address space.
    """
    import resource

    limited = sandbox.memory is not None or "AS" in sandbox.rlimits
    if most < LEAST or limited or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return None
    ground = _ground_kept()
    if ground is None:
        return None
    try:
        made = Tray(
            os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=ground),
            0,
            hands_for(sandbox),
        )
    except OSError:
        return None  # no descriptor, or no inode, is left
    return made if made.resize(most) else None


def hands_for(sandbox: Sandbox) -> int:
    """How many threads may lay a result. One where another would be counted against a limit, or could be what a filter kills for: the
    function is not to pay for what it has not done. RLIMIT_NPROC only refuses."""
    return 1 if sandbox.processes is not None or isinstance(sandbox.seccomp, Seccomp) else HANDS


def _ground_kept() -> int | None:
    found = _ground.get("ground")
    if found is not None and image.still(found):
        return found[0]
    if found is not None:
        _ground.pop("ground", None)
    if _refused:
        return None
    made = _made() if os.path.exists(LARGE_PAGES) else None
    if made is None:
        _refused.append("here there are none")
    return made


def _made() -> int | None:
    """A file system for them; the descriptor of its root that is kept. None where this host, or a filter around us, refuses."""
    known, signals = facts(), Signals()
    try:
        signals.hold()
        making = Making(Made(), {}, encode(tray.making(), known.machine), tray.flags(known), tray.sync(known))
        making.meet()
        fd = control.receive_descriptor(making.ready)
        making.finish()
        return None if fd is None else image.keep(_ground, "ground", aside(fd))
    except OSError:
        return None
    finally:
        signals.release()


def _nobody_writes(fd: int) -> bool:
    """Is there no descriptor, and no mapping, by which the file could still change? The kernel grants a lease for reading only then
    (fcntl(2)); nobody can open the file anew, for it has no name."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def mapped(fd: int, size: int) -> mmap.mmap:
    """The first bytes of a file, where they are; writing to them changes a copy."""
    more: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    if os.fstat(fd).st_size < size:
        raise OSError(SHORTER)
    return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, **more)


def _copied(fd: int, size: int) -> bytearray:
    memory = bytearray(size)
    view, at = memoryview(memory), 0
    while at < size:
        count = os.preadv(fd, [view[at:]], at)
        if not count:
            raise OSError(SHORTER)
        at += count
    return memory
