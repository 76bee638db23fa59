"""What the probes have in common."""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.ground import Ground
    from ramet.lab.script import Script, Seen

SHARED, COPIED, NEW, UNKNOWN = "shared", "copied", "new", "unknown"
ANSWERS = (SHARED, COPIED, NEW, UNKNOWN)


class Finding:
    """What one child told of one resource. evidence: what was seen, in a sentence."""

    __slots__ = ("answer", "evidence")

    def __init__(self, answer: str, evidence: str) -> None:
        self.answer, self.evidence = answer, evidence


class Resource:
    """One resource. A subclass's docstring says what it is.

    key: its name in JSON. heading: in the table. title: in a sentence. kcmp: its type there, or None.
    needs_ground: to measure it takes privilege, or leaves something behind outside namespaces of one's own.
    """

    key = heading = title = ""
    kcmp: int | None = None
    needs_ground = False

    def __init__(self, ground: Ground, proc: int) -> None:
        """proc: a descriptor of /proc, for children that have no path to it."""
        self.ground, self.proc = ground, proc

    def mark(self) -> None:
        """In the caller: leave the mark that the child is to find. Also undoes what a former child did."""

    def read(self, script: Script) -> None:
        """The child's calls that look for the mark."""

    def change(self) -> None:
        """In the caller, while the child waits after its first look. Not for a child whose caller sleeps meanwhile."""

    def read_again(self, script: Script) -> None:
        """The child's calls that look for what the caller has changed."""

    def write(self, script: Script) -> None:
        """The child's calls that leave its own."""

    def find(self, seen: Seen) -> Finding:
        """In the caller, when the child has ended."""
        raise NotImplementedError


def judge(*, reaches_caller: bool, was_seen: bool, mark: str, change: str) -> Finding:
    """The rule. mark: what the child looked for; change: what it did. Both as noun or verb phrases."""
    found = f"the child finds {mark}" if was_seen else f"the child does not find {mark}"
    if reaches_caller:
        return Finding(SHARED, f"{found}; it {change}, and the caller sees that")
    tail = f"it {change}, and the caller sees nothing of that"
    return Finding(COPIED if was_seen else NEW, f"{found}; {tail}")


def refused(seen: Seen, index: int) -> str:
    """The errno's name of a call that failed, or nothing."""
    result = seen.result(index)
    return errno.errorcode.get(-result, str(-result)) if result < 0 else ""
