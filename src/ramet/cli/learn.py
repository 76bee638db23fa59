"""`ramet run --learn`: what a program was refused, and the fewest options that let it run."""

from __future__ import annotations

import shlex

from ramet.cli.output import say
from ramet.cli.run import relayed
from ramet.errors import Error, SpecError
from ramet.run.learn import Learning, Lesson, Teacher, smallest, written
from ramet.run.process import run
from ramet.run.streams import PIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.cli.box import Order
    from ramet.spec import Sandbox

SHOWN = 20


def learn(wanted: Order) -> int:
    """Run it once, watched; then as it would run, to see what it needs. What it says the first time is relayed; its exit code is ours."""
    if wanted.json or wanted.sandbox.tty:
        raise SpecError("can't go with --json or --tty", field="--learn")
    teacher = Teacher(wanted.sandbox)
    try:
        process = Learning(wanted.command.argv, wanted.sandbox, teacher, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        teacher.launched()
        code = relayed(process, wanted)
    except SpecError as error:
        raise wanted.draft.renamed(error) from None
    finally:
        lesson = teacher.finish()
    say(report(wanted, lesson, succeeded=code == 0))
    return code


def report(wanted: Order, lesson: Lesson, *, succeeded: bool) -> str:
    """The lesson for people."""
    lines = []
    for title, found in (
        ("system calls that the filter refuses", lesson.refused),
        ("paths that this host has and the sandbox has not", lesson.missing),
        ("directories that it would write to, read-only inside", lesson.written),
        ("connections beyond the loopback", lesson.connected),
    ):
        if found:
            lines.append(f"{title}:")
            lines += [
                f"  {name}" + (f"   {count} times" if count > 1 else "") for name, count in list(found.items())[:SHOWN]
            ]
            lines += [f"  and {len(found) - SHOWN} more"] * (len(found) > SHOWN)
    options = lesson.options()

    def works(sandbox: Sandbox) -> bool:
        try:
            return run(wanted.command.argv, sandbox).ok
        except Error:
            return False

    fewest = smallest(works, wanted.sandbox, options)
    if fewest is None:
        lines.append(
            "with all that was refused it fails too: it lacks something that can't be seen by its system calls"
        )
        fewest = options
    elif not fewest:
        lines.append("it exits with 0 without any of that" if lines else "nothing was refused")
        return "\n".join(lines)
    else:
        lines.append("it exits with 0 with these options, and with none of them left out:")
    lines.append("  " + shlex.join(["ramet", "run", *written(fewest), "--", *wanted.command.argv]))
    return "\n".join(lines)
