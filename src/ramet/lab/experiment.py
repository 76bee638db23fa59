"""Experiment: one question about clone, the function that tries it, and what would settle it."""

from __future__ import annotations

from ramet.flags import CLONE, format_clone
from ramet.spec.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    from ramet.lab.evidence import Notes

    Run: TypeAlias = Callable[[CLONE, Notes], None]
    Findings: TypeAlias = Sequence[tuple[str, bool]]

CONFIRMED, CORRECTED = "confirmed", "corrected"


class Answers(dict):  # type: ignore[type-arg]
    """What one side saw: what it looked at, and the value. What it did not look at is None."""

    def __missing__(self, what: str) -> Any:
        return None


class Seen:
    """What caller and child saw in one run, for an experiment's `conclude`."""

    __slots__ = ("caller", "child")

    def __init__(self) -> None:
        self.caller, self.child = Answers(), Answers()


class Experiment(Record):
    """A question, the program that answers it, and how to read the answer.

    number, name, title: what `ramet lab` lists. question: what is asked.
    flags, exit_signal: what the program gives to clone. without: what its control leaves out of the flags.
    run: the program: it is called with flags, and with the control's, and notes what each side sees.
    control: another function, where it is not the flags that the control leaves out.
    with_is, control_is: what the two columns are called; by default after the flags left out.
    conclude: says of what both have seen which statements are true. All of them must be.
    answer: the conclusion, if they are.
    claimed: what was said about it. verdict: is that confirmed, or corrected? page, manual: what the manual says.
    needs: the capability, in the user namespace of whoever runs it, without which `run` can't work; "" for none.
    ground: namespaces in which all of it runs, caller and child, so that the host stays as it is. With
    ground_optional it runs without them too, and leaves out what could harm (`Notes.grounded`).
    """

    number: int
    name: str
    title: str
    question: str
    flags: CLONE
    run: Run
    conclude: Callable[[Seen, Seen], Findings]
    answer: str
    claimed: str
    verdict: str
    page: str
    manual: str
    exit_signal: int = 0
    without: CLONE = CLONE(0)
    control: Run | None = None
    with_is: str = ""
    control_is: str = ""
    needs: str = ""
    ground: CLONE = CLONE(0)
    ground_optional: bool = False

    def _settle(self) -> None:
        self._put("with_is", self.with_is or f"with {format_clone(self.without)}")
        self._put("control_is", self.control_is or "without it")

    @property
    def control_flags(self) -> CLONE:
        """The flags of the control."""
        return self.flags & ~self.without

    @property
    def since(self) -> tuple[int, ...]:
        """The first kernel that has all its flags."""
        return max((flag.since for flag in self.flags), default=(2, 0))

    @property
    def says(self) -> str:
        """``CLONE_VM|SIGCHLD``: flags and exit signal."""
        return format_clone(self.flags, self.exit_signal)
