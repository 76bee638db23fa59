"""What a plan is made of: steps, stages, and the plan itself. Values only; nothing here runs anything."""

from __future__ import annotations

import os
from collections import namedtuple
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NamedTuple, TypeAlias

    from ramet.host.facts import Facts
    from ramet.plan.ahead import Kit
    from ramet.plan.encode import Encodings
    from ramet.plan.limits import Groups, Protection
    from ramet.plan.prepared import PreparedMount
    from ramet.spec import Command, Sandbox

    class Step(NamedTuple):
        """One system call. See the class of the same name below."""

        call: str
        args: tuple[Arg, ...]
        result: Slot | None
        origin: str
        doing: str
        allow: tuple[int, ...]
        expect: int | None
        retries: bool

    Arg: TypeAlias = "int | str | bytes | Slot | Block"
else:

    class Step(namedtuple("Step", "call args result origin doing allow expect retries")):
        """One system call.

        call: its name. args: an int is passed as it is, text as a pointer to a C string, a Block as a pointer to
        a structure, a Slot as the number in it. result: the Slot it is kept in. origin: the spec field it comes
        from. doing: what for, to complete "cannot ...". allow: errnos that are no failure. expect: the only
        result that is none. retries: a failure may be followed by the next candidate of the same kind (execve along PATH).
        """

        __slots__ = ()


#: A Step of its fields in order, at half the price of Step(...): a plan has two hundred.
_step: Callable[[tuple[object, ...]], Step] = partial(tuple.__new__, Step)

AT_FDCWD = -100
O_WRONLY = os.O_WRONLY
O_CLOEXEC = os.O_CLOEXEC


