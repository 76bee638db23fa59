"""User and group ids: who the payload is inside, and who that is outside. See user_namespaces(7)."""

from __future__ import annotations

from ramet.spec import values
from ramet.spec.record import Record

ID_MAX = 2**32 - 2  # (uid_t) -1 means "no change" to the kernel


class IdMapping(Record):
    """One line of uid_map or gid_map: `size` ids from `inside` are `outside` ones of the caller's user namespace."""

    inside: int
    outside: int
    size: int = 1

    def _settle(self) -> None:
        values.integer(self.inside, "IdMapping.inside", most=ID_MAX)
        values.integer(self.outside, "IdMapping.outside", most=ID_MAX)
        values.integer(self.size, "IdMapping.size", least=1, most=2**32 - 1)
        if max(self.inside, self.outside) + self.size > ID_MAX + 1:
            raise self._bad("size", "the range goes past the last id, 4294967294")

    @property
    def line(self) -> str:
        """As the kernel reads it."""
        return f"{self.inside} {self.outside} {self.size}"

    def covers(self, inside: int) -> bool:
        """Is this inside id mapped by this line?"""
        return self.inside <= inside < self.inside + self.size


def check_mappings(mappings: tuple[IdMapping, ...], field: str) -> None:
    """Refuse what the kernel refuses: no line, more than 340, ranges that overlap."""
    from ramet.errors import SpecError, SpecTypeError

    for n, mapping in enumerate(mappings):
        if not isinstance(mapping, IdMapping):
            raise SpecTypeError(f"must be an IdMapping, not {type(mapping).__name__}", field=f"{field}[{n}]")
    if not 1 <= len(mappings) <= 340:  # user_namespaces(7), since Linux 4.15
        raise SpecError(f"must have 1 to 340 lines, not {len(mappings)}", field=field)
    from itertools import pairwise

    for side in ("inside", "outside"):
        ordered = sorted(mappings, key=lambda mapping: int(getattr(mapping, side)))
        for before, after in pairwise(ordered):
            if getattr(before, side) + before.size > getattr(after, side):
                raise SpecError(f"{side} ids of {before.line!r} and {after.line!r} overlap", field=field)
