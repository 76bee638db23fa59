"""Large results lie in a tray: a file of the caller's, of which the sandbox has a mapping and no descriptor."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
import threading
import time
from contextlib import closing

import numpy
import pytest

import ramet
from needs import need
from ramet import _core, isolated
from ramet.call import channel
from ramet.call.channel import Broken, Reader
from ramet.call.wire import Packer
from ramet.run import trays
from ramet.spec import Namespace

SIZE = 8 << 20
BOX = ramet.Sandbox()


@pytest.fixture(autouse=True)
def there():
    """A kernel with large pages, on which trays are made."""
    need(os.path.exists(trays.LARGE_PAGES), "a kernel with large pages (CONFIG_TRANSPARENT_HUGEPAGE)")
    made = trays.tray_for(BOX, SIZE)
    assert made is not None
    made.close()


@pytest.fixture
def taken(monkeypatch):
    """How the buffers of trays came: as what the first of each lies in."""
    found = []
    real = trays.Tray.taken

    def note(tray, sizes):
        buffers = real(tray, sizes)
        found.append(type(buffers[0].obj).__name__)
        return buffers

    monkeypatch.setattr(trays.Tray, "taken", note)
    return found


def tray_of(size=SIZE):
    made = trays.tray_for(BOX, size)
    assert made is not None
    return made


def in_a_fork(tray, do):
    """Let a process map the tray and do this with the mapping."""
    pid = os.fork()
    if pid == 0:
        do(_core.map_shared(tray.fd, tray.size))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


# The result


def test_a_large_array_lies_where_the_function_put_it(taken):
    """A large result is not copied on its way in: it is mapped from the tray, whole; writing to it is the caller's own affair."""
    array = numpy.random.default_rng(1).integers(0, 255, 30_000_001, numpy.uint8)
    found = isolated(lambda: {"a": array, "b": array[:5_000_000] + 1})()
    assert taken == ["mmap"]
    assert (found["a"] == array).all()
    assert (found["b"] == array[:5_000_000] + 1).all()
    found["a"][:] = 7
    assert (found["a"] == 7).all()


def test_it_has_large_pages():
    """What lies in a tray is mapped by large pages, as the caller's own memory is; that is why it is faster than a memfd."""
    mode = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", encoding="ascii").read()
    need("[deny]" not in mode, "a machine that does not deny large pages to file systems in memory")
    array = numpy.ones(64 << 20, numpy.uint8)
    found = isolated(lambda: array)()
    assert found.sum() == 64 << 20
    sizes = [line.split() for line in open("/proc/self/smaps", encoding="utf-8") if line.startswith("ShmemPmdMapped")]
    assert max(int(size) for _, size, _ in sizes) >= 16 << 10  # KiB; the machine may be short of large pages


def test_results_of_a_pool_too(taken):
    """A pool's call that returns a large value has its process ended before the value is looked at; a small one is not waited for."""
    with ramet.Pool(["numpy"], size=1, spare=1) as pool:
        assert pool.run(numpy.ones, 10).sum() == 10
        assert taken == []
        assert pool.run(numpy.ones, 1 << 20).sum() == 1 << 20
        found = pool.exec("import numpy\na = numpy.ones(1 << 20)\nprint('said')\na")
        assert found.outputs["a"].sum() == found.value.sum() == 1 << 20
        assert found.stdout == "said\n"
    assert taken == ["mmap"] * 2


def test_an_arrow_table_is_read_when_nobody_can_change_it(taken):
    """Arrow's tables are checked in full, which is worth something only when they stay as they are."""
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"x": list(range(1_000_000))})
    assert isolated(lambda: table)().equals(table)
    assert taken == ["mmap"]


# Inside


def of_the_tray():
    """(descriptors of files in memory, mappings of the tray), as the function finds them."""
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    with open("/proc/self/maps", encoding="utf-8") as maps:
        mapped = [line.split()[-2:] for line in maps if line.rstrip().endswith("(deleted)") and " rw-s " in line]
    return [one for one in descriptors if "deleted" in one], mapped


