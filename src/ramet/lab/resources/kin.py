"""What makes it a process, a thread, a brother or a child: parent, thread group, limits, credentials."""

from __future__ import annotations

import os
from struct import pack, unpack_from

from ramet import _core
from ramet.lab.numbers import NR
from ramet.lab.resources.base import NEW, SHARED, UNKNOWN, Finding, Resource, judge
from ramet.lowlevel import Buffer, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.script import Script, Seen


class Status(Resource):
    """A line of the child's /proc/thread-self/status, as the child reads it: through the caller's /proc."""

    line = ""

    def read(self, script: Script) -> None:
        opened = script.add("openat", self.proc, b"thread-self/status", os.O_RDONLY, 0)
        self.found = script.add("read", Result(opened), Buffer(4096), 4096)
        script.add("close", Result(opened))

    def value(self, seen: Seen) -> int | None:
        """The number in that line; None if the child could not look."""
        for line in seen.text(self.found, 1).splitlines():
            name, _, rest = line.partition(":")
            if name == self.line:
                return int(rest.split()[0])
        return None


class Parent(Status):
    """The parent: the caller's own (shared), or the caller (new)."""

    key, heading, title = "parent", "parent", "the parent"
    line = "PPid"

    def find(self, seen: Seen) -> Finding:
        parent = self.value(seen)
        if parent == os.getpid():
            return Finding(NEW, "the child's parent is the caller")
        if parent == os.getppid():
            return Finding(SHARED, "the child's parent is the caller's parent")
        return Finding(UNKNOWN, f"the child says that its parent is {parent}")


class ThreadGroup(Status):
    """The process: a thread belongs to the caller's, with its pid."""

    key, heading, title = "process", "pid", "the thread group"
    line = "Tgid"

    def find(self, seen: Seen) -> Finding:
        group = self.value(seen)
        if group is None:
            return Finding(UNKNOWN, "the child could not read its status")
        if group == os.getpid():
            return Finding(SHARED, "the child's pid is the caller's: it is a thread of it")
        return Finding(NEW, "the child has a pid of its own")


class Limits(Resource):
    """The resource limits, seen by RLIMIT_CORE."""

    key, heading, title = "limits", "rlimit", "the resource limits"
    _CORE = 4

    def mark(self) -> None:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
        self.room = hard != 0
        self.ours = (2 if hard < 0 or hard >= 2 else 0, hard & 0xFFFF_FFFF_FFFF_FFFF)
        resource.setrlimit(resource.RLIMIT_CORE, (self.ours[0], hard))

    def read(self, script: Script) -> None:
        self.found = script.add("prlimit64", 0, self._CORE, 0, Buffer(16))

    def write(self, script: Script) -> None:
        script.add("prlimit64", 0, self._CORE, pack("QQ", 1, self.ours[1]), 0)

    def find(self, seen: Seen) -> Finding:
        if not self.room:
            return Finding(UNKNOWN, "RLIMIT_CORE is 0 for good here, so nobody can change it")
        now = bytearray(16)
        _core.syscall("prlimit64", NR["prlimit64"], 0, self._CORE, 0, now)
        data = seen.output(self.found, 3).ljust(16, b"\0")
        return judge(
            reaches_caller=unpack_from("Q", now)[0] == 1,
            was_seen=unpack_from("QQ", data) == self.ours,
            mark="the caller's RLIMIT_CORE",
            change="sets another",
        )


class Credentials(Resource):
    """Ids, capabilities and their securebits, seen by one of those: PR_SET_KEEPCAPS, which may be locked outside."""

    key, heading, title = "credentials", "creds", "the credentials"
    needs_ground = True
    _GET, _SET = 7, 8

    def mark(self) -> None:
        _core.syscall("prctl", NR["prctl"], self._SET, 1, 0, 0, 0)

    def read(self, script: Script) -> None:
        self.found = script.add("prctl", self._GET, 0, 0, 0, 0)

    def write(self, script: Script) -> None:
        script.add("prctl", self._SET, 0, 0, 0, 0)

    def find(self, seen: Seen) -> Finding:
        now = _core.syscall("prctl", NR["prctl"], self._GET, 0, 0, 0, 0)
        return judge(
            reaches_caller=now == 0,
            was_seen=seen.result(self.found) == 1,
            mark="the securebit that the caller has set",
            change="clears it",
        )


ALL = (Parent, ThreadGroup, Limits, Credentials)
