"""The style sheet's colours: each pair of text and ground that it uses can be told apart, light and dark."""

import re
from importlib.resources import files

import pytest

from ramet.lab.report.html import element
from ramet.lab.report.page import page

STYLE = files("ramet.lab.report").joinpath("style.css").read_text()
COLOURS = {
    name: {"light": light, "dark": dark}
    for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", STYLE)
}
GROUNDS = ("paper", "card", "raised")
TEXT, LARGE_OR_GRAPHIC = 4.5, 3.0  # WCAG 2.2, level AA: 1.4.3 and 1.4.11


def luminance(colour):
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """From 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


PAIRS = [
    *((ink, ground, TEXT) for ink in ("ink", "soft", "link", "yes", "no", "differs") for ground in GROUNDS),
    *(
        (f"{word}-ink", ground, TEXT)
        for word in ("shared", "copied", "new")
        for ground in ("paper", "card", f"{word}-fill")
    ),
    *((f"way-{n}", "card", TEXT) for n in range(7)),
    ("string", "raised", TEXT),
    ("keyword", "raised", TEXT),
    ("paper", "ink", TEXT),
    ("edge", "card", LARGE_OR_GRAPHIC),
    ("edge", "paper", LARGE_OR_GRAPHIC),
]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground", "least"), PAIRS)
def test_contrast(ink, ground, least, theme):
    """Text has a contrast of 4.5 with what it stands on, lines that mean something one of 3."""
    assert contrast(COLOURS[ink][theme], COLOURS[ground][theme]) >= least


def test_contrast_is_computed():
    """The control: black on white is 21, a grey known to be just too light is below 4.5."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_every_colour_is_of_the_table():
    """No rule has a colour of its own: all are variables, each with a light and a dark value, and each is used."""
    rules = STYLE.partition("\n}\n")[2]
    assert [] == re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)", re.sub(r"#[\w-]+(?=[^{};]*\{)", "", rules))
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    assert set(COLOURS) | {"mono", "sans", "way"} == used
    assert len(COLOURS) > 20


def test_every_class_has_a_rule_or_a_reader(found):
    """What the style sheet styles is on the page: a renamed class would lose its looks in silence."""
    text = page(found)
    on_page = {word for value in re.findall(r' class="([^"]*)"', text) for word in value.split()}
    styled = set(re.findall(r"\.([a-z][\w-]*)", re.sub(r"\{[^}]*\}", "{}", re.sub(r"/\*.*?\*/", "", STYLE))))
    seldom = {"trouble", "fails", "odd", "unknown", "no", "open", "to-control", "at-control", "from-control"}
    assert set() == styled - on_page - seldom
    assert element("i", class_="x") == '<i class="x"></i>'
