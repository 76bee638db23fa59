"""The matrix as a picture: a table in which each cell is a shape, and tells what was seen when it is pointed at."""

from __future__ import annotations

from ramet.lab.manual import MANUAL
from ramet.lab.matrix import differences
from ramet.lab.report.cells import groups, legend, shape, style, told
from ramet.lab.report.html import Markup, caption, disclosure, element, head_row, hidden, join, scrolling
from ramet.lab.report.words import flags, manual, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def section(found: dict[str, Any]) -> Markup:
    """The part of the page."""
    return element(
        "section",
        element("h2", "What each flag shares", id="matrix-title"),
        *(_missing(found) if "error" in found else _body(found)),
        id="matrix",
        aria_labelledby="matrix-title",
    )


def _missing(found: dict[str, Any]) -> list[Markup]:
    return [element("pre", found["error"], class_="trouble")]


def _body(found: dict[str, Any]) -> list[Markup]:
    measured = [row for row in found["rows"] if row["cells"]]
    return [
        element(
            "p",
            f"{len(measured)} ways to call clone, {len(found['resources'])} resources: each cell was measured by doing "
            f"something on one side and looking on the other. {found['ground']}",
            class_="lead",
        ),
        legend(),
        element("p", "Filled cells are not as they are without flags.", class_="note"),
        scrolling("The matrix: flags and resources", _table(found, measured), class_="wide"),
        element(
            "p",
            "Point at a cell, or go there with Tab and the arrow keys, to read what was seen.",
            id="cell",
            class_="readout",
            role="status",
            hidden=True,
        ),
        _differences(found),
        _effects(found["effects"]),
        *_notes(found),
    ]


def _table(found: dict[str, Any], rows: list[dict[str, Any]]) -> Markup:
    by_group = groups(found["resources"])
    over = [element("th", title, colspan=len(inside), scope="colgroup") for title, inside in by_group.items()]
    heads = [
        element("th", element("span", each["title"].removeprefix("the ")), scope="col") for each in found["resources"]
    ]
    columns = [element("colgroup", span=len(inside)) for inside in by_group.values()]
    body = [_row(row, rows[0]["cells"], found["resources"]) for row in rows]
    return element(
        "table",
        caption("Each flag of clone and each resource: shared, copied or new"),
        element("colgroup"),
        columns,
        element(
            "thead",
            element("tr", element("td", rowspan="2"), over),
            element("tr", heads, class_="upright"),
        ),
        element("tbody", body),
        class_="grid",
        id="grid",
    )


def _row(row: dict[str, Any], base: dict[str, Any], resources: list[dict[str, str]]) -> Markup:
    name = row["flag"].removeprefix("CLONE_") or "no flag"
    with_ = element("abbr", "+", title=f"with {row['with']}") if row["with"] else None
    cells = [_cell(row, base, each, name) for each in resources]
    return element("tr", element("th", element("code", name), with_, scope="row"), cells)


def _cell(row: dict[str, Any], base: dict[str, Any], resource: dict[str, str], name: str) -> Markup:
    key = resource["key"]
    cell = row["cells"][key]
    word = cell["measured"]
    odd = [element("strong", "!", aria_hidden="true"), hidden(f", the manual says {cell['manual']}")]
    title = f"{name}, {resource['title'].removeprefix('the ')}: {told(cell, key)}"
    return element(
        "td",
        shape(word),
        element("span", word[0].upper() if word != "unknown" else "?", class_="letter", aria_hidden="true"),
        hidden(word),
        odd if cell["agrees"] is False else None,
        class_=style(cell, base[key]),
        title=title,
    )


def _differences(found: dict[str, Any]) -> Markup:
    titles = {each["key"]: each["title"] for each in found["resources"]}
    rows = [
        element(
            "li",
            flags(cell["flag"] or "no flag"),
            f": {titles[cell['resource']]} is {cell['measured']}, and the manual says {cell['manual']} (",
            manual(MANUAL[cell["resource"]].page),
            f"). Here {cell['evidence']}.",
        )
        for cell in differences(found)
    ]
    rows += [
        element(
            "li",
            flags(effect["flag"]),
            f": {effect['sentence']}: that {'happens' if effect['happens'] else 'does not happen'} here. {effect['note']}",
        )
        for effect in found["effects"]
        if effect["agrees"] is False
    ]
    head = element("h3", "Where kernel and manual differ")
    none = element("p", "Nothing differs from what the manual says.")
    return join(head, element("ul", rows, class_="differences") if rows else none)


def _effects(effects: list[dict[str, Any]]) -> Markup:
    words = {True: "yes", False: "no", None: "?"}
    rows = []
    for effect in effects:
        if effect["happens"] is None:
            happens: Any = f"not here: {effect['why_not']}"
        else:
            happens = [
                words[effect["happens"]],
                element("strong", " ! not as the manual says") if effect["agrees"] is False else None,
            ]
        name = [element("code", effect["flag"]), f" with {effect['with']}" if effect["with"] else None]
        rows.append(
            element(
                "tr",
                element("th", name, scope="row"),
                element("td", effect["sentence"]),
                element("td", happens),
                element("td", words[effect["without"]] if effect["happens"] is not None else ""),
            )
        )
    table = element(
        "table",
        caption("What flags do beside sharing"),
        head_row("flag", "what it does", "with", "without"),
        element("tbody", rows),
    )
    return join(element("h3", "What flags do beside sharing"), scrolling("What flags do beside sharing", table))


def _notes(found: dict[str, Any]) -> list[Markup]:
    asked = [
        cell["kcmp"] == (cell["measured"] == "shared")
        for row in found["rows"]
        for cell in row["cells"].values()
        if cell["kcmp"] is not None and cell["measured"] != "unknown"
    ]
    against = asked.count(False)
    witness = "kcmp(2) could not be asked here, so the effects are the only witness."
    if asked:
        said = f"contradicts {against}" if against else "agrees with every one"
        witness = f"kcmp(2), asked about {plural(len(asked), 'of these cells', 'of these cells')}, {said} of them."
    refused = [row for row in found["rows"] if row["refused"]]
    left_out = [element("li", element("code", row["flag"]), f": {row['refused']}") for row in refused]
    more = disclosure(f"{plural(len(refused), 'flag')} not measured here", element("ul", left_out)) if refused else None
    plus = element("p", "+ measured together with other flags, since the kernel refuses it alone.", class_="note")
    return [element("p", manual(witness)), plus, more or join()]
