"""CLONE_VM | CLONE_NEWNS | SIGCHLD: the links differ, and yet the mount leaks, where / is shared as systemd makes it."""

import os
import signal
import subprocess
import tempfile

import ramet
from ramet import CLONE

# All of this happens in a mount namespace of its own, so that the host's mounts stay as they are.
flags, root = (CLONE.VM, None) if os.geteuid() == 0 else (CLONE.VM | CLONE.NEWUSER, 0)


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def child(folder, private):
    if private:
        mount("--make-rprivate", "/")
    mount("-t", "tmpfs", "tmpfs", folder)
    print("child: ", os.readlink("/proc/self/ns/mnt"), "mounts a tmpfs,", "/ private" if private else "/ shared")


def caller():
    mount("--make-rprivate", "/")  # apart from the host first
    mount("--make-rshared", "/")
    with tempfile.TemporaryDirectory() as folder:
        for private in (True, False):
            ramet.call(child, folder, private, flags=CLONE.VM | CLONE.NEWNS, exit_signal=signal.SIGCHLD)
            print(
                "caller:", os.readlink("/proc/self/ns/mnt"), "sees it" if os.path.ismount(folder) else "does not see it"
            )
        subprocess.run(["umount", folder], check=True)


ramet.call(caller, flags=flags | CLONE.NEWNS, map_uid=root)
