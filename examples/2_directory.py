"""CLONE_VM | CLONE_FS | SIGCHLD: chdir and umask show what is shared. The mount call of the old program shows nothing:
it fails for who has no privilege, and works for who has, with the flag and without.
"""

import os
import signal
import subprocess

import ramet
from ramet import CLONE


def child():
    os.chdir("/")
    os.umask(0o077)


for flags in (CLONE.VM | CLONE.FS, CLONE.VM):
    os.chdir("/usr")
    os.umask(0o022)
    ramet.call(child, flags=flags, exit_signal=signal.SIGCHLD)
    print(
        f"{'with' if flags & CLONE.FS else 'without'} CLONE_FS: the caller is in {os.getcwd()}, umask {os.umask(0):03o}"
    )


def share_root():
    return subprocess.run(["mount", "--make-rshared", "/"], stderr=subprocess.DEVNULL).returncode


# A user namespace alone gives no power over mounts that were there before; a mount namespace of its own does.
print("mount, not privileged:", ramet.call(share_root, flags=CLONE.NEWUSER, map_uid=0))
print("mount, privileged:    ", ramet.call(share_root, flags=CLONE.NEWUSER | CLONE.NEWNS, map_uid=0))
