"""Each flag of clone x each resource: shared, copied or new, measured on the running kernel; and the manual's answer."""

from __future__ import annotations

import os

from ramet.flags import CLONE, format_clone
from ramet.lab.apart import apart
from ramet.lab.manual import MANUAL, agrees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_C = CLONE
COMPANIONS: dict[CLONE, CLONE] = {
    _C.SIGHAND: _C.VM,
    _C.THREAD: _C.VM | _C.SIGHAND,
    _C.PIDFD_AUTOKILL: _C.PIDFD | _C.AUTOREAP,
}
"""Flags that the kernel refuses alone, and what they are measured with."""

FLAGS = tuple(sorted(CLONE, key=lambda flag: 2 * _C.NEWNET - 1 if flag is _C.NEWTIME else int(flag)))
"""All of them, by their bits; but the one namespace flag that found room only in the lowest byte with the others."""


def matrix() -> dict[str, Any]:
    """Measure every flag. JSON-able::

        {"kernel", "uid", "ground", "resources": [{"key", "heading", "title", "group", "page"}],
         "rows": [{"flag", "flags", "with", "refused", "cells": {key: {"measured", "manual", "agrees",
                                                                       "evidence", "kcmp"}}}],
         "effects": as `ramet.lab.effects.measure` returns them}

    flag is "" for a clone with none. measured is "shared", "copied", "new" or "unknown"; manual also "own"; agrees is
    None where measured is unknown. kcmp is whether kcmp(2) calls it the same kernel object, None where it can't say.
    refused is why there are no cells. Where this user can have no namespaces, ground says so, and resources are those that
    need none.
    """
    found: dict[str, Any] = apart("ramet.lab.matrix", "_measure_all")
    for row in found["rows"]:
        for key, cell in row["cells"].items():
            cell["manual"] = MANUAL[key].answer(row["number"])
            cell["agrees"] = agrees(cell["measured"], cell["manual"])
    return found


def resources(ground: Any) -> list[dict[str, str]]:
    """What is measured, in order."""
    from ramet.lab.measure import GROUPS, measurable

    return [
        {"key": kind.key, "heading": kind.heading, "title": kind.title, "group": group, "page": MANUAL[kind.key].page}
        for group, kinds in GROUPS
        for kind in measurable(ground, kinds)
    ]


