"""The experiments: each a line that opens, with its evidence."""

from __future__ import annotations

from ramet.flags import CLONE, kernel_name
from ramet.lab.experiment import CONFIRMED
from ramet.lab.report.code import python
from ramet.lab.report.diagram import namespaces, overview
from ramet.lab.report.html import Markup, caption, disclosure, element, head_row, hidden, join, scrolling
from ramet.lab.report.words import badge, flags, manual, plural, who
from ramet.lab.words import NOWHERE, flag_words, kinds, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramet.lab.evidence import Evidence, Observation


def section(found: Sequence[Evidence]) -> Markup:
    """The part of the page."""
    return element(
        "section",
        element("h2", "Experiments", id="experiments-title"),
        element("p", _counts(found), class_="lead"),
        element(
            "p",
            "Each asks one question, runs one short program with given flags, and runs it again as a control, mostly "
            "without the flag in question. What the two saw stands side by side; each statement below is computed from it.",
        ),
        _tools(),
        element("div", [experiment(each) for each in found], class_="list"),
        id="experiments",
        aria_labelledby="experiments-title",
    )


def runs_section(found: Sequence[Evidence]) -> Markup:
    """All the runs' namespaces at a glance."""
    return element(
        "section",
        element("h2", "Namespaces of each run", id="namespaces-title"),
        element(
            "p",
            "“= shared” is one namespace for caller and child, “≠ new” one of the child's own. An experiment's line "
            "leads to its diagram, which has the control's child as well.",
        ),
        scrolling("Namespaces of each run", overview(list(found))),
        element(
            "p",
            "* by its flags: that child did not look. † made for caller and child together, so that the host stays "
            "as it is.",
            class_="note",
        ),
        id="namespaces",
        aria_labelledby="namespaces-title",
    )


def _counts(found: Sequence[Evidence]) -> str:
    confirmed = sum(each.holds and each.verdict == CONFIRMED for each in found)
    corrected = sum(each.holds and each.verdict != CONFIRMED for each in found)
    unsettled = sum(bool(each.missing) for each in found)
    failed = len(found) - confirmed - corrected - unsettled
    told = [f"{confirmed} confirm what was claimed", f"{corrected} correct it"]
    told.append(f"{failed} do not hold here" if failed else "none fails")
    if unsettled:
        told.append(f"{unsettled} can't be settled on this host")
    return f"{plural(len(found), 'experiment')}: {', '.join(told)}."


def _tools() -> Markup:
    """They need the script, which shows them."""
    return element(
        "div",
        element(
            "label", "Find ", element("input", type="search", id="find", autocomplete="off", placeholder="CLONE_NEWPID")
        ),
        element("button", "Open all", type="button", id="open-all"),
        element("button", "Close all", type="button", id="close-all"),
        element("span", id="found", role="status"),
        class_="tools",
        hidden=True,
    )


def experiment(evidence: Evidence) -> Markup:
    """One of them."""
    about = [kernel_name(flag) for flag in CLONE if evidence.flags & ~evidence.control_flags & flag]
    summary = join(
        element("span", evidence.number, class_="number"),
        element("h3", evidence.title),
        element("span", [element("code", name) for name in about[:2]], class_="about"),
        _badge(evidence),
    )
    return disclosure(
        summary,
        element("p", evidence.question, class_="question"),
        *(_unsettled(evidence) if evidence.missing else _answer(evidence)),
        _decoded(evidence),
        element("p", element("strong", "Ran on "), _where(evidence), class_="where"),
        None if evidence.missing and not evidence.observations else _table(evidence),
        namespaces(evidence),
        _program(evidence),
        id=f"experiment-{evidence.name}",
        class_="experiment",
    )


def _badge(evidence: Evidence) -> Markup:
    if evidence.missing:
        return badge("open", "?", "open")
    if not evidence.holds:
        return badge("does not hold", "✗", "fails")
    return badge(evidence.verdict, "✓" if evidence.verdict == CONFIRMED else "↻", evidence.verdict)


