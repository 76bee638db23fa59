"""The table: a figure a line, its target beside it, and whether it was met."""

from __future__ import annotations

import os
import platform
import time


class Figure:
    """A number with a name; with at_most or at_least, a target."""

    def __init__(
        self,
        name: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        unit: str = "seconds",
    ) -> None:
        self.name, self.value, self.unit = name, value, unit
        self.at_most, self.at_least = at_most, at_least

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    def __str__(self) -> str:
        target = ""
        if self.met is not None:
            bound = self.at_most if self.at_most is not None else self.at_least
            word = "at most" if self.at_most is not None else "at least"
            target = f"{word} {shown(bound or 0, self.unit)}"
        verdict = {True: "met", False: "NOT MET", None: ""}[self.met]
        return f"  {self.name:<34}{shown(self.value, self.unit):>12}   {target:<18} {verdict}".rstrip()


def ratio(
    name: str, above: float, below: float, *, at_most: float | None = None, at_least: float | None = None
) -> Figure:
    """One median over another."""
    return Figure(name, above / below, at_most=at_most, at_least=at_least, unit="ratio")


def shown(value: float, unit: str) -> str:
    """For people: 1.65 ms, 2.93 x, 12 KiB."""
    if unit == "seconds":
        return f"{value * 1e3:.2f} ms" if abs(value) >= 1e-3 else f"{value * 1e6:.1f} us"
    if unit == "ratio":
        return f"{value:.2f} x"
    return f"{value / 1024:.0f} KiB" if unit == "bytes" else f"{value:.0f}"


class Report:
    """Figures under headings."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Figure]] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, heading: str, *figures: Figure) -> None:
        """An empty heading goes on under the last one."""
        heading = heading or self.parts[-1][0]
        self.parts += [(heading, figure) for figure in figures]

    def skip(self, name: str, reason: str) -> None:
        """What could not be measured, and why."""
        self.skipped.append((name, reason))

    @property
    def met(self) -> bool:
        """Was every target met?"""
        return all(figure.met is not False for _, figure in self.parts)

    def __str__(self) -> str:
        lines = [", ".join(f"{value}" for value in machine().values())]
        heading = None
        for under, figure in self.parts:
            if under != heading:
                lines += ["", under]
                heading = under
            lines.append(str(figure))
        lines += [f"\nnot measured: {name}: {reason}" for name, reason in self.skipped]
        return "\n".join(lines)

    def to_mapping(self) -> dict[str, object]:
        """The same as plain data; times in seconds."""
        return {
            "machine": machine(),
            "figures": [
                {"under": under} | {k: v for k, v in vars(figure).items() if v is not None} | {"met": figure.met}
                for under, figure in self.parts
            ],
            "skipped": dict(self.skipped),
            "met": self.met,
        }


def machine() -> dict[str, str]:
    """Where and when."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": f"{os.cpu_count()} x {platform.machine()}",
        "kernel": f"Linux {platform.release()}",
        "python": f"CPython {platform.python_version()}",
        "caller": "root" if os.geteuid() == 0 else "an ordinary user",
    }
