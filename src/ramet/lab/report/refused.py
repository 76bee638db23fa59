"""What clone and clone3 refuse: one line an errno, which opens."""

from __future__ import annotations

import errno
import os

from ramet.lab.refusals import wrong
from ramet.lab.report.html import Markup, disclosure, element, head_row, join, scrolling
from ramet.lab.report.words import badge, manual, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def section(found: dict[str, Any]) -> Markup:
    """The part of the page."""
    body = (
        [element("pre", found["error"], class_="trouble")] if "error" in found else _body(found["cases"], wrong(found))
    )
    return element(
        "section",
        element("h2", "What clone refuses", id="errors-title"),
        body,
        id="errors",
        aria_labelledby="errors-title",
    )


def _body(cases: list[dict[str, Any]], odd: list[dict[str, Any]]) -> list[Markup]:
    produced = sum(case["agrees"] is True for case in cases)
    tried = sum(case["agrees"] is not None for case in cases)
    names = list(dict.fromkeys(case["errno"] for case in cases))
    told = f"{produced} of {plural(tried, 'refusal')} that were tried came as said, of {len(names)} errnos."
    if tried < len(cases):
        told += f" {len(cases) - tried} could not be had on this host, and say why."
    if odd:
        told += f" {plural(len(odd), 'answer')} of the kernel's are others than expected."
    parts = [
        disclosure(_summary(name, alike), _table(name, alike), class_="errno", id=f"errno-{name}")
        for name, alike in _groups(cases, names)
    ]
    return [
        element("p", told, class_="lead"),
        element("p", "Each was produced in a process of its own, which limited, nested or filtered itself first."),
        element("div", parts, class_="list"),
    ]


def _groups(cases: list[dict[str, Any]], names: list[str]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(name, [case for case in cases if case["errno"] == name]) for name in names]


def _summary(name: str, cases: list[dict[str, Any]]) -> Markup:
    number = getattr(errno, name, 0)
    produced = sum(case["agrees"] is True for case in cases)
    odd = any(case["agrees"] is False for case in cases)
    if odd:
        mark = badge("another answer", "✗", "fails")
    elif produced:
        mark = badge(f"{produced} produced", "✓", "confirmed")
    else:
        mark = badge("not here", "?", "open")
    about = element("span", os.strerror(number), class_="about") if number else None
    return join(element("h3", element("code", name)), about, mark)


def _table(name: str, cases: list[dict[str, Any]]) -> Markup:
    table = element(
        "table",
        element("caption", f"Calls that give {name}", class_="sr"),
        head_row("call", "why", "answer here", "manual"),
        element("tbody", [_row(case) for case in cases]),
        class_="cases",
    )
    return scrolling(f"Calls that give {name}", table)


def _row(case: dict[str, Any]) -> Markup:
    situation = element("p", case["situation"], class_="note") if case["situation"] else None
    if case["agrees"] is None:
        answer: Any = ["not here: ", case["not_here"]]
    elif case["agrees"]:
        answer = [element("span", "✓ ", class_="sign yes", aria_hidden="true"), element("code", case["answered"])]
    else:
        answer = element("strong", "✗ another: ", element("code", case["answered"]))
    return element(
        "tr",
        element("th", element("code", case["call"]), situation, scope="row"),
        element("td", case["why"]),
        element("td", answer),
        element("td", manual(case["manual"])),
    )
