"""The lab's pages as text: the list, one experiment's evidence, and all in a line each. They fit 80 columns."""

from __future__ import annotations

from ramet.cli.options import WIDTH
from ramet.lab.experiment import CONFIRMED, CORRECTED
from ramet.lab.words import NOWHERE, flag_words, kinds, show, spoken
from ramet.text import wrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ramet.lab.evidence import Evidence, Observation
    from ramet.lab.experiment import Experiment

LABEL, WHAT, VALUE, BETWEEN = 9, 24, 21, 4
STYLES = {"title": "\033[1m", "yes": "\033[32m", "no": "\033[31m", "differs": "\033[33m"}
END = "\033[0m"


def list_text(experiments: Sequence[Experiment]) -> str:
    """A line each, with the flag that it is about."""
    lines = [f"{each.number:>3}  {each.name:<14}  {_about(each):<14}  {each.title}" for each in experiments]
    return "\n".join([*lines, "", "ramet lab NUMBER|NAME|FLAG runs one, ramet lab all runs every one."])


def _about(experiment: Experiment) -> str:
    """``NEWPID``; of several flags the first, and that there are more."""
    names = [flag.name or "" for flag in experiment.without]
    return names[0] + "," * (len(names) > 1) if names else ""


def summary_text(found: Sequence[Evidence], seconds: float, *, colour: bool = False) -> str:
    """A line each, and the count; what can't be settled here, or does not hold, is said in full.

    seconds: how long all of it took.
    """
    paint = _painter(colour)
    lines = []
    for each in found:
        word, style = (each.verdict, "yes") if each.holds else ("open", "differs") if each.missing else ("FAILS", "no")
        lines.append(f"{each.number:>3}  {each.name:<15} {paint(f'{word:<10}', style)} {each.title}")
        if not each.holds:
            why = f"needs {each.missing}" if each.missing else each.conclusion
            lines += [" " * 32 + line for line in wrap(why, WIDTH - 32)]
    return "\n".join([*lines, "", *wrap(_counts(found, seconds), WIDTH)])


def _counts(found: Sequence[Evidence], seconds: float) -> str:
    confirmed = sum(each.holds and each.verdict == CONFIRMED for each in found)
    corrected = sum(each.holds and each.verdict == CORRECTED for each in found)
    unsettled = sum(bool(each.missing) for each in found)
    failed = len(found) - confirmed - corrected - unsettled
    text = f"{len(found)} experiments in {seconds:.1f} s on Linux {_kernel(found[0])}: {confirmed} confirm what was "
    text += f"claimed, {corrected} correct it, {failed} fail"
    return f"{text}, {unsettled} can't be settled here." if unsettled else f"{text}."


def evidence_text(evidence: Evidence, *, colour: bool = False) -> str:
    """One experiment: question, flags, program, what was seen with and without, what follows."""
    paint = _painter(colour)
    blocks = [
        [paint(f"{evidence.number}. {evidence.question}", "title")],
        _flags(evidence),
        _where(evidence),
        [_labelled("program", evidence.file)[0], *("  " + line for line in evidence.source.splitlines())],
        _table(evidence, paint),
        _apart(evidence),
        _findings(evidence, paint),
        _labelled("so", evidence.conclusion, lambda text: paint(text, "title")),
        [*_labelled("claimed", f'"{evidence.claimed}"'), *_labelled("", _verdict(evidence))],
        [*_labelled("manual", f"{evidence.page}:"), *_labelled("", evidence.manual)],
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in block) for block in blocks if block)


def _painter(colour: bool) -> Any:
    def paint(text: str, style: str) -> str:
        return f"{STYLES[style]}{text}{END}" if colour else text

    return paint


def _kernel(evidence: Evidence) -> str:
    return evidence.kernel.partition("-")[0]


def _labelled(label: str, text: str, paint: Any = str) -> list[str]:
    first, *rest = wrap(text, WIDTH - LABEL)
    return [f"{label:<{LABEL}}{paint(first)}", *(" " * LABEL + paint(line) for line in rest)]


