"""`ramet lab container`: what a container is made of, as text or JSON. The lab does it; here it is told."""

from __future__ import annotations

import os

from ramet.cli import options
from ramet.cli.lab_container_text import TITLES, errors, text
from ramet.cli.output import error_text, put, put_json, say
from ramet.errors import Error, SpecError
from ramet.spec.record import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

ABOUT = """\
Build one container step by step, and look from inside after each: what can this
process still see and do? Nothing of the host is changed.

  steps     clone flags, id maps, root, /proc and /dev, network, limits,
            capabilities, seccomp, exec
  escape    chroot beside pivot_root, and the ways out of them, tried
  veth      two network namespaces joined; one reaches the other
  kernel    what a virtual machine would isolate, and this does not

Without a PART, all of them.

exit codes: 0 all of it was shown; 1 this host can't do some of it."""
TABLE = (options.JSON, options.DEBUG, options.HELP)


def main(argv: Sequence[str]) -> int:
    """Show the parts that are asked for; 1 where this host can't do one."""
    line = options.read(argv, TABLE, operands_end=False)
    wanted = [option for option, _, _ in line.given]
    if options.HELP in wanted:
        put(options.help_text("ramet lab container [OPTION...] [PART...]", ABOUT, [("options", TABLE)]))
        return 0
    parts = _chosen(line.operands)
    as_json = options.JSON in wanted
    found: dict[str, Any] = {}
    failed = False
    for number, part in enumerate(parts):
        try:
            found[part] = _collect(part)
        except (Error, OSError) as error:
            found[part] = {"error": error_text(error)}
        failed = failed or bool(errors(part, found[part]))
        if not as_json:
            put(("\n\n" if number else "") + "\n".join(text(part, found[part])))
            for trouble in errors(part, found[part]):
                say(trouble)
    if as_json:
        put_json(found)
    return int(failed)


def _chosen(words: Sequence[str]) -> list[str]:
    for word in words:
        if word not in TITLES:
            meant = nearest(word, TITLES)
            hint = f"did you mean {meant}?" if meant else f"the parts are {', '.join(TITLES)}"
            raise SpecError("no such part", field=f"lab container {word}", hint=hint)
    return [part for part in TITLES if part in words or not words]


def _collect(part: str) -> dict[str, Any]:
    if part == "steps":
        from ramet.lab.container.build import build

        return build(_progress() if os.isatty(2) else None)
    if part == "escape":
        from ramet.lab.container.escape import escape

        return escape()
    if part == "veth":
        from ramet.lab.container.veth import veth

        return veth()
    from ramet.lab.container.kernel import kernel

    return kernel()


def _progress() -> Callable[[int, int], None]:
    """One line on the terminal that is gone when all is done."""

    def show(done: int, total: int) -> None:
        bar = "#" * done + "." * (total - done)
        os.write(2, (f"\r[{bar}]" if done < total else "\r\033[K").encode())

    return show
