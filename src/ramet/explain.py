"""What clone flags mean together, and which namespaces a process has of its own: `ramet explain`.

`explain_flags` and `explain_process` are pure: they take what they speak of. `explain` looks at a subject
as a person types it, and asks the host for what that needs. Text fits 80 columns; `as_dict` is for JSON.
"""

from __future__ import annotations

import errno as _errno

from ramet.errors import SpecError, errno_name
from ramet.flags import CLONE, OBSOLETE_CLONE, format_clone, kernel_name, parse_clone, signal_name
from ramet.rules import NEWEST, ORDINARY, ROOT, Violation, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ramet.host.namespaces import Process
    from ramet.rules import Caller

WIDTH = 80

_WHAT = {
    "user": "user and group ids, capabilities",
    "mnt": "mounts",
    "pid": "process numbers",
    "net": "network devices, addresses, ports",
    "ipc": "System V IPC, message queues",
    "uts": "host name",
    "cgroup": "view of the cgroup tree",
    "time": "clock offsets",
}


class FlagsExplanation:
    """Flags, what each does, and whether a kernel takes them together.

    violations: why root is refused; ordinary: why a user without privilege is. The first one's errno is the
    kernel's answer. refused_by_newest: does the newest known kernel refuse it too? notes: what surprises
    people although the kernel takes it. obsolete: names without their CLONE_.
    """

    __slots__ = (
        "exit_signal",
        "flags",
        "kernel",
        "notes",
        "obsolete",
        "ordinary",
        "refused_by_newest",
        "violations",
    )

    def __init__(
        self,
        flags: CLONE,
        exit_signal: int,
        *,
        obsolete: Sequence[str],
        kernel: tuple[int, ...],
        violations: tuple[Violation, ...],
        ordinary: tuple[Violation, ...],
        refused_by_newest: bool,
        notes: tuple[str, ...],
    ) -> None:
        self.flags, self.exit_signal, self.obsolete, self.kernel = flags, exit_signal, obsolete, kernel
        self.violations, self.ordinary, self.notes = violations, ordinary, notes
        self.refused_by_newest = refused_by_newest

    @property
    def unknown(self) -> int:
        """The bits that are no flag's."""
        bits = int(self.flags)
        for flag in self.flags:
            bits &= ~int(flag)
        return bits

    def __str__(self) -> str:
        parts = [f"{self._title()}\n"]
        parts += [_flag_text(flag) for flag in self.flags]
        if self.unknown:
            parts.append(f"  {self.unknown:#x}  no kernel knows it\n")
        parts += [_obsolete_text(name) for name in self.obsolete]
        if self.exit_signal:
            name = signal_name(self.exit_signal)
            parts.append(f"  {name}  exit signal\n" + _wrap(f"The parent gets {name} when the child ends.", 6))
        if self.flags or not self.obsolete:
            parts.append("\n" + self._verdict())
        parts += ["\n"] * bool(self.notes) + [_wrap(f"note: {note}", 0, 6) for note in self.notes]
        return "".join(parts).rstrip("\n")

    def _title(self) -> str:
        names = [format_clone(self.flags, self.exit_signal)] if self.flags or self.exit_signal else []
        names += [f"CLONE_{name}" for name in self.obsolete]
        title = "|".join(names) or "0"
        return _wrap(title.replace("|", "| "), 0).replace("| ", "|") + f"{int(self.flags):#x}\n"

    def _verdict(self) -> str:
        linux = "Linux " + ".".join(map(str, self.kernel[:2]))
        if self.violations:
            first = self.violations[0].errno
            head = _wrap(f"{linux} refuses this with {errno_name(first)}:", 0)
            tail = "" if self.refused_by_newest else f"Linux {NEWEST[0]}.{NEWEST[1]} takes it.\n"
            return head + "".join(_violation_text(each) for each in self.violations) + tail
        if self.ordinary:
            first = self.ordinary[0].errno
            head = f"{linux} takes this from root. An ordinary user gets {errno_name(first)}:"
            return _wrap(head, 0) + "".join(_violation_text(each) for each in self.ordinary)
        return f"{linux} takes this, from an ordinary user too.\n"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "kind": "flags",
            "names": format_clone(self.flags, self.exit_signal),
            "value": int(self.flags),
            "kernel": ".".join(map(str, self.kernel)),
            "flags": [_flag_dict(flag) for flag in self.flags],
            "unknown": self.unknown,
            "obsolete": [_obsolete_dict(name) for name in self.obsolete],
            "exit_signal": signal_name(self.exit_signal) if self.exit_signal else None,
            "refused": [_violation_dict(each) for each in self.violations],
            "refused_to_ordinary_user": [_violation_dict(each) for each in self.ordinary],
            "notes": list(self.notes),
        }


