"""A line of strace in words: what was asked for, what came of it, and if it failed, why. Pure.

It knows clone, clone3, fork, vfork, unshare and setns, with or without strace's -f, -t, -r, -T, -y and -X.
"""

from __future__ import annotations

import errno as _errno
import re

from ramet.errors import SpecError, errno_name
from ramet.explain.causes import check_unshare, other_causes
from ramet.explain.flags import FlagsExplanation, explain_flags, violation_dict, violation_text
from ramet.explain.words import WHAT, wrap
from ramet.flags import CLONE, CSIGNAL, NAMESPACE_FILES, format_clone, kernel_name, parse_clone, signal_name
from ramet.rules import NEWEST, ORDINARY, ROOT, Caller, Violation, check
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CALLS = ("clone", "clone3", "fork", "vfork", "unshare", "setns")
_LOW = CSIGNAL ^ int(CLONE.NEWTIME)
_HINT = "as in: clone(child_stack=NULL, flags=CLONE_VM|SIGCHLD) = 1234, in quotation marks"
_WORDS = {
    CLONE.VM: "memory",
    CLONE.FS: "root, current directory and umask",
    CLONE.FILES: "descriptors",
    CLONE.SIGHAND: "signal handlers",
    CLONE.SYSVSEM: "semaphore undo list",
    CLONE.IO: "I/O context",
}


class TracedCall:
    """A call as strace shows it.

    name; flags, exit_signal; fields: of the arguments, as text by name; result: what it returned, None if the
    line doesn't say; errno: of a failure, else 0.
    """

    __slots__ = ("dropped", "errno", "exit_signal", "fields", "flags", "name", "restarted", "result")

    def __init__(self, name: str) -> None:
        self.name, self.flags, self.exit_signal = name, CLONE(0), 0
        self.dropped = CLONE(0)
        self.fields: dict[str, str] = {}
        self.result: int | None = None
        self.errno = 0
        self.restarted = False

    @property
    def makes_process(self) -> bool:
        """Not unshare and setns."""
        return self.name not in ("unshare", "setns")

    def violations(self, kernel: tuple[int, ...], caller: Caller) -> tuple[Violation, ...]:
        """Why the flags and fields themselves would be refused."""
        if self.name == "setns":
            return ()
        if self.name == "unshare":
            return check_unshare(self.flags, caller=caller)
        if self.name != "clone3":
            return check(int(self.flags) | self.exit_signal, call="clone", kernel=kernel, caller=caller)
        pids = re.findall(r"\d+", self.fields.get("set_tid", "")) if "[" in self.fields.get("set_tid", "") else []
        return check(
            self.flags,
            exit_signal=self.exit_signal,
            pidfd=_number(self.fields.get("pidfd")),
            parent_tid=_number(self.fields.get("parent_tid")),
            cgroup=_number(self.fields.get("cgroup")),
            set_tid=[int(pid) for pid in pids],
            stack=_number(self.fields.get("stack")) or 0,
            stack_size=_number(self.fields.get("stack_size")) or 0,
            tls=_number(self.fields.get("tls")) or 0,
            kernel=kernel,
            caller=caller,
        )


