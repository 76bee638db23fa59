"""Hostile payloads. Each takes how far it goes as its argument, so that a tame one is its own control; none goes further
than this host could bear, should a limit not hold."""

import sys

PYTHON = [sys.executable, "-I", "-S", "-c"]
#: In the arguments of each, so that a process left behind is found.
MARK = f"ramet-hostile-{__import__('os').getpid()}-"

#: argv[1] is the number; the second line finds libc without subprocesses.
HEAD = """
import os, sys, time, mmap, signal
n = int(sys.argv[1])
MIB = 1 << 20
"""

FORK_BOMB = """
from time import monotonic
end = monotonic() + (60 if n > 10 else 0)
made = 0
while made < n:
    try:
        if os.fork() == 0:
            if n <= 10:
                os._exit(0)
            made = 0  # every child bombs as well
        else:
            made += 1
    except OSError:
        time.sleep(0.001)
    if n > 10 and monotonic() > end:
        break
if n > 10:
    time.sleep(60)
"""

FORKS_UNTIL_REFUSED = """
for _ in range(n):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
"""

ANONYMOUS = """
held = []
for _ in range(n):
    held.append(bytearray(b"x" * MIB))
"""

TMPFS = """
with open("/tmp/big", "wb", buffering=0) as file:
    for _ in range(n):
        file.write(b"x" * MIB)
"""

DEV_SHM = """
fd = os.open("/dev/shm/big", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, n * MIB)
shared = mmap.mmap(fd, n * MIB)
for at in range(0, n * MIB, 4096):
    shared[at] = 1
"""

SYSV_SHM = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
for _ in range(n):
    one = libc.shmget(0, MIB, 0o1600)
    if one < 0:
        sys.exit("shmget: " + os.strerror(ctypes.get_errno()))
    ctypes.memset(libc.shmat(one, None, 0), 1, MIB)
"""

MEMFD = """
fd = os.memfd_create("big")
for _ in range(n):
    os.write(fd, b"x" * MIB)
"""

MLOCK = """
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],) * 2)
# An ordinary user may lock 8 MiB, each process of his: so several do.
for _ in range(0, n, 4):
    if os.fork() == 0:
        held = mmap.mmap(-1, 4 * MIB)
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(held)))
        if libc.mlock(address, ctypes.c_size_t(4 * MIB)):
            os._exit(7)
        time.sleep(60 if n > 8 else 0.2)
        os._exit(0)
codes = {os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(0, n, 4)}
sys.exit(max(codes))
"""

SPREAD = """
# 4 MiB each: nobody is large
for _ in range(0, n, 4):
    if os.fork() == 0:
        held = bytearray(b"x" * 4 * MIB)
        time.sleep(60 if n > 16 else 0.2)
        os._exit(0)
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(0, n, 4)]
sys.exit(any(codes))
"""

PAGE_CACHE = """
with open(sys.argv[2], "wb", buffering=0) as file:
    for _ in range(n):
        file.write(b"x" * MIB)
"""

SPINNING_THREADS = """
import _thread, hashlib
block = b"x" * MIB
end = time.monotonic() + n / 1000
def spin():
    while time.monotonic() < end:
        hashlib.sha256(block).digest()  # without the interpreter's lock
for _ in range(50):
    _thread.start_new_thread(spin, ())
spin()
time.sleep(0.2)
"""

FLOOD = """
# both at once, from two processes
size = 0
name = 1 if os.fork() else 2
block = (b"o" if name == 1 else b"e") * 65536
while size < n * MIB:
    size += os.write(name, block)
if name == 1:
    os.wait()
os._exit(0)
"""

ENDLESS_FILE = """
with open("/tmp/endless", "wb", buffering=0) as file:
    for _ in range(n):
        if file.write(b"x" * MIB) < MIB:
            sys.exit(28)
"""

TINY_FILES = """
os.mkdir("/tmp/d")
os.chdir("/tmp/d")
for number in range(n):
    os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY))
"""

STOPPED = """
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP if n else 0)
    os._exit(0)
if n:
    os.kill(os.getpid(), signal.SIGSTOP)
os.wait()
"""

IGNORES_SIGTERM = """
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(n)
"""

DAEMON = """
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(writer, b"x")
        for fd in range(3):
            os.close(fd)
        os.closerange(3, 64)
        time.sleep(n)
    os._exit(0)
os.read(reader, 1)
"""

SPOOFS = """
os.write(2, b"ramet: out of memory\\nKilled\\n{\\"status\\": \\"out-of-memory\\"}\\n")
sys.exit(n)
"""

CLOSES_STDIO = """
os.closerange(0, 3)
time.sleep(n / 1000)
os._exit(3)
"""

SLEEPS = """
time.sleep(n / 1e6)
"""


def argv(code, number, *more):
    """The command."""
    return [*PYTHON, HEAD + code, str(number), *map(str, more), MARK]
