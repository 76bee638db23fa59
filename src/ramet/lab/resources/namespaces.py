"""The eight namespaces: which one the child is in, by its inode, and what that does to what is inside."""

from __future__ import annotations

import os
from struct import pack_into, unpack_from

from ramet import _core
from ramet.host.namespaces import KINDS
from ramet.lab.numbers import NR
from ramet.lab.resources.base import COPIED, NEW, SHARED, UNKNOWN, Finding, Resource, judge, refused
from ramet.lowlevel import Buffer, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.ground import Ground
    from ramet.lab.script import Script, Seen

AT_FDCWD = -100


class Inode(Resource):
    """Which namespace of one kind: two processes in the same one see the same inode."""

    kind = ""

    def read(self, script: Script) -> None:
        self.found = script.add("newfstatat", self.proc, f"thread-self/ns/{self.kind}".encode(), Buffer(144), 0)

    def inode(self, seen: Seen) -> int:
        """Of the child's namespace; 0 if it could not look."""
        if seen.result(self.found) < 0:
            return 0
        return int(unpack_from("QQ", seen.output(self.found, 2))[1])

    def find(self, seen: Seen) -> Finding:
        theirs, ours = self.inode(seen), os.stat(f"/proc/self/ns/{self.kind}").st_ino
        if not theirs:
            return Finding(UNKNOWN, f"the child can't look: {refused(seen, self.found)}")
        if theirs == ours:
            return Finding(SHARED, f"{self.kind}:[{ours}] for both")
        return Finding(NEW, f"{self.kind}:[{theirs}] for the child, [{ours}] for the caller")


def _of_kind(kind: str) -> type[Inode]:
    words = {"mnt": "mount", "net": "network", "pid": "pid", "ipc": "IPC", "uts": "UTS"}
    attributes = {
        "kind": kind,
        "key": f"{kind}_ns",
        "heading": kind,
        "title": f"the {words.get(kind, kind)} namespace",
        "__doc__": Inode.__doc__,
    }
    return type(f"{kind.capitalize()}Inode", (Inode,), attributes)


INODES = tuple(_of_kind(kind) for kind in KINDS)


class Inside(Inode):
    """Something that lies in a namespace. Where the child may not change it, the caller does, and the child looks."""

    needs_ground = True

    def mark(self) -> None:
        self.changed = False

    def settle(self, seen: Seen, attempt: int, found: Finding, again: bool) -> Finding:
        """The finding, unless the child's own change (that call) was refused. again: it has seen the caller's change."""
        errno_name = refused(seen, attempt)
        if not errno_name or found.answer in (SHARED, NEW):
            return found
        told = f"the child finds the caller's, and may not change it ({errno_name})"
        if self.changed:
            if again:
                return Finding(SHARED, f"{told}; the caller changes it, and the child sees that")
            return Finding(COPIED, f"{told}; the caller changes it, and the child sees nothing of that")
        if self.inode(seen) == os.stat(f"/proc/self/ns/{self.kind}").st_ino:
            return Finding(SHARED, f"{told}; its {self.kind} namespace is the caller's")
        return Finding(COPIED, f"{told}; its {self.kind} namespace is another")


class Hostname(Inside):
    """The host name."""

    key, heading, title, kind = "hostname", "host", "the host name", "uts"

    def mark(self) -> None:
        super().mark()
        _core.syscall("sethostname", NR["sethostname"], b"caller", 6)

    def change(self) -> None:
        _core.syscall("sethostname", NR["sethostname"], b"changed", 7)
        self.changed = True

    def read_again(self, script: Script) -> None:
        self.later = script.add("uname", Buffer(65 * 6))

    def read(self, script: Script) -> None:
        super().read(script)
        self.name = script.add("uname", Buffer(65 * 6))

    def write(self, script: Script) -> None:
        self.attempt = script.add("sethostname", b"child", 5)

    def find(self, seen: Seen) -> Finding:
        found = judge(
            reaches_caller=os.uname().nodename == "child",
            was_seen=_nodename(seen, self.name) == b"caller",
            mark="the host name that the caller has set",
            change="sets another",
        )
        again = self.changed and _nodename(seen, self.later) == b"changed"
        return self.settle(seen, self.attempt, found, again)


def _nodename(seen: Seen, call: int) -> bytes:
    """The second field of struct utsname."""
    return seen.output(call, 0)[65:130].partition(b"\0")[0]


class SystemV(Inside):
    """System V IPC objects: a semaphore of the caller's, and one that the child makes."""

    key, heading, title, kind = "sysv", "sysv", "the System V IPC objects", "ipc"
    _OURS, _THEIRS = 0x52414D02, 0x52414D03

    def mark(self) -> None:
        super().mark()
        _core.syscall("semget", NR["semget"], self._OURS, 1, 0o1600)
        made = self._theirs()
        if made >= 0:
            _core.syscall("semctl(IPC_RMID)", NR["semctl"], made, 0, 0)

    def read(self, script: Script) -> None:
        super().read(script)
        self.seen = script.add("semget", self._OURS, 1, 0)

    def write(self, script: Script) -> None:
        script.add("semget", self._THEIRS, 1, 0o1600)

    def find(self, seen: Seen) -> Finding:
        return judge(
            reaches_caller=self._theirs() >= 0,
            was_seen=seen.result(self.seen) >= 0,
            mark="the caller's semaphore by its key",
            change="makes one",
        )

    def _theirs(self) -> int:
        try:
            return _core.syscall("semget", NR["semget"], self._THEIRS, 1, 0)
        except OSError:
            return -1


