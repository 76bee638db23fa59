"""fork, vfork, posix_spawn, pthread_create and clone side by side: what a child shares, and how long its start takes."""

from __future__ import annotations

from ramet.flags import CLONE, format_clone
from ramet.lab.apart import apart
from ramet.lab.latency import latency, words
from ramet.lab.manual import MANUAL, agrees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_C = CLONE
_THREAD = (
    *(_C.VM, _C.FS, _C.FILES, _C.SIGHAND, _C.THREAD, _C.SYSVSEM),
    *(_C.SETTLS, _C.PARENT_SETTID, _C.CHILD_CLEARTID),
)
_CONTAINER = (_C.NEWUSER, _C.NEWNS, _C.NEWPID, _C.NEWNET, _C.NEWIPC, _C.NEWUTS, _C.NEWCGROUP, _C.NEWTIME)


class Way:
    """One way to make a child. method: of `ramet.lab.measure.Measurer`, clone unless it is another."""

    __slots__ = ("about", "flags", "heading", "key", "method")

    def __init__(self, key: str, heading: str, about: str, flags: Sequence[CLONE] = (), method: str = "clone") -> None:
        self.key, self.heading, self.about, self.method = key, heading, about, method
        self.flags = CLONE(0)
        for flag in flags:
            self.flags |= flag


WAYS = (
    Way("fork", "fork", "libc's fork", method="fork"),
    Way("vfork", "vfork", "what vfork(2) is defined as", (_C.VM, _C.VFORK)),
    Way("spawn", "spawn", "libc's posix_spawn: what the new program finds", method="spawn"),
    Way("pthread", "pthread", "libc's pthread_create, said to use", _THREAD, "thread"),
    Way("clone_vm", "clone A", "a process in the caller's memory", (_C.VM,)),
    Way("clone_like_thread", "clone B", "all shared, and yet a process", (_C.VM, _C.FS, _C.FILES, _C.SYSVSEM, _C.IO)),
    Way("container", "clone C", "a container's eight namespaces", _CONTAINER),
)


def compare(sizes: Sequence[int] | None = None, *, seconds: float = 3.0) -> dict[str, Any]:
    """Both halves. JSON-able::

        {"kernel", "uid", "ground", "resources": as in `ramet.lab.matrix.matrix`,
         "ways": [{"key", "heading", "about", "flags", "refused", "cells": as there}],
         "latency": what `ramet.lab.latency.latency` returns for these sizes}

    Raises SpecError for sizes that are none; UnsupportedError for more than the machine has free.
    """
    if sizes is not None:
        from ramet.lab.latency import check_sizes

        check_sizes(sizes)
    found: dict[str, Any] = apart("ramet.lab.compare", "_measure_all")
    for row, way in zip(found["ways"], WAYS, strict=True):
        for key, cell in row["cells"].items():
            cell["manual"] = MANUAL[key].answer(way.flags, executed=way.method == "spawn")
            cell["agrees"] = agrees(cell["measured"], cell["manual"])
    found["latency"] = latency(sizes, seconds=seconds)
    return found


def _measure_all() -> dict[str, Any]:
    """In a process of its own."""
    from ramet.lab.ground import on_ground

    return dict(on_ground(_ways))


def _ways(ground: Any) -> dict[str, Any]:
    from ramet.lab.matrix import head
    from ramet.lab.measure import Measurer

    measurer = Measurer(ground)
    ways = []
    for way in WAYS:
        cells = measurer.clone(way.flags) if way.method == "clone" else getattr(measurer, way.method)()
        refused = cells.pop("error", "")
        flags = format_clone(way.flags) if way.flags else ""
        ways.append(
            {
                "key": way.key,
                "heading": way.heading,
                "about": way.about,
                "flags": flags,
                "refused": refused,
                "cells": cells,
            }
        )
    return {**head(ground), "ways": ways}


# The page

_LABEL, _CELL = 23, 8


def text(found: dict[str, Any]) -> str:
    """The page, within 80 columns."""
    return "\n".join([*_shared_text(found), "", *latency_text(found["latency"])])


