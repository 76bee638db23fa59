"""A process puts its memory into a file: what it has stays what it was, also where that fails half-way. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import ctypes, errno, gc, hashlib, os, pickle, resource, sys
from ramet import _core
from ramet.pool.shelf import start_of_heap

def shelved():
    with open("/proc/self/maps") as file:
        found = [line.split()[0].split("-") for line in file if "/memfd:shelf" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in found)

def fill():
    global things, raw
    things = [[str(n), {n: (n, float(n))}] for n in range(60_000)]
    raw = [ctypes.create_string_buffer(os.urandom(5000)) for _ in range(400)]

def print_of_all():
    return hashlib.sha256(pickle.dumps(things) + b"".join(each.raw for each in raw)).hexdigest()

def mapped():  # bytes, and how many of them are its own
    with open("/proc/self/smaps_rollup") as file:
        found = dict(line.split()[:2] for line in file if line.startswith(("Rss:", "Anonymous:")))
    return int(found["Rss:"]) << 10, int(found["Anonymous:"]) << 10

_core.watch_arenas()
fill()
before = print_of_all()
shelf = os.memfd_create("shelf")
"""


@pytest.fixture
def fresh():
    """Run code in a new process; what it prints."""

    def fresh(code):
        argv = [sys.executable, "-c", BEGIN + textwrap.dedent(code)]
        env = os.environ | {"PYTHONMALLOC": "pymalloc"}  # make sanitize has it otherwise
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return fresh


def test_all_stays_as_it_was(fresh):
    """Objects and the heap are the same afterwards, in pages of the file; they can be changed, and the file is not."""
    code = """
    assert shelved() == 0
    put = _core.shelve(shelf, start_of_heap())
    content = hashlib.sha256(os.pread(shelf, put, 0)).hexdigest()
    print(put == shelved() == os.fstat(shelf).st_size, put > 15 << 20, print_of_all() == before)
    for n, each in enumerate(things): each.append(n)
    for each in raw: each.raw = bytes(5000)
    print(print_of_all() != before, hashlib.sha256(os.pread(shelf, put, 0)).hexdigest() == content)
    """
    assert fresh(code) == ["True"] * 5


def test_memory_can_be_had_and_given_back_afterwards(fresh):
    """Python's and libc's allocators go on: much more is had, all is freed, the heap is trimmed, and had again; new memory is zeros."""
    code = """
    _core.shelve(shelf, start_of_heap())
    libc = ctypes.CDLL(None)
    libc.calloc.restype = ctypes.c_void_p
    for _ in range(3):
        kept = things, raw
        fill()
        del kept
        things.clear(); raw.clear(); gc.collect()
        libc.malloc_trim(0)
        for size in (24, 5000, 100_000):
            for _ in range(2000):
                at = libc.calloc(1, size)
                assert not any(ctypes.string_at(at, size))
        fill()
    print(len(things), len(raw))
    """
    assert fresh(code) == ["60000", "400"]


def test_a_fork_copies_no_page_of_it(fresh):
    """A child of the process has none of those pages until it looks; without a shelf it has all of them, as its own."""
    code = """
    def in_child():
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, str(mapped()[1]).encode())
            os._exit(0)
        os.wait()
        return int(os.read(read, 99))

    without = in_child()
    put = _core.shelve(shelf, start_of_heap())
    print(without > put * 0.9, in_child() < without - put * 0.7)
    """
    assert fresh(code) == ["True", "True"]


def test_a_child_that_has_time_fetches_it(fresh):
    """Who asks for it has all of it mapped, and none of it is their own; before, and without a shelf, there is nothing to fetch."""
    code = """
    print(_core.fetch_shelved(), flush=True)
    put = _core.shelve(shelf, start_of_heap())
    if os.fork() == 0:
        rss, own = mapped()
        fetched = _core.fetch_shelved()
        more, now_own = mapped()
        print(fetched == put, more - rss > put * 0.8, now_own - own < put / 10, print_of_all() == before, flush=True)
        os._exit(0)
    os.wait()
    """
    assert fresh(code) == ["0", *["True"] * 4]


def test_it_fails_without_harm(fresh):
    """A file that takes no more, or that can't be written or mapped, is an error of shelve; all is as it was."""
    code = """
    def errno_of(fd, heap):
        try:
            _core.shelve(fd, heap)
        except OSError as error:
            assert error.filename == "shelve"
            return errno.errorcode[error.errno]

    start = start_of_heap()
    print(errno_of(-1, start), errno_of(os.open("/dev/null", os.O_RDONLY), start), errno_of(os.pipe()[1], start), shelved())
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, resource.RLIM_INFINITY))
    print(errno_of(shelf, start), shelved(), print_of_all() == before)
    """
    assert fresh(code) == ["EBADF", "EBADF", "ESPIPE", "0", "EFBIG", str(5 << 20), "True"]


