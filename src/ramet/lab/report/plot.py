"""The times as a plot: how long a child takes, by how much memory its caller holds, both axes logarithmic."""

from __future__ import annotations

from math import ceil, floor, log2, log10

from ramet.lab.latency import words
from ramet.lab.report.html import Markup, element, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: One shape a line, for those who do not see its colour. Drawn around 0,0.
MARKS = (
    "M0-5.5 5.5 0 0 5.5-5.5 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-5.5 5.2 4.5H-5.2z",
    "M0 5.5 5.2-4.5H-5.2z",
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-1.8-5.5h3.6v3.7h3.7v3.6h-3.7v3.7h-3.6v-3.7h-3.7v-3.6h3.7z",
    "M0-6 1.7-1.9 6-1.9 2.6.8 3.8 5.2 0 2.6-3.8 5.2-2.6.8-6-1.9-1.7-1.9z",
)
_REACH = 14.0  # how far from a point it can be pointed at
_ZERO = 2.0  # how many doublings of the memory lie between "nothing" and the least size that is drawn


class Frame:
    """Where on the picture a size and a time are. labels: are the lines named at their ends, or below? The letters of a
    narrow picture are larger, since phones draw it smaller."""

    def __init__(self, found: dict[str, Any], width: int, height: int, *, labels: bool) -> None:
        self.width, self.height, self.labels = width, height, labels
        self.left, self.top, self.bottom = 62, 16, 52
        self.right = 168 if labels else 18
        self.letter = 7.6 if labels else 8.6  # what a letter of a tip takes
        self.name = 48 if labels else 62  # and the name of a size
        known = [each for way in found["ways"] for each in way["seconds"] if each]
        self.low, self.high = floor(log10(min(known, default=1e-5))), ceil(log10(max(known, default=1e-2)))
        self.high = max(self.high, self.low + 1)
        held = [size for size in found["sizes"] if size]
        self.least = log2(min(held, default=1)) - _ZERO
        self.most = max(log2(max(held, default=2)), self.least + 1)

    def x(self, size: int) -> float:
        """Of a caller's memory; nothing, which has no logarithm, is at the left end."""
        place = (max(log2(size), self.least) if size else self.least) - self.least
        room = self.width - self.left - self.right - 24
        return round(self.left + 12 + room * place / (self.most - self.least), 1)

    def y(self, seconds: float) -> float:
        """Of a time."""
        room = self.height - self.top - self.bottom
        return round(self.top + room * (self.high - log10(seconds)) / (self.high - self.low), 1)


def plot(found: dict[str, Any]) -> Markup:
    """Both pictures: for wide screens and for phones. One of them is shown."""
    return element(
        "div",
        _picture(found, Frame(found, 860, 470, labels=True), "wide-plot", "w"),
        _picture(found, Frame(found, 340, 440, labels=False), "narrow-plot", "n"),
        _key(found),
        class_="plot",
    )


def _picture(found: dict[str, Any], frame: Frame, class_: str, prefix: str) -> Markup:
    lines = [_line(way, found["sizes"], frame, n) for n, way in enumerate(found["ways"])]
    points = _points(found, frame)
    title = element("title", "Time to start and end a child, by the memory of its caller", id=f"{prefix}-plot-title")
    return element(
        "svg",
        title,
        _axes(found, frame),
        lines,
        _names(found, frame) if frame.labels else None,
        points,
        class_=class_,
        viewBox=f"0 0 {frame.width} {frame.height}",
        role="group",
        aria_labelledby=f"{prefix}-plot-title",
    )


def _axes(found: dict[str, Any], frame: Frame) -> Markup:
    end, floor_ = frame.width - frame.right, frame.height - frame.bottom
    parts: list[Markup] = []
    for power in range(frame.low, frame.high + 1):
        y = frame.y(10.0**power)
        parts.append(element("line", x1=frame.left, x2=end, y1=y, y2=y, class_="rule"))
        parts.append(
            element("text", time_words(10.0**power), x=frame.left - 8, y=y + 4, class_="tick", text_anchor="end")
        )
        for part in range(2, 10 if power < frame.high else 2):
            fine = frame.y(part * 10.0**power)
            parts.append(element("line", x1=frame.left, x2=end, y1=fine, y2=fine, class_="fine"))
    last = -1e9
    for size in sorted(found["sizes"]):
        x = frame.x(size)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=floor_, class_="rule"))
        if x - last < frame.name:
            continue  # no room for its name
        last = x
        parts.append(
            element("text", words(size) if size else "0", x=x, y=floor_ + 18, class_="tick", text_anchor="middle")
        )
    about = (
        "memory that the caller holds (logarithmic; 0 at the left)" if frame.labels else "memory that the caller holds"
    )
    middle = (frame.left + end) / 2
    parts.append(element("text", about, x=middle, y=frame.height - 8, class_="tick", text_anchor="middle"))
    return element("g", parts, aria_hidden="true")


def _line(way: dict[str, Any], sizes: list[int], frame: Frame, n: int) -> Markup:
    places = [(frame.x(size), frame.y(taken)) for size, taken in zip(sizes, way["seconds"], strict=True) if taken]
    path = "M" + " L".join(f"{x} {y}" for x, y in sorted(places)) if places else ""
    marks = [element("path", d=MARKS[n % len(MARKS)], transform=f"translate({x} {y})") for x, y in places]
    drawn = element("path", d=path, class_="trace") if path else None
    return element("g", drawn, marks, class_=f"way way-{n}", aria_hidden="true")


