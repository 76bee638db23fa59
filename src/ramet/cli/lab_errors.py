"""`ramet lab errors`: each errno that clone and clone3 can return, produced, or why not here."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Make clone and clone3 fail in every way this host allows: each illegal
combination of flags and fields, each limit, each missing right; and say what
the kernel answered, why, and where the manual tells of it. Each is tried in a
process of its own, which limits, nests or filters itself first; the host stays
as it was.

  ramet lab errors                 all of them
  ramet lab errors EAGAIN          one errno"""
TABLE = (options.JSON, options.DEBUG, options.HELP)


def main(argv: Sequence[str]) -> int:
    """Produce and print; 0, or 1 if the kernel answered something else than is said here."""
    line = options.read(argv, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        after = "exit codes: 0 the kernel answered as the manual and ramet say; 1 it did not."
        put(options.help_text("ramet lab errors [OPTION...] [ERRNO]", ABOUT, [("options", TABLE)], after))
        return 0
    if len(line.operands) > 1:
        raise SpecError(f"takes one errno, not {len(line.operands)}", field="lab errors")
    only = _errno(line.operands[0]) if line.operands else ""
    from ramet.lab.refusals import refusals, text, wrong

    found = refusals()
    if only:
        found["cases"] = [case for case in found["cases"] if case["errno"] == only]
        if not found["cases"]:
            raise SpecError("clone and clone3 never return it", field=only)
    if options.JSON in wanted:
        put_json(found)
    else:
        put(text(found, only))
    return 1 if wrong(found) else 0


def _errno(name: str) -> str:
    import errno

    from ramet.spec.record import nearest

    known = {*errno.errorcode.values(), "ERESTARTNOINTR"}
    if name.upper() in known:
        return name.upper()
    meant = nearest(name.upper(), known)
    hint = f"did you mean {meant}?" if meant else "as in: ramet lab errors EAGAIN"
    raise SpecError("is no errno's name", field=name, hint=hint)
