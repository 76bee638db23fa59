"""What a measured child does: a list of system calls, the same list in every kind of child.

A clone with any flags runs it as a plain child (`ramet.lowlevel`), without Python. A process made by fork, a
thread made by pthread_create and a program started by posix_spawn run it call by call in Python: what reaches
the kernel is the same.
"""

from __future__ import annotations

import errno
import os

from ramet import _core
from ramet.lab.numbers import NR
from ramet.lowlevel import Buffer, Call, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ramet.lowlevel import Clone

    Argument = int | bytes | Buffer | Result


def is_clones(error: OSError) -> bool:
    """Is it clone's or clone3's own answer, and not that of something done before or after?"""
    return error.filename in ("clone", "clone3")


class Script:
    """The calls of one child, in order."""

    __slots__ = ("calls", "names")

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.names: list[str] = []

    def add(self, name: str, *args: Argument) -> int:
        """Append a call; its index, by which `Seen` tells what it returned."""
        self.calls.append(Call(NR[name], *args))
        self.names.append(name)
        return len(self.calls) - 1


class Seen:
    """What a script's calls returned, and what they wrote into their buffers."""

    __slots__ = ("_outputs", "results")

    def __init__(self, results: Sequence[int], outputs: dict[tuple[int, int], bytes]) -> None:
        self.results, self._outputs = results, outputs

    def result(self, index: int) -> int:
        """A value, or -errno. A call that was never made is -ECANCELED: the child died before it."""
        return self.results[index] if index < len(self.results) else -errno.ECANCELED

    def output(self, index: int, argument: int) -> bytes:
        """The bytes in that argument of that call afterwards."""
        return self._outputs.get((index, argument), b"")

    def text(self, index: int, argument: int) -> str:
        """The same as text, up to the first NUL."""
        return self.output(index, argument).partition(b"\0")[0].decode("utf-8", "replace")


def of_plain(script: Script, made: Clone) -> Seen:
    """What a plain child has done, when it has ended."""
    outputs = {
        (i, j): made.output(i, j)
        for i, call in enumerate(script.calls)
        for j, arg in enumerate(call.args)
        if isinstance(arg, (bytes, Buffer))
    }
    return Seen(made.results, outputs)


def run_here(script: Script) -> Seen:
    """Make the calls in the calling thread, one after the other, whatever they return."""
    results: list[int] = []
    outputs: dict[tuple[int, int], bytes] = {}
    for i, call in enumerate(script.calls):
        args: list[int | bytearray] = []
        for arg in call.args:
            if isinstance(arg, int):
                args.append(arg)
            elif isinstance(arg, Result):
                args.append(results[arg.index])
            else:
                args.append(bytearray(arg.size) if isinstance(arg, Buffer) else bytearray(arg + b"\0"))
        try:
            results.append(_core.syscall(script.names[i], call.nr, *args))
        except OSError as error:
            results.append(-(error.errno or errno.EIO))
        for j, passed in enumerate(args):
            if isinstance(passed, bytearray):
                outputs[i, j] = bytes(passed)
    return Seen(results, outputs)


def dump(seen: Seen) -> bytes:
    """As bytes for a pipe."""
    import json

    outputs = [[i, j, data.hex()] for (i, j), data in seen._outputs.items()]
    return json.dumps([list(seen.results), outputs]).encode()


def load(data: bytes) -> Seen:
    """From a pipe's bytes. A child that died before it wrote any has made no call."""
    import json

    if not data:
        return Seen((), {})
    results, outputs = json.loads(data)
    return Seen(results, {(i, j): bytes.fromhex(text) for i, j, text in outputs})


def dump_script(script: Script) -> str:
    """As text, for the argument list of a program that is to run it."""
    import json

    def plain(arg: Argument) -> list[object]:
        if isinstance(arg, int):
            return ["int", int(arg)]
        if isinstance(arg, Result):
            return ["result", arg.index]
        return ["buffer", arg.size] if isinstance(arg, Buffer) else ["bytes", arg.hex()]

    return json.dumps([[name, *map(plain, call.args)] for name, call in zip(script.names, script.calls, strict=True)])


def load_script(text: str) -> Script:
    """The reverse."""
    import json

    make: dict[str, Callable[[Any], Argument]] = {
        "int": int,
        "result": Result,
        "buffer": Buffer,
        "bytes": bytes.fromhex,
    }
    script = Script()
    for name, *args in json.loads(text):
        script.add(name, *(make[kind](value) for kind, value in args))
    return script


def run_there(text: str, answer: int) -> None:
    """In the program that posix_spawn started: run the script, write what was seen to a descriptor, and end."""
    os.write(answer, dump(run_here(load_script(text))))
    os._exit(0)
