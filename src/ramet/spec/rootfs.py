"""The root of the sandbox's file system."""

from __future__ import annotations

from ramet.errors import SpecError
from ramet.spec import values
from ramet.spec.record import Record

#: rootfs= by name: what programs need, made read-only from the host; nothing; or the host's own root, read-only.
NAMED_ROOTS = ("minimal", "empty", "host")
WRITES = ("refused", "discarded", "kept")


class Rootfs(Record):
    """A directory of the host as the root (pivot_root(2)).

    path: resolved once, when the plan is made; a relative one is taken from the caller's working directory.
    writes: "refused" (read-only), "discarded" (an overlay in memory that is gone with the sandbox) or "kept" (they
    change the directory itself). With "refused", every place something is mounted on must exist in it.
    """

    path: str
    writes: str = "refused"

    def _settle(self) -> None:
        self._put("path", values.host_path(self.path, "Rootfs.path"))
        if self.writes not in WRITES:
            raise self._bad("writes", f"must be one of {', '.join(WRITES)}, not {self.writes!r}")


def check_rootfs(value: object, field: str) -> str | Rootfs:
    """One of the names, an absolute path, or a Rootfs."""
    if isinstance(value, Rootfs):
        return value
    found = values.text(value, field)
    if found in NAMED_ROOTS:
        return found
    if found.startswith("/"):
        return "host" if values.clean(found) == "/" else Rootfs(values.path(found, field))
    raise SpecError(f"must be {', '.join(NAMED_ROOTS)} or an absolute path, not {found!r}", field=field)
