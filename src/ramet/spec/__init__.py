"""What the user wants: frozen values, no I/O. One file a kernel object; `Sandbox` holds them together."""

from ramet.spec.group_limits import IoLimit
from ramet.spec.ids import IdMapping
from ramet.spec.landlock import Landlock
from ramet.spec.mounts import Bind, Dev, Directory, File, Mount, Mqueue, Overlay, Proc, Symlink, Tmpfs
from ramet.spec.namespaces import Join, Namespace, TimeOffsets
from ramet.spec.rootfs import Rootfs
from ramet.spec.sandbox import Command, Sandbox
from ramet.spec.seccomp import Condition, Rule, Seccomp

__all__ = [
    "Bind",
    "Command",
    "Condition",
    "Dev",
    "Directory",
    "File",
    "IdMapping",
    "IoLimit",
    "Join",
    "Landlock",
    "Mount",
    "Mqueue",
    "Namespace",
    "Overlay",
    "Proc",
    "Rootfs",
    "Rule",
    "Sandbox",
    "Seccomp",
    "Symlink",
    "TimeOffsets",
    "Tmpfs",
]