@pytest.mark.parametrize("heap", ["1", "1 << 47", "start_of_heap() + 8", "-1", "'x'"])
def test_addresses_that_are_no_heap(fresh, heap):
    """What can't be where a heap begins is refused before anything is touched."""
    code = f"""
    try:
        _core.shelve(shelf, {heap})
    except (ValueError, TypeError, OverflowError):
        print("refused", shelved())
    """
    assert fresh(code) == ["refused", "0"]


def test_without_a_heap(fresh):
    """0 leaves the heap where it is: arenas only."""
    code = """
    put = _core.shelve(shelf, 0)
    with open("/proc/self/maps") as file:
        print(put == shelved() > 0, any(line.endswith("[heap]\\n") for line in file), print_of_all() == before)
    """
    assert fresh(code) == ["True"] * 3


def test_the_data_of_libraries_goes_too(fresh):
    """What libraries have relocated and written is in the file, as it was and with the access it had; it can be written, and the file
    is not; a fork copies none of it. Without it, all of that stays where it was."""
    code = """
    import re, sqlite3, ssl, decimal
    from ramet.pool.shelf import data_written

    def look():
        found, at = {}, None
        with open("/proc/self/smaps") as file:
            for line in file:
                if match := re.match("([0-9a-f]+)-([0-9a-f]+) (....) [^/]*(.*)", line):
                    at = found[int(match[1], 16), int(match[2], 16)] = [match[3], match[4], 0]
                elif line.startswith("Anonymous:"):
                    at[2] = int(line.split()[1])
        return found

    def access(at):
        return next(one[0] for (low, high), one in look().items() if low <= at < high)

    def own_of_libraries():
        return sum(own for _, name, own in look().values() if ".so" in name)

    flag = ctypes.addressof(ctypes.c_int.in_dll(ctypes.pythonapi, "Py_OptimizeFlag"))
    assert any(low <= flag < high for low, high in _core.loaded_data())
    data = data_written()
    assert {writable for _, _, writable in data} == {True, False}
    content = [ctypes.string_at(low, high - low) for low, high, writable in data if not writable]
    accesses = [access(low) for low, _, _ in data]
    own = own_of_libraries()
    print(own > 100)
    put = _core.shelve(shelf, start_of_heap(), data)
    print(put == shelved() == os.fstat(shelf).st_size, own_of_libraries() < own / 3, accesses == [access(low) for low, _, _ in data])
    print(content == [ctypes.string_at(low, high - low) for low, high, writable in data if not writable])
    digest = hashlib.sha256(os.pread(shelf, put, 0)).hexdigest()
    ctypes.c_int.from_address(flag).value = 77
    print(ssl.RAND_bytes(4) != ssl.RAND_bytes(4), sqlite3.connect(":memory:").execute("select 6 * 7").fetchone()[0], decimal.Decimal(7).sqrt() > 2)
    print(ctypes.c_int.in_dll(ctypes.pythonapi, "Py_OptimizeFlag").value, hashlib.sha256(os.pread(shelf, put, 0)).hexdigest() == digest)
    """
    assert fresh(code) == ["True", "True", "True", "True", "True", "True", "42", "True", "77", "True"]


@pytest.mark.parametrize(
    "data",
    [
        "((page, page, True),)",
        "((2 * page, page, True),)",
        "((page + 1, 2 * page, True),)",
        "((page, 2 * page + 1, True),)",
        "((0, page, True),)",
        "((page, 3 * page, True), (2 * page, 4 * page, True))",
        "((page, 2 * page, False), (page, 2 * page, False))",
        "((page, 2 * page),)",
        "(5,)",
        "[(page, 2 * page, True)]",
        "tuple((n * page, (n + 1) * page, True) for n in range(1, 3000))",
    ],
)
def test_pieces_that_can_be_no_data(fresh, data):
    """Pieces that are no whole pages, overlap, or are too many are refused before anything is touched."""
    code = f"""
    page = resource.getpagesize()
    try:
        _core.shelve(shelf, start_of_heap(), {data})
    except (ValueError, TypeError):
        print("refused", shelved())
    """
    assert fresh(code) == ["refused", "0"]