def _shared_text(found: dict[str, Any]) -> list[str]:
    from ramet.lab.matrix import wrapped

    lines = [*wrapped(f"What each child shares with its caller, on Linux {found['kernel']}. {found['ground']}"), ""]
    for way in found["ways"]:
        flags = f": {way['flags'].replace('CLONE_', '').replace('|', ' ')}" if way["flags"] else ""
        refused = f"; refused: {way['refused']}" if way["refused"] else ""
        lines += wrapped(f"{way['heading']:<8} {way['about']}{flags}{refused}", hanging=9)
    lines += ["", "  CAPITALS: not as with fork.  !  not as the manual says.  ?  not to be told"]
    ways = [way for way in found["ways"] if way["cells"]]
    group = ""
    for resource in found["resources"]:
        if resource["group"] != group:
            group = resource["group"]
            headings = "".join(way["heading"].ljust(_CELL) for way in ways).rstrip()
            lines += ["", group, f"{'':<{_LABEL}}{headings}"]
        key = resource["key"]
        base = found["ways"][0]["cells"][key]
        row = "".join(_cell(way["cells"][key], base) for way in ways)
        lines.append(f"  {resource['title'].removeprefix('the ')[: _LABEL - 3]:<{_LABEL - 2}}{row}".rstrip())
    return lines + _marked(found)


def _cell(cell: dict[str, Any], base: dict[str, Any]) -> str:
    word = "?" if cell["measured"] == "unknown" else str(cell["measured"])
    if cell["measured"] != base["measured"]:
        word = word.upper()
    return f"{word}{'!' if cell['agrees'] is False else ''}".ljust(_CELL)


def _marked(found: dict[str, Any]) -> list[str]:
    from ramet.lab.matrix import wrapped

    lines: list[str] = []
    titles = {resource["key"]: resource["title"] for resource in found["resources"]}
    for way in found["ways"]:
        for key, cell in way["cells"].items():
            if cell["agrees"] is False:
                told = (
                    f"! {way['heading']}: {titles[key]}: measured {cell['measured']}, the manual says {cell['manual']}"
                )
                lines += wrapped(f"{told} ({MANUAL[key].page}). Here {cell['evidence']}.", hanging=2)
    return ["", *(lines or ["No cell differs from what the manual says."])]


_BAR = 34


def latency_text(found: dict[str, Any]) -> list[str]:
    """The times, with bars on a logarithmic scale."""
    from ramet.lab.matrix import wrapped

    known = [each for way in found["ways"] for each in way["seconds"] if each]
    least, most = min(known, default=1e-6), max(known, default=1e-6)
    step = max(1.25, (most / least) ** (1 / (_BAR - 1)))
    lines = wrapped(
        f"How long it takes to start a child that does nothing, and to see it end, by how much memory the caller "
        f"has touched (in small pages). Medians of {found['rounds']} rounds in turns. One # more is "
        f"{(step - 1) * 100:.0f} % longer."
    )
    for size in found["left_out"]:
        lines += wrapped(f"Left out: a caller of {words(size)}, for which this machine has not enough memory free.")
    for way in found["ways"]:
        lines.append("")
        name = way["name"]
        for size, taken, refused in zip(found["sizes"], way["seconds"], way["refused"], strict=True):
            shown = f"{taken * 1000:>8.2f} ms  {bar(taken, least, step)}" if taken else f"{refused or '?':>11}"
            lines.append(f"{name:<18}{words(size):>9}  {shown}".rstrip())
            name = ""
    grown = grows(found)
    if grown:
        lines += ["", *wrapped(grown)]
    return lines


def bar(seconds: float, least: float, step: float) -> str:
    """One # for the shortest time, and one more for each time that it is longer by the factor step."""
    from math import log

    return "#" * (1 + round(log(seconds / least) / log(step)))


def grows(found: dict[str, Any]) -> str:
    """What the figures say of fork and of CLONE_VM; nothing with less than two sizes."""
    if len(found["sizes"]) < 2:
        return ""
    small = found["sizes"].index(min(found["sizes"]))
    big = found["sizes"].index(max(found["sizes"]))
    told = []
    for key, name in (("fork", "fork"), ("vfork", "CLONE_VM|CLONE_VFORK")):
        seconds = next(way["least"] for way in found["ways"] if way["key"] == key)
        if seconds[small] and seconds[big]:
            factor = seconds[big] / seconds[small]
            times = f"{factor:.0f}" if factor >= 10 else f"{factor:.1f}"
            told.append(f"{name} takes {times} times as long")
    sizes = f"From a caller of {words(found['sizes'][big])} rather than {words(found['sizes'][small])}"
    return f"{sizes}, {' and '.join(told)}, by the shortest times of each." if told else ""
