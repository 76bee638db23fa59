"""The steps by which a process becomes a container: each adds a field or two to the one before."""

from __future__ import annotations

import os

from ramet.flags import CLONE
from ramet.spec import Dev, Directory, Namespace, Proc, Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = (CLONE.NEWUSER, CLONE.NEWPID, CLONE.NEWIPC, CLONE.NEWUTS, CLONE.NEWCGROUP)
_FLAGS_NAMED = frozenset({Namespace.USER, Namespace.PID, Namespace.IPC, Namespace.UTS, Namespace.CGROUP})

#: How `unsafe_defaults` reads, short.
TURNED_OFF = (
    "capabilities={'ALL'}",
    "no_new_privs=False",
    "nested_namespaces=True",
    "new_session=False",
    "the caller's rlimits and env",
    "pass_fds=[fd]",
)


class Stage:
    """One step.

    sandbox: what runs now, or None where it is lowlevel.clone3 with these flags. adds: the fields that changed.
    open_door: is the caller's open file passed on?
    """

    __slots__ = ("adds", "flags", "key", "open_door", "sandbox", "title", "why")

    def __init__(
        self,
        key: str,
        title: str,
        why: str,
        *,
        flags: CLONE | None = None,
        sandbox: Sandbox | None = None,
        adds: dict[str, Any] | None = None,
        open_door: bool = True,
    ) -> None:
        self.key, self.title, self.why = key, title, why
        self.flags, self.sandbox, self.adds = flags, sandbox, adds or {}
        self.open_door = open_door

    @property
    def code(self) -> str:
        """What to write for this step."""
        if self.flags is not None:
            names = " | ".join(f"CLONE.{flag.name}" for flag in FLAGS if flag & self.flags)
            return f"child = lowlevel.clone3({names})\nif child.pid == 0: os.execve(argv[0], argv, env)"
        lines = [written(name, value) for name, value in self.adds.items()]
        if self.key == "ids":
            lines.append("# until they come back: " + ", ".join(TURNED_OFF))
        if not self.open_door:
            lines.append("pass_fds=()")
        return "\n".join(lines)


def unsafe_defaults(variables: dict[str, str]) -> dict[str, Any]:
    """Sandbox fields that turn ramet's own protections off, so that the steps can turn them on one by one."""
    from resource import RLIMIT_CORE, RLIMIT_NPROC, getrlimit

    def current(number: int) -> tuple[int | None, ...]:
        return tuple(None if one < 0 else one for one in getrlimit(number))

    return {
        "capabilities": {"ALL"},
        "no_new_privs": False,
        "nested_namespaces": True,
        "seccomp": "none",
        "landlock": False,
        "rlimits": {"CORE": current(RLIMIT_CORE), "NPROC": current(RLIMIT_NPROC)},
        "new_session": False,
        "env": {**os.environ, **variables},
    }


def stages(variables: dict[str, str]) -> list[Stage]:
    """All of them, in order. variables: put into the environment that is still the caller's."""
    found = [
        Stage(
            "nothing",
            "A process, and nothing else",
            "clone without a flag, then exec: fork, as everybody knows it. Whatever the caller can reach, it can.",
            flags=CLONE(0),
        ),
        Stage(
            "flags",
            "The clone flags",
            "New namespaces of users, processes, SysV IPC, host name and cgroups. Nobody has said yet who is who in the"
            " new user namespace, so it is nobody; and /proc is still the host's.",
            flags=CLONE(sum(FLAGS)),
        ),
        Stage(
            "ids",
            "The id maps",
            "One line in uid_map makes it root, of its own namespaces only. ramet's protections are all turned off here;"
            " they come back one by one.",
            sandbox=Sandbox(namespaces=_FLAGS_NAMED, uid=0, gid=0, **unsafe_defaults(variables)),
            adds={"namespaces": _FLAGS_NAMED, "uid": 0, "gid": 0},
        ),
    ]

    def add(key: str, title: str, why: str, *, open_door: bool = True, **fields: Any) -> None:
        before = found[-1].sandbox
        assert before is not None
        sandbox = before.replace(**fields)
        if "namespaces" in fields:
            fields["namespaces"] -= before.namespaces
        found.append(Stage(key, title, why, sandbox=sandbox, adds=fields, open_door=open_door))

    add(
        "root",
        "A root of its own",
        "A mount namespace, a new root with only what programs need, and pivot_root into it; the old root is"
        " unmounted. /proc and /dev are left empty for now.",
        namespaces=_FLAGS_NAMED | {Namespace.MOUNT},
        rootfs="minimal",
        mounts=(Directory("/proc"), Directory("/dev")),
    )
    add(
        "proc",
        "/proc and /dev",
        "A proc of its own pid namespace, and a /dev of a few harmless devices. Without mounts= both are there anyway.",
        mounts=(Proc(), Dev()),
    )
    add(
        "network",
        "A network of its own",
        "A network namespace: another loopback, and nothing that leads out. Abstract sockets belong to it too.",
        namespaces=_FLAGS_NAMED | {Namespace.MOUNT, Namespace.NET},
    )
    add(
        "limits",
        "Limits",
        "Namespaces limit what is seen, not how much is used. These are rlimits: the memory of all of it together takes"
        " a cgroup.",
        rlimits={"NOFILE": 64, "NPROC": 24, "AS": 256 << 20},
    )
    add(
        "rights",
        "No capabilities",
        "It is still uid 0 inside, and that now means nothing. no_new_privs: no program it starts can gain rights. And"
        " it may not make user namespaces, in which it would have them all again.",
        capabilities=frozenset(),
        no_new_privs=True,
        nested_namespaces=False,
    )
    add(
        "seccomp",
        "A filter of system calls, and a second wall",
        "What no namespace and no capability covers: calls themselves. seccomp allows the calls that programs need and"
        " refuses the rest. Landlock says once more which files it may use, should a mount be wrong.",
        seccomp="default",
        landlock=True,
    )
    add(
        "exec",
        "The last things before exec",
        "A clean environment, a session of its own, every other descriptor closed. What runs now is the container's"
        " program.",
        open_door=False,
        env={},
        new_session=True,
    )
    return found


def written(name: str, value: Any) -> str:
    """A field as one would write it; of namespaces, those that are new."""
    if name == "namespaces":
        members = ", ".join(f"Namespace.{member.name}" for member in Namespace if member in value)
        whole = Namespace.USER in value
        return f"namespaces={'' if whole else 'namespaces | '}{{{members}}}"
    if name == "mounts":
        return "mounts=[" + ", ".join(f"{type(one).__name__}({one.destination!r})" for one in value) + "]"
    if name == "capabilities":
        return f"capabilities={set(value) or 'set()'}"
    return f"{name}={value!r}"
