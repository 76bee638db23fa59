"""Profiles of Docker, and of the OCI runtime specification, as a policy.

Both are JSON. Docker's have, besides, rules that hold for some machines, kernels and capabilities only. A key that is not known is
refused: it might have been the one that makes the profile tight. What has no meaning here is refused, too.
"""

from __future__ import annotations

import json
import os

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.record import nearest, unknown_field
from ramet.spec.seccomp import Condition, Rule, Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Any

TOP = (
    "defaultAction",
    "defaultErrnoRet",
    "architectures",
    "archMap",
    "flags",
    "listenerPath",
    "listenerMetadata",
    "syscalls",
)
CALL = ("name", "names", "action", "errnoRet", "args", "comment", "includes", "excludes")
ARGUMENT = ("index", "value", "valueTwo", "op")
FILTER = ("caps", "arches", "minKernel")

#: A thread that is killed leaves the others with its locks: the whole process goes instead.
ACTIONS = {
    "SCMP_ACT_ALLOW": "allow",
    "SCMP_ACT_ERRNO": "errno",
    "SCMP_ACT_LOG": "log",
    "SCMP_ACT_KILL": "kill",
    "SCMP_ACT_KILL_THREAD": "kill",
    "SCMP_ACT_KILL_PROCESS": "kill",
}
NEEDS_SOMEBODY = {
    "SCMP_ACT_TRACE": "a tracer",
    "SCMP_ACT_NOTIFY": "a program that answers (listenerPath)",
    "SCMP_ACT_TRAP": "a handler for SIGSYS in the payload",
}
OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&",
}
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
#: What the profile may ask of the installation; all of it changes nothing here, or is done anyway.
FLAGS = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")


def read(profile: object, capabilities: frozenset[str] = frozenset()) -> Seccomp:
    """The policy that a profile, or the file at a path, says for a payload with these capabilities on this machine and kernel."""
    if isinstance(profile, (str, bytes, os.PathLike)):
        path = os.fsdecode(profile)
        try:
            with open(path, "rb") as file:
                profile = json.loads(file.read())
        except OSError as error:
            raise SpecError(f"can't be read: {error.strerror}", field=path) from None
        except ValueError as error:
            raise SpecError(f"is no JSON: {error}", field=path) from None
        return _policy(profile, capabilities, path + ": ")
    return _policy(profile, capabilities, "")


def _policy(profile: object, capabilities: frozenset[str], where: str) -> Seccomp:
    top = _table(profile, TOP, where + "profile")
    for name in ("listenerPath", "listenerMetadata"):
        if top.get(name):
            raise SpecError("nobody here answers for the kernel", field=f"{where}{name}")
    for flag in _list(top.get("flags"), f"{where}flags"):
        _known(flag, FLAGS, f"{where}flags")
    if "defaultAction" not in top:
        raise SpecTypeError("is required", field=f"{where}defaultAction")
    action = _action(top["defaultAction"], f"{where}defaultAction")
    if action == "log":
        raise SpecError("SCMP_ACT_LOG can't be the default", field=f"{where}defaultAction", hint="SCMP_ACT_ALLOW")
    errno = _errno(top.get("defaultErrnoRet"), f"{where}defaultErrnoRet")
    named = _list(top.get("architectures"), f"{where}architectures")
    mapped = [
        _table(one, ("architecture", "subArchitectures"), f"{where}archMap")
        for one in _list(top.get("archMap"), f"{where}archMap")
    ]
    machines = [*named, *(one.get("architecture") for one in mapped)]
    if machines and ARCHITECTURES[os.uname().machine] not in machines:
        raise SpecError(f"is not for this machine ({ARCHITECTURES[os.uname().machine]})", field=f"{where}architectures")
    rules: list[Rule] = []
    for n, call in enumerate(_list(top.get("syscalls"), f"{where}syscalls")):
        rules += _rules(call, capabilities, action, f"{where}syscalls[{n}]")
    return Seccomp(tuple(rules), action=action, errno=errno)