class CallExplanation:
    """A traced call and what can be said of it; of flags as `FlagsExplanation` does."""

    __slots__ = ("call", "flags", "kernel", "ordinary", "violations")

    def __init__(self, call: TracedCall, flags: FlagsExplanation, kernel: tuple[int, ...]) -> None:
        self.call, self.flags, self.kernel = call, flags, kernel
        self.violations = call.violations(kernel, ROOT)
        self.ordinary = call.violations(kernel, ORDINARY)

    def reasons(self) -> tuple[Violation, ...]:
        """Those reasons of a failure that the flags themselves give."""
        found = self.violations or self.ordinary
        return tuple(each for each in found if each.errno == self.call.errno)

    @property
    def others(self) -> list[str]:
        """What else the errno can come from. None, where the flags give the reason whoever asks."""
        if not self.call.errno or (self.violations and self.reasons()):
            return []
        return other_causes(self.call.name, self.call.errno, self.call.flags)

    def __str__(self) -> str:
        call = self.call
        parts = [wrap(f"{call.name}: {_outcome(call)}", 0)]
        if not call.errno and not call.restarted:
            parts += ["\n", *(wrap(f"{label:8} {text}", 2, 11) for label, text in self.effects().items() if text)]
        parts += self._failure() if call.errno else self._doubt()
        body = self.flags.body() if call.makes_process else _own_body(call.flags)
        parts += ["\n" + body] if body else []
        if not call.errno and not self.violations and call.makes_process:
            parts.append(self.flags.notes_text())
        if call.dropped:
            told = f"note: clone takes 32 bits and dropped {format_clone(call.dropped)}; clone3 takes it"
            parts.append("\n" + wrap(told, 0, 6))
        return "".join(parts).rstrip("\n")

    def _failure(self) -> list[str]:
        call, reasons, others = self.call, self.reasons(), self.others
        parts = []
        if reasons:
            who = "" if self.violations else ", for a caller without privilege"
            parts += [f"\nThe flags give the reason{who}:\n", *map(violation_text, reasons)]
        if others:
            name = _errno.errorcode.get(call.errno, str(call.errno))
            or_else = "It can also come" if reasons else f"The flags don't tell; {name} comes"
            parts += [f"\n{or_else} from one of these:\n", *(wrap(f"- {cause}", 2, 4) for cause in others)]
        if not reasons and not others:
            parts.append("\n" + wrap("Neither the flags nor the manual tell why; a seccomp filter may answer so.", 0))
        return parts

    def _doubt(self) -> list[str]:
        """What this kernel would have refused has run on another."""
        if not self.violations or self.call.result is None:
            return []
        linux = ".".join(map(str, self.kernel[:2]))
        head = wrap(f"Linux {linux} would refuse this, so another kernel must have taken it:", 0)
        return ["\n" + head, *map(violation_text, self.violations)]

    def effects(self) -> dict[str, str]:
        """What the two have in common afterwards, what was copied and what is new."""
        call = self.call
        new = [kind for flag, kind in NAMESPACE_FILES.items() if call.flags & flag]
        if call.flags & CLONE.EMPTY_MNTNS and "mnt" not in new:
            new.append("mnt")
        spaces = f"{', '.join(new)} namespace{'s' * (len(new) != 1)}" if new else ""
        if call.name == "setns":
            return {"joined": spaces or f"what descriptor {call.fields['fd']} stands for"}
        if call.name == "unshare":
            own = [word for flag, word in _WORDS.items() if call.flags & flag]
            later = [kind for kind in ("pid", "time") if kind in new]
            text = ", ".join([*own, spaces] if spaces else own)
            if later:
                text += f" ({' and '.join(later)}: only its children will be in there)"
            return {"its own": text or "nothing"}
        shared = [word for flag, word in _WORDS.items() if call.flags & flag]
        copied = [_WORDS[flag] for flag in (CLONE.VM, CLONE.FS, CLONE.FILES, CLONE.SIGHAND) if not call.flags & flag]
        rest = "every namespace" if not new else "the other namespaces" if len(new) < len(NAMESPACE_FILES) else ""
        return {
            "shared": ", ".join([*shared, rest] if rest else shared),
            "copied": ", ".join(copied),
            "new": spaces,
            "told by": self._told_by(),
        }

    def _told_by(self) -> str:
        call = self.call
        if call.flags & CLONE.THREAD:
            return "nothing: it is a thread"
        ways = [signal_name(call.exit_signal) + " when it ends" if call.exit_signal else "no signal when it ends"]
        if call.flags & CLONE.PIDFD:
            ways.append("a pidfd")
        return ", ".join(ways)

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        call = self.call
        return {
            "kind": "call",
            "call": call.name,
            "arguments": call.fields,
            "result": call.result,
            "errno": _errno.errorcode.get(call.errno) if call.errno else None,
            "effects": {label: text for label, text in self.effects().items() if text} if not call.errno else {},
            "reasons": [violation_dict(each) for each in self.reasons()] if call.errno else [],
            "other_causes": self.others,
            "refused_by_this_kernel": [violation_dict(each) for each in self.violations],
            "flags": {
                key: value
                for key, value in self.flags.as_dict().items()
                if key in ("names", "value", "flags", "unknown", "exit_signal", "notes")
            },
        }


def _own_body(flags: CLONE) -> str:
    """What each flag of unshare or setns is about; there is no child to speak of."""
    lines = []
    for flag in flags:
        kind = NAMESPACE_FILES.get(flag)
        what = WHAT[kind] if kind else _WORDS.get(flag, "")
        page = flag.fact.page if kind else "unshare(2)"
        lines.append(f"  {kernel_name(flag)}  {page}\n" + wrap(what or "no kernel unshares it", 6))
    return "".join(lines)


def _outcome(call: TracedCall) -> str:
    if call.errno:
        return f"failed with {errno_name(call.errno)}"
    if call.restarted:
        return "a signal came first; the kernel makes the call again after it"
    if call.result is None:
        return "how it ended is not on this line"
    if not call.makes_process:
        return "it worked"
    if call.result == 0:
        return "it worked, and this is the child, for which it returns 0"
    kind = "thread" if call.flags & CLONE.THREAD else "process"
    return f"it worked, and made {kind} {call.result}"


