"""Build a container step by step, and look from inside after each."""

from __future__ import annotations

import os

from ramet.errors import Error, errno_name
from ramet.lab.container.observe import observe
from ramet.lab.container.outside import VARIABLE, Outside
from ramet.lab.container.rows import GROUPS, LABELS
from ramet.lab.container.stages import stages
from ramet.plan.idmap import payload_ids
from ramet.spec import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.lab.container.stages import Stage
    from ramet.plan.steps import Plan, Step


def build(progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Every step: its code, the system calls it adds, and what the process can see and do then. Plain data.

    progress: called with (done, total) after each step. Where this host can't take a step, the ones before it are
    there, and "stopped" says why.
    """
    found: list[dict[str, Any]] = []
    stopped = None
    with Outside() as outside:
        steps = stages({VARIABLE: outside.token})
        before: Plan | None = None
        for number, stage in enumerate(steps):
            try:
                plan = _plan(stage.sandbox)
                seen = observe(stage, outside)
            except (Error, OSError) as error:
                stopped = {"title": stage.title, "code": stage.code, "error": _told(error)}
                break
            changed = _changed(found[-1]["cells"], seen["cells"]) if found else []
            found.append({"number": number, **_described(stage, plan, before), **seen, "changed": changed})
            before = plan
            if progress is not None:
                progress(number + 1, len(steps))
    return {
        "kernel": os.uname().release,
        "caller_uid": os.geteuid(),
        "groups": {title: list(rows) for title, rows in GROUPS.items()},
        "labels": LABELS,
        "stages": found,
        "stopped": stopped,
        "default": None if stopped else _beside_the_default(before),
    }


def _told(error: Exception) -> str:
    if isinstance(error, Error):
        return str(error)
    assert isinstance(error, OSError)
    return f"{error.filename or 'a system call'}: {errno_name(error.errno or 0)}\n\nhint: `ramet doctor` says what is missing"


def _plan(sandbox: Sandbox | None) -> Plan | None:
    return None if sandbox is None else sandbox.plan(["/bin/true"])


def _beside_the_default(last: Plan | None) -> dict[str, Any]:
    """What the last plan does that the default sandbox's does not, and the other way round."""
    default = _plan(Sandbox())
    assert default is not None
    assert last is not None
    mine, its = ([step.doing for step in plan if not step.doing.startswith("become ")] for plan in (last, default))
    return {
        "uid_here": payload_ids(last.spec, last.facts)[0],
        "uid_there": payload_ids(default.spec, default.facts)[0],
        "only_here": list(dict.fromkeys(doing for doing in mine if doing not in its)),
        "only_there": list(dict.fromkeys(doing for doing in its if doing not in mine)),
    }


def _described(stage: Stage, plan: Plan | None, before: Plan | None) -> dict[str, Any]:
    return {
        "key": stage.key,
        "title": stage.title,
        "why": stage.why,
        "code": stage.code,
        "steps": None if plan is None else len(plan),
        "new_calls": [] if plan is None else _new_calls(plan, before),
    }


def _new_calls(plan: Plan, before: Plan | None) -> list[dict[str, Any]]:
    """What the plan does that the one before it did not: what for, and the names of the calls."""
    from collections import Counter

    known = Counter(_identity(step) for step in before or ())
    found: dict[tuple[str, str], list[str]] = {}
    for step in plan:
        one = _identity(step)
        if known[one]:
            known[one] -= 1
        else:
            found.setdefault((step.origin, step.doing), []).append(step.call)
    return [{"doing": doing, "from": origin, "calls": calls} for (origin, doing), calls in found.items()]


def _identity(step: Step) -> tuple[object, ...]:
    """What makes it the same call for the same reason. Descriptors have other numbers in every plan."""
    return step.origin, step.doing, step.call, *(arg for arg in step.args if type(arg) is int)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [key for key in now if now[key]["cell"] != before[key]["cell"]]
