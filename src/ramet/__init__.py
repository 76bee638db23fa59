"""ramet: clone(2) done right. New processes that share exactly what you say, from one flag to a rootless container.

>>> import ramet
>>> ramet.run(["python3", "-c", "print(6 * 7)"], timeout=5).stdout
b'42\\n'
"""

from ramet.call import call
from ramet.errors import (
    ChildDied,
    CommandError,
    Error,
    ExitError,
    HelperError,
    SpecError,
    SpecTypeError,
    StepError,
    TimeoutExpired,
    UnsupportedError,
)
from ramet.flags import CLONE
from ramet.run.process import Popen, run
from ramet.run.result import Result, Usage
from ramet.run.streams import DEVNULL, PIPE, STDOUT
from ramet.spec import (
    Bind,
    Condition,
    Dev,
    Directory,
    File,
    IdMapping,
    IoLimit,
    Join,
    Landlock,
    Mqueue,
    Namespace,
    Overlay,
    Proc,
    Rootfs,
    Rule,
    Sandbox,
    Seccomp,
    Symlink,
    TimeOffsets,
    Tmpfs,
)

__version__ = "0.1.0"

__all__ = [
    "CLONE",
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Bind",
    "ChildDied",
    "CommandError",
    "Condition",
    "Dev",
    "Directory",
    "Error",
    "ExitError",
    "File",
    "HelperError",
    "IdMapping",
    "IoLimit",
    "Join",
    "Landlock",
    "Mqueue",
    "Namespace",
    "Overlay",
    "Popen",
    "Proc",
    "Result",
    "Rootfs",
    "Rule",
    "Sandbox",
    "Seccomp",
    "SpecError",
    "SpecTypeError",
    "StepError",
    "Symlink",
    "TimeOffsets",
    "TimeoutExpired",
    "Tmpfs",
    "UnsupportedError",
    "Usage",
    "call",
    "run",
]