class Mounts(Inside):
    """The mount table: a mount of the caller's, and one that the child makes. All mounts are private here."""

    key, heading, title, kind = "mounts", "mounts", "the mount table", "mnt"

    def mark(self) -> None:
        super().mark()
        where = self.ground.directory
        self.ours, self.theirs, self.later = f"{where}/mounted", f"{where}/mounted-by-child", f"{where}/mounted-later"
        if not os.path.exists(self.ours):
            for path in (self.ours, self.theirs, self.later):
                os.mkdir(path)
            self._mount(self.ours)
        for path in (self.theirs, self.later):
            if self._is_mounted(path):
                _core.syscall("umount2", NR["umount2"], os.fsencode(path) + b"\0", 2)

    def change(self) -> None:
        self._mount(self.later)
        self.changed = True

    def _mount(self, path: str) -> None:
        from ramet.lab.ground import mount

        mount("caller", path, "tmpfs", 0)
        os.mkdir(f"{path}/here")

    def read_again(self, script: Script) -> None:
        self.seen_later = script.add("faccessat", AT_FDCWD, os.fsencode(f"{self.later}/here"), 0, 0)

    def read(self, script: Script) -> None:
        super().read(script)
        self.seen = script.add("faccessat", AT_FDCWD, os.fsencode(f"{self.ours}/here"), 0, 0)

    def write(self, script: Script) -> None:
        self.attempt = script.add("mount", b"child", os.fsencode(self.theirs), b"tmpfs", 0, 0)

    def find(self, seen: Seen) -> Finding:
        found = judge(
            reaches_caller=self._is_mounted(self.theirs),
            was_seen=seen.result(self.seen) == 0,
            mark="what the caller has mounted",
            change="mounts a tmpfs",
        )
        return self.settle(seen, self.attempt, found, self.changed and seen.result(self.seen_later) == 0)

    def _is_mounted(self, path: str) -> bool:
        return os.stat(path).st_dev != os.stat(self.ground.directory).st_dev


class Network(Inside):
    """The network devices: the caller's loopback device is up, and the child takes it down."""

    key, heading, title, kind = "network", "netdev", "the network devices", "net"
    _GET, _SET = 0x8913, 0x8914  # SIOCGIFFLAGS, SIOCSIFFLAGS
    _UP, _PROMISC = 1, 0x100

    def __init__(self, ground: Ground, proc: int) -> None:
        import socket

        super().__init__(ground, proc)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def mark(self) -> None:
        super().mark()
        self._set(self._UP)

    def change(self) -> None:
        self._set(self._UP | self._PROMISC)
        self.changed = True

    def _set(self, flags: int) -> None:
        _core.syscall("ioctl(SIOCSIFFLAGS)", NR["ioctl"], self.socket.fileno(), self._SET, _ifreq(flags))

    def read(self, script: Script) -> None:
        super().read(script)
        self.opened = script.add("socket", 2, 2 | 0o2000000, 0)
        self.flags = script.add("ioctl", Result(self.opened), self._GET, _ifreq(0))

    def read_again(self, script: Script) -> None:
        self.later = script.add("ioctl", Result(self.opened), self._GET, _ifreq(0))

    def write(self, script: Script) -> None:
        self.attempt = script.add("ioctl", Result(self.opened), self._SET, _ifreq(0))
        script.add("close", Result(self.opened))

    def find(self, seen: Seen) -> Finding:
        now = bytearray(_ifreq(0))
        _core.syscall("ioctl(SIOCGIFFLAGS)", NR["ioctl"], self.socket.fileno(), self._GET, now)
        found = judge(
            reaches_caller=not _flags(now) & self._UP,
            was_seen=bool(_flags(seen.output(self.flags, 2)) & self._UP),
            mark="lo up, as the caller has it",
            change="takes lo down",
        )
        again = self.changed and bool(_flags(seen.output(self.later, 2)) & self._PROMISC)
        return self.settle(seen, self.attempt, found, again)


def _ifreq(flags: int) -> bytes:
    request = bytearray(40)
    request[:2] = b"lo"
    pack_into("H", request, 16, flags)
    return bytes(request)


def _flags(request: bytes | bytearray) -> int:
    return int(unpack_from("H", request, 16)[0]) if len(request) >= 18 else 0


