"""Ask the lab for all that the page shows. What this host can't do is in there too, as the reason."""

from __future__ import annotations

import os

from ramet.errors import Error, errno_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

PARTS = ("matrix", "compare", "errors", "container")
"""What there is beside experiments."""


def gather(
    names: Iterable[str] | None = None,
    parts: Sequence[str] = PARTS,
    *,
    sizes: Sequence[int] | None = None,
    seconds: float = 3.0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Run these experiments (all, without names) and measure these parts of the lab, one after the other.

    sizes, seconds: as `ramet.lab.compare.compare` takes them. progress: called with how many are done, of how many,
    and the next's name. The keys: "host"; "experiments", a list of Evidence; those of the parts that were asked for,
    each what its function in `ramet.lab` returns, or {"error": why not}; "container" has its four by name.
    """
    from time import monotonic

    from ramet.lab import NAMES, run_all
    from ramet.lab.report.host import host

    wanted = list(NAMES if names is None else names)
    jobs = [(key, place, ask) for key, place, ask in _jobs(sizes, seconds) if key in parts]
    total = len(wanted) + len(jobs)
    tell = progress or (lambda done, of, name: None)
    start = monotonic()
    first = jobs[0][1] if jobs else ""

    def told(done: int, of: int, name: str) -> None:
        tell(done, total, name or first)

    found: dict[str, Any] = {"experiments": run_all(wanted, progress=told)}
    for number, (key, place, ask) in enumerate(jobs):
        tell(len(wanted) + number, total, place)
        here = found.setdefault("container", {}) if key == "container" else found
        here[place] = _asked(ask)
    tell(total, total, "")
    found["host"] = host() | {"seconds": monotonic() - start}
    return found


def _jobs(sizes: Sequence[int] | None, seconds: float) -> list[tuple[str, str, Callable[[], dict[str, Any]]]]:
    """(the part it belongs to, its own name, what does it)."""
    from ramet.lab.compare import compare
    from ramet.lab.container.build import build
    from ramet.lab.container.escape import escape
    from ramet.lab.container.kernel import kernel
    from ramet.lab.container.veth import veth
    from ramet.lab.matrix import matrix
    from ramet.lab.refusals import refusals

    return [
        ("matrix", "matrix", matrix),
        ("compare", "compare", lambda: compare(sizes, seconds=seconds)),
        ("errors", "errors", refusals),
        ("container", "steps", build),
        ("container", "escape", escape),
        ("container", "veth", veth),
        ("container", "kernel", kernel),
    ]


def _asked(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return ask()
    except Error as error:
        return {"error": str(error)}
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return {"error": f"{where}{errno_name(error.errno or 0)}"}


def unsound(found: dict[str, Any]) -> bool:
    """Is there a conclusion that does not hold, or an answer of the kernel's that is not the one said?"""
    from ramet.lab.refusals import wrong

    errors = found.get("errors", {})
    return any(not each.holds and not each.missing for each in found["experiments"]) or (
        "cases" in errors and bool(wrong(errors))
    )


def troubles(found: dict[str, Any]) -> list[str]:
    """What this host could not do, and why."""
    parts = {**found, **found.get("container", {})}
    told = [f"{name}: {part['error']}" for name, part in parts.items() if isinstance(part, dict) and part.get("error")]
    stopped = parts.get("steps", {}).get("stopped")
    return [*told, f"{stopped['title']}: {stopped['error']}"] if stopped else told
