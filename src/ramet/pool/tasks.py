"""What the caller sends into a sandbox: a function and its arguments, pickled. In this direction that is safe.

Functions and classes of modules that the sandbox can import go by name; others, as those of a script, by value, for which
it takes cloudpickle.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from _thread import allocate_lock
from types import FunctionType

from ramet.call import channel
from ramet.call.wire import LARGE, LARGE_MOST
from ramet.errors import SpecError, SpecTypeError
from ramet.spec import Bind, Rootfs, view

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from ramet.spec import Sandbox

    Buffers = list[memoryview]

PROTOCOL = 5


class Task:
    """kind, what `loads` gets in the sandbox, and large buffers beside it."""

    __slots__ = ("buffers", "data", "kind", "name")

    def __init__(self, kind: bytes, name: str, data: bytes, buffers: Buffers) -> None:
        self.kind, self.name, self.data, self.buffers = kind, name, data, buffers

    def message(self, most: int, hands: int = 1) -> bytes:
        """What is sent. most: bytes that may come back; hands: threads that may lay them into a tray."""
        return channel.TASK.pack(self.kind, most, hands) + self.data


class _Hidden(Exception):
    """A function or class of a module that the sandbox can't import."""


class _ByName(pickle.Pickler):
    """Refuses what the sandbox would not find under its name."""

    def __init__(self, sink: io.BytesIO, reach: Reach, buffers: Buffers) -> None:
        super().__init__(sink, PROTOCOL, buffer_callback=_keeping(buffers))
        self._reach = reach

    def reducer_override(self, obj: Any) -> Any:
        """Called for all but plain data."""
        if isinstance(obj, (type, FunctionType)) and not self._reach.has(obj.__module__):
            raise _Hidden(obj)
        if isinstance(obj, FunctionType) and "<" in obj.__qualname__:
            raise _Hidden(obj)
        return NotImplemented


class Reach:
    """Which modules can be imported in a sandbox."""

    def __init__(self, spec: Sandbox, python: Sequence[str], shown: Sequence[str]) -> None:
        self._everything = isinstance(spec.rootfs, Rootfs) or spec.rootfs == "host"
        binds = [mount.source for mount in spec.mounts if isinstance(mount, Bind) and mount.source == mount.destination]
        roots = [*view.TREES, *python, *shown, *binds]
        self._roots = tuple({os.path.join(path, "") for root in roots for path in (root, os.path.realpath(root))})
        self._known: dict[str, bool] = {}
        self._lock = allocate_lock()

    def has(self, name: str) -> bool:
        """Can the module of this name be imported there?"""
        if name == "__main__":
            return False
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._look(sys.modules.get(name))
        return found

    def _look(self, module: Any) -> bool:
        if module is None or self._everything:
            return True  # it is not for us to say that there is none
        file = getattr(module, "__file__", None)
        if not isinstance(file, str):
            return not (paths := list(getattr(module, "__path__", ()))) or any(map(self._shown, paths))
        return self._shown(file)

    def _shown(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self._roots)

    def pack(self, kind: bytes, name: str, fn: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Task:
        """Raises SpecTypeError, naming what can't be sent."""
        task = fn, args, dict(kwargs)
        try:
            data, buffers = self._dumps(task)
        except SpecError:
            raise
        except Exception:
            self._blame(fn, args, kwargs)
            raise
        return Task(kind, name, data, buffers)

    def _dumps(self, what: object) -> tuple[bytes, Buffers]:
        buffers: Buffers = []
        try:
            return self._by_name(what, buffers), buffers
        except _Hidden as hidden:
            del buffers[:]
            return self._by_value(what, buffers, hidden), buffers

    def _by_name(self, what: object, buffers: Buffers) -> bytes:
        sink = io.BytesIO()
        _ByName(sink, self, buffers).dump(what)
        return sink.getvalue()

    def _by_value(self, what: object, buffers: Buffers, hidden: _Hidden) -> bytes:
        try:
            import cloudpickle
        except ImportError:
            (found,) = hidden.args
            raise SpecError(
                f"{found.__module__}.{found.__qualname__} can't be imported in the sandbox, so it must be sent by value",
                field="fn" if isinstance(found, FunctionType) else "args",
                hint="pip install 'ramet[pool]' gets cloudpickle, which does that; or show the sandbox where its module is: "
                "mounts=[Bind(directory)]",
            ) from None
        with self._lock:  # cloudpickle's list of modules to be sent by value is the process's
            modules = [
                module
                for name, module in list(sys.modules.items())
                if module is not None and name != "__main__" and not self.has(name)
            ]
            mine = [one for one in modules if one.__name__ not in cloudpickle.list_registry_pickle_by_value()]
            added = []
            try:
                for module in mine:
                    if sys.modules.get(module.__name__) is module:
                        cloudpickle.register_pickle_by_value(module)
                        added.append(module)
                sink = io.BytesIO()
                cloudpickle.Pickler(sink, PROTOCOL, buffer_callback=_keeping(buffers)).dump(what)
            finally:
                for module in added:
                    cloudpickle.unregister_pickle_by_value(module)
        return sink.getvalue()

    def _blame(self, fn: object, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise for the first part that can't be sent by itself."""
        parts = [("fn", fn), *((f"args[{n}]", one) for n, one in enumerate(args))]
        parts += [(name, one) for name, one in kwargs.items()]
        for field, one in parts:
            try:
                self._dumps(one)
            except SpecError:
                raise
            except Exception as error:
                raise SpecTypeError(
                    f"can't be sent into the sandbox: {type(error).__name__}: {error}", field=field,
                    hint="what goes in is pickled; ramet.isolated takes anything, since it forks",
                ) from None  # fmt: skip


def _keeping(buffers: Buffers) -> Any:
    """Large ones go beside the pickle."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # not contiguous: in the pickle
        if raw.nbytes < LARGE or len(buffers) >= LARGE_MOST:
            return True
        buffers.append(raw)
        return False

    return keep
