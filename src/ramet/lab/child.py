"""The children of experiments that `ramet.call` can't make: those that share no memory."""

from __future__ import annotations

import json
import os

from ramet import lowlevel
from ramet.lab.evidence import merge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ramet.flags import CLONE
    from ramet.lab.evidence import Notes


def in_a_copy(child: Callable[[], object], flags: CLONE, see: Notes, **fields: Any) -> None:
    """Run the function in a child with a copy of the memory, as after fork; what it notes comes by a pipe.

    fields: more of `ramet.lowlevel.clone3`. Raises OSError when the kernel refuses the clone.
    """
    mark = len(see.observations)
    reading, writing = os.pipe()
    try:
        made = lowlevel.clone3(flags, **fields)
        if made.pid == 0:
            _be_the_child(child, see, mark, writing)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with made, open(reading, "rb") as pipe:
        told = pipe.read()
        status = made.wait()
    if status or not told:
        raise RuntimeError(f"the child ended with status {status}")
    merge(see, *json.loads(told))


def _be_the_child(child: Callable[[], object], see: Notes, mark: int, writing: int) -> None:
    status = 1
    try:
        child()
        with open(writing, "wb", closefd=False) as pipe:
            pipe.write(json.dumps([see.observations[mark:], see.namespaces]).encode())
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)
