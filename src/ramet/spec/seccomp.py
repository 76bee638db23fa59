"""Seccomp: which system calls a payload may make, as a value. What the kernel runs is compiled from it in ramet.seccomp."""

from __future__ import annotations

import errno as _errno

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import values
from ramet.spec.capabilities import capability_set
from ramet.spec.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

#: How an argument is compared: seccomp_rule_add(3).
OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "&")
ARGUMENTS = 6
ACTIONS = ("allow", "errno", "kill", "log")


class Condition(Record):
    """One argument of a call compared with a value. argument: 0 to 5; operator: "==", "!=", "<", "<=", ">", ">=", or "&": the
    argument masked with `mask` equals value."""

    argument: int
    operator: str
    value: int
    mask: int = 2**64 - 1

    def _settle(self) -> None:
        values.integer(self.argument, "Condition.argument", most=ARGUMENTS - 1)
        if self.operator not in OPERATORS:
            raise self._bad("operator", f"must be one of {' '.join(OPERATORS)}, not {self.operator!r}")
        for name in ("value", "mask"):
            values.integer(getattr(self, name), f"Condition.{name}", most=2**64 - 1)

    def __str__(self) -> str:
        if self.operator == "&":
            return f"(arg{self.argument} & {self.mask:#x}) == {self.value:#x}"
        return f"arg{self.argument} {self.operator} {self.value:#x}"


class Rule(Record):
    """What happens when one of these calls is made. names: of system calls; action: "allow", "errno", "kill" (the whole process) or
    "log" (allow, and write to the audit log); errno: with "errno", its name or number; when: all must hold; why: for `explain`.
    """

    names: tuple[str, ...]
    action: str = "allow"
    errno: int | str = "EPERM"
    when: tuple[Condition, ...] = ()
    why: str = ""

    def _settle(self) -> None:
        given = (self.names,) if isinstance(self.names, str) else values.several(self.names, "Rule.names", "names")
        names = tuple(values.text(name, f"Rule.names[{n}]") for n, name in enumerate(given))
        if not names:
            raise self._bad("names", "is empty")
        self._put("names", names)
        if self.action not in ACTIONS:
            raise self._bad("action", f"must be one of {', '.join(ACTIONS)}, not {self.action!r}")
        self._put("errno", errno_number(self.errno, "Rule.errno"))
        when = values.several(self.when, "Rule.when", "Condition")
        for n, condition in enumerate(when):
            if not isinstance(condition, Condition):
                raise SpecTypeError(f"must be a Condition, not {type(condition).__name__}", field=f"Rule.when[{n}]")
        self._put("when", when)


class Seccomp(Record):
    """A policy for system calls: seccomp(2), since Linux 3.17.

    rules: several may name one call; a rule of `vetoes` wins over all of them. action: what calls that no rule names get: "errno",
    "kill" or "allow"; errno: which; unknown: the errno of calls that the compiler has not heard of, so that programs fall back to
    what they did before there was such a call.
    """

    rules: tuple[Rule, ...] = ()
    vetoes: tuple[Rule, ...] = ()
    action: str = "errno"
    errno: int | str = "EPERM"
    unknown: int | str = "ENOSYS"

    def _settle(self) -> None:
        for name in ("rules", "vetoes"):
            rules = values.several(getattr(self, name), f"Seccomp.{name}", "Rule")
            for n, rule in enumerate(rules):
                if not isinstance(rule, Rule):
                    raise SpecTypeError(f"must be a Rule, not {type(rule).__name__}", field=f"Seccomp.{name}[{n}]")
            self._put(name, rules)
        if self.action not in ("allow", "errno", "kill"):
            raise self._bad("action", f"must be allow, errno or kill, not {self.action!r}")
        self._put("errno", errno_number(self.errno, "Seccomp.errno"))
        self._put("unknown", errno_number(self.unknown, "Seccomp.unknown"))

    @classmethod
    def default(cls, capabilities: Iterable[str] = (), *, nested: bool = False, kill: bool = False) -> Seccomp:
        """The policy of `Sandbox(seccomp="default")`, to build upon. capabilities: that the payload keeps, which open the calls they
        are for; nested: it may make namespaces; kill: as "kill"."""
        from ramet.seccomp.profile import default

        return default(capability_set(capabilities, "capabilities"), nested=nested, kill=kill)

    @classmethod
    def from_oci(cls, profile: object, capabilities: Iterable[str] = ()) -> Seccomp:
        """A profile in the form of Docker, or of the OCI runtime specification: the path of a JSON file, or what is in it.

        capabilities: that the payload keeps: Docker's profiles say more with some of them. Raises SpecError for what is no such
        profile, naming the key.
        """
        from ramet.seccomp.oci import read

        return read(profile, capability_set(capabilities, "capabilities"))

    def explain(self, name: str) -> str:
        """What happens with this system call, and why; a line for each rule that has a say. Raises SpecError where there is no such call."""
        from ramet.seccomp.explain import explain

        return str(explain(self, name))

    def permits(self, name: str, tamed: Callable[[Condition], bool] | None = None) -> bool:
        """May this call succeed, with some arguments at least? tamed: conditions that leave nothing of it worth asking for."""
        if any(name in rule.names and rule.action in ("errno", "kill") and not rule.when for rule in self.vetoes):
            return False
        allowing = [rule for rule in self.rules if name in rule.names and rule.action in ("allow", "log")]
        if any(tamed is None or not any(map(tamed, rule.when)) for rule in allowing):
            return True
        refused = any(name in rule.names and rule.action in ("errno", "kill") and not rule.when for rule in self.rules)
        return self.action == "allow" and not refused

    def allow(self, *names: str, when: Iterable[Condition] = (), why: str = "asked for") -> Self:
        """The same with these calls allowed."""
        left = tuple(rule for rule in self.vetoes if not set(rule.names) & set(names))
        return self.replace(rules=(*self.rules, Rule(names, when=tuple(when), why=why)), vetoes=left)

    def deny(self, *names: str, errno: int | str = "EPERM", kill: bool = False, why: str = "asked for") -> Self:
        """The same with these calls refused, whatever else is said of them."""
        rule = Rule(names, action="kill" if kill else "errno", errno=errno, why=why)
        return self.replace(vetoes=(*self.vetoes, rule))


CLONE_NEWUSER = 0x10000000


def keeps_from_keyrings(seccomp: object) -> bool:
    """Are keyrings out of reach? seccomp: the field of a Sandbox."""
    if isinstance(seccomp, Seccomp):
        return not any(map(seccomp.permits, ("keyctl", "add_key", "request_key")))
    return seccomp in ("default", "kill")


def keeps_from_nesting(seccomp: object, capabilities: frozenset[str]) -> bool:
    """Can no user namespace be made, nor entered?"""
    if isinstance(seccomp, Seccomp):
        return not any(map(seccomp.permits, ("unshare", "clone3", "setns"))) and not seccomp.permits(
            "clone", _without_user
        )
    return seccomp in ("default", "kill") and "CAP_SYS_ADMIN" not in capabilities


def _without_user(condition: Condition) -> bool:
    """Does it hold only where CLONE_NEWUSER is not among clone's flags?"""
    wanted = condition.operator == "&" and condition.value & CLONE_NEWUSER == 0
    return wanted and condition.argument == 0 and bool(condition.mask & CLONE_NEWUSER)


def errno_number(value: object, field: str) -> int:
    """EPERM or 1."""
    if isinstance(value, str):
        found = getattr(_errno, value, None)
        if not isinstance(found, int):
            raise SpecError(f"{value!r} is no errno", field=field)
        return found
    return values.integer(value, field, most=4095)
