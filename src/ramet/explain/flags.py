"""What clone flags do together, and whether a kernel takes them. Pure."""

from __future__ import annotations

import errno as _errno

from ramet.errors import errno_name
from ramet.explain.words import sentence, wrap
from ramet.flags import CLONE, OBSOLETE_CLONE, format_clone, kernel_name, parse_clone, signal_name
from ramet.rules import NEWEST, ORDINARY, ROOT, Violation, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.rules import Caller


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
        parts = [f"{self._title()}\n", self.body()]
        if self.flags or not self.obsolete:
            parts.append("\n" + self.verdict())
        return "".join([*parts, self.notes_text()]).rstrip("\n")

    def body(self) -> str:
        """What each flag does."""
        parts = [flag_text(flag) for flag in self.flags]
        if self.unknown:
            parts.append(f"  {self.unknown:#x}  no kernel knows it\n")
        parts += [_obsolete_text(name) for name in self.obsolete]
        if self.exit_signal:
            name = signal_name(self.exit_signal)
            parts.append(f"  {name}  exit signal\n" + wrap(f"The parent gets {name} when the child ends.", 6))
        return "".join(parts)

    def notes_text(self) -> str:
        """What surprises people, under an empty line."""
        return "".join(["\n"] * bool(self.notes) + [wrap(f"note: {note}", 0, 6) for note in self.notes])

    def _title(self) -> str:
        names = [format_clone(self.flags, self.exit_signal)] if self.flags or self.exit_signal else []
        names += [f"CLONE_{name}" for name in self.obsolete]
        title = "|".join(names) or "0"
        return wrap(title.replace("|", "| "), 0).replace("| ", "|") + f"{int(self.flags) | self.exit_signal:#x}\n"

    def verdict(self) -> str:
        """Does this kernel take the flags, and from whom?"""
        linux = "Linux " + ".".join(map(str, self.kernel[:2]))
        if self.violations:
            first = self.violations[0].errno
            head = wrap(f"{linux} refuses this with {errno_name(first)}:", 0)
            tail = "" if self.refused_by_newest else f"Linux {NEWEST[0]}.{NEWEST[1]} takes it.\n"
            return head + "".join(violation_text(each) for each in self.violations) + tail
        if self.ordinary:
            first = self.ordinary[0].errno
            head = f"{linux} takes this from root. An ordinary user gets {errno_name(first)}:"
            return wrap(head, 0) + "".join(violation_text(each) for each in self.ordinary)
        return f"{linux} takes this, from an ordinary user too.\n"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "kind": "flags",
            "names": format_clone(self.flags, self.exit_signal),
            "value": int(self.flags),
            "kernel": ".".join(map(str, self.kernel)),
            "flags": [flag_dict(flag) for flag in self.flags],
            "unknown": self.unknown,
            "obsolete": [_obsolete_dict(name) for name in self.obsolete],
            "exit_signal": signal_name(self.exit_signal) if self.exit_signal else None,
            "refused": [violation_dict(each) for each in self.violations],
            "refused_to_ordinary_user": [violation_dict(each) for each in self.ordinary],
            "notes": list(self.notes),
        }


def explain_flags(text: str, *, kernel: tuple[int, ...] = NEWEST) -> FlagsExplanation:
    """Explain flags by name or number, as clone3 takes them; a signal among them is the exit signal. Pure."""
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


def flag_text(flag: CLONE) -> str:
    """A flag: since when, what it does, what it needs."""
    fact = flag.fact
    text = f"  {kernel_name(flag)}  {_release(fact.since)}, {fact.page}\n" + wrap(fact.meaning, 6)
    if fact.needs:
        text += wrap(f"needs {fact.needs}", 6, 8)
    if fact.requires:
        text += wrap(f"only with {', '.join(map(kernel_name, fact.requires))}", 6, 8)
    if fact.excludes:
        text += wrap(f"never with {', '.join(map(kernel_name, fact.excludes))}", 6, 8)
    return text


def flag_dict(flag: CLONE) -> dict[str, Any]:
    """A flag for JSON."""
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

    return f"  CLONE_{name}  obsolete\n" + wrap(sentence(OBSOLETE[name].meaning), 6)


def _obsolete_dict(name: str) -> dict[str, Any]:
    from ramet.flag_facts import OBSOLETE

    row = OBSOLETE[name]
    return {
        "name": f"CLONE_{name}",
        "value": OBSOLETE_CLONE[name],
        "since": ".".join(map(str, row.since)),
        "until": ".".join(map(str, row.until)),
        "meaning": sentence(row.meaning),
    }


def violation_text(violation: Violation) -> str:
    """A reason, as an item of a list."""
    name = _errno.errorcode[violation.errno]
    return wrap(f"- {name}: {violation.reason} ({violation.source})", 2, 4)


def violation_dict(violation: Violation) -> dict[str, Any]:
    """A reason for JSON."""
    return {
        "errno": violation.errno,
        "errno_name": _errno.errorcode[violation.errno],
        "reason": violation.reason,
        "flags": format_clone(violation.flags),
        "since": ".".join(map(str, violation.since)),
        "source": violation.source,
        "manual": violation.manual or None,
    }
