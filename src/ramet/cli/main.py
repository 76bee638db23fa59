"""`ramet`: choose the subcommand, turn what it raises into a message and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import (
    EXIT_CODES,
    ReaderGone,
    error_text,
    exit_code,
    fill_standard_descriptors,
    put,
    say,
)
from ramet.errors import SpecError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "run": "run a command in a sandbox",
    "plan": "print the system calls that make a sandbox; run nothing",
    "explain": "say what a clone does, what a process has, what two share",
    "ps": "list namespaces, who is in them, and who owns them",
    "tree": "show processes as a tree, with the namespaces that are new at each",
    "trace": "show the processes, threads and namespaces that a command makes",
    "top": "show the sandboxes that are alive, and what they use",
    "doctor": "say what this host can do, and how to fix what it can't",
    "lab": "run experiments about clone and show what they prove",
}
VERSION = Option("--version", "", "print ramet's version and exit")
GLOBAL = (options.HELP, VERSION, options.DEBUG)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. argv: without the program's name; default sys.argv's."""
    fill_standard_descriptors()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(args)
    except (Exception, KeyboardInterrupt) as error:
        if _debugging(args):
            import traceback

            traceback.print_exc()
        elif not isinstance(error, (ReaderGone, KeyboardInterrupt)):
            say(error_text(error))
        return exit_code(error)


def _debugging(args: list[str]) -> bool:
    """Is --debug among ramet's own options? Asked of the bare words: reading them may be what failed."""
    from ramet.cli import box

    known = (*box.ALL, *box.OUTPUT)
    with_value = {name for option in known if option.metavar for name in option.names.split()}
    operands: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--debug":
            return True
        operands += [] if word.startswith("-") else [word]
        if word == "--" or (len(operands) > 1 and operands[0] in ("run", "plan")):
            return False  # from here on the words are the payload's
        if word in with_value:
            next(words, None)
    return False


def _main(args: list[str]) -> int:
    given, operands = options.read(args, GLOBAL)
    wanted = [option for option, _, _ in given]
    if VERSION in wanted:
        from ramet import __version__

        put(f"ramet {__version__}")
        return 0
    if options.HELP in wanted or not operands:
        put(_help())
        return 0
    name, rest = operands[0], operands[1:]
    if name not in COMMANDS:
        meant = nearest(name, COMMANDS)
        hint = f"did you mean {meant}?" if meant else f"ramet run -- {name} ... runs a command"
        raise SpecError("no such subcommand", field=name, hint=hint)
    return int(import_module(f"ramet.cli.{name}").command(rest))


def _help() -> str:
    about = "New processes that share exactly what you say.\n\nsubcommands:\n" + "\n".join(
        f"  {name:<10}{what}" for name, what in COMMANDS.items()
    )
    after = f"ramet SUBCOMMAND --help says more.\n\n{EXIT_CODES}"
    return options.help_text("ramet SUBCOMMAND ...", about, [("options", GLOBAL)], after)
