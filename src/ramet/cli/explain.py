"""`ramet explain`: clone flags, or the namespaces of a process."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Say what clone flags do together and whether a kernel takes them, or which
namespaces a process has of its own.

  ramet explain 'CLONE_THREAD|CLONE_NEWPID'     by name
  ramet explain 0x10900                         by number
  ramet explain 1234                            a process, by its pid
  ramet explain self                            the caller"""
TABLE = (options.JSON, options.DEBUG, options.HELP)


def command(args: Sequence[str]) -> int:
    """Explain one subject."""
    line = options.read(args, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text("ramet explain [OPTION...] FLAGS|PID|self", ABOUT, [("options", TABLE)]))
        return 0
    if len(line.operands) != 1:
        hint = "as in: ramet explain 'CLONE_NEWPID|CLONE_NEWNS', in quotation marks"
        raise SpecError(f"takes one subject, not {len(line.operands)}", field="explain", hint=hint)
    from ramet.explain import explain_json, explain_text

    if options.JSON in wanted:
        put_json(explain_json(line.operands[0]))
    else:
        put(explain_text(line.operands[0]))
    return 0
