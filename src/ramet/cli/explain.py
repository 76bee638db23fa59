"""`ramet explain`: clone flags, a call that strace shows, processes, the namespaces of an OCI config.json."""

from __future__ import annotations

from ramet.cli import options
from ramet.cli.options import Option
from ramet.cli.output import put, put_json
from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = """\
Say what clone flags do together and whether a kernel takes them; what a call
did, or why it failed; what a process has of its own and may do; what two
processes share; which namespaces a container will have.

  ramet explain 'CLONE_THREAD|CLONE_NEWPID'     flags by name
  ramet explain CLONE_VM CLONE_FILES            several, together
  ramet explain 0x10900                         by number
  ramet explain 'unshare(CLONE_NEWNET) = -1 EPERM (Operation not permitted)'
                                                a line of strace
  ramet explain 1234                            a process, by its pid
  ramet explain self                            the caller
  ramet explain 1234 5678                       what two processes share
  ramet explain bundle/config.json              an OCI container, or its bundle
  ramet explain --seccomp mount                 a system call, in a sandbox

A plain number is a pid; --as flags, or flags:256, makes flags of it."""
AS = Option("--as", "KIND", "take it as that: flags, pid, call or config")
SECCOMP = Option("--seccomp", "", "it is a system call: what the default filter does with it, and why")
TABLE = (AS, SECCOMP, options.JSON, options.DEBUG, options.HELP)


def command(args: Sequence[str]) -> int:
    """Explain what the operands name."""
    line = options.read(args, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        usage = "ramet explain [OPTION...] FLAGS...|CALL|PID [PID]|self|FILE"
        put(options.help_text(usage, ABOUT, [("options", TABLE)]))
        return 0
    if not line.operands:
        hint = "as in: ramet explain 'CLONE_NEWPID|CLONE_NEWNS', in quotation marks"
        raise SpecError("takes flags, a call, a process or two, or a file", field="explain", hint=hint)
    if SECCOMP in wanted:
        return _call(line.operands[0], json=options.JSON in wanted)
    from ramet.explain import explain

    kinds = [value for option, _, value in line.given if option is AS]
    try:
        found = explain(*line.operands, kind=kinds[-1] if kinds else None)
    except SpecError as error:
        raise _renamed(error) from None
    if options.JSON in wanted:
        put_json(found.as_dict())
    else:
        put(str(found))
    return 0


def _renamed(error: SpecError) -> SpecError:
    """The argument that is wrong, as it is called here."""
    field = {"kind": "--as", "subject": "explain"}.get(error.field)
    return SpecError(error.message, field=field, hint=error.hint) if field else error


def _call(name: str, *, json: bool) -> int:
    from ramet.seccomp.explain import explain
    from ramet.spec import Seccomp

    found = explain(Seccomp.default(), name)
    if json:
        always = found.otherwise._asdict() if found.otherwise is not None else None
        put_json({"call": found.call, "cases": [case._asdict() for case in found.cases], "otherwise": always})
    else:
        put(str(found))
    return 0
