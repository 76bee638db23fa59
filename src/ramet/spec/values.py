"""Reading single values: paths, sizes, durations, names. Each raises a SpecError that names the field.

Text may be str, bytes or os.PathLike; it is kept as str with surrogateescape, so that a path that is not
UTF-8 arrives in the kernel byte for byte.
"""

from __future__ import annotations

import os

from ramet.errors import SpecError, SpecTypeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SIZE_UNITS: Mapping[str, int] = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DURATION_UNITS: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
PATH_MAX = 4096  # limits.h, with the terminating NUL
NAME_MAX = 255
INT64_MAX = 2**63 - 1


def text(value: object, field: str) -> str:
    """Text without NUL bytes, as the kernel's strings are."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):
        raise SpecTypeError(f"must be text, not {type(value).__name__}", field=field)
    if "\0" in value:
        raise SpecError("embedded null byte", field=field)
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError as error:
            raise SpecError(f"can't be encoded: {error.reason}", field=field) from None
    return value


def several(value: object, field: str, what: str) -> tuple[Any, ...]:
    """The items of a list, tuple, set or other iterable; one text is not taken for its letters."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise SpecTypeError(f"must be a list of {what}, not {type(value).__name__}", field=field)
    return tuple(value)


def path(value: object, field: str, *, absolute: bool = True) -> str:
    """A path. Absolute ones must be clean: no ``..``, since what it means changes when mounts do."""
    found = text(value, field)
    if not found:
        raise SpecError("is empty", field=field)
    encoded = os.fsencode(found)
    if len(encoded) >= PATH_MAX:
        raise SpecError(f"is {len(encoded)} bytes long; the kernel takes {PATH_MAX - 1} (ENAMETOOLONG)", field=field)
    if any(len(part) > NAME_MAX for part in encoded.split(b"/")):
        raise SpecError(f"has a component longer than {NAME_MAX} bytes (ENAMETOOLONG)", field=field)
    if absolute and not found.startswith("/"):
        raise SpecError(f"must be an absolute path, not {found!r}", field=field)
    if absolute and ".." in found.split("/"):
        raise SpecError(f"must not contain '..': {found!r}", field=field)
    return found


def clean(value: str) -> str:
    """An absolute path without empty and ``.`` components; never ends in a slash but for the root."""
    return "/" + "/".join(part for part in value.split("/") if part not in ("", "."))


def destination(value: object, field: str) -> str:
    """Where something is put in the sandbox: absolute, clean, and not the root itself."""
    found = clean(path(value, field))
    if found == "/":
        raise SpecError("can't be the root itself", field=field, hint="use rootfs= to choose the root")
    return found


def host_path(value: object, field: str) -> str:
    """A path of the host. A relative one is taken from the caller's working directory, now; ~ is not expanded."""
    return os.path.abspath(path(value, field, absolute=False))


def integer(value: object, field: str, *, least: int = 0, most: int = INT64_MAX) -> int:
    """An int within bounds; a bool is not an int here."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecTypeError(f"must be an integer, not {type(value).__name__}", field=field)
    if not least <= value <= most:
        raise SpecError(f"must be {least} to {most}, not {value}", field=field)
    return int(value)


def flag(value: object, field: str) -> bool:
    """True or False, and nothing that merely counts as it."""
    if not isinstance(value, bool):
        raise SpecTypeError(f"must be True or False, not {type(value).__name__}", field=field)
    return value


def _scaled(value: str, units: Mapping[str, float], field: str, what: str) -> float:
    number = value.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = value[len(number) :]
    try:
        scale = units[unit if unit in units else unit.upper()]
        if not number.isascii() or "_" in number:  # which float() takes
            raise ValueError
        return (int(number) if number.isascii() and number.isdigit() else float(number)) * scale
    except (KeyError, ValueError):
        known = ", ".join(unit for unit in units if unit)
        raise SpecError(f"{value!r} is no {what}", field=field, hint=f"a number and one of {known}") from None


def size(value: object, field: str) -> int:
    """Bytes: an int, or text as "512M" or "512m" (binary units K, M, G, T). 0 is refused: use None for none."""
    if isinstance(value, str):
        scaled = _scaled(value.strip().removesuffix("iB").removesuffix("B"), SIZE_UNITS, field, "size")
        if scaled != scaled or abs(scaled) > INT64_MAX:
            raise SpecError(f"{value!r} does not fit 63 bits", field=field)
        value = int(scaled)
    found = integer(value, field, least=-INT64_MAX - 1)
    if found <= 0:
        raise SpecError(f"must be more than 0, not {found}", field=field, hint="use None for none")
    return found


def duration(value: object, field: str) -> float:
    """Seconds: a number, or text as "1m30s", "250ms". 0, negative, NaN and infinite ones are refused."""
    if isinstance(value, str):
        seconds = _duration_text(value.strip(), field)
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpecTypeError(f"must be seconds or text as '1m30s', not {type(value).__name__}", field=field)
    else:
        seconds = value
    if not 0 < seconds < float("inf"):
        raise SpecError("must be more than 0 and finite", field=field, hint="use None for none")
    try:
        return float(seconds)
    except OverflowError:
        raise SpecError("must be finite", field=field, hint="use None for none") from None


def _duration_text(value: str, field: str) -> float:
    import re

    parts = re.findall(r"([0-9.]+)(ms|[smhd])", value)
    if value and "".join(number + unit for number, unit in parts) == value:
        return sum(_scaled(number + unit, DURATION_UNITS, field, "duration") for number, unit in parts)
    try:
        return _scaled(value, {"": 1}, field, "duration")
    except SpecError:
        raise SpecError(f"{value!r} is no duration", field=field, hint="as 1.5, '250ms' or '1m30s'") from None
