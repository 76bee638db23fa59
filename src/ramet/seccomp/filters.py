"""From a policy to the programs that the kernel runs for each system call.

libseccomp makes two: the first allows, and tells calls that are younger than the policy from those it refuses; the second, where
there are vetoes, takes away what an allow-list can't except: one value of an argument. `ramet.seccomp.condense` makes one short
program of them. A call that it allows without looking at its arguments the kernel does not ask about again (since Linux 5.11), so
most calls cost no more than that there is a filter.
"""

from __future__ import annotations

import os
from functools import lru_cache

from ramet.errors import SpecError
from ramet.spec.landlock import Landlock
from ramet.spec.seccomp import Seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ramet.spec import Sandbox
    from ramet.spec.seccomp import Rule

SHIPPED = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"default.{os.uname().machine}.bpf")
SHIPPED_ZYGOTE = os.path.join(os.path.dirname(SHIPPED), f"zygote.{os.uname().machine}.bpf")
#: Instructions that a program may have: BPF_MAXINSNS.
INSTRUCTIONS_MOST = 4096
INSTRUCTION_SIZE = 8


def policy_of(spec: Sandbox) -> Seccomp | None:
    """The policy of a sandbox; None without one."""
    if spec.seccomp == "none":
        return None
    from ramet.seccomp import profile

    if isinstance(spec.seccomp, Seccomp):
        policy = spec.seccomp
    else:
        policy = profile.default(spec.capabilities, nested=bool(spec.nested_namespaces), kill=spec.seccomp == "kill")
    return profile.ports_only(policy) if _limits_ports(spec) else policy


def _limits_ports(spec: Sandbox) -> bool:
    return isinstance(spec.landlock, Landlock) and spec.landlock.connect is not None


def kills(spec: Sandbox) -> bool:
    """Is there a call that ends the payload?"""
    policy = spec.seccomp
    if not isinstance(policy, Seccomp):
        return policy == "kill"
    return policy.action == "kill" or any(rule.action == "kill" for rule in (*policy.rules, *policy.vetoes))


def programs_of(spec: Sandbox) -> tuple[bytes, ...]:
    """What is installed for a sandbox, first to last."""
    if spec.seccomp == "default" and not (spec.capabilities or spec.nested_namespaces or _limits_ports(spec)):
        shipped = _shipped()
        if shipped is not None:
            return shipped
    policy = policy_of(spec)
    return compiled(policy) if policy is not None else ()


def programs_of_zygote() -> tuple[bytes, ...]:
    """What is installed for a pool's zygote."""
    from ramet.seccomp import profile

    return _shipped(SHIPPED_ZYGOTE) or compiled(profile.zygote())


@lru_cache(maxsize=2)
def _shipped(path: str = SHIPPED) -> tuple[bytes, ...] | None:
    """A profile, compiled when this version was made: without libseccomp, and without its 5 ms."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
    except FileNotFoundError:
        return None
    return unpacked(content)


def packed(programs: tuple[bytes, ...]) -> bytes:
    """Programs in one file, each behind its length."""
    return b"".join(len(program).to_bytes(4, "little") + program for program in programs)


def unpacked(content: bytes) -> tuple[bytes, ...]:
    """The reverse of `packed`."""
    found = []
    while content:
        size = int.from_bytes(content[:4], "little")
        found.append(content[4 : 4 + size])
        content = content[4 + size :]
    return tuple(found)


@lru_cache(maxsize=64)
def compiled(policy: Seccomp) -> tuple[bytes, ...]:
    """The program of a policy, by libseccomp, and condensed where that makes it shorter; two where it can't be. Raises
    UnsupportedError without libseccomp, SpecError for what it refuses."""
    from ramet.seccomp.condense import condensed, merged
    from ramet.seccomp.library import NUMBERS_END

    whole = translated(policy)
    depends = {number for rule in policy.rules if rule.when for _, number in _numbers(rule)}
    depends |= {number for rule in policy.vetoes if rule.when for _, number in _numbers(rule)}

    def dependent() -> bytes:
        few = translated(policy, only=depends)
        return merged(*few) if len(few) == 2 else few[0]

    short = condensed(whole, dependent, depends, os.uname().machine, NUMBERS_END)
    programs = whole if short is None else (short,)
    for program in programs:
        if len(program) > INSTRUCTIONS_MOST * INSTRUCTION_SIZE:
            raise SpecError(
                f"makes a filter of {len(program) // INSTRUCTION_SIZE} instructions; the kernel takes {INSTRUCTIONS_MOST}",
                field="Sandbox.seccomp",
            )
    return programs


def translated(policy: Seccomp, only: Collection[int] | None = None, arch: int | None = None) -> tuple[bytes, ...]:
    """As libseccomp makes them: what allows; and, where there are vetoes, what takes away. only: the calls they are for; with
    these, arch: another machine that they are for."""
    from ramet.seccomp.library import ALLOW, ERRNO, NUMBERS_END, Program, known

    refusal = action_of(policy.action, int(policy.errno))
    programs: list[bytes] = []
    for rules, default in ((policy.rules, refusal), (policy.vetoes, ALLOW)):
        if programs and not rules:
            continue
        with Program(default, arch) as program:
            for rule in rules:
                for name, number in _numbers(rule):
                    if only is None or number in only:
                        program.add(number, action_of(rule.action, int(rule.errno)), rule.when, name)
            if not programs and refusal != ALLOW and only is None:
                for number in range(max(known().values()) + 1, NUMBERS_END):
                    program.add(number, ERRNO | int(policy.unknown))
            programs.append(program.bytes())
    return tuple(programs)


def _numbers(rule: Rule) -> Iterator[tuple[str, int]]:
    from ramet.seccomp.library import is_name, known, number
    from ramet.spec.record import nearest

    for name in rule.names:
        found = number(name)
        if found is not None:
            yield name, found
        elif not is_name(name):
            meant = nearest(name, known())
            raise SpecError(
                f"{name!r} is no system call",
                field="Sandbox.seccomp",
                hint=f"did you mean {meant!r}?" if meant else None,
            )


def action_of(name: str, errno: int) -> int:
    from ramet.seccomp.library import ALLOW, ERRNO, KILL_PROCESS, LOG

    return {"allow": ALLOW, "errno": ERRNO | errno, "kill": KILL_PROCESS, "log": LOG}[name]
