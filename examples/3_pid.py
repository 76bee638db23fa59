"""CLONE_VM | CLONE_NEWPID | SIGCHLD: pid 1 inside, and another number outside, which ps shows until there is a new /proc."""

import os
import signal
import subprocess

import ramet
from ramet import CLONE

# An ordinary user may do this in a user namespace of its own, as its root.
flags, root = (CLONE.VM, None) if os.geteuid() == 0 else (CLONE.VM | CLONE.NEWUSER, 0)


def child():
    print("child: pid", os.getpid(), "and parent", os.getppid())
    print("child: in /proc still", os.readlink("/proc/self"))


def child_with_proc():
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    print("child: in a fresh /proc", os.readlink("/proc/self"))


ramet.call(child, flags=flags | CLONE.NEWPID, exit_signal=signal.SIGCHLD, map_uid=root)
ramet.call(child_with_proc, flags=flags | CLONE.NEWPID | CLONE.NEWNS, map_uid=root)
print("caller: pid", os.getpid())
