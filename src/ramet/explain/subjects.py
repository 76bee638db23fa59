"""What a person asks `ramet explain` about, told apart: flags, processes, a line of strace, an OCI config.json."""

from __future__ import annotations

import os

from ramet.errors import SpecError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ramet.explain.call import CallExplanation
    from ramet.explain.config import ConfigExplanation
    from ramet.explain.flags import FlagsExplanation
    from ramet.explain.pair import PairExplanation
    from ramet.explain.process import ProcessExplanation
    from ramet.host.namespaces import Process

    Explanation = FlagsExplanation | ProcessExplanation | PairExplanation | CallExplanation | ConfigExplanation

KINDS = ("flags", "pid", "call", "config")
_CALLED = {"flags": "flags", "pid": "a pid", "call": "a call", "config": "a file"}
_LONGEST = 1 << 24  # characters: /dev/zero, say, has no end
_HOW = 'write "CLONE_VM|CLONE_NEWPID", "0x20000100", a pid such as "1", "self", a line of strace, or a file'


def explain(
    *subjects: str,
    kind: str | None = None,
    kernel: tuple[int, ...] | None = None,
    read: Callable[[int], Process] | None = None,
    caller_pid: int | None = None,
) -> Explanation:
    """Explain flags ("CLONE_VM|NEWPID", "0x10900"), a process ("1234", "self"), two, a call, or a config.json.

    A plain decimal number is a pid; "flags:256" and "pid:256", or kind, say which. Two pids: what they share.
    Several flags are taken together. A call is a line of strace; a config is the path of an OCI config.json or
    of its bundle. By default the kernel is the running one, and processes are read from /proc. Raises SpecError.
    """
    from ramet.host.namespaces import kernel_version

    if kind is not None and kind not in KINDS:
        meant = nearest(kind, KINDS)
        hint = f"did you mean {meant!r}?" if meant else f"one of {', '.join(KINDS)}"
        raise SpecError(f"there is no kind of subject {kind!r}", field="kind", hint=hint)
    if not subjects:
        raise SpecError("there is nothing to explain", field="subject", hint=_HOW)
    parts = [_told_apart(subject.strip(), kind) for subject in _whole(subjects, kind)]
    found, words = parts[0][0], [word for _, word in parts]
    if any(other != found for other, _ in parts):
        named = " and ".join(f"{word!r} is {_CALLED[other]}" for other, word in parts)
        raise SpecError(f"can't be explained together: {named}", field="subject", hint="flags:256 makes flags of 256")
    version = kernel_version() if kernel is None else kernel
    if found == "pid":
        return _explain_processes(words, read, os.getpid() if caller_pid is None else caller_pid)
    if found == "flags":
        from ramet.explain.flags import explain_flags

        return explain_flags("|".join(words), kernel=version)
    if len(words) > 1:
        raise SpecError(f"takes one {found}, not {len(words)}", field="subject")
    if found == "call":
        from ramet.explain.call import explain_call

        return explain_call(words[0], kernel=version)
    return _explain_file(words[0], version)


def _whole(subjects: Sequence[str], kind: str | None) -> Sequence[str]:
    """A line of strace that the shell has taken apart, put together again."""
    if kind == "call" or (len(subjects) > 1 and "(" in subjects[0]):
        return [" ".join(subjects)]
    return subjects


def _told_apart(text: str, kind: str | None) -> tuple[str, str]:
    """(kind, what is to be explained). With a kind, the text is taken as that."""
    from ramet.explain.call import looks_like_a_call

    if kind is not None:
        return kind, text.removeprefix(f"{kind}:")
    if text.startswith(("/", "./", "../")) or text.endswith(".json"):
        return "config", text.removeprefix("config:")
    if looks_like_a_call(text):
        return "call", text
    if "/" in text or os.path.isfile(os.path.join(text, "config.json")):  # "bundle", or "."
        return "config", text.removeprefix("config:")
    prefix, colon, rest = text.partition(":")
    if colon:
        if prefix not in KINDS:
            raise SpecError(f"{text!r} is neither flags nor a process", field="subject", hint=_HOW)
        return prefix, rest
    return ("pid" if text.isdecimal() or text == "self" else "flags"), text


def _explain_processes(
    words: Sequence[str], read: Callable[[int], Process] | None, caller_pid: int
) -> ProcessExplanation | PairExplanation:
    from ramet.host.namespaces import read_process
    from ramet.host.standing import read_standing

    look = read or read_process
    pids = [_pid(word) or caller_pid for word in words]
    if len(pids) > 2:
        raise SpecError(f"takes one process or two, not {len(pids)}", field="subject")
    if len(pids) == 2:
        from ramet.explain.pair import explain_pair
        from ramet.host.kcmp import compare

        return explain_pair(*pids, read=look, compare=compare, thread_group=lambda pid: read_standing(pid).thread_group)
    from ramet.explain.process import explain_process

    return explain_process(pids[0], read=look, caller_pid=caller_pid, read_standing=None if read else read_standing)


def _pid(text: str) -> int:
    """0 for "self"."""
    if text == "self":
        return 0
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise SpecError(f"{text!r} is no pid", field="subject", hint=_HOW)
    return int(text)


def _explain_file(path: str, kernel: tuple[int, ...]) -> ConfigExplanation:
    from ramet.explain.config import explain_config
    from ramet.host.nsfs import identify

    if os.path.isdir(path):
        path = os.path.join(path, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except OSError as error:
        hint = "a file is read as an OCI config.json" if not os.path.exists(path) else None
        raise SpecError(f"can't be read: {os.strerror(error.errno or 0)}", field=path, hint=hint) from None
    except ValueError:
        raise SpecError("is no UTF-8 text", field=path) from None
    if len(text) > _LONGEST:
        raise SpecError("is too long for a config.json", field=path)
    return explain_config(text, path=path, identify=identify, kernel=kernel)


def explain_text(*subjects: str, kind: str | None = None) -> str:
    """What `ramet explain` prints."""
    return str(explain(*subjects, kind=kind))


def explain_json(*subjects: str, kind: str | None = None) -> dict[str, Any]:
    """What `ramet explain --json` prints."""
    return explain(*subjects, kind=kind).as_dict()