def _unsettled(evidence: Evidence) -> list[Markup]:
    why = element("p", element("strong", "Can't be settled here: "), f"needs {evidence.missing}.", class_="conclusion")
    return [why, _findings(evidence), _sources(evidence)]


def _answer(evidence: Evidence) -> list[Markup]:
    return [element("p", evidence.conclusion, class_="conclusion"), _findings(evidence), _sources(evidence)]


def _findings(evidence: Evidence) -> Markup:
    rows = []
    for finding in evidence.findings:
        sign, word, style = ("✓", "yes: ", "yes") if finding.holds else ("✗", "no: ", "no")
        mark = element("span", sign, class_=f"sign {style}", aria_hidden="true")
        rows.append(element("li", mark, element("span", hidden(word), finding.statement)))
    return join(element("h4", "What was found"), element("ul", rows, class_="findings")) if rows else join()


def _sources(evidence: Evidence) -> Markup:
    return element(
        "dl",
        element("dt", "Claimed"),
        element("dd", element("q", evidence.claimed), " — ", _fate(evidence)),
        element("dt", "Manual"),
        element("dd", evidence.manual, " ", element("cite", manual(evidence.page))),
        class_="sources",
    )


def _fate(evidence: Evidence) -> str:
    if evidence.missing:
        return "can't be settled here"
    return evidence.verdict if evidence.holds else f"was {evidence.verdict} on other kernels, and is not so here"


def _decoded(evidence: Evidence) -> Markup:
    words = flag_words(evidence.flags, evidence.exit_signal)
    number = f" = {evidence.flags | evidence.exit_signal:#x}" if words else ""
    rows = [join(element("dt", element("code", name)), element("dd", meaning)) for name, meaning in words]
    return join(
        element("h4", "Flags"),
        element("p", flags(evidence.flag_names), number),
        element("dl", rows, class_="flags") if rows else None,
    )


def _where(evidence: Evidence) -> str:
    text = f"Linux {evidence.kernel}, as {who(evidence.uid)}, in {evidence.seconds * 1000:.0f} ms"
    if evidence.ground:
        why = "so that the host stays as it is"
        if "user" in evidence.ground:
            why = f"where uid {evidence.uid} has CAP_SYS_ADMIN"
        text += f"; all of it in {kinds(evidence.ground)} of its own, {why}"
    return text + "."


def _table(evidence: Evidence) -> Markup:
    """With the flag, and beside it without."""
    seen, control = _by_place(evidence.observations), _by_place(evidence.control)
    bodies = []
    for side in ("caller", "child"):
        places = [place for place in dict.fromkeys([*seen, *control]) if place[0] == side]
        if not places:
            continue
        head = element("tr", element("th", f"{side} saw", colspan="3", scope="rowgroup", class_="who"))
        rows = [
            _row(what, seen.get((who_, what), NOWHERE), control.get((who_, what), NOWHERE)) for who_, what in places
        ]
        bodies.append(element("tbody", head, rows))
    return join(
        element("h4", "What caller and child saw"),
        element(
            "table",
            caption(f"What caller and child saw: {evidence.with_is}, and as a control: {evidence.control_is}"),
            head_row("looked at", evidence.with_is, evidence.control_is),
            bodies,
            class_="seen",
        ),
    )


def _by_place(observations: Sequence[Observation]) -> dict[tuple[str, str], str]:
    return {(each.who, each.what): show(each.value) for each in observations}


def _row(what: str, one: str, other: str) -> Markup:
    differs = one != other and NOWHERE not in (one, other)
    mark = [element("span", "≠ ", aria_hidden="true"), hidden("differs: ")] if differs else None
    return element(
        "tr",
        element("th", what, scope="row"),
        element("td", one),
        element("td", mark, other, class_="differs" if differs else None),
    )


def _program(evidence: Evidence) -> Markup:
    control = (
        [element("h4", "The control"), python(evidence.control_source, "The control")]
        if evidence.control_source
        else None
    )
    where = element("p", "The lines that ran, from ", element("code", evidence.file), class_="note")
    return join(element("h4", "The program"), where, python(evidence.source, "The program"), control)
