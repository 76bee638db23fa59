"""`ramet plan`: the system calls that `ramet run` would make."""

from __future__ import annotations

from ramet.cli import box, options
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Print every system call that makes this sandbox, in order, each with the field
it comes from. Nothing runs."""


def command(args: Sequence[str]) -> int:
    """Print the plan of a command line."""
    wanted = box.order(args, box.ALL)
    if wanted is None:
        groups = [*box.GROUPS, ("general", box.COMMON)]
        put(options.help_text("ramet plan [OPTION...] [--] COMMAND...", ABOUT, groups, box.DETAILS))
        return 0
    from ramet.run.planning import plan_for

    try:
        plan = plan_for(wanted.command.argv, wanted.sandbox, wanted.command.pass_fds)
    except SpecError as error:
        raise wanted.draft.renamed(error) from None
    if wanted.json:
        put_json(plan.to_json())
    else:
        put(str(plan))
    return 0
