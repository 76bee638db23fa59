"""`ramet lab compare`: fork, vfork, posix_spawn, pthread_create and clone, what they share and what they cost."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Make a child in each way there is, and find out what it shares with its caller;
then time the start and end of a child from callers that hold more and more
memory. Those callers are processes of the lab's own, which end with it; all of
them hold their memory at once."""
SIZES = Option("--sizes", "LIST", "memory of the callers, as 0,256M,1G,4G (which are the default, as far as they fit)")
TABLE = (SIZES, options.JSON, options.DEBUG, options.HELP)


def main(argv: Sequence[str]) -> int:
    """Measure and print; 0."""
    line = options.read(argv, TABLE)
    wanted = {option: value for option, _, value in line.given}
    if options.HELP in wanted:
        put(options.help_text("ramet lab compare [OPTION...]", ABOUT, [("options", TABLE)]))
        return 0
    if line.operands:
        raise SpecError("takes no argument", field=f"lab compare {line.operands[0]}")
    from ramet.lab.compare import compare, text

    found = compare(sizes(wanted[SIZES]) if SIZES in wanted else None)
    if options.JSON in wanted:
        put_json(found)
    else:
        put(text(found))
    return 0


def sizes(given: str) -> tuple[int, ...]:
    """Bytes, from "0,256M,1G"."""
    from ramet.spec.values import size

    found = []
    for index, part in enumerate(given.split(",")):
        field = f"--sizes[{index}]"
        if not part.strip():
            raise SpecError("is empty", field=field, hint="as in --sizes 0,256M,1G")
        if part.strip().startswith("-"):
            raise SpecError(f"{part.strip()} is no size", field=field, hint="0 is a caller that holds nothing")
        found.append(0 if part.strip() == "0" else size(part, field))
    return tuple(found)