class Slot(str):
    """A 32-bit word that holds the result of an earlier step or an input of the caller, by name."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Slot({str(self)!r})"


class Ptr:
    """In a Block: a pointer to something else in the data."""

    __slots__ = ("to",)

    def __init__(self, to: bytes | str | Block) -> None:
        self.to = to


class Block(tuple):  # type: ignore[type-arg]
    """A structure in memory: bytes as they are, Ptr as an address, a Slot as the place where it is kept.

    text: how the structure is shown, as strace would.
    """

    text: str

    def __new__(cls, *parts: bytes | Ptr | Slot, text: str = "") -> Block:
        self = super().__new__(cls, parts)
        self.text = text
        return self


class CallerStep(namedtuple("CallerStep", "action args origin doing")):
    """What the caller does while the child waits for it. action: "write" (path below /proc/PID, text) or "helper" (argv).

    ``{pid}`` in an argument stands for the child's pid.
    """

    __slots__ = ()


class Stage(namedtuple("Stage", "name steps")):
    """Steps that one process runs in order. name: one of `STAGES`."""

    __slots__ = ()


#: Numbers under which the stages report failures (csrc/child.h); 2 is the clone itself, 6 that of the payload's process.
STAGE_NUMBERS = {1: "join", 3: "child", 4: "init", 5: "payload", 7: "view"}
STAGE_CLONE, STAGE_PAYLOAD_CLONE = 2, 6


#: In the order in which they run.
STAGES = ("join", "child", "init", "view", "payload")


class Plan:
    """A sandbox as a program of system calls.

    stages: by name; "child" is always there. clone_flags: of the child's clone, without CLONE_VM, CLONE_VFORK and
    CLONE_PIDFD, which `spawn` adds. sync: what the caller does while the child waits. inputs: the slots the caller
    fills, by name. init: is there ramet's own pid 1? gated: does the payload's process share its memory until both exec, and wait
    for it? kit: the namespaces that could be made ahead for such a plan, or None; ahead: the kit
    whose namespaces this one enters. groups: the control group it gets; filters: for system calls; protections: how its limits are held.
    environment: the payload's; function: it is a function of the caller's, called in the process that has made the steps.
    tty: the child sends back the master of a new pseudo-terminal. owner: the payload's uid and gid outside, where these
    are not the caller's: pipes for it should be its own. prepared: mounts that the caller makes before the clone. notes: what a careful reader should know.
    """

    __slots__ = (
        "ahead",
        "clone_flags",
        "command",
        "encoded",
        "environment",
        "facts",
        "filters",
        "function",
        "gated",
        "groups",
        "init",
        "kit",
        "notes",
        "owner",
        "prepared",
        "protections",
        "spec",
        "stages",
        "sync",
        "tty",
    )
    encoded: Encodings | None

    def __init__(
        self,
        *,
        spec: Sandbox,
        facts: Facts,
        command: Command,
        clone_flags: int,
        stages: dict[str, Stage],
        sync: tuple[CallerStep, ...],
        init: bool,
        gated: bool,
        tty: bool,
        prepared: tuple[PreparedMount, ...],
        notes: tuple[str, ...],
        owner: tuple[int, int] | None = None,
        kit: Kit | None = None,
        ahead: Kit | None = None,
        groups: Groups | None = None,
        filters: tuple[bytes, ...] = (),
        environment: Mapping[str, str] | None = None,
        function: bool = False,
        protections: tuple[Protection, ...] = (),
    ) -> None:
        self.spec, self.facts, self.command = spec, facts, command
        self.clone_flags, self.stages, self.sync = clone_flags, stages, sync
        self.init, self.gated, self.tty, self.notes = init, gated, tty, notes
        self.owner = owner
        self.kit, self.ahead = kit, ahead
        self.groups, self.filters, self.protections = groups, filters, protections
        self.environment = environment or {}
        self.function = function
        self.prepared = prepared
        self.encoded = None  # kept by ramet.plan.encode, so that a plan used again is encoded once

    @property
    def last(self) -> str:
        """The stage that ends in the payload."""
        return "payload" if self.init else "child"

    def __iter__(self) -> Iterator[Step]:
        """Every step, in the order in which they run."""
        for name in STAGES:
            if name in self.stages:
                yield from self.stages[name].steps

    def __len__(self) -> int:
        return sum(len(stage.steps) for stage in self.stages.values())

    def __str__(self) -> str:
        from ramet.plan.render import plan_text

        return plan_text(self)

    def to_json(self) -> dict[str, object]:
        """The plan as plain data."""
        from ramet.plan.render import plan_json

        return plan_json(self)


class Builder:
    """Collects steps; knows which spec field they are for."""

    __slots__ = ("_counter", "doing", "origin", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.origin = ""
        self.doing = ""
        self._counter = 0

    def about(self, origin: str, doing: str) -> None:
        """What the next steps are for."""
        self.origin, self.doing = origin, doing

    def call(self, name: str, *args: Arg, allow: tuple[int, ...] = (), expect: int | None = None) -> None:
        """Add a step whose result is not needed."""
        self.steps.append(_step((name, args, None, self.origin, self.doing, allow, expect, False)))

    def attempt(self, name: str, *args: Arg) -> None:
        """Add a step that may fail as long as a later one of its kind does not."""
        self.steps.append(_step((name, args, None, self.origin, self.doing, (), None, True)))

    def open(self, slot: str, name: str, *args: Arg, allow: tuple[int, ...] = ()) -> Slot:
        """Add a step that opens a descriptor, kept in a slot of this name and a number."""
        self._counter += 1
        result = Slot(f"{slot}{self._counter}")
        self.steps.append(_step((name, args, result, self.origin, self.doing, allow, None, False)))
        return result

    def close(self, slot: Slot, allow: tuple[int, ...] = ()) -> None:
        """Add a close."""
        self.steps.append(_step(("close", (slot,), None, self.origin, self.doing, allow, None, False)))

    def write_file(self, path: str, content: str, at: int | Slot = AT_FDCWD) -> None:
        """Open a file of /proc, below a directory or by its whole path (AT_FDCWD), write to it in one call, close it."""
        fd = self.open("file", "openat", at, path, O_WRONLY | O_CLOEXEC)
        data = os.fsencode(content)
        self.call("write", fd, data, len(data), expect=len(data))
        self.close(fd)
