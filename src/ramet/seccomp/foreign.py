"""The program of a policy for another machine than this one: how the default profile is compiled for each, to be shipped.

libseccomp takes rules by this machine's numbers and finds the other's by their names, so far as it knows them. Calls whose
arguments count are all old enough. What becomes of the others is said by the policy alone, so those are written down here, by
the other machine's numbers, and condensed as elsewhere. Tests hold this way against libseccomp's own, on this machine.
"""

from __future__ import annotations

import os
import struct

from ramet.bpf import JUMP_EQUAL, JUMP_NOT_LESS, LOAD, RETURN
from ramet.seccomp.condense import X32, condensed, merged
from ramet.seccomp.filters import action_of, translated
from ramet.seccomp.library import ALLOW, ERRNO, NUMBERS_END, known, number, number_there
from ramet.seccomp.simulate import AUDIT_ARCH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.spec.seccomp import Seccomp

ENOSYS = 38


def compiled_for(policy: Seccomp, machine: str) -> tuple[bytes, ...]:
    """As `ramet.seccomp.filters.compiled`, for "x86_64" or "aarch64"."""
    arch = AUDIT_ARCH[machine]  # libseccomp's tokens are these
    rules = (*policy.rules, *policy.vetoes)
    dependent = {name for rule in rules if rule.when for name in rule.names}
    here = {found for name in dependent if (found := number(name)) is not None}
    there = {found for name in dependent if (found := number_there(name, arch)) is not None}

    def program() -> bytes:
        few = translated(policy, only=here, arch=arch if machine != os.uname().machine else None)
        return merged(*few) if len(few) == 2 else few[0]

    short = condensed((_plain(policy, arch),), program, there, machine, NUMBERS_END)
    assert short is not None
    return (short,)


def _plain(policy: Seccomp, arch: int) -> bytes:
    """One comparison a call: its answer where no argument counts."""
    refusal = action_of(policy.action, int(policy.errno))
    answers = {}
    if refusal != ALLOW:
        answers = {number: ERRNO | int(policy.unknown) for number in range(max(known(arch).values()) + 1, NUMBERS_END)}
    for rules, default in ((policy.rules, refusal), (policy.vetoes, ALLOW)):
        for rule in rules:
            action = action_of(rule.action, int(rule.errno))
            if rule.when or action == default:  # what would happen anyway is no rule: see Program.add
                continue
            for name in rule.names:
                if (found := number_there(name, arch)) is not None:
                    answers[found] = action
    steps = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, arch), (RETURN, 0, 0, ERRNO | ENOSYS), (LOAD, 0, 0, 0)]
    if arch == AUDIT_ARCH["x86_64"]:  # x32's calls: another machine's, as libseccomp has it
        steps += [(JUMP_NOT_LESS, 0, 1, X32), (RETURN, 0, 0, ERRNO | ENOSYS)]
    for found, action in answers.items():
        steps += [(JUMP_EQUAL, 0, 1, found), (RETURN, 0, 0, action)]
    return b"".join(struct.pack("<HBBI", *step) for step in (*steps, (RETURN, 0, 0, refusal)))
