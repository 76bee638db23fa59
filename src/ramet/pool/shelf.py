"""What a zygote has loaded goes into a file, so that a copy need not copy the page tables of it (csrc/shelve.c). Which memory that is."""

from __future__ import annotations

import fcntl
import os

from ramet import _core
from ramet.run.image import F_ADD_SEALS, SEALS, memfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Of a mapping with no other flags (proc_pid_smaps(5)) nobody wants anything but that it is memory.
PLAIN = frozenset({"rd", "wr", "mr", "mw", "me", "ac", "sd"})
WRITABLE, READ_ONLY = "rw-p", "r--p"
#: From so many KiB on a mapping of which most was never looked at stays: the file would have all of it.
SPARSE = 64


def shelve() -> None:
    """Put it there. For a process with one thread."""
    file = memfd("ramet-zygote", executable=False)
    try:
        _core.shelve(file, start_of_heap(), data_written())
        fcntl.fcntl(file, F_ADD_SEALS, SEALS)
    finally:
        os.close(file)


def start_of_heap() -> int:
    """Where libc's heap begins; 0 where there is none. Of glibc's alone is it known that shelve may have it."""
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return 0
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        found = [line.split() for line in file if line.endswith("[heap]\n")]
    if any(access != WRITABLE for _, access, *_ in found):
        return 0
    return int(found[0][0].partition("-")[0], 16) if found else 0


def data_written() -> tuple[tuple[int, int, bool], ...]:
    """Where libraries have data that is this process's own by now: (start, end, writable) each."""
    segments = _core.loaded_data()
    found = []
    for start, end, access, sizes, flags in _mappings():
        if access not in (WRITABLE, READ_ONLY) or not flags <= PLAIN:
            continue
        if not sizes["Anonymous"] or (sizes["Size"] > SPARSE and sizes["Rss"] * 2 < sizes["Size"]):
            continue
        for low, high in segments:
            low, high = max(low, start), min(high, end)
            if low < high:
                found.append((low, high, access == WRITABLE))
    return tuple(found)


def _mappings() -> Iterator[tuple[int, int, str, dict[str, int], set[str]]]:
    """Start, end, access, sizes in KiB, and flags."""
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
        start, end, access = 0, 0, ""
        sizes: dict[str, int] = {}
        for line in file:
            first, _, rest = line.partition(" ")
            if not first.endswith(":"):
                low, _, high = first.partition("-")
                start, end, access, sizes = int(low, 16), int(high, 16), rest[:4], {}
            elif first == "VmFlags:":
                yield start, end, access, sizes, set(rest.split())
            elif rest.endswith(" kB\n"):
                sizes[first[:-1]] = int(rest[:-3])