class ProcessExplanation:
    """A process, and for each kind of namespace whether it has one of its own.

    parent: None if it can't be seen from here. caller: the process that asked.
    """

    __slots__ = ("caller", "parent", "process")

    def __init__(self, process: Process, parent: Process | None, caller: Process) -> None:
        self.process, self.parent, self.caller = process, parent, caller

    @property
    def own(self) -> tuple[str, ...]:
        """The kinds that it does not share with its parent."""
        return self._differing(self.parent)

    @property
    def apart_from_caller(self) -> tuple[str, ...]:
        """The kinds that it does not share with the caller."""
        return self._differing(self.caller)

    def _differing(self, other: Process | None) -> tuple[str, ...]:
        if other is None:
            return ()
        ours, theirs = self.process.ids, other.ids
        return tuple(kind for kind in ours if _relation(ours[kind], theirs[kind]) == "own")

    def __str__(self) -> str:
        process = self.process
        parent = f"parent {process.parent}" if self.parent else f"parent {process.parent}, not visible"
        lines = [f"process {process.pid} ({process.command}), {parent}", ""]
        lines.append(f"  {'':7} {'namespace':>12}  {'to parent':9}  {'to you':7}  holds")
        for kind, identity in process.ids.items():
            parents = self.parent.ids[kind] if self.parent else None
            name = "hidden" if identity is None else str(identity)
            to_parent, to_caller = _relation(identity, parents), _relation(identity, self.caller.ids[kind])
            lines.append(f"  {kind:7} {name:>12}  {to_parent:9}  {to_caller:7}  {_WHAT[kind]}")
        lines += ["", *self._summary().splitlines()]
        return "\n".join(line.rstrip() for line in lines)

    def _summary(self) -> str:
        process = self.process
        text = ""
        if not any(process.ids.values()):
            return _wrap("hidden: looking needs the right to ptrace the process.", 0)
        if self.parent is not None:
            own = ", ".join(self.own)
            text += _wrap(f"Of its own, compared with its parent: {own or 'none'}.", 0)
        apart = ", ".join(self.apart_from_caller)
        text += _wrap(f"Apart from you: {apart or 'none'}.", 0)
        for kind, identity in process.children.items():
            text += _wrap(f"Its children will be in another {kind} namespace, {identity}.", 0)
        if None in process.ids.values():
            text += _wrap("hidden: looking needs the right to ptrace the process.", 0)
        return text

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        process = self.process
        return {
            "kind": "process",
            "pid": process.pid,
            "parent": process.parent,
            "command": process.command,
            "namespaces": {
                kind: {
                    "id": identity,
                    "to_parent": _relation(identity, self.parent.ids[kind] if self.parent else None),
                    "to_caller": _relation(identity, self.caller.ids[kind]),
                }
                for kind, identity in process.ids.items()
            },
            "namespaces_for_children": dict(process.children),
        }


Explanation = FlagsExplanation | ProcessExplanation


