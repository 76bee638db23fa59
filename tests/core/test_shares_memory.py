"""Who has our memory: csrc/shares.c, on which it depends that a memory limit kills nobody but the sandbox."""

import os
import subprocess
import sys

import ramet
from ramet import _core


def test_one_shares_its_own_memory_and_no_others():
    """True of oneself, False of init, of a process that is gone, and of one that has exec'd."""
    assert _core.shares_memory(os.getpid())
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not _core.shares_memory(other.pid)
    other.communicate(b"\n")
    assert not _core.shares_memory(other.pid)
    assert not _core.shares_memory(1) or os.getpid() == 1


def test_a_clone_vm_child_shares_it_and_a_forked_one_does_not():
    """A function's process has its caller's memory; a forked one has a copy, in which the same word is at the same place."""
    assert ramet.call(_core.shares_memory, os.getpid())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"01"[(n := int(_core.shares_memory(os.getppid()))) : n + 1])
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 1) == b"0"
    os.close(reader)
    os.close(writer)