def test_no_descriptor_of_it_is_inside():
    """The function's process has the tray mapped, and no descriptor of it; nor has a copy in a pool."""
    with ramet.Pool(size=1, spare=0) as pool:
        for descriptors, mapped in (isolated(of_the_tray)(), pool.run(of_the_tray)):
            assert descriptors == []
            assert len(mapped) == 1


def test_no_descriptor_of_it_can_be_had():
    """The tray can't be opened by way of its mapping (/proc/PID/map_files), which would be a descriptor to pass on; it is listed there."""

    def attempt():
        refused, folder = [], "/proc/self/map_files"
        with open("/proc/self/maps", encoding="utf-8") as maps:
            places = [line.split()[0] for line in maps if " rw-s " in line and "deleted" in line]
        names = [name for name in os.listdir(folder) if name in places]
        for name in names:
            for flags in (os.O_RDWR, os.O_RDONLY, os.O_PATH):
                try:
                    os.close(os.open(f"{folder}/{name}", flags))
                except PermissionError:
                    refused.append(flags)
        return len(places), len(names), len(refused)

    assert isolated(attempt)() == (1, 1, 3)


def test_a_thread_that_goes_on_writing(taken):
    """Code that goes on writing to what it has returned, from a thread and a process of its own, changes nothing of what came."""

    def restless():
        array = numpy.ones(SIZE, numpy.uint8)
        with open("/proc/self/maps", encoding="utf-8") as maps:
            [line] = [line for line in maps if " rw-s " in line and "deleted" in line]
        import ctypes

        at = int(line.split("-")[0], 16)

        def write():
            while True:
                ctypes.memset(at, 5, SIZE)

        threading.Thread(target=write, daemon=True).start()
        if os.fork() == 0:
            write()
        return array

    found = isolated(restless, timeout=60)()
    assert taken == ["mmap"]
    first = found.copy()
    for _ in range(20):
        time.sleep(0.001)
        assert (found == first).all()