class UidMap(Inside):
    """The user id map; and, as it can be written once only, a limit that lies in the user namespace beside it."""

    key, heading, title, kind = "uid_map", "uidmap", "the user id map", "user"
    _LIMIT = "sys/user/max_inotify_watches"

    def mark(self) -> None:
        super().mark()
        with open("/proc/self/uid_map", encoding="ascii") as file:
            self.ours = file.read()
        if self.ground.own_user_namespace:
            self._set_limit(5000)

    def read(self, script: Script) -> None:
        super().read(script)
        opened = script.add("openat", self.proc, b"thread-self/uid_map", os.O_RDONLY, 0)
        self.map = script.add("read", Result(opened), Buffer(4096), 4096)
        script.add("close", Result(opened))

    def write(self, script: Script) -> None:
        if not self.ground.own_user_namespace:  # it would be the host's
            self.attempt = script.add("openat", self.proc, b"", os.O_WRONLY, 0)
            return
        opened = script.add("openat", self.proc, self._LIMIT.encode(), os.O_WRONLY, 0)
        self.attempt = script.add("write", Result(opened), b"4999", 4)
        script.add("close", Result(opened))

    def find(self, seen: Seen) -> Finding:
        found = judge(
            reaches_caller=self.ground.own_user_namespace and self._limit() == 4999,
            was_seen=seen.text(self.map, 1) == self.ours,
            mark="the caller's map",
            change="sets a limit of its user namespace",
        )
        return self.settle(seen, self.attempt, found, False)

    def _limit(self) -> int:
        with open(f"/proc/{self._LIMIT}", encoding="ascii") as file:
            return int(file.read())

    def _set_limit(self, value: int) -> None:
        from ramet.lab.ground import write_file

        try:
            write_file(f"/proc/{self._LIMIT}", str(value))
        except OSError:
            return  # /proc/sys is read-only in many containers; the inode tells then


class Clocks(Inside):
    """The offset of the boot-time clock. Nobody can change it once somebody is inside: the inode tells of sharing."""

    key, heading, title, kind = "clocks", "clocks", "the clock offsets", "time"
    _BOOTTIME = 7
    _APART = 1000.0

    def read(self, script: Script) -> None:
        super().read(script)
        self.clock = script.add("clock_gettime", self._BOOTTIME, Buffer(16))

    def find(self, seen: Seen) -> Finding:
        import time

        if "clocks" in self.ground.missing:
            return Finding(UNKNOWN, self.ground.missing["clocks"])
        seconds, _ = unpack_from("QQ", seen.output(self.clock, 1).ljust(16, b"\0"))
        same_offset = abs(time.clock_gettime(self._BOOTTIME) - seconds) < self._APART
        theirs, ours = self.inode(seen), os.stat("/proc/self/ns/time").st_ino
        if theirs == ours:
            return Finding(SHARED, f"time:[{ours}] for both: one set of offsets, which nobody can change any more")
        if same_offset:
            return Finding(COPIED, "another time namespace, and the child's clock has the caller's offset")
        return Finding(NEW, "another time namespace, and the child's clock lacks the caller's offset")


class PidNumbers(Resource):
    """The numbers of processes: does the caller's pid name anybody for the child?"""

    key, heading, title = "pids", "pids", "the process numbers"

    def read(self, script: Script) -> None:
        self.found = script.add("kill", os.getpid(), 0)
        self.own = script.add("getpid")

    def find(self, seen: Seen) -> Finding:
        own = seen.result(self.own)
        if seen.result(self.found) == 0:
            return Finding(SHARED, "the caller's pid names the caller for the child too")
        if seen.result(self.found) == -3:  # ESRCH
            return Finding(NEW, f"the caller's pid names nobody for the child, which is pid {own} itself")
        return Finding(UNKNOWN, f"the child's kill(caller, 0): {refused(seen, self.found)}")


class CgroupView(Resource):
    """What /proc/self/cgroup says of the child's cgroups: paths from the root of the cgroup namespace."""

    key, heading, title = "cgroup_view", "cgpath", "the cgroup paths read"

    def read(self, script: Script) -> None:
        opened = script.add("openat", self.proc, b"thread-self/cgroup", os.O_RDONLY, 0)
        self.found = script.add("read", Result(opened), Buffer(8192), 8192)
        script.add("close", Result(opened))

    def find(self, seen: Seen) -> Finding:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            ours = file.read()
        theirs = seen.text(self.found, 1)
        if not theirs:
            return Finding(UNKNOWN, f"the child can't look: {refused(seen, self.found)}")
        if all(line.endswith(":/") for line in ours.splitlines()):
            return Finding(UNKNOWN, "the caller is in a root cgroup, whose path is / in any namespace")
        if theirs == ours:
            return Finding(SHARED, "the child reads the same paths as the caller")
        changed = next((b for a, b in zip(ours.splitlines(), theirs.splitlines(), strict=False) if a != b), "")
        return Finding(NEW, f"the child reads {changed!r} where the caller reads another path")


ALL = (*INODES, Hostname, SystemV, Mounts, Network, UidMap, Clocks, PidNumbers, CgroupView)
