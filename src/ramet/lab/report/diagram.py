"""Who is in which namespaces: a lane for each process, a bar for each namespace, across all the lanes that share it."""

from __future__ import annotations

from ramet.host.namespaces import KINDS
from ramet.lab.report.html import Markup, element, hidden, join
from ramet.lab.report.words import flags
from ramet.lab.words import kinds, spoken

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.lab.evidence import Evidence

    Lanes = dict[str, int]

#: The caller in the middle, so that a bar can reach from it to either child.
LANES = ("control", "caller", "child")
TITLES = {"control": "the control's child", "caller": "the caller", "child": "the child"}


def namespaces(evidence: Evidence) -> Markup | None:
    """The diagram of one run; nothing where nothing ran."""
    if evidence.missing:
        return None
    looked = evidence.namespaces.child is not None
    rows = [element("li", _row(kind, lanes, looked)) for kind in KINDS if (lanes := _lanes(evidence, kind))]
    heads = [element("span", TITLES[lane].removeprefix("the "), class_=f"at-{lane}") for lane in LANES]
    return element(
        "figure",
        element("figcaption", element("h4", "Who shares which namespace"), element("p", _told(evidence))),
        element("div", element("span", "kind", class_="kind"), heads, class_="lanes heads", aria_hidden="true"),
        element("ul", rows, class_="namespaces"),
        class_="diagram",
    )


def own_kinds(evidence: Evidence) -> tuple[str, ...]:
    """The kinds in which the child is apart from the caller: as it saw, or, where it did not look, as its flags say."""
    if evidence.namespaces.child is not None:
        return evidence.namespaces.own
    from ramet.flags import NAMESPACE_FILES

    return tuple(name for flag, name in NAMESPACE_FILES.items() if evidence.flags & flag)


def _lanes(evidence: Evidence, kind: str) -> Lanes:
    """Which namespace each is in, by its inode. Where a child did not look and made none, that is the caller's."""
    spaces = evidence.namespaces
    if kind not in spaces.caller:
        return {}
    found = {"caller": spaces.caller[kind]}
    new = own_kinds(evidence)
    for lane, seen in (("child", spaces.child), ("control", spaces.control)):
        if seen is not None:
            if kind in seen:
                found[lane] = seen[kind]
        elif lane == "child" and kind in new:
            found[lane] = 0
        elif lane == "child" or not _makes(evidence.control_flags, kind):
            found[lane] = spaces.caller[kind]
    return found


def _makes(made: int, kind: str) -> bool:
    from ramet.flags import NAMESPACE_FILES

    return any(made & flag for flag, name in NAMESPACE_FILES.items() if name == kind)


def _row(kind: str, lanes: Lanes, looked: bool) -> Markup:
    bars = [_bar(group, number, lanes["caller"], looked) for group, number in _groups(lanes)]
    heard = hidden(_heard(kind, lanes))
    return join(
        heard,
        element("span", element("span", kind, class_="kind"), bars, class_="lanes", aria_hidden="true"),
    )


def _groups(lanes: Lanes) -> list[tuple[list[str], int]]:
    """Neighbouring lanes in one namespace, and its number."""
    found: list[tuple[list[str], int]] = []
    for lane in LANES:
        if lane not in lanes:
            continue
        if found and found[-1][1] == lanes[lane] and LANES.index(found[-1][0][-1]) + 1 == LANES.index(lane):
            found[-1][0].append(lane)
        else:
            found.append(([lane], lanes[lane]))
    return found


def _bar(group: list[str], number: int, callers: int, looked: bool) -> Markup:
    new = number != callers
    text = f"new {number}" if new and number else "new" if new else str(number)
    classes = ["bar", f"from-{group[0]}", f"to-{group[-1]}", "new" if new else "shared"]
    return element("span", text, class_=" ".join(classes if looked else [*classes, "said"]))


def _heard(kind: str, lanes: Lanes) -> str:
    parts = []
    for group, number in _groups(lanes):
        names = " and ".join(TITLES[lane] for lane in group)
        verb = "share" if len(group) > 1 else "is in" if number == lanes["caller"] else "has one of its own,"
        parts.append(f"{names} {verb} {number or ''}".rstrip(" ,"))
    return f"{spoken(kind)}: {'; '.join(parts)}."


def _told(evidence: Evidence) -> Any:
    """In a sentence, with where it comes from."""
    own = own_kinds(evidence)
    what = f"The child has {kinds(own)} of its own" if own else "The child has no namespace of its own"
    if evidence.namespaces.child is not None:
        rest = "all else is the caller's" if own else "all are the caller's"
        return f"{what}; {rest}. The numbers are inodes, from /proc/PID/ns."
    return join(
        f"{what}, going by the flags, ", flags(evidence.flag_names), ": this child runs no Python, and did not look."
    )


def overview(found: list[Evidence]) -> Markup:
    """Every run in a line: in which kinds is the child apart from its caller?"""
    head = [element("th", element("code", kind), scope="col") for kind in KINDS]
    rows = []
    for each in found:
        if each.missing:
            continue
        name = element("a", f"{each.number} {each.name}", href=f"#experiment-{each.name}")
        rows.append(element("tr", element("th", name, scope="row"), _cells(each)))
    return element(
        "table",
        element("caption", "In which namespaces each experiment's child is apart from its caller"),
        element("thead", element("tr", element("th", "experiment", scope="col"), head)),
        element("tbody", rows),
        class_="apart",
    )


def _cells(evidence: Evidence) -> list[Markup]:
    looked = evidence.namespaces.child is not None
    own = own_kinds(evidence)
    cells = []
    for kind in KINDS:
        if kind not in evidence.namespaces.caller:
            cells.append(element("td", "not in this kernel"))
            continue
        word = "new" if kind in own else "shared"
        text = word if looked else f"{word}*"
        ground = kind in evidence.ground
        cells.append(element("td", "≠ " if word == "new" else "= ", text, "†" if ground else None, class_=word))
    return cells