def read_on(at, large):
    """From a thread, for ever: have the kernel read a file into memory, by io_submit(2) without its cache. How often it has begun to."""
    import ctypes

    submit, setup = (209, 206) if os.uname().machine == "x86_64" else (2, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(large, os.O_RDONLY | os.O_DIRECT)
    part, parts, count = 1 << 20, SIZE >> 20, [0]
    orders = (struct.pack("<QIIHhIQQqQII", 0, 0, 0, 0, 0, fd, at + n * part, part, 0, 0, 0, 0) for n in range(parts))

    def forever():
        blocks = ctypes.create_string_buffer(b"".join(orders))
        pointers = (ctypes.c_void_p * parts)(*(ctypes.addressof(blocks) + 64 * n for n in range(parts)))
        context = ctypes.c_ulong(0)
        while not libc.syscall(setup, 64, ctypes.byref(context)):
            count[0] += max(0, libc.syscall(submit, context, ctypes.c_long(parts), pointers))
            context = ctypes.c_ulong(0)

    threading.Thread(target=forever, daemon=True).start()
    return count


def test_reads_that_are_under_way(taken):
    """What the kernel is still reading into a tray when the function has returned, and its process is being ended, has come or does
    not come by the time at which the caller looks."""
    large = os.path.realpath(sys.executable)
    need(os.path.getsize(large) > 1 << 20, "a Python of one file")

    def reading():
        with open("/proc/self/maps", encoding="utf-8") as maps:
            [line] = [line for line in maps if " rw-s " in line and "deleted" in line]
        count = read_on(int(line.split("-")[0], 16), large)
        while count[0] < 100:
            time.sleep(0.001)
        print(count[0])
        return numpy.ones(SIZE, numpy.uint8)

    for _ in range(5):
        found = isolated(reading, timeout=60).run()
        assert int(found.stdout) >= 100
        assert taken.pop() == "mmap"
        first = found.value.copy()
        for _ in range(5):
            time.sleep(0.001)
            assert (found.value == first).all()


def test_a_survivor_that_can_write(taken, tmp_path):
    """Where no pid namespace ends what the function leaves behind, and a process of its can still write, the caller has a copy."""
    tmp_path.chmod(0o777)

    def leave():
        if os.fork() == 0:
            os.closerange(0, 100)  # nobody shall wait for it
            while not os.path.exists("/gate/open"):
                time.sleep(0.01)
            os._exit(0)
        return numpy.ones(SIZE, numpy.uint8)

    spaces = frozenset(Namespace) - {Namespace.PID, Namespace.TIME}
    gate = ramet.Bind(str(tmp_path), "/gate", writable=True)
    try:
        found = isolated(leave, namespaces=spaces, mounts=[gate])()
        assert (found == 1).all()
        assert taken == ["bytearray"]
    finally:
        (tmp_path / "open").touch()


# Where there is none


def test_sandboxes_without_trays():
    """What lies in a tray would count once more for a limit of memory or of address space: there is none then, nor for small results."""
    assert trays.tray_for(BOX, trays.LEAST - 1) is None
    assert trays.tray_for(ramet.Sandbox(memory="100M"), SIZE) is None
    assert trays.tray_for(ramet.Sandbox(rlimits={"AS": (1 << 30, 1 << 30)}), SIZE) is None
    array = numpy.ones(SIZE, numpy.uint8)
    assert isolated(lambda: array, rlimits={"AS": (8 << 30, 8 << 30)})().sum() == SIZE


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_a_limited_caller(limit):
    """A caller with a limit of address space has none; one that may not make files so large neither, and gets no signal for it."""
    number = getattr(resource, limit)
    was = resource.getrlimit(number)
    lowered = 1 << 45 if limit == "RLIMIT_AS" else 1 << 20
    resource.setrlimit(number, (lowered, was[1]))
    try:
        assert trays.tray_for(BOX, SIZE) is None
    finally:
        resource.setrlimit(number, was)
    tray_of().close()


def test_a_host_that_makes_none(monkeypatch, taken):
    """Where there can be none, results come all the same."""
    monkeypatch.setattr(trays, "_ground", {})
    monkeypatch.setattr(trays, "_refused", [])
    monkeypatch.setattr(trays, "_made", lambda: None)
    array = numpy.ones(SIZE, numpy.uint8)
    assert isolated(lambda: array)().sum() == SIZE
    assert trays._refused
    assert taken == []


def test_a_result_for_which_the_tray_has_no_room(monkeypatch, taken):
    """One that is too small is left empty, and the pipe taken."""
    monkeypatch.setattr(trays, "MOST", 5 << 20)
    array = numpy.ones(SIZE, numpy.uint8)
    assert isolated(lambda: array)().sum() == SIZE
    assert taken == []


def test_no_memory_for_it():
    """A page that can't be had is an error, where writing to it would be the end by SIGBUS; a page that can be is written."""
    with closing(tray_of()) as tray:
        view = _core.map_shared(tray.fd, tray.size)
        _core.lay(view, 0, b"x" * 100)
        assert bytes(view[:101]) == b"x" * 100 + b"\0"
        os.truncate(tray.fd, 1 << 20)
        with pytest.raises(OSError, match="madvise") as caught:
            _core.lay(view, 2 << 20, b"x")
        assert caught.value.errno
        for at in (-1, 1, 4096, 1 << 40, tray.size):
            with pytest.raises(OSError, match="madvise"):
                _core.lay(view, at, b"x")


# Several threads


@pytest.mark.parametrize("hands", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("size", [0, 1, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (9 << 20) + 7])
def test_laid_by_several_threads(hands, size):
    """By however many threads, what is laid is what was given, and nothing is written beside it."""
    data = numpy.random.default_rng(size).integers(1, 255, size, numpy.uint8)
    tray = tray_of(16 << 20)

    def lay(view):
        _core.lay(view, 1 << 20, data, hands)
        assert not any(view[:100]) and not any(view[(1 << 20) - 100 : 1 << 20])
        assert not any(view[(1 << 20) + size : (1 << 20) + size + 100])
        assert len(os.listdir("/proc/self/task")) == 1

    in_a_fork(tray, lay)
    [_, found] = tray.taken([1 << 20, size])
    assert bytes(found) == data.tobytes()


def test_no_memory_for_several_threads():
    """The first that finds no memory ends the others, and is heard of."""
    with closing(tray_of(64 << 20)) as tray:
        view = _core.map_shared(tray.fd, tray.size)
        os.truncate(tray.fd, 20 << 20)
        with pytest.raises(OSError, match="madvise"):
            _core.lay(view, 0, bytes(40 << 20), 4)
        _core.lay(view, 0, b"\1" * (10 << 20), 4)
        assert view[0] == view[(10 << 20) - 1] == 1 and view[10 << 20] == 0


@pytest.mark.parametrize(
    ("fields", "hands"),
    [
        ({}, trays.HANDS),
        ({"seccomp": "kill"}, trays.HANDS),
        ({"seccomp": ramet.Seccomp.default().allow("ptrace")}, 1),
        ({"rlimits": {"NPROC": (1, 1)}}, trays.HANDS),
    ],
    ids=["default", "kill", "a profile of one's own", "RLIMIT_NPROC"],
)
def test_who_lays_by_several(fields, hands, monkeypatch, taken):
    """One thread where another would count for a limit, or could be what a filter kills for."""
    assert trays.hands_for(ramet.Sandbox(processes=5)) == 1
    real = channel.laid

    def note(to, tray, buffers, count):
        os.write(2, f"hands {count}".encode())
        return real(to, tray, buffers, count)

    monkeypatch.setattr(channel, "laid", note)
    array = numpy.ones(SIZE, numpy.uint8)
    found = isolated(lambda: array, **fields).run()
    assert found.value.sum() == SIZE
    assert found.stderr == b"hands %d" % hands
    assert taken == ["mmap"]


def test_a_filter_that_kills_for_a_thread(taken):
    """A large result comes out of a sandbox that ends who makes a thread."""
    policy = ramet.Seccomp.default().deny("clone", "clone3", kill=True)
    array = numpy.ones(SIZE, numpy.uint8)
    alone = isolated(lambda: array, seccomp=policy).run()
    assert (alone.status, alone.value.sum()) == ("exited", SIZE)
    threads = isolated(lambda: threading.Thread(target=int).start(), seccomp=policy).run()
    assert threads.status == "syscall-denied"


def test_where_no_thread_can_be_made(taken):
    """With none to help, one thread lays it all."""
    array = numpy.ones(SIZE, numpy.uint8)

    def alone():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        with pytest.raises(RuntimeError, match="start new thread"):
            threading.Thread(target=int).start()
        return array

    assert isolated(alone)().sum() == SIZE


# The caller's side


def test_who_could_still_write():
    """With a mapping or a descriptor left anywhere that could change it, the bytes are copied; without, they are mapped."""
    tray = tray_of()
    in_a_fork(tray, lambda view: _core.lay(view, 0, b"abc"))
    [found] = tray.taken([3])
    assert (type(found.obj).__name__, bytes(found)) == ("mmap", b"abc")

    tray = tray_of()
    writer = os.dup(tray.fd)
    in_a_fork(tray, lambda view: _core.lay(view, 0, b"abc"))
    [found] = tray.taken([3])
    os.pwrite(writer, b"xyz", 0)
    os.close(writer)
    assert (type(found.obj).__name__, bytes(found)) == ("bytearray", b"abc")


def test_without_proc(monkeypatch):
    """A caller that has no /proc gets a copy."""
    tray, real = tray_of(), os.open

    def refuse(path, *rest, **more):
        if str(path).startswith("/proc/self/fd"):
            raise FileNotFoundError(2, "No such file or directory")
        return real(path, *rest, **more)

    in_a_fork(tray, lambda view: _core.lay(view, 0, b"abc"))
    monkeypatch.setattr(os, "open", refuse)
    [found] = tray.taken([3])
    assert bytes(found) == b"abc"


def test_a_tray_that_became_shorter():
    """A file that is shorter than was told is no result."""
    tray = tray_of()
    writer = os.dup(tray.fd)
    os.truncate(writer, 10)
    with pytest.raises(OSError, match="shorter"):
        tray.taken([SIZE])
    os.close(writer)
    tray = tray_of()
    os.truncate(tray.fd, 10)
    with pytest.raises(OSError, match="shorter"):
        tray.taken([SIZE])


def test_nothing_in_a_tray():
    """Buffers without a byte are empty, whatever the tray has room for."""
    found = tray_of().taken([0, 0])
    assert [one.nbytes for one in found] == [0, 0]
    assert len(found[0].obj) == 1


def test_layout():
    """Buffers lie one behind the other, each at a multiple of 64 KiB."""
    assert trays.layout([1, 65_536, 65_537, 0, 5]) == (5 * 65_536, [0, 65_536, 131_072, 262_144, 262_144])
    assert trays.layout([]) == (0, [])


@pytest.mark.parametrize(
    ("frames", "match"),
    [
        ([(channel.LAID, b"")], "buffers that can't be"),
        ([(channel.LAID, b"1234567")], "buffers that can't be"),
        ([(channel.LAID, bytes(8 * 251))], "buffers that can't be"),
        ([(channel.LAID, struct.pack("<QQ", 1 << 63, 1 << 63))], "where .* may come"),
        ([(channel.LAID, struct.pack("<Q", 1 << 30))], "where .* may come"),
        ([(channel.LAID, struct.pack("<200Q", *[1] * 200))], "no room"),
        ([(channel.LAID, struct.pack("<Q", 10)), (channel.LAID, struct.pack("<Q", 10))], "buffers that can't be"),
        ([(channel.LAID, struct.pack("<Q", 10)), (channel.POUR, struct.pack("<Q", 10))], "buffers that can't be"),
    ],
    ids=["none", "odd", "many", "overflow", "large", "room", "twice", "both"],
)
def test_nonsense_about_the_tray(frames, match):
    """Sizes that can't be, or are more than may come or than there is, are refused, and so is a tray where there is none."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe2(os.O_NONBLOCK)
    tray = tray_of()
    tray.size = 10 << 16
    with ours, theirs:
        for kind, data in frames:
            theirs.sendall(channel.HEADER.pack(kind, 0, len(data)) + data)
        with pytest.raises(Broken, match=match):
            Reader(ours, SIZE, read, tray).take()
        theirs.sendall(channel.HEADER.pack(channel.LAID, 0, 8) + struct.pack("<Q", 10))
        with pytest.raises(Broken, match="a tray that is not there"):
            Reader(ours, SIZE).take()
    tray.close()
    os.close(read)
    os.close(write)


def say(kind, data):
    """On the function's channel, found as somebody hostile would."""
    for fd in range(3, 100):
        try:
            found = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        with found:
            found.sendall(channel.HEADER.pack(kind, 0, len(data)) + data)
        return


def test_claims_about_what_was_never_laid(taken):
    """A function that says that its result lies there, and has laid nothing, gives zeros: memory of the caller's own, and no more of it than
    may come."""

    def liar():
        say(channel.LAID, struct.pack("<Q", SIZE))
        return numpy.ones(10, numpy.uint8)

    assert isolated(liar)().sum() == 10  # its own buffer is small, and lies in the frame
    data = Packer(None).pack(numpy.ones(SIZE, numpy.uint8))

    def forger():
        say(channel.LAID, struct.pack("<Q", SIZE))
        say(channel.VALUE, data)
        os._exit(0)

    found = isolated(forger)()
    assert (found.nbytes, found.sum()) == (SIZE, 0)
    assert "mmap" in taken
