"""`ramet lab matrix`: each flag x each resource, measured, beside what the manual says."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Clone a child with each flag in turn, on this kernel, and find out what it
shares with its caller: memory, directories, descriptors, handlers, namespaces
and what lies in them. Each answer is held against what the manual says, and
marked where the two differ. It takes less than a second, in a process and
namespaces of its own.

--json adds, for each cell, what was seen, and what kcmp(2) says."""
TABLE = (options.JSON, options.DEBUG, options.HELP)


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0."""
    line = options.read(argv, TABLE)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text("ramet lab matrix [OPTION...]", ABOUT, [("options", TABLE)]))
        return 0
    if line.operands:
        hint = "`ramet explain FLAG` tells of one flag"
        raise SpecError("takes no argument", field=f"lab matrix {line.operands[0]}", hint=hint)
    from ramet.lab.matrix import matrix, text

    found = matrix()
    if options.JSON in wanted:
        put_json(found)
    else:
        put(text(found))
    return 0
