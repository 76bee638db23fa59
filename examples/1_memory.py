"""CLONE_VM | SIGCHLD: what a child appends to a list, the caller has. A copy of the memory, as fork makes, shows why."""

import os
import signal

import ramet

words = ["caller"]


def child():
    words.append("child")
    print("child: ", os.getpid(), words)


ramet.call(child, flags=ramet.CLONE.VM, exit_signal=signal.SIGCHLD)
print("caller:", os.getpid(), words)

if os.fork() == 0:  # without CLONE_VM
    words.append("fork's child")
    os._exit(0)
os.wait()
print("after fork:", words)