def explain(
    subject: str,
    *,
    kernel: tuple[int, ...] | None = None,
    read: Callable[[int], Process] | None = None,
    caller_pid: int | None = None,
) -> Explanation:
    """Explain flags ("CLONE_VM|NEWPID", "0x10900") or a process ("1234", "self").

    A plain decimal number is a pid; "flags:256" and "pid:256" say which. By default the kernel is the running
    one, and processes are read from /proc. Raises SpecError.
    """
    from os import getpid

    from ramet.host.namespaces import kernel_version, read_process

    asked = subject.strip()
    kind, colon, rest = asked.partition(":")
    if not colon:
        kind, rest = ("pid" if asked.isdecimal() or asked == "self" else "flags"), asked
    if kind == "flags":
        return explain_flags(rest, kernel=kernel_version() if kernel is None else kernel)
    if kind != "pid":
        raise SpecError(f"{asked!r} is neither flags nor a process", field="subject", hint=_HOW)
    return explain_process(
        _pid(rest), read=read or read_process, caller_pid=getpid() if caller_pid is None else caller_pid
    )


_HOW = 'write "CLONE_VM|CLONE_NEWPID", "0x20000100", a pid such as "1", or "self"'


def explain_text(subject: str) -> str:
    """What `ramet explain` prints."""
    return str(explain(subject))


def explain_json(subject: str) -> dict[str, Any]:
    """What `ramet explain --json` prints."""
    return explain(subject).as_dict()


def explain_flags(text: str, *, kernel: tuple[int, ...] = NEWEST) -> FlagsExplanation:
    """Explain flags by name or number; a signal among them is the exit signal. Pure."""
    parts = [part.strip() for part in text.split("|")]
    obsolete = [name for part in parts if (name := part.upper().removeprefix("CLONE_")) in OBSOLETE_CLONE]
    current = [part for part in parts if part.upper().removeprefix("CLONE_") not in OBSOLETE_CLONE]
    flags, exit_signal = parse_clone("|".join(current)) if current else (CLONE(0), 0)
    if flags & OBSOLETE_CLONE["DETACHED"]:
        obsolete.append("DETACHED")
    asked = int(flags) | (OBSOLETE_CLONE["DETACHED"] if "DETACHED" in obsolete else 0)
    cgroup = 3 if flags & CLONE.INTO_CGROUP else None  # that the field must be given is said by the meaning

    def judge(caller: Caller, by: tuple[int, ...] = kernel) -> tuple[Violation, ...]:
        return check(asked, exit_signal=exit_signal, cgroup=cgroup, kernel=by, caller=caller)

    violations = judge(ROOT)

    return FlagsExplanation(
        CLONE(int(flags) & ~OBSOLETE_CLONE["DETACHED"]),
        exit_signal,
        obsolete=list(dict.fromkeys(obsolete)),
        kernel=kernel,
        violations=violations,
        ordinary=judge(ORDINARY),
        refused_by_newest=bool(judge(ROOT, NEWEST)),
        notes=() if violations else tuple(_notes(flags, exit_signal)),
    )


def explain_process(pid: int, *, read: Callable[[int], Process], caller_pid: int) -> ProcessExplanation:
    """Explain a process's namespaces; `read` looks at one process (`ramet.host.namespaces.read_process`)."""
    process = read(pid or caller_pid)
    caller = process if process.pid == caller_pid else read(caller_pid)
    try:
        parent = read(process.parent) if process.parent else None
    except SpecError:  # it has just ended
        parent = None
    return ProcessExplanation(process, parent, caller)


def _pid(text: str) -> int:
    """0 for "self"."""
    if text == "self":
        return 0
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise SpecError(f"{text!r} is no pid", field="subject", hint=_HOW)
    return int(text)