def _flags(evidence: Evidence) -> list[str]:
    words = flag_words(evidence.flags, evidence.exit_signal)
    if not words:
        return _labelled("flags", "none")
    word = evidence.flags | evidence.exit_signal
    lines = _labelled("flags", f"{evidence.flag_names.replace('|', ' | ')}  ({word:#x})")
    column = max(len(name) for name, _ in words) + 2
    for name, meaning in words:
        first, *rest = wrap(meaning, WIDTH - LABEL - column)
        lines.append(f"{'':<{LABEL}}{name:<{column}}{first}")
        lines += [" " * (LABEL + column) + line for line in rest]
    return lines


def _where(evidence: Evidence) -> list[str]:
    who = "root" if evidence.uid == 0 else f"uid {evidence.uid}"
    text = f"Linux {_kernel(evidence)}, as {who}"
    if evidence.ground:
        why = "so that the host stays as it is"
        if "user" in evidence.ground:
            why = f"where uid {evidence.uid} has CAP_SYS_ADMIN"
        text += f"; all of it in {kinds(evidence.ground)} of its own, {why}"
    return _labelled("ran on", text + ".")


def _apart(evidence: Evidence) -> list[str]:
    """In which namespaces the child was, if it could say so."""
    spaces = evidence.namespaces
    if not spaces.child:
        return []
    shared = [spoken(kind) for kind in spaces.child if kind not in spaces.own]
    own = f"the child has {kinds(spaces.own)} of its own, and shares" if spaces.own else "the child shares"
    return _labelled("apart", f"{own} with the caller: {', '.join(shared)}.")


def _table(evidence: Evidence, paint: Any) -> list[str]:
    """With the flag, and beside it without."""
    seen, control = _by_place(evidence.observations), _by_place(evidence.control)
    lines = _row("seen by", "", evidence.with_is, "", evidence.control_is, paint)
    lines.append(" " * (LABEL + WHAT) + "-" * VALUE + " " * BETWEEN + "-" * VALUE)
    last = ""
    for who, what in dict.fromkeys([*seen, *control]):
        one, other = seen.get((who, what), NOWHERE), control.get((who, what), NOWHERE)
        sign = "" if one == other or NOWHERE in (one, other) else "!="
        lines += _row("" if who == last else who, what, one, sign, other, paint)
        last = who
    return lines


def _by_place(observations: Sequence[Observation]) -> dict[tuple[str, str], str]:
    """(who, what) to value; the caller's first."""
    ordered = sorted(observations, key=lambda each: each.who != "caller")
    return {(each.who, each.what): show(each.value) for each in ordered}


def _row(who: str, what: str, one: str, sign: str, other: str, paint: Any) -> list[str]:
    left, right = _cell(one), _cell(other)
    lines = []
    for i in range(max(len(left), len(right))):
        a, b = (cell[i] if i < len(cell) else "" for cell in (left, right))
        head = f"{who:<{LABEL}}{what:<{WHAT}}" if i == 0 else " " * (LABEL + WHAT)
        middle = f"{sign:^{BETWEEN}}" if i == 0 else " " * BETWEEN
        lines.append(f"{head}{a:<{VALUE}}{paint(middle, 'differs') if middle.strip() else middle}{b}")
    return lines


def _cell(text: str) -> list[str]:
    """Lines of the cell's width; a word that is wider is cut."""
    lines = []
    for line in wrap(text, VALUE):
        lines += [line[at : at + VALUE] for at in range(0, len(line), VALUE)] or [""]
    return lines


def _findings(evidence: Evidence, paint: Any) -> list[str]:
    lines = []
    for finding in evidence.findings:
        word = "yes" if finding.holds else "no"
        first, *rest = wrap(finding.statement, WIDTH - LABEL - 5)
        lines.append(f"{'':<{LABEL}}{paint(f'{word:<3}', word)}  {first}")
        lines += [" " * (LABEL + 5) + line for line in rest]
    return lines


def _verdict(evidence: Evidence) -> str:
    if evidence.missing:
        return "can't be settled here"
    if not evidence.holds:
        return f"was {evidence.verdict} on other kernels, and is not so here"
    return evidence.verdict
