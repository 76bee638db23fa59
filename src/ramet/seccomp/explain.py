"""What happens with a system call under a policy, and why, in words."""

from __future__ import annotations

import errno
from collections import namedtuple

from ramet.errors import SpecError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ramet.spec.seccomp import Condition, Rule, Seccomp


#: The errno is 0: the call is not made, and says that it was.
PRETENDED = "ignored"


class Case(namedtuple("Case", "action when why")):
    """One thing that may happen. action: "allowed", "EPERM" (or another errno), "ignored" (not done, and said to be), "killed", "allowed and logged"; when: conditions in
    words, "" for always; why: the rule's own word."""

    __slots__ = ()


class Explanation(namedtuple("Explanation", "call cases otherwise")):
    """cases: in the order in which they count; otherwise: what happens where none of them applies, or None where one always does."""

    __slots__ = ()

    def __str__(self) -> str:
        lines = [
            f"{self.call}: {_sentence(case)}" if not n else f"  {_sentence(case)}" for n, case in enumerate(self.cases)
        ]
        if self.otherwise is not None:
            rest = _sentence(self.otherwise)
            lines.append(f"  otherwise {rest}" if lines else f"{self.call}: {rest}")
        return "\n".join(lines)


def _sentence(case: Case) -> str:
    what = "ends the process (SIGSYS)" if case.action == "killed" else str(case.action)
    if what.startswith("E"):
        what = f"fails with {what}"
    return what + (f" when {case.when}" if case.when else "") + (f": {case.why}" if case.why else "")


def explain(policy: Seccomp, name: str) -> Explanation:
    """What happens with this call, under this policy, on this machine. Raises SpecError where no machine has such a call."""
    from ramet.seccomp.library import is_name, known, number

    if not is_name(name):
        meant = nearest(name, known())
        raise SpecError(f"{name!r} is no system call", field="call", hint=f"did you mean {meant!r}?" if meant else None)
    if number(name) is None:
        return Explanation(name, (), Case("ENOSYS", "", "this machine has no such call"))
    refusal = _action(policy.action, int(policy.errno))
    cases = [*_cases(policy.vetoes, name)]
    always = None
    for case in _cases(policy.rules, name):
        if case.when:
            if case.action != refusal:
                cases.append(case)
        elif always is None or always.action == refusal:
            always = case  # a word on why the policy does not have it gives way to a rule that has it
    if always is None:
        always = Case(refusal, "", "no rule names it" if not cases else "")
    return Explanation(name, tuple(cases), always)


def _cases(rules: Sequence[Rule], name: str) -> Iterator[Case]:
    for rule in rules:
        if name in rule.names:
            yield Case(_action(rule.action, int(rule.errno)), " and ".join(map(_spelt, rule.when)), rule.why)


def _action(action: str, number: int) -> str:
    if action == "errno":
        if number == 0:
            return PRETENDED
        return errno.errorcode.get(number, f"errno {number}")
    return {"allow": "allowed", "kill": "killed", "log": "allowed and logged"}[action]


def _spelt(condition: Condition) -> str:
    """Arguments are counted from 0, as strace's readers and seccomp(2) do."""
    argument = f"argument {condition.argument}"
    if condition.operator != "&":
        return f"{argument} {condition.operator} {condition.value:#x}"
    if condition.mask in (2**32 - 1, 2**64 - 1):
        return f"{argument} is {condition.value:#x}"
    if condition.value == 0:
        return f"{argument} has none of the bits {condition.mask:#x}"
    return f"{argument} & {condition.mask:#x} is {condition.value:#x}"
