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
    MemoryLimitError,
    PoolError,
    RemoteError,
    RemoteTraceback,
    ResultError,
    SpecError,
    SpecTypeError,
    StepError,
    TimeLimitError,
    TimeoutExpired,
    UnsupportedError,
    ZygoteError,
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.call.isolated import FunctionResult as FunctionResult
    from ramet.call.isolated import isolated as isolated
    from ramet.pool.pool import Pool as Pool
    from ramet.pool.result import ExecResult as ExecResult
    from ramet.pool.session import Session as Session
del TYPE_CHECKING


def __getattr__(name: str) -> object:
    """What few programs need is loaded when it is asked for."""
    if name in ("FunctionResult", "isolated"):
        from ramet.call import isolated as module

        return getattr(module, name)
    if name == "Pool":
        from ramet.pool.pool import Pool

        return Pool
    if name == "Session":
        from ramet.pool.session import Session

        return Session
    if name == "ExecResult":
        from ramet.pool.result import ExecResult

        return ExecResult
    raise AttributeError(f"module 'ramet' has no attribute {name!r}")


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
    "ExecResult",
    "ExitError",
    "File",
    "FunctionResult",
    "HelperError",
    "IdMapping",
    "IoLimit",
    "Join",
    "Landlock",
    "MemoryLimitError",
    "Mqueue",
    "Namespace",
    "Overlay",
    "Pool",
    "PoolError",
    "Popen",
    "Proc",
    "RemoteError",
    "RemoteTraceback",
    "Result",
    "ResultError",
    "Rootfs",
    "Rule",
    "Sandbox",
    "Seccomp",
    "Session",
    "SpecError",
    "SpecTypeError",
    "StepError",
    "Symlink",
    "TimeLimitError",
    "TimeOffsets",
    "TimeoutExpired",
    "Tmpfs",
    "UnsupportedError",
    "Usage",
    "ZygoteError",
    "call",
    "isolated",
    "run",
]
