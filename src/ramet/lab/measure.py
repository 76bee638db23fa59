"""Make a child in one of several ways, let it look and change, and say what it shares with the caller."""

from __future__ import annotations

import errno
import os
import sys

from ramet import _core, lowlevel
from ramet.flags import CLONE
from ramet.lab.ground import Ground
from ramet.lab.numbers import NR
from ramet.lab.resources import kin, namespaces, process
from ramet.lab.script import Script, Seen, dump, dump_script, is_clones, load, of_plain, run_here
from ramet.lowlevel import Buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ramet.lab.resources.base import Resource
    from ramet.lowlevel import Clone

RESOURCES: tuple[type[Resource], ...] = (*process.ALL, *kin.ALL, *namespaces.ALL)
GROUPS: tuple[tuple[str, tuple[type[Resource], ...]], ...] = (
    ("what a process is made of", process.ALL),
    ("kin", kin.ALL),
    ("the namespaces, by their inodes", namespaces.INODES),
    ("what lies in them", namespaces.ALL[len(namespaces.INODES) :]),
)
#: In a child with a changed root no path leads anywhere, so this comes last.
_LAST = "root"
_PATIENCE = 30


def measurable(ground: Ground, kinds: tuple[type[Resource], ...]) -> list[type[Resource]]:
    """Those of the resources that can be measured on this ground."""
    return [kind for kind in kinds if not (ground.bare and kind.needs_ground)]


class Measurer:
    """The caller of every measured child. Lives on a `ramet.lab.ground.Ground`."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        os.set_inheritable(self.proc, True)
        self.resources = [kind(ground, self.proc) for kind in measurable(ground, RESOURCES)]
        self.gate_read, self.gate_write = os.pipe()
        self.gate = 0

    def clone(self, flags: int, *, cgroup: int | None = None) -> dict[str, Any]:
        """A child made by clone3 with these flags, and what it told of each resource."""
        made: Clone | None = None
        witness: dict[str, bool | None] = {}

        def child(script: Script) -> Seen:
            nonlocal made
            made = lowlevel.clone3(flags, child=script.calls, cgroup=cgroup)
            if not flags & CLONE.VFORK:
                _wait_for_call(made, self.gate)
                witness.update(self._compare(made.pid))
                for resource in self.resources:
                    resource.change()
                os.write(self.gate_write, b".")
            _wait(made)
            made.close()
            return of_plain(script, made)

        try:
            return self._measure(child, witness, gate=not flags & CLONE.VFORK)
        except OSError as error:
            if not is_clones(error):
                raise
            return {"error": errno.errorcode.get(error.errno or 0, str(error.errno))}

    def fork(self) -> dict[str, Any]:
        """A child made by libc's fork."""

        def child(script: Script) -> Seen:
            read, write = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.write(write, dump(run_here(script)))
                finally:
                    os._exit(0)
            os.close(write)
            return _told(read, pid)

        return self._measure(child, {})

    def thread(self) -> dict[str, Any]:
        """A thread made by pthread_create, by which Python makes its own."""
        import threading

        def child(script: Script) -> Seen:
            seen: list[Seen] = []
            thread = threading.Thread(target=lambda: seen.append(run_here(script)))
            thread.start()
            tid = thread.native_id
            thread.join()
            while os.path.exists(f"/proc/self/task/{tid}"):  # joined is not yet gone, and its undo list counts
                os.sched_yield()
            return seen[0]

        return self._measure(child, {})

    def spawn(self) -> dict[str, Any]:
        """A program started by libc's posix_spawn: what the program finds, after exec."""

        def child(script: Script) -> Seen:
            read, write = os.pipe()
            os.set_inheritable(write, True)
            start = f"import sys; sys.path[:] = {sys.path!r}; from ramet.lab.script import run_there; "
            start += f"run_there(sys.argv[1], {write})"
            argv = [sys.executable, "-S", "-c", start, dump_script(script)]
            pid = os.posix_spawn(sys.executable, argv, os.environ)
            os.close(write)
            return _told(read, pid)

        return self._measure(child, {})

    def _measure(self, child: Any, witness: dict[str, bool | None], gate: bool = False) -> dict[str, Any]:
        for resource in self.resources:
            resource.mark()
        script = Script()
        for resource in self.resources:
            resource.read(script)
        if gate:
            self.gate = script.add("read", self.gate_read, Buffer(1), 1)
            for resource in self.resources:
                resource.read_again(script)
        for resource in sorted(self.resources, key=lambda one: one.key == _LAST):
            resource.write(script)
        try:
            seen = child(script)
            found = {resource.key: resource.find(seen) for resource in self.resources}
        finally:
            for resource in self.resources:
                resource.mark()
        return {
            key: {"measured": each.answer, "evidence": each.evidence, "kcmp": witness.get(key)}
            for key, each in found.items()
        }

    def _compare(self, pid: int) -> dict[str, bool | None]:
        """kcmp(2)'s word, while the child waits: is it the same object in the kernel? None where it has no answer."""
        found: dict[str, bool | None] = {}
        for resource in self.resources:
            if resource.kcmp is not None:
                try:
                    ordering = _core.syscall("kcmp", NR["kcmp"], os.getpid(), pid, resource.kcmp, 0, 0)
                    found[resource.key] = ordering == 0
                except OSError:
                    found[resource.key] = None
        return found


def _told(read: int, pid: int) -> Seen:
    """What a child writes into the pipe until it ends."""
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return load(data)


def _wait(made: Clone) -> None:
    """Until the child has ended, whoever is the one to wait for it."""
    if not made.flags & (CLONE.PARENT | CLONE.AUTOREAP):
        made.wait()
    # A thread has left the memory before its undo list is worked off, and only then it is gone.
    while os.path.exists(f"/proc/self/task/{made.pid}" if made.flags & CLONE.THREAD else f"/proc/{made.pid}"):
        os.sched_yield()


def _wait_for_call(made: Clone, index: int) -> None:
    """Until the child has come to that call, having made those before it."""
    from time import monotonic

    end = monotonic() + _PATIENCE
    while len(made.results) < index:
        if monotonic() > end:
            raise RuntimeError(f"the child made {len(made.results)} of {index} calls in {_PATIENCE} s")
        os.sched_yield()