def _rules(call: object, capabilities: frozenset[str], default: str, field: str) -> Iterator[Rule]:
    from ramet.seccomp.library import is_name, known

    table = _table(call, CALL, field)
    if not _applies(table, capabilities, field):
        return
    names = _list(table.get("names"), f"{field}.names") or ([table["name"]] if table.get("name") else [])
    if not names:
        raise SpecTypeError("is required", field=f"{field}.names")
    action = _action(table.get("action"), f"{field}.action")
    here = []
    for n, given in enumerate(names):
        name = values.text(given, f"{field}.names[{n}]")
        if is_name(name):
            here.append(name)
        elif default == "allow" and action in ("errno", "kill"):
            # Elsewhere a name that nobody knows makes the policy no wider; here it might have been meant to be refused.
            meant = nearest(name, known())
            hint = f"did you mean {meant!r}?" if meant else None
            raise SpecError(f"{name!r} is no system call", field=f"{field}.names[{n}]", hint=hint)
    if not here:
        return
    errno = _errno(table.get("errnoRet"), f"{field}.errnoRet")
    why = str(table.get("comment") or f"the profile's syscalls[{field.rpartition('[')[2][:-1]}]")
    for conditions in _conditions(table.get("args"), f"{field}.args"):
        yield Rule(tuple(here), action=action, errno=errno, when=conditions, why=why)


def _conditions(args: object, field: str) -> list[tuple[Condition, ...]]:
    """All must hold; but of several for one argument it is any of them, as runc has it."""
    found = []
    for n, arg in enumerate(_list(args, field)):
        table = _table(arg, ARGUMENT, f"{field}[{n}]")
        operator = OPERATORS[_known(table.get("op"), OPERATORS, f"{field}[{n}].op")]
        index: Any = table.get("index")
        value = table.get("value", 0)
        try:
            if operator == "&":
                found.append(Condition(index, operator, table.get("valueTwo", 0), value))
            else:
                found.append(Condition(index, operator, value))
        except SpecError as error:
            inside = {"argument": "index", "mask": "value"}.get(error.field.rpartition(".")[2], "value")
            raise type(error)(error.message, field=f"{field}[{n}].{inside}") from None
    if len({one.argument for one in found}) < len(found):
        return [(one,) for one in found]
    return [tuple(found)]


def _applies(table: Mapping[str, Any], capabilities: frozenset[str], field: str) -> bool:
    includes = _table(table.get("includes") or {}, FILTER, f"{field}.includes")
    excludes = _table(table.get("excludes") or {}, FILTER, f"{field}.excludes")
    for name, filter_, wanted in (("includes", includes, True), ("excludes", excludes, False)):
        where = f"{field}.{name}"
        caps = _list(filter_.get("caps"), f"{where}.caps")
        machines = _list(filter_.get("arches"), f"{where}.arches")
        kernel = filter_.get("minKernel")
        has = [set(caps) <= capabilities if wanted else bool(set(caps) & capabilities)] if caps else []
        has += [MACHINES[os.uname().machine] in machines] if machines else []
        has += [_kernel() >= _version(kernel, f"{where}.minKernel")] if kernel else []
        if has and (not all(has) if wanted else any(has)):
            return False
    return True


def _kernel() -> tuple[int, int]:
    return _version(".".join(os.uname().release.split(".")[:2]).partition("-")[0], "the kernel's version")


def _version(text: object, field: str) -> tuple[int, int]:
    major, _, minor = values.text(text, field).partition(".")
    if not (major.isdigit() and minor.isdigit()):
        raise SpecError(f"{text!r} is no version", field=field, hint='as "4.8"')
    return int(major), int(minor)


def _action(value: object, field: str) -> str:
    if value in NEEDS_SOMEBODY:
        raise SpecError(f"{value} needs {NEEDS_SOMEBODY[str(value)]}, which is not there", field=field)
    return ACTIONS[_known(value, ACTIONS, field)]


def _errno(value: object, field: str) -> int:
    return 1 if value is None else values.integer(value, field, most=4095)


def _known(value: object, known: Collection[str], field: str) -> str:
    if not isinstance(value, str) or value not in known:
        meant = nearest(str(value), known)
        hint = f"did you mean {meant}?" if meant else f"one of {', '.join(known)}"
        raise SpecError(f"{value!r} is not known", field=field, hint=hint)
    return value


def _table(value: object, known: tuple[str, ...], field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SpecTypeError(f"must be an object, not {type(value).__name__}", field=field)
    for name in value:
        if name not in known:
            raise unknown_field(field, str(name), known)
    return value


def _list(value: object, field: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise SpecTypeError(f"must be a list, not {type(value).__name__}", field=field)
    return value
