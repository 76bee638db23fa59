"""How long the start and end of a child take, by how much memory its caller holds.

Each caller is a process of its own, which touches so much memory and then starts a child whenever told. All are there
at once and take turns, so that what disturbs one disturbs all; medians, so that one disturbance is none.
"""

from __future__ import annotations

import errno
import os
import sys

from ramet.errors import HelperError, SpecError, UnsupportedError
from ramet.flags import CLONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

MIB, GIB = 1 << 20, 1 << 30
SIZES = (0, 256 * MIB, GIB, 4 * GIB)
"""Bytes that the callers of a measurement hold, unless told otherwise."""

_SPARE = 512 * MIB
_OVERHEAD = 32 * MIB  # a caller without anything, and page tables
_MOST_SIZES = 16
#: Those that cost little are timed three times a round.
_CHEAP = ("clone_vm", "vfork", "pthread", "spawn")
_ROUNDS_AT_LEAST, _ROUNDS_AT_MOST = 5, 31


def check_sizes(sizes: Sequence[int]) -> None:
    """SpecError for sizes that are none, UnsupportedError for more than the machine has free."""
    if not sizes:
        raise SpecError("names no size", field="sizes", hint="as in 0,256M,1G")
    if len(sizes) > _MOST_SIZES:
        raise SpecError(f"names {len(sizes)} sizes, and {_MOST_SIZES} are the most", field="sizes")
    if len(set(sizes)) < len(sizes):
        raise SpecError("names a size twice", field="sizes")
    for size in sizes:
        if not 0 <= size < 1 << 47:
            raise SpecError(f"{size} bytes are no size of a process", field="sizes")
    wanted = sum(size + _OVERHEAD for size in sizes)
    free, said = room()
    if wanted + _SPARE > free:
        raise UnsupportedError(
            "cannot hold these sizes at once",
            fact=f"{said} leaves {words(max(0, free))}, and {words(_SPARE)} of that stay untouched",
            needs=f"{words(wanted + _SPARE)} for all callers together",
            hint=f"--sizes {','.join(words(size).replace(' ', '').replace('iB', '') for size in fitting(sizes)) or '0'}",
        )