def explain_call(line: str, *, kernel: tuple[int, ...] = NEWEST) -> CallExplanation:
    """Explain a line of strace. Raises SpecError for one that is none, or of another call."""
    call = parse_call(line)
    bits = int(call.flags) & ~_LOW | call.exit_signal & _LOW
    return CallExplanation(call, explain_flags(hex(bits), kernel=kernel), kernel)


def looks_like_a_call(text: str) -> bool:
    """Is this a line of strace rather than flags or a pid?"""
    return re.search(r"\w\s*\(", text) is not None or "<... " in text


def parse_call(line: str) -> TracedCall:
    """Read a line of strace. Raises SpecError."""
    text = re.sub(r"strace: Process \d+ attached\n?", "", line)
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    if "resumed>" in text:
        why = "the end of a call whose flags are on an earlier line, the one that ends in <unfinished ...>"
        raise SpecError(why, field="subject", hint="strace without -f, or with -o FILE -ff, keeps a call on one line")
    found = re.search(r"\b(\w+)\((.*)", text, re.DOTALL)
    if not found:
        raise SpecError(f"{line!r} is no line of strace", field="subject", hint=_HINT)
    call = TracedCall(found[1])
    if call.name not in CALLS:
        meant = nearest(call.name, CALLS)
        hint = f"did you mean {meant}?" if meant else f"it knows {', '.join(CALLS)}"
        raise SpecError(f"{call.name} is no call that explain knows", field="subject", hint=hint)
    arguments, rest = _split(found[2])
    _take_arguments(call, arguments)
    _take_result(call, rest)
    return call


def _split(text: str) -> tuple[list[str], str]:
    """The arguments at the commas between them, and what follows the closing parenthesis."""
    arguments, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in "]}" or (letter == ")" and depth):
            depth -= 1
        elif letter == ")" or (letter == "," and not depth) or text.startswith("<unfinished", at):
            arguments.append(text[begin:at].strip())
            begin = at + 1
            if letter != ",":
                return [each for each in arguments if each], text[at + 1 :].strip() if letter == ")" else ""
    return [each for each in [*arguments, text[begin:].strip()] if each], ""


def _take_arguments(call: TracedCall, arguments: list[str]) -> None:
    if call.name in ("fork", "vfork"):
        call.exit_signal = 17
        call.flags = CLONE.VM | CLONE.VFORK if call.name == "vfork" else CLONE(0)
        return
    if call.name == "clone3" and arguments and arguments[0].startswith("{"):
        inner, _ = _split(arguments[0].partition(" => ")[0].strip()[1:].rstrip("}"))
        arguments = inner
    named = [argument.partition("=") for argument in arguments]
    call.fields = {name.strip(): value.strip() for name, equals, value in named if equals}
    if call.name in ("unshare", "setns"):
        wanted = arguments[-1:] if call.name == "unshare" else arguments[1:2]
    else:
        bare = arguments[:1] if arguments and "=" not in arguments[0] else []
        wanted = [call.fields["flags"]] if "flags" in call.fields else bare
    if not wanted:
        raise SpecError("has no flags", field=call.name, hint=_HINT)
    if call.name == "setns":
        call.fields = {"fd": arguments[0], "nstype": arguments[1]}
    call.flags, call.exit_signal = parse_clone(wanted[0], field=call.name)
    if call.name == "clone":
        call.dropped, call.flags = CLONE(call.flags >> 32 << 32), CLONE(call.flags & 0xFFFF_FFFF)
    if call.name == "clone3":
        call.flags |= call.exit_signal  # clone3 has another field for it, and no use for these bits
        call.exit_signal = _signal(call.fields.get("exit_signal", "0"))


def _signal(text: str) -> int:
    bits, number = parse_clone(text, field="exit_signal")
    return number | int(bits)


def _number(text: str | None) -> int | None:
    """The value of a field; None if it is not there, or shown by what it points to."""
    if text is None or text.startswith("["):
        return None
    if text == "NULL":
        return 0
    found = re.match(r"0x[0-9a-f]+|\d+", text)
    return int(found[0], 0) if found else None


def _take_result(call: TracedCall, text: str) -> None:
    found = re.match(r"=\s*(0x[0-9a-f]+|-?\d+|\?)\s*(E[A-Z0-9]+)?", text)
    if not found:
        return
    value, name = found[1], found[2]
    if name and name.startswith("ERESTART"):
        call.restarted = True
    elif name:
        call.errno = getattr(_errno, name, 0)
        if not call.errno:
            raise SpecError(f"{name} is no errno that is known here", field=call.name)
        call.result = -1
    elif value != "?":
        call.result = int(value, 0)