def differences(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of a `matrix` in which kernel and manual differ, each with its flag and resource."""
    return [
        {"flag": row["flag"], "resource": key, **cell}
        for row in found["rows"]
        for key, cell in row["cells"].items()
        if cell["agrees"] is False
    ]


def _measure_all() -> dict[str, Any]:
    """In a process of its own."""
    from ramet.lab.cgroups import made_cgroup
    from ramet.lab.ground import on_ground

    with made_cgroup() as (cgroup, why_not):
        return dict(on_ground(lambda ground: _rows(ground, cgroup, why_not)))


def _rows(ground: Any, cgroup: int | None, why_not: str) -> dict[str, Any]:
    from ramet.lab.effects import measure
    from ramet.lab.measure import Measurer

    measurer = Measurer(ground)
    rows = [_row(measurer, None, cgroup, why_not), *(_row(measurer, flag, cgroup, why_not) for flag in FLAGS)]
    return {**head(ground), "rows": rows, "effects": measure()}


def head(ground: Any) -> dict[str, Any]:
    """What every table of resources begins with: where it was measured, and what its columns are."""
    return {
        "kernel": os.uname().release,
        "uid": ground.uid,
        "ground": describe(ground),
        "resources": resources(ground),
    }


def describe(ground: Any) -> str:
    """Where it is measured, in a sentence."""
    who = "root" if ground.uid == 0 else f"the ordinary user {ground.uid}"
    if ground.bare:
        return (
            f"Measured as {who}, without namespaces: {ground.bare}. So root directory, undo list, credentials and most "
            "that lies in namespaces are left out; `ramet doctor` says what is missing."
        )
    if ground.own_user_namespace:
        return f"Measured as {who}, in a user namespace of its own; the host is out of reach."
    return f"Measured as {who}, without a user namespace: this host gives none."


def _row(measurer: Any, flag: CLONE | None, cgroup: int | None, why_not: str) -> dict[str, Any]:
    company = COMPANIONS.get(flag, CLONE(0)) if flag is not None else CLONE(0)
    flags = CLONE(0) if flag is None else flag | company
    row = {
        "flag": "" if flag is None else format_clone(flag),
        "with": format_clone(company) if company else "",
        "number": int(flags),
        "refused": "",
        "cells": {},
    }
    if flag is CLONE.INTO_CGROUP and cgroup is None:
        return row | {"refused": why_not}
    cells = measurer.clone(flags, cgroup=cgroup if flag is CLONE.INTO_CGROUP else None)
    if "error" in cells:
        return row | {"refused": _why(flags, cells["error"])}
    return row | {"cells": cells}


def _why(flags: CLONE, errno_name: str) -> str:
    from ramet.host.namespaces import kernel_version
    from ramet.rules import ORDINARY, check

    found = check(flags, kernel=kernel_version())
    if not found and errno_name == "EPERM":
        found = check(flags, kernel=kernel_version(), caller=ORDINARY)
    return f"{errno_name}: {found[0].reason}" if found else errno_name


def text(found: dict[str, Any]) -> str:
    """The page, within 80 columns."""
    lines = [*wrapped(f"What a child shares with its caller, on Linux {found['kernel']}. {found['ground']}"), ""]
    lines += [
        "  shared  one for both     copied  the caller's, in a copy     new  another",
        "  Capitals: not as without flags.  !  not as the manual says.  ?  not to be told",
    ]
    groups: dict[str, list[dict[str, str]]] = {}
    for resource in found["resources"]:
        groups.setdefault(resource["group"], []).append(resource)
    for group, columns in groups.items():
        lines += ["", *_table(group, columns, found["rows"])]
    lines += ["", *_effects_text(found["effects"])]
    return "\n".join([*lines, *_notes(found)])


_WIDE, _SENTENCE = 16, 50


def _effects_text(effects: list[dict[str, Any]]) -> list[str]:
    lines = ["what flags do beside sharing", f"{'':<{_WIDE + _SENTENCE}}with  without"]
    words = {True: "yes", False: "no", None: "?"}
    for effect in effects:
        if effect["happens"] is None:
            continue
        mark = "!" if effect["agrees"] is False else ""
        told = f"{words[effect['happens']]}{mark}"
        lines.append(f"{_label(effect):<{_WIDE}}{effect['sentence']:<{_SENTENCE}}{told:<6}{words[effect['without']]}")
    unknown = [(effect["flag"], effect["why_not"]) for effect in effects if effect["happens"] is None]
    if unknown:
        lines += wrapped("not here: " + ", ".join(f"{flag} ({why})" for flag, why in unknown), indent=2)
    for effect in effects:
        if effect["agrees"] is False:
            told = "happens" if effect["happens"] else "does not happen"
            lines += wrapped(f"! {effect['flag']}: {effect['sentence']}: that {told} here. {effect['note']}", hanging=2)
    return lines


_LABEL, _CELL = 15, 7


def _table(title: str, columns: list[dict[str, str]], rows: list[dict[str, Any]]) -> list[str]:
    keys = [column["key"] for column in columns]
    base = rows[0]["cells"]
    lines = [title, " " * _LABEL + "".join(column["heading"].ljust(_CELL) for column in columns).rstrip()]
    folded = []
    for row in rows:
        cells = row["cells"]
        if not cells:
            continue
        if row["flag"] and all(_plain(cells[key], base[key]) for key in keys):
            folded.append(_label(row))
            continue
        shown = "".join(_cell(cells[key], base[key], first=not row["flag"]) for key in keys)
        lines.append(f"{_label(row):<{_LABEL}}{shown}".rstrip())
    if folded:
        lines += wrapped("the same as (none): " + ", ".join(folded), indent=2)
    return lines + wrapped(_headings(columns), indent=2)


def _headings(columns: list[dict[str, str]]) -> str:
    """What the short headings stand for, where they are not the thing's own name."""
    told = []
    for column in columns:
        title = column["title"].removeprefix("the ")
        if column["heading"] not in title.lower().split():
            told.append(f"{column['heading']}: {title}")
    return "; ".join(told)


def _label(row: dict[str, Any]) -> str:
    name = row["flag"].removeprefix("CLONE_") or "(none)"
    return f"{name}+" if row["with"] else str(name)


def _plain(cell: dict[str, Any], base: dict[str, Any]) -> bool:
    return cell["measured"] == base["measured"] and cell["agrees"] is not False


def _cell(cell: dict[str, Any], base: dict[str, Any], *, first: bool) -> str:
    word = "?" if cell["measured"] == "unknown" else cell["measured"]
    if not first and cell["measured"] != base["measured"]:
        word = word.upper()
    return f"{word}{'!' if cell['agrees'] is False else ''}".ljust(_CELL)


def _notes(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    company = [row for row in found["rows"] if row["with"] and row["cells"]]
    company += [effect for effect in found["effects"] if effect["with"] and effect["happens"] is not None]
    if company:
        told = "; ".join(dict.fromkeys(f"{row['flag']} with {row['with']}" for row in company))
        lines += ["", *wrapped(f"+ measured in company, as alone it is refused or has no effect: {told}.")]
    differing = differences(found)
    titles = {resource["key"]: resource["title"] for resource in found["resources"]}
    lines.append("")
    if not differing:
        lines += wrapped(
            "No other difference from what the manual says."
            if _odd(found)
            else "Nothing differs from what the manual says."
        )
    for (key, measured, manual, evidence), flags in _alike(differing).items():
        told = f"! {titles[key]}: measured {measured}, the manual says {manual} ({MANUAL[key].page})"
        lines += wrapped(f"{told}: {', '.join(flags)}. Here {evidence}.", hanging=2)
    unknown: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        for key, cell in row["cells"].items():
            if cell["measured"] == "unknown":
                unknown.setdefault((titles[key], cell["evidence"]), []).append(_label(row))
    for (title, evidence), labels in unknown.items():
        which = "every flag" if len(labels) > 3 else ", ".join(labels)
        lines += wrapped(f"? {title}, {which}: {evidence}.", hanging=2)
    lines += ["", *_kcmp(found)]
    for row in found["rows"]:
        if row["refused"]:
            lines += wrapped(f"not measured: {row['flag']}: {row['refused']}", hanging=2)
    return lines


def _odd(found: dict[str, Any]) -> bool:
    return any(effect["agrees"] is False for effect in found["effects"])


def _alike(cells: list[dict[str, Any]]) -> dict[tuple[str, str, str, str], list[str]]:
    """The flags of the cells that say the same."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for cell in cells:
        key = cell["resource"], cell["measured"], cell["manual"], cell["evidence"]
        found.setdefault(key, []).append(cell["flag"] or "(none)")
    return found


def _kcmp(found: dict[str, Any]) -> list[str]:
    """Does the second witness say the same?"""
    asked = against = 0
    for row in found["rows"]:
        for cell in row["cells"].values():
            if cell["kcmp"] is not None and cell["measured"] != "unknown":
                asked += 1
                against += cell["kcmp"] != (cell["measured"] == "shared")
    if not asked:
        return ["kcmp(2) could not be asked here, so the effects are the only witness."]
    said = "agrees with every one" if not against else f"contradicts {against}"
    return wrapped(f"kcmp(2), asked about {asked} of these cells, {said} of them.")


def wrapped(text: str, indent: int = 0, hanging: int = 0) -> list[str]:
    """Lines of 80 columns at most."""
    import textwrap

    return textwrap.wrap(text, 80, initial_indent=" " * indent, subsequent_indent=" " * (indent + hanging))
