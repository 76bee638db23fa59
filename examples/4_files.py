"""CLONE_VM | CLONE_FS | SIGCHLD and a file: to read it by name, nothing need be shared. A descriptor tells."""

import os
import signal
import tempfile

import ramet
from ramet import CLONE


def child(path):
    fd = os.open(path, os.O_RDONLY)
    print("child reads:", os.read(fd, 99).decode())
    return fd


with tempfile.NamedTemporaryFile("w", suffix="example.txt") as file:
    file.write("Hello, this is example text.")
    file.flush()
    for shared in (CLONE(0), CLONE.FILES):
        flags = CLONE.VM | CLONE.FS | shared
        fd = ramet.call(child, file.name, flags=flags, exit_signal=signal.SIGCHLD)
        try:
            print("caller, with CLONE_FILES, reads by its descriptor:", os.pread(fd, 5, 0).decode())
            os.close(fd)
        except OSError as error:
            print("caller, without CLONE_FILES:", error.strerror)
