"""What a test looks at before and after, to see that nothing is left."""

import os

from ramet.run import ahead


def children():
    """Pids of all children of this process, zombies too."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found |= {int(word) for word in file.read().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended; its children are another's now
    return found


def descriptors():
    """Open descriptors of this process, with what each is; without the namespaces made ahead, which are let go."""
    ahead.forget()
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed the directory
    return found
