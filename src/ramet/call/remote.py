"""Exceptions on their way out of a sandbox: what they say as plain data, and what the caller makes of it."""

from __future__ import annotations

import builtins

from ramet.errors import RemoteError, RemoteTraceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from ramet.call.wire import Packer

TEXT_MAX, NOTES_MAX, GROUP_MAX, DEPTH_MAX = 1 << 20, 100, 1000, 10
#: How deep in what is sent an exception's arguments are, in as many groups as there may be, and in the answer of a cell.
DEPTH_MOST = 2 * DEPTH_MAX + 4
#: They would do something in the caller rather than tell it something: end it, or a loop of its.
CONTROL = frozenset({"StopIteration", "StopAsyncIteration", "BaseException", "BaseExceptionGroup"})
#: The builtin exceptions that come back as themselves.
ALLOWED: Mapping[str, type[Exception]] = {
    name: found
    for name, found in vars(builtins).items()
    if isinstance(found, type) and issubclass(found, Exception) and name == found.__name__ and name not in CONTROL
}
#: What they hold besides args, as plain data.
FIELDS = ("name", "path", "filename", "filename2")


def shown(text: str) -> str:
    """Not megabytes of it."""
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}... ({len(text)} characters)"


# In the sandbox


def told(error: BaseException, packer: Packer, depth: int = 0) -> dict[str, Any]:
    """The exception as what a `Packer` packs. Never raises on account of the exception."""
    cls = type(error)
    return {
        "module": str(cls.__module__),
        "name": str(cls.__qualname__),
        "message": _text_of(error),
        "args": _plain(error, packer),
        "state": _state(error, packer),
        "fields": {
            name: value for name in FIELDS if isinstance(value := error.__dict__.get(name, _field(error, name)), str)
        },
        "notes": [shown(note) for note in _notes(error) if isinstance(note, str)][:NOTES_MAX],
        "traceback": _traceback(error) if depth == 0 else "",
        "group": [told(one, packer, depth + 1) for one in error.exceptions[:GROUP_MAX]]
        if isinstance(error, BaseExceptionGroup) and depth < DEPTH_MAX
        else [],
    }


def _field(error: BaseException, name: str) -> object:
    """Only of builtin classes: a property of another one may do anything."""
    for base in type(error).__mro__:
        if name in base.__dict__:
            return getattr(error, name) if base.__module__ == "builtins" else None
    return None


def _notes(error: BaseException) -> list[object]:
    found = error.__dict__.get("__notes__")
    return found if isinstance(found, list) else []


def _text_of(error: BaseException) -> str:
    try:
        return shown(str(error))
    except BaseException as failure:
        return f"<its __str__ raised {type(failure).__name__}>"


def _plain(error: BaseException, packer: Packer) -> list[Any] | None:
    if isinstance(error, BaseExceptionGroup):
        return [error.args[0]] if error.args and isinstance(error.args[0], str) else None
    return list(error.args) if packer.why_not(error.args, DEPTH_MOST) is None else None


def _state(error: BaseException, packer: Packer) -> dict[str, Any]:
    """Attributes that can be sent: json.JSONDecodeError's pos, an own class's code."""
    return {
        name: value
        for name, value in error.__dict__.items()
        if isinstance(name, str) and name != "__notes__" and packer.why_not(value, DEPTH_MOST) is None
    }


def _traceback(error: BaseException) -> str:
    import traceback

    try:
        return shown("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    except BaseException as failure:
        return f"<no traceback: formatting it raised {type(failure).__name__}>\n"


# In the caller


def rebuilt(told: Mapping[str, Any], mine: tuple[type[BaseException], ...], depth: int = 0) -> BaseException:
    """The exception again: a builtin one, or one of those classes; else RemoteError. Raises TypeError, KeyError for what `told` never makes."""
    module, name, args = str(told["module"]), str(told["name"]), told["args"]
    text = with_sources(str(told["traceback"]))
    notes = tuple(str(note) for note in told["notes"])
    made = _made(module, name, args, told, mine, depth)
    if made is None:
        made = RemoteError(f"{module}.{name}", str(told["message"]), traceback=text, notes=notes)
    for note in notes:
        made.add_note(note)
    if text:
        made.__cause__ = RemoteTraceback(text)
    return made


def _made(
    module: str, name: str, args: Any, told: Mapping[str, Any], mine: tuple[type[BaseException], ...], depth: int
) -> BaseException | None:
    if module == "builtins" and name == "ExceptionGroup" and depth < DEPTH_MAX:
        inner = [rebuilt(one, mine, depth + 1) for one in told["group"]]
        return ExceptionGroup(str(told["args"][0]) if args else str(told["message"]), inner) if inner else None  # type: ignore[type-var]
    if not isinstance(args, list):
        return None
    if module == "builtins" and name in ALLOWED:
        return _builtin(ALLOWED[name], args, told["fields"])
    for cls in mine:
        if cls.__module__ == module and cls.__qualname__ == name:
            return _own(cls, args, told["state"])
    return None


def _own(cls: type[BaseException], args: list[Any], state: Any) -> BaseException | None:
    """Made by what it inherits of Python's own: none of the code of its class is run."""
    base: Any = next(one for one in cls.__mro__ if one.__module__ == "builtins")
    if issubclass(cls, BaseExceptionGroup):
        return None
    try:
        found: BaseException = base.__new__(cls, *args)
        base.__init__(found, *args)
    except Exception:  # not the arguments that such an exception has
        return None
    found.args = tuple(args)
    object.__getattribute__(found, "__dict__").update({str(name): value for name, value in state.items()})
    return found


def _builtin(cls: type[Exception], args: list[Any], fields: Mapping[str, Any]) -> Exception | None:
    try:
        if issubclass(cls, OSError) and len(args) == 2 and "filename" in fields:
            return cls(args[0], args[1], fields["filename"], None, fields.get("filename2"))
        made = cls(*args)
    except Exception:  # not the arguments that such an exception has: somebody made them up
        return None
    for name in ("name", "path"):
        if isinstance(fields.get(name), str) and hasattr(made, name):
            setattr(made, name, fields[name])
    return made


def with_sources(text: str) -> str:
    """The lines of source that the sandbox could not read: of files that the caller has imported, and of no others."""
    import linecache
    import re
    import sys

    files: set[object] = set()
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        found.append(line)
        place = re.fullmatch(r'([ |]*)File "([^"]+)", line (\d{1,7}), in .*', line)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if place is None or following.startswith(f"{place[1]}  "):
            continue
        files = files or {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        source = linecache.getline(place[2], int(place[3])).strip() if place[2] in files else ""
        if source:
            found.append(f"{place[1]}  {source}")
    return "\n".join(found) + "\n" if found else ""
