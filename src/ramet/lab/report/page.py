"""The page: one file, with its style and script inside, that asks nobody for anything."""

from __future__ import annotations

from ramet.lab.latency import words
from ramet.lab.report import container, experiments, grid, refused, ways
from ramet.lab.report.cells import symbols
from ramet.lab.report.html import Markup, element, join
from ramet.lab.report.words import who

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TITLE = "What clone does on this kernel"


def page(found: dict[str, Any]) -> str:
    """The whole page of what `gather` returned, as HTML."""
    sections = _sections(found)
    links = [element("a", title, href=f"#{anchor}") for anchor, title, _ in sections]
    body = join(
        element("a", "Skip to the findings", href="#main", class_="skip"),
        symbols(),
        element("header", _head(found["host"]), class_="top"),
        element("nav", links, aria_label="Parts of this page"),
        element("main", [section for _, _, section in sections], id="main", tabindex="-1"),
        element("footer", element("p", _made(found["host"]))),
    )
    whole = element("html", element("head", _meta(found["host"])), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _sections(found: dict[str, Any]) -> list[tuple[str, str, Markup]]:
    """(id, title, part) of those that were asked for."""
    parts = []
    if found["experiments"]:
        parts.append(("experiments", "Experiments", experiments.section(found["experiments"])))
        parts.append(("namespaces", "Namespaces", experiments.runs_section(found["experiments"])))
    for key, title, section in (
        ("matrix", "Matrix", grid.section),
        ("compare", "Fork and others", ways.section),
        ("errors", "Errors", refused.section),
        ("container", "Container", container.section),
    ):
        if key in found:
            parts.append((key, title, section(found[key])))
    return parts


def _meta(host: dict[str, Any]) -> Markup:
    style, script = _file("style.css"), _file("script.js")
    # Even if something foreign became markup, it could neither run nor ask anybody for anything.
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{TITLE}: Linux {host['kernel']}"),
        element("link", rel="icon", href="data:,"),
        element("style", style),
        element("script", script),
    )


def _digest(text: str) -> str:
    """As a Content-Security-Policy names a block of the page."""
    from base64 import b64encode
    from hashlib import sha256

    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _file(name: str) -> Markup:
    from importlib.resources import files

    return Markup(files("ramet.lab.report").joinpath(name).read_text("utf-8"))


def _head(host: dict[str, Any]) -> Markup:
    facts = [
        ("kernel", f"Linux {host['kernel']}"),
        ("machine", f"{host['machine']}, {host['processors']} processors, {words(host['memory'])}"),
        ("host", host["name"]),
        ("run by", who(host["uid"])),
        ("at", element("time", host["date"], datetime=host["instant"])),
    ]
    rows = [element("div", element("dt", name), element("dd", what)) for name, what in facts]
    switch = element("button", "Dark", type="button", id="theme", aria_pressed="false", hidden=True)
    return join(
        element("div", element("h1", TITLE), switch, class_="title"),
        element(
            "p",
            "What each flag of clone(2) shares, keeps apart and costs: run, measured and provoked on the machine named "
            "here, with a control beside it. What could not be tried says so, and why.",
        ),
        element("dl", rows, class_="machine"),
    )


def _made(host: dict[str, Any]) -> str:
    ours = f"ramet {host['ramet']}".strip()
    return (
        f"Made by `ramet lab --html` ({ours}, Python {host['python']}) in {host['seconds']:.0f} s. Kernel build: "
        f"{host['build']}. The page is one file, and asks the network for nothing; its links lead to man pages."
    )
