"""Evidence: what caller and child saw, what the control saw, and what follows."""

from __future__ import annotations

import os
from collections import namedtuple
from enum import IntFlag

from ramet.flags import format_flags
from ramet.host.namespaces import KINDS
from ramet.lab.experiment import Seen
from ramet.lab.kernel import CAP_SYS_ADMIN, has_capability, outcome
from ramet.spec.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, NamedTuple

    class Observation(NamedTuple):
        """See below."""

        who: str
        what: str
        value: Any

    class Finding(NamedTuple):
        """See below."""

        statement: str
        holds: bool
else:

    class Observation(namedtuple("Observation", "who what value")):
        """One thing seen. who: "caller" or "child"; what: where it looked; value: as JSON has values."""

        __slots__ = ()

    class Finding(namedtuple("Finding", "statement holds")):
        """A statement about what was seen, and whether it is true."""

        __slots__ = ()


class Namespaces(Record):
    """The inode number of each kind of namespace, its identity: of the caller, the child, the control's child.

    Of a side that could not be looked at it is None. `own` says in which kinds the child's differ.
    """

    caller: Mapping[str, int]
    child: Mapping[str, int] | None = None
    control: Mapping[str, int] | None = None

    @property
    def own(self) -> tuple[str, ...]:
        """The kinds in which the child is apart from the caller."""
        child = self.child or {}
        return tuple(kind for kind in KINDS if kind in child and child[kind] != self.caller.get(kind))


class Evidence(Record):
    """All of one run of an experiment.

    experiment fields: number, name, title, question, claimed, verdict, page, manual, with_is, control_is, needs.
    flags, exit_signal: what ran, which may be other flags than the experiment's own (`run(flags=...)`).
    control_flags: those of the control. file, source: the function that ran. observations, control: what was
    seen with and without. findings: what follows, one by one. holds: were all of them examined, and are they
    all true? conclusion: in a sentence. missing: what it would take to run all of it here; "" for nothing.
    kernel, uid: where it ran, and as whom. ground: the namespaces made for all of it. namespaces: who was in which.
    seconds: how long experiment and control took, without the start of their process.
    """

    number: int
    name: str
    title: str
    question: str
    flags: int
    flag_names: str
    exit_signal: int
    control_flags: int
    with_is: str
    control_is: str
    file: str
    source: str
    control_source: str
    observations: tuple[Observation, ...]
    control: tuple[Observation, ...]
    findings: tuple[Finding, ...]
    holds: bool
    conclusion: str
    claimed: str
    verdict: str
    page: str
    manual: str
    needs: str
    missing: str
    kernel: str
    uid: int
    ground: tuple[str, ...]
    namespaces: Namespaces
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The same as plain data; flags with what each means."""
        from ramet.lab.words import flag_words

        plain = dict(self.to_mapping())
        for name in ("observations", "control", "findings"):
            plain[name] = [each._asdict() for each in plain[name]]
        plain["namespaces"] = {**self.namespaces.to_mapping(), "own": list(self.namespaces.own)}
        plain["ground"] = list(self.ground)
        plain["flags_explained"] = [
            {"name": name, "meaning": meaning} for name, meaning in flag_words(self.flags, self.exit_signal)
        ]
        return plain


def from_json(plain: Mapping[str, Any]) -> Evidence:
    """The evidence that `Evidence.as_json` made this of."""
    fields = {name: plain[name] for name in Evidence._fields}
    for name in ("observations", "control"):
        fields[name] = tuple(Observation(**each) for each in plain[name])
    fields["findings"] = tuple(Finding(**each) for each in plain["findings"])
    spaces = plain["namespaces"]
    fields["namespaces"] = Namespaces(spaces["caller"], spaces["child"], spaces["control"])
    fields["ground"] = tuple(plain["ground"])
    return Evidence(**fields)


class Notes:
    """What an experiment writes down while it runs. A child with CLONE_VM writes into these very lists.

    grounded: is all this in namespaces of its own, so that what it does to mounts and names is done to nobody?
    """

    def __init__(self, *, grounded: bool = True) -> None:
        self.grounded = grounded
        self.observations: list[Observation] = []
        self.namespaces: dict[str, int] | None = None
        self._caller = _identity()

    def caller(self, what: str, value: object) -> None:
        """The caller looked at this, and saw that."""
        self.observations.append(Observation("caller", what, plain(value)))

    def child(self, what: str, value: object) -> None:
        """So did the child. If it says so itself, the namespaces it is in are noted as well."""
        self.observations.append(Observation("child", what, plain(value)))
        if self.namespaces is None and (here := _identity()) != self._caller:
            self.namespaces = here[1]

    def guarded(self, act: Callable[[], object]) -> str:
        """The outcome of what would change the host; not tried where it could, outside namespaces of our own."""
        if not self.grounded and has_capability(CAP_SYS_ADMIN):
            return "not tried"
        return outcome(act)

    def seen(self) -> Seen:
        """What was written down, by who saw it."""
        seen = Seen()
        for who, what, value in self.observations:
            (seen.caller if who == "caller" else seen.child)[what] = value
        return seen


def _identity() -> tuple[int, dict[str, int]]:
    """Who runs this: a pid alone could be the caller's as well as that of a child in another pid namespace."""
    return os.getpid(), own_namespaces()


def own_namespaces() -> dict[str, int]:
    """The inode numbers of this process's namespaces; empty where /proc doesn't show them."""
    found = {}
    for kind in KINDS:
        try:
            found[kind] = os.stat(f"/proc/self/ns/{kind}").st_ino
        except OSError:
            continue  # no such kind in this kernel, or no /proc in here
    return found


def plain(value: object) -> Any:
    """The value as JSON can have it."""
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, IntFlag):
        return format_flags(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (set, frozenset)):
        return sorted(plain(each) for each in value)
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    raise TypeError(f"an observation can't be {value!r}")


def merge(notes: Notes, observations: Iterable[Iterable[Any]], namespaces: dict[str, int] | None) -> None:
    """Add what a child wrote down in a copy of the memory."""
    notes.observations += [Observation(*each) for each in observations]
    notes.namespaces = notes.namespaces or namespaces