def fitting(sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of the sizes that go together into the memory that is free, the smallest first."""
    free = room()[0] - _SPARE
    found = []
    for size in sorted(sizes):
        free -= size + _OVERHEAD
        if free < 0:
            break
        found.append(size)
    return tuple(found)


def room() -> tuple[int, str]:
    """How many bytes can be touched, and what sets that: the machine, or a cgroup's limit."""
    with open("/proc/meminfo", encoding="ascii") as file:
        amounts = dict(line.split(":", 1) for line in file)
    found = [(int(amounts["MemAvailable"].split()[0]) << 10, "the machine's free memory")]
    for limit, used in _cgroup_files():
        try:
            with open(limit, encoding="ascii") as file:
                most = file.read().strip()
            with open(used, encoding="ascii") as file:
                now = int(file.read())
        except OSError:
            continue  # the root cgroup has no such file
        if most != "max":
            found.append((int(most) - now, limit))
    return min(found)


def _cgroup_files() -> list[tuple[str, str]]:
    """The memory limits that bind this process, with what is used of each: of its cgroup and all above."""
    from ramet.lab.cgroups import mounted

    found = []
    for each in mounted():
        folder = each.own
        if folder is None or not (each.version == 2 or "memory" in each.controllers):
            continue
        limit, used = _LIMIT_FILES[each.version]
        while True:
            found.append((f"{folder}/{limit}", f"{folder}/{used}"))
            if len(folder) <= len(each.mount):
                break
            folder = os.path.dirname(folder)
    return found


_LIMIT_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


def words(size: int) -> str:
    """``256 MiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")):
        if size and size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size}"


# In the measured callers


def _wait(pid: int) -> None:
    os.waitpid(pid, 0)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    _wait(pid)


def _spawn() -> None:
    _wait(os.posix_spawn("/bin/true", ["true"], {}))


def _cloner(flags: int) -> Callable[[], None]:
    from ramet.lowlevel import clone3

    def start() -> None:
        clone3(flags, child=[]).wait()

    return start


def _threader() -> Callable[[], None]:
    """pthread_create and pthread_join themselves, with a function of libc's as the thread: no Python in between."""
    import ctypes

    libc = ctypes.CDLL(None)
    create, join = libc.pthread_create, libc.pthread_join
    create.argtypes = [ctypes.POINTER(ctypes.c_ulong), ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    routine = ctypes.cast(libc.getpid, ctypes.c_void_p)

    def start() -> None:
        thread = ctypes.c_ulong()
        number = create(ctypes.byref(thread), None, routine, None)
        if number:
            raise OSError(number, os.strerror(number), "pthread_create")
        join(thread, None)

    return start


_CONTAINER = (
    CLONE.NEWUSER
    | CLONE.NEWNS
    | CLONE.NEWPID
    | CLONE.NEWNET
    | CLONE.NEWIPC
    | CLONE.NEWUTS
    | CLONE.NEWCGROUP
    | CLONE.VM
    | CLONE.VFORK
)
WAYS: dict[str, tuple[str, Callable[[], Callable[[], None]]]] = {
    "fork": ("fork", lambda: _fork),
    "clone": ("clone, no flags", lambda: _cloner(0)),
    "clone_vm": ("clone VM", lambda: _cloner(CLONE.VM)),
    "vfork": ("vfork (VM VFORK)", lambda: _cloner(CLONE.VM | CLONE.VFORK)),
    "pthread": ("pthread_create", _threader),
    "spawn": ("posix_spawn true", lambda: _spawn),
    "container": ("VM VFORK, 7 NEW*", lambda: _cloner(_CONTAINER)),
}
"""key: (name, what makes the function that starts a child and waits for its end)."""


def serve(size: int) -> None:
    """In a caller: hold so many bytes, then answer each line, the key of a way, with nanoseconds or an errno's name."""
    import mmap
    from time import perf_counter_ns

    from ramet import _core
    from ramet.lab.apart import settle_signals
    from ramet.lab.numbers import NR

    settle_signals()

    _core.syscall("prctl", NR["prctl"], 41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
    held = None
    if size:
        populate = 0x8000  # MAP_POPULATE: every page is there when it returns
        held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate)
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * mmap.PAGESIZE
        if resident < size:
            raise MemoryError(f"{resident} of {size} bytes are resident")
    starts = {key: make() for key, (_, make) in WAYS.items()}
    print("ready", flush=True)
    for line in sys.stdin:
        start = starts[line.strip()]
        before = perf_counter_ns()
        try:
            start()
        except OSError as error:
            print(errno.errorcode.get(error.errno or 0, str(error.errno)), flush=True)
        else:
            print(perf_counter_ns() - before, flush=True)
    del held


class _Caller:
    """A process that holds memory and starts children when told."""

    def __init__(self, size: int) -> None:
        import subprocess

        start = f"import sys; sys.path[:] = {sys.path!r}; from ramet.lab.latency import serve; serve({size})"
        argv = [sys.executable, "-S", "-c", start]
        pipe = subprocess.PIPE
        self.size = size
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, bufsize=1)

    def line(self) -> str:
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        if not said:
            _, complaint = self.process.communicate()
            status = self.process.returncode
            what = f"the caller of {words(self.size)} ended early"
            raise HelperError(what, argv=["python", "-S"], exit_code=status, stderr=complaint[-500:])
        return said

    def time(self, way: str) -> float | str:
        """Seconds, or the name of the errno."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{way}\n")
        said = self.line()
        return int(said) / 1e9 if said.isdigit() else said

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def latency(sizes: Sequence[int] | None = None, *, seconds: float = 3.0) -> dict[str, Any]:
    """Time each way of starting a child from callers of these sizes, in bytes. JSON-able::

        {"kernel", "uid", "sizes": [bytes], "left_out": [bytes], "rounds",
         "ways": [{"key", "name", "seconds": [median, by size], "least": [...], "refused": [errno or ""]}]}

    least is the shortest time seen: what else the machine did is hardly in it. Without sizes, those of `SIZES` that the
    machine has free memory for; left_out are the others. It takes about so many seconds when the callers are there,
    and at least five rounds. Raises SpecError and UnsupportedError as `check_sizes` does.
    """
    from statistics import median

    left_out: list[int] = []
    if sizes is None:
        sizes = fitting(SIZES) or SIZES[:1]
        left_out = [size for size in SIZES if size not in sizes]
    check_sizes(sizes)
    times, rounds = _rounds(sizes, seconds)
    ways = []
    for key, (name, _) in WAYS.items():
        columns = [times[size, key] for size in sizes]
        numbers = [[each for each in column if isinstance(each, float)] for column in columns]
        ways.append(
            {
                "key": key,
                "name": name,
                "seconds": [median(column) if column else None for column in numbers],
                "least": [min(column) if column else None for column in numbers],
                "refused": [next((each for each in column if isinstance(each, str)), "") for column in columns],
            }
        )
    return {
        "kernel": os.uname().release,
        "uid": os.geteuid(),
        "sizes": list(sizes),
        "left_out": left_out,
        "rounds": rounds,
        "ways": ways,
    }


def _rounds(sizes: Sequence[int], seconds: float) -> tuple[dict[tuple[int, str], list[float | str]], int]:
    from time import monotonic

    times: dict[tuple[int, str], list[float | str]] = {(size, key): [] for size in sizes for key in WAYS}
    callers: list[_Caller] = []
    rounds = 0
    try:
        for size in sizes:
            callers.append(_Caller(size))
        for caller in callers:
            caller.line()
        end = monotonic() + seconds
        for turn in range(_ROUNDS_AT_MOST + 1):
            for caller in callers:
                for key in (*WAYS, *_CHEAP, *_CHEAP):
                    taken = caller.time(key)
                    if turn:  # the first is not counted
                        times[caller.size, key].append(taken)
            rounds = turn
            if turn >= _ROUNDS_AT_LEAST and monotonic() > end:
                break
    finally:
        for caller in callers:
            caller.close()
    return times, rounds