def _names(found: dict[str, Any], frame: Frame) -> Markup:
    """At the lines' right ends, moved apart where they would lie on each other."""
    ends = []
    for n, way in enumerate(found["ways"]):
        known = [(size, taken) for size, taken in zip(found["sizes"], way["seconds"], strict=True) if taken]
        if known:
            size, taken = max(known)
            ends.append((frame.y(taken), frame.x(size), n, way["name"]))
    ends.sort()
    places = apart([y for y, *_ in ends], 17.0, frame.top + 6.0, frame.height - frame.bottom - 2.0)
    x = frame.width - frame.right + 10
    parts = []
    for place, (y, end, n, name) in zip(places, ends, strict=True):
        parts.append(element("path", d=f"M{end + 8} {y}L{x - 3} {place}", class_="leader"))
        parts.append(element("text", name, x=x, y=round(place + 4, 1), class_=f"name way-{n}"))
    return element("g", parts, aria_hidden="true")


def apart(wanted: list[float], least: float, low: float, high: float) -> list[float]:
    """Places in the same order, each near the one wanted, no two nearer than least, all from low to high if they fit."""
    found: list[float] = []
    for place in wanted:
        found.append(max(place, found[-1] + least) if found else max(place, low))
    limit = high
    for n in reversed(range(len(found))):
        found[n] = min(found[n], limit)
        limit = found[n] - least
    return found


def _points(found: dict[str, Any], frame: Frame) -> list[Markup]:
    """What can be pointed at, and reached with Tab: over all lines, so that no line covers it."""
    zones = _zones(found, frame)
    points = []
    for n, way in enumerate(found["ways"]):
        for size, taken, least in zip(found["sizes"], way["seconds"], way["least"], strict=True):
            if taken:
                points.append(_point(way["name"], n, (size, taken, least), zones[n, size], frame))
    return points


def _point(name: str, n: int, numbers: tuple[int, float, float], zone: tuple[float, float], frame: Frame) -> Markup:
    size, taken, least = numbers
    x, y = frame.x(size), frame.y(taken)
    top, bottom = zone
    said = [f"{time_words(taken)} median", f"{time_words(least)} at the least"]
    return element(
        "g",
        element("rect", x=x - 18, y=top, width="36", height=round(bottom - top, 2), class_="hit"),
        element("circle", cx=x, cy=y, r="10", class_="ring"),
        _tip([f"{name}, {words(size)}", *said], x, y, frame),
        class_=f"point way-{n}",
        tabindex="0",
        role="img",
        aria_label=f"{name}, caller of {words(size)}: {', '.join(said)}",
    )


def _zones(found: dict[str, Any], frame: Frame) -> dict[tuple[int, int], tuple[float, float]]:
    """From where to where a point is pointed at, by (way, size): no farther than half-way to the next, so that none is
    covered by its neighbour."""
    zones = {}
    for column, size in enumerate(found["sizes"]):
        known = [(n, way["seconds"][column]) for n, way in enumerate(found["ways"]) if way["seconds"][column]]
        places = sorted((frame.y(taken), n) for n, taken in known)
        for at, (y, n) in enumerate(places):
            above = (places[at - 1][0] + y) / 2 if at else y - _REACH
            below = (places[at + 1][0] + y) / 2 if at + 1 < len(places) else y + _REACH
            zones[n, size] = max(above, y - _REACH), max(min(below, y + _REACH), above + 1)
    return zones


def _tip(lines: list[str], x: float, y: float, frame: Frame) -> Markup:
    """Beside its point, and inside the picture."""
    wide, high = 9 + frame.letter * max(map(len, lines)), 12 + 17 * len(lines)
    left = min(max(x - wide / 2, 2), frame.width - wide - 2)
    top = y - high - 12 if y - high - 12 > 0 else y + 14
    box = element("rect", x=round(left, 1), y=round(top, 1), width=round(wide, 1), height=high, rx="5")
    text = [
        element("text", line, x=round(left + 8, 1), y=round(top + 19 + 17 * n, 1), class_="first" if n == 0 else None)
        for n, line in enumerate(lines)
    ]
    return element("g", box, text, class_="tip", aria_hidden="true")


def _key(found: dict[str, Any]) -> Markup:
    """The lines' marks and names, where there is no room for them at the lines' ends."""
    rows = []
    for n, way in enumerate(found["ways"]):
        mark = element("path", d=MARKS[n % len(MARKS)], transform="translate(10 8)")
        drawn = element("svg", mark, width="20", height="16", aria_hidden="true", class_=f"way way-{n}")
        rows.append(element("li", drawn, way["name"]))
    return element("ul", rows, class_="key")


def time_words(seconds: float) -> str:
    """``120 µs``, ``1.5 ms``: three digits, and no more than are known."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit * 0.9995:
            return f"{_digits(seconds / unit)} {name}"
    return f"{_digits(seconds * 1e9)} ns"


def _digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.3g}"


def numbers(found: dict[str, Any]) -> Markup:
    """The same as a table: median, and the least."""
    heads = [element("th", words(size), scope="col") for size in found["sizes"]]
    rows = []
    for way in found["ways"]:
        cells = [_times(*each) for each in zip(way["seconds"], way["least"], way["refused"], strict=True)]
        rows.append(element("tr", element("th", way["name"], scope="row"), cells))
    return element(
        "table",
        element("caption", "Median, and in brackets the shortest time, by the memory of the caller", class_="sr"),
        element("thead", element("tr", element("th", "way", scope="col"), heads)),
        element("tbody", rows),
        class_="times",
    )


def _times(taken: float | None, least: float | None, refused: str) -> Markup:
    if taken is None or least is None:
        return element("td", refused or "?")
    return element("td", join(time_words(taken), element("span", f" ({time_words(least)})", class_="least")))
