"""ExecResult: how code ran in a pool or a session, and what it left."""

from __future__ import annotations

from ramet.call.isolated import FunctionResult
from ramet.call.remote import rebuilt
from ramet.call.wire import Part
from ramet.errors import ResultError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Base = FunctionResult[Any]
else:
    Base = FunctionResult


class ExecResult(Base):
    """A `FunctionResult` of code. stdout and stderr are text.

    outputs: its variables, by name; unsent: those that could not be sent, with the reason. value: of the last expression, where it can be
    sent; text: its repr. figures: of matplotlib, as PNG. error: what the code raised, or why it was ended; None if all is well.
    """

    __slots__ = ("figures", "outputs", "text", "unsent")
    outputs: dict[str, Any]
    unsent: dict[str, str]
    text: str | None
    figures: list[bytes]

    @property
    def error(self) -> BaseException | None:
        """What the code raised; also SystemExit and KeyboardInterrupt; or the limit that it was ended for."""
        return self.exception

    def __bool__(self) -> bool:
        return True

    def take(self, answer: object) -> None:
        """What came out as the value of the run, taken apart."""
        self.outputs, self.unsent, self.text, self.figures = {}, {}, None, []
        self.value = None
        if self.exception is not None:
            return
        try:
            self._take(answer)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            self.exception = ResultError(f"the sandbox sent what is no answer: {type(error).__name__}: {error}")
            self.exception.result = self

    def _take(self, answer: Any) -> None:
        if not isinstance(answer, dict):
            raise TypeError(type(answer).__name__)
        parts: dict[str, Part] = _named(answer["outputs"], Part)
        self.outputs = {name: part.value for name, part in parts.items() if part.why is None}
        self.unsent = _named(answer["unsent"], str) | {name: part.why for name, part in parts.items() if part.why}
        value, text, figures = answer["value"], answer["text"], answer["figures"]
        if not isinstance(value, (Part, type(None))):
            raise TypeError("value")
        self.value = value.value if value is not None else None
        if not isinstance(figures, list) or not all(isinstance(one, bytes) for one in figures):
            raise TypeError("figures")
        self.figures = figures
        self.text = text if isinstance(text, str) else None
        if answer["error"] is not None:
            self.exception = rebuilt(answer["error"], (KeyboardInterrupt, SystemExit))


def _named(found: object, kind: type) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, kind) for k, v in found.items()):
        raise TypeError("outputs")
    return found
