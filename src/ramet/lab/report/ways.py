"""fork, vfork, posix_spawn, pthread_create and clone: what their children share, and what they cost."""

from __future__ import annotations

from ramet.lab.compare import grows
from ramet.lab.latency import words
from ramet.lab.report.cells import groups, legend, shape, style, told
from ramet.lab.report.html import Markup, caption, disclosure, element, hidden, join, scrolling
from ramet.lab.report.plot import numbers, plot
from ramet.lab.report.words import flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def section(found: dict[str, Any]) -> Markup:
    """The part of the page."""
    body = (
        [element("pre", found["error"], class_="trouble")]
        if "error" in found
        else [_costs(found["latency"]), _shares(found)]
    )
    return element(
        "section",
        element("h2", "fork, vfork, posix_spawn, threads and clone", id="compare-title"),
        body,
        id="compare",
        aria_labelledby="compare-title",
    )


def _costs(found: dict[str, Any]) -> Markup:
    left_out = ", ".join(words(size) for size in found["left_out"])
    return join(
        element("h3", "What a child costs"),
        element("p", grows(found), class_="lead") if grows(found) else None,
        element(
            "p",
            "How long it takes to start a child that does nothing and to see it end, by how much memory its caller has "
            f"touched, in small pages. Medians of {found['rounds']} rounds in turns. Point at a mark, or go there with "
            "Tab, to read its numbers.",
        ),
        element("p", f"Left out, as this machine has not enough memory free: {left_out}.") if left_out else None,
        element(
            "figure", plot(found), disclosure("The same numbers as a table", scrolling("The times", numbers(found)))
        ),
    )


def _shares(found: dict[str, Any]) -> Markup:
    ways = [way for way in found["ways"] if way["cells"]]
    heads = [element("th", way["heading"], scope="col") for way in ways]
    bodies = []
    for title, inside in groups(found["resources"]).items():
        over = element("tr", element("th", title, scope="rowgroup", colspan=len(ways) + 1, class_="who"))
        bodies.append(element("tbody", over, [_row(ways, resource) for resource in inside]))
    table = element(
        "table",
        caption("What the child of each call shares with its caller"),
        element("thead", element("tr", element("th", "resource", scope="col"), heads)),
        bodies,
        class_="words",
    )
    return join(
        element("h3", "What each child shares"),
        element("dl", [_about(way) for way in found["ways"]], class_="flags"),
        legend(),
        element("p", "Filled cells are not as they are with fork.", class_="note"),
        scrolling("What the child of each call shares", table),
    )


def _about(way: dict[str, Any]) -> Markup:
    said = [": ", flags(way["flags"])] if way["flags"] else None
    refused = f"; refused: {way['refused']}" if way["refused"] else None
    return join(element("dt", way["heading"]), element("dd", way["about"], said, refused))


def _row(ways: list[dict[str, Any]], resource: dict[str, str]) -> Markup:
    key = resource["key"]
    base = ways[0]["cells"][key]
    cells = []
    for way in ways:
        cell = way["cells"][key]
        odd = [element("strong", "!", aria_hidden="true"), hidden(f", the manual says {cell['manual']}")]
        cells.append(
            element(
                "td",
                shape(cell["measured"]),
                element("span", f" {cell['measured']}"),
                odd if cell["agrees"] is False else None,
                class_=style(cell, base),
                title=f"{way['heading']}, {resource['title'].removeprefix('the ')}: {told(cell, key)}",
            )
        )
    return element("tr", element("th", resource["title"].removeprefix("the "), scope="row"), cells)