def _notes(flags: CLONE, exit_signal: int) -> list[str]:
    notes = []
    silent = flags & (CLONE.THREAD | CLONE.PARENT | CLONE.AUTOREAP)
    if flags and not exit_signal and not silent:
        notes.append("without an exit signal the child is seen only by a wait with __WALL or __WCLONE")
    if flags & CLONE.VM and not flags & CLONE.VFORK:
        notes.append("two run in one memory at once, so the child needs a stack of its own (the field stack)")
    if flags & CLONE.PARENT and flags & (CLONE.NEWPID | CLONE.NEWUSER):
        notes.append("clone(2) still says EINVAL for CLONE_PARENT here; kernels since 3.13 take it")
    if flags & (CLONE.NEWNS | CLONE.EMPTY_MNTNS) == CLONE.NEWNS:
        notes.append("where / is shared, as systemd makes it, mounts of the child reach the caller; make it private")
    if flags & CLONE.NEWPID and not flags & CLONE.NEWNS:
        notes.append("/proc still shows the caller's numbers until a new one is mounted (CLONE_NEWNS)")
    if flags & CLONE.NEWUSER:
        notes.append("ids show as 65534 (nobody) until /proc/PID/uid_map and gid_map are written")
    if flags & CLONE.AUTOREAP and not flags & CLONE.PIDFD:
        notes.append("without CLONE_PIDFD there is no way to learn how the child ended")
    return notes


def _release(since: tuple[int, ...]) -> str:
    return "since Linux " + ".".join(map(str, since))


def _flag_text(flag: CLONE) -> str:
    fact = flag.fact
    text = f"  {kernel_name(flag)}  {_release(fact.since)}, {fact.page}\n" + _wrap(fact.meaning, 6)
    if fact.needs:
        text += _wrap(f"needs {fact.needs}", 6, 8)
    if fact.requires:
        text += _wrap(f"only with {', '.join(map(kernel_name, fact.requires))}", 6, 8)
    if fact.excludes:
        text += _wrap(f"never with {', '.join(map(kernel_name, fact.excludes))}", 6, 8)
    return text


def _flag_dict(flag: CLONE) -> dict[str, Any]:
    fact = flag.fact
    return {
        "name": kernel_name(flag),
        "value": int(flag),
        "since": ".".join(map(str, fact.since)),
        "meaning": fact.meaning,
        "needs": fact.needs or None,
        "requires": [kernel_name(other) for other in fact.requires],
        "excludes": [kernel_name(other) for other in fact.excludes],
        "page": fact.page,
    }


def _obsolete_text(name: str) -> str:
    from ramet.flag_facts import OBSOLETE

    return f"  CLONE_{name}  obsolete\n" + _wrap(_sentence(OBSOLETE[name].meaning), 6)


def _obsolete_dict(name: str) -> dict[str, Any]:
    from ramet.flag_facts import OBSOLETE

    row = OBSOLETE[name]
    return {
        "name": f"CLONE_{name}",
        "value": OBSOLETE_CLONE[name],
        "since": ".".join(map(str, row.since)),
        "until": ".".join(map(str, row.until)),
        "meaning": _sentence(row.meaning),
    }


def _violation_text(violation: Violation) -> str:
    name = _errno.errorcode[violation.errno]
    return _wrap(f"- {name}: {violation.reason} ({violation.source})", 2, 4)


def _violation_dict(violation: Violation) -> dict[str, Any]:
    return {
        "errno": violation.errno,
        "errno_name": _errno.errorcode[violation.errno],
        "reason": violation.reason,
        "flags": format_clone(violation.flags),
        "since": ".".join(map(str, violation.since)),
        "source": violation.source,
        "manual": violation.manual or None,
    }


def _relation(ours: int | None, theirs: int | None) -> str:
    if ours is None or theirs is None:
        return "?"
    return "shared" if ours == theirs else "own"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _wrap(text: str, indent: int, hanging: int | None = None) -> str:
    from textwrap import fill

    later = indent if hanging is None else hanging
    return (
        fill(
            text,
            WIDTH,
            initial_indent=" " * indent,
            subsequent_indent=" " * later,
            break_on_hyphens=False,
        )
        + "\n"
    )
