"""Running code, not a function, in a copy: as a cell of a notebook."""

from __future__ import annotations

import builtins
import sys

from ramet.call.remote import shown, told
from ramet.call.wire import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType
    from typing import Any

    from ramet.call.wire import Packer

NAME = "<exec>"
FIGURES_MAX = 100
#: How deep in an answer its variables are.
DEPTH = 3
_PLAIN = (type, type(sys), type(len), type(lambda: None))


def run(packer: Packer, code: str, inputs: dict[str, Any], wanted: Sequence[str] | None) -> dict[str, Any]:
    """Run it in a module of its own. What it raises is part of the answer."""
    import types

    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return run_in(module, packer, code, inputs, wanted, NAME)


def run_in(
    module: ModuleType, packer: Packer, code: str, inputs: dict[str, Any], wanted: Sequence[str] | None, name: str
) -> dict[str, Any]:
    """The same in a module that may have run code before. name: of the code, for tracebacks."""
    space = module.__dict__
    space.update(inputs)
    before = dict(space)
    error, value = None, None
    try:
        value = _evaluate(code, space, name)
    except BaseException as raised:
        raised.__traceback__ = _from_code(raised, name)
        error = told(raised, packer)
    answer = empty() | {"error": error}
    if value is not None:
        answer["text"] = _text_of(value)
        if packer.why_not(value, DEPTH) is None:
            answer["value"] = Part(value)
    _collect(answer, packer, space, before, wanted)
    try:
        draw(answer["figures"])
    except BaseException as raised:  # a title that is no mathtext is found out when it is drawn
        answer["error"] = error or told(raised, packer)
    return answer


def rehearse(code: CodeType | None) -> None:
    """Touch what all code touches before it runs, then what this code does; leave no variables of it, and no output, but what went wrong."""
    import io
    import linecache

    _evaluate("0", {}, NAME)
    linecache.cache.pop(NAME, None)
    if code is None:
        return
    streams = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = io.StringIO()
    try:
        exec(code, {"__name__": "__main__"})
    except BaseException:
        import traceback

        traceback.print_exc(file=streams[1])  # whoever gets this copy is told, and served all the same
    finally:
        sys.stdout, sys.stderr = streams


def failed(error: BaseException, packer: Packer) -> dict[str, Any]:
    """An answer that is nothing but this."""
    return empty() | {"error": told(error, packer)}


def empty() -> dict[str, Any]:
    """An answer that says nothing."""
    return {"outputs": {}, "unsent": {}, "value": None, "text": None, "figures": [], "error": None}


def _evaluate(code: str, space: dict[str, Any], name: str) -> Any:
    """The value of the last expression, as a prompt would show it."""
    import ast
    import linecache

    lines = code.splitlines(keepends=True)
    linecache.cache[name] = (len(code), None, lines, name)
    tree = ast.parse(code, name)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, name, "exec"), space)
        return None
    del tree.body[-1]
    exec(compile(tree, name, "exec"), space)
    return eval(compile(ast.Expression(last.value), name, "eval"), space)


def _from_code(error: BaseException, name: str) -> Any:
    """The traceback from the code's own first frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != name:
        trace = trace.tb_next
    return trace


def _text_of(value: object) -> str:
    try:
        return shown(repr(value))
    except BaseException as error:
        return f"<its __repr__ raised {type(error).__name__}>"


def _collect(
    answer: dict[str, Any],
    packer: Packer,
    space: dict[str, Any],
    before: dict[str, Any],
    wanted: Sequence[str] | None,
) -> None:
    """The variables asked for; without that all plain ones that are new or another object than before."""
    names = list(wanted) if wanted is not None else [name for name in space if _is_variable(name, space, before)]
    outputs: dict[str, Part] = {}
    unsent = {}
    for name in names:
        if name not in space:
            unsent[name] = "there is no such variable"
            continue
        why = packer.why_not(space[name], DEPTH)
        if why is None:
            outputs[name] = Part(space[name])
        else:
            unsent[name] = why
    answer["outputs"], answer["unsent"] = outputs, unsent


def _is_variable(name: str, space: dict[str, Any], before: dict[str, Any]) -> bool:
    if name.startswith("_") or not isinstance(name, str):
        return False
    value = space[name]
    same = name in before and before[name] is value
    return not same and not isinstance(value, _PLAIN) and value is not builtins


def draw(into: list[bytes]) -> None:
    """The open figures of matplotlib as PNG. They are closed, also where one can't be drawn: the next code shall not meet it again."""
    plots: Any = sys.modules.get("matplotlib.pyplot")
    if plots is None:
        return
    import io

    try:
        for number in plots.get_fignums()[:FIGURES_MAX]:
            buffer = io.BytesIO()
            plots.figure(number).savefig(buffer, format="png")
            into.append(buffer.getvalue())
    finally:
        plots.close("all")
