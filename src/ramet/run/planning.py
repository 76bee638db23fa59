"""From what a caller says to a plan: the sandbox, the command, and what this host has for them."""

from __future__ import annotations

import os
from functools import lru_cache

from ramet.errors import SpecTypeError
from ramet.host.facts import facts_for
from ramet.plan.compile import compile
from ramet.seccomp.filters import programs_of
from ramet.spec import Command, Sandbox, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.plan.ahead import Kit
    from ramet.plan.limits import Groups
    from ramet.plan.steps import Plan

    Argv = Sequence[str | bytes | os.PathLike[str]]

DEFAULT = Sandbox()


def sandbox_with(sandbox: Sandbox | None, fields: dict[str, Any]) -> Sandbox:
    """The sandbox, with some fields changed; the default one for None."""
    if sandbox is None:
        return Sandbox(**fields) if fields else DEFAULT
    if not isinstance(sandbox, Sandbox):
        raise SpecTypeError(f"must be a Sandbox, not {type(sandbox).__name__}", field="sandbox")
    return sandbox.replace(**fields) if fields else sandbox


def plan_for(argv: Argv, sandbox: Sandbox, pass_fds: Sequence[int] = (), *, function: bool = False) -> Plan:
    """The plan that would run this command, or a function of this name, on this host, now."""
    words = tuple(argv) if isinstance(argv, (list, tuple)) else argv
    fds = values.several(pass_fds, "pass_fds", "descriptors")
    try:
        # descriptors are looked at each time: 4.0 and True are the same keys as 4 and 1
        command = Command(words, fds) if fds else _command(words)  # type: ignore[arg-type]
    except TypeError:  # not hashable, so not text: let Command say what is wrong
        command = Command(words, fds)  # type: ignore[arg-type]
    return compile(
        sandbox,
        facts_for(sandbox),
        command,
        groups=groups_if_limited(sandbox),
        filters=programs_of(sandbox),
        function=function,
    )


def plan_in(kit: Kit, plan: Plan) -> Plan:
    """The same, in namespaces made ahead."""
    return compile(
        plan.spec,
        plan.facts,
        plan.command,
        ahead=kit,
        groups=plan.groups,
        filters=plan.filters,
        function=plan.function,
    )


def groups_if_limited(sandbox: Sandbox) -> Groups | None:
    """The group that it would get; asked here, so that nothing of limits is loaded for the others."""
    if not sandbox.is_limited:
        return None
    from ramet.run.groups import groups_for

    return groups_for(sandbox)


@lru_cache(maxsize=256, typed=True)
def _command(argv: tuple[str, ...]) -> Command:
    return Command(argv)
