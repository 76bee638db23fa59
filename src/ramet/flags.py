"""Kernel constants, under their kernel names: `CLONE.NEWPID` is CLONE_NEWPID, `MS.BIND` is MS_BIND.

`parse_flags` and `format_flags` go between numbers and names; `parse_clone` and `format_clone` do the
same for clone's flags word with the exit signal in it. What each flag means, since which kernel, what it
needs and what it goes with is the table in `ramet.flag_facts`, loaded when first asked for
(``CLONE.NEWPID.since``).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from ramet.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from ramet.flag_facts import Fact

    F = TypeVar("F", bound=IntFlag)

CSIGNAL = 0xFF
"""The bits of clone(2)'s flags word that hold the exit signal. clone3 has them free: one is NEWTIME."""

SIGNAL_MAX = 64
"""The highest signal number, that of SIGRTMAX."""

AT_FDCWD = -100
"""In place of a directory descriptor: relative paths start at the current directory."""


class _Described:
    """A flag that has a row in the table of facts."""

    __slots__ = ()

    @property
    def fact(self) -> Fact:
        """The flag's row: since, meaning, privilege and so on. Only for a single named flag."""
        from ramet.flag_facts import fact_of

        return fact_of(self)  # type: ignore[arg-type]

    @property
    def since(self) -> tuple[int, ...]:
        """The first kernel that had it, as ``(5, 7)``."""
        return self.fact.since

    @property
    def meaning(self) -> str:
        """What it does, in one sentence."""
        return self.fact.meaning


class CLONE(_Described, IntFlag):
    """Flags of clone3(2), clone(2) and unshare(2), and the kinds of setns(2). Complete up to Linux 7.1."""

    NEWTIME = 0x0000_0080  # inside CSIGNAL: clone(2) can't say it
    VM = 0x0000_0100
    FS = 0x0000_0200
    FILES = 0x0000_0400
    SIGHAND = 0x0000_0800
    PIDFD = 0x0000_1000
    PTRACE = 0x0000_2000
    VFORK = 0x0000_4000
    PARENT = 0x0000_8000
    THREAD = 0x0001_0000
    NEWNS = 0x0002_0000
    SYSVSEM = 0x0004_0000
    SETTLS = 0x0008_0000
    PARENT_SETTID = 0x0010_0000
    CHILD_CLEARTID = 0x0020_0000
    UNTRACED = 0x0080_0000
    CHILD_SETTID = 0x0100_0000
    NEWCGROUP = 0x0200_0000
    NEWUTS = 0x0400_0000
    NEWIPC = 0x0800_0000
    NEWUSER = 0x1000_0000
    NEWPID = 0x2000_0000
    NEWNET = 0x4000_0000
    IO = 0x8000_0000
    CLEAR_SIGHAND = 1 << 32  # from here on: clone3 only
    INTO_CGROUP = 1 << 33
    AUTOREAP = 1 << 34
    NNP = 1 << 35
    PIDFD_AUTOKILL = 1 << 36
    EMPTY_MNTNS = 1 << 37


NAMESPACES = (
    CLONE.NEWUSER,
    CLONE.NEWNS,
    CLONE.NEWPID,
    CLONE.NEWNET,
    CLONE.NEWIPC,
    CLONE.NEWUTS,
    CLONE.NEWCGROUP,
    CLONE.NEWTIME,
)
"""The eight flags that make a namespace, in the order in which people name them."""

NAMESPACE_FILES = {
    CLONE.NEWUSER: "user",
    CLONE.NEWNS: "mnt",
    CLONE.NEWPID: "pid",
    CLONE.NEWNET: "net",
    CLONE.NEWIPC: "ipc",
    CLONE.NEWUTS: "uts",
    CLONE.NEWCGROUP: "cgroup",
    CLONE.NEWTIME: "time",
}
"""The name of each kind of namespace in /proc/PID/ns."""

OBSOLETE_CLONE = {
    "PID": 0x0000_1000,
    "DETACHED": 0x0040_0000,
    "STOPPED": 0x0200_0000,
}
"""Flags that are gone, without their CLONE_: their bits, two of which mean something else today."""


class MS(_Described, IntFlag):
    """Flags of mount(2)."""

    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    SYNCHRONOUS = 16
    REMOUNT = 32
    MANDLOCK = 64
    DIRSYNC = 128
    NOSYMFOLLOW = 256
    NOATIME = 1 << 10
    NODIRATIME = 1 << 11
    BIND = 1 << 12
    MOVE = 1 << 13
    REC = 1 << 14
    SILENT = 1 << 15
    POSIXACL = 1 << 16
    UNBINDABLE = 1 << 17
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20
    RELATIME = 1 << 21
    I_VERSION = 1 << 23
    STRICTATIME = 1 << 24
    LAZYTIME = 1 << 25


class MOUNT_ATTR(_Described, IntFlag):
    """Attributes of mount_setattr(2), fsmount(2) and open_tree_attr(2). RELATIME is 0: the default."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    NOATIME = 0x10
    STRICTATIME = 0x20
    NODIRATIME = 0x80
    IDMAP = 0x10_0000
    NOSYMFOLLOW = 0x20_0000


MOUNT_ATTR_ATIME = 0x70
"""MOUNT_ATTR__ATIME: the field whose values are NOATIME and STRICTATIME; clear it to set one."""


class OPEN_TREE(_Described, IntFlag):
    """Flags of open_tree(2), beside AT.RECURSIVE, AT.EMPTY_PATH and their like."""

    CLONE = 0x1
    NAMESPACE = 0x2
    CLOEXEC = 0x8_0000


class MOVE_MOUNT(_Described, IntFlag):
    """Flags of move_mount(2): F_ for the path it comes from, T_ for the one it goes to."""

    F_SYMLINKS = 0x1
    F_AUTOMOUNTS = 0x2
    F_EMPTY_PATH = 0x4
    T_SYMLINKS = 0x10
    T_AUTOMOUNTS = 0x20
    T_EMPTY_PATH = 0x40
    SET_GROUP = 0x100
    BENEATH = 0x200


class AT(_Described, IntFlag):
    """Flags of the calls that end in "at", where they mean the same for all of them."""

    SYMLINK_NOFOLLOW = 0x100
    SYMLINK_FOLLOW = 0x400
    NO_AUTOMOUNT = 0x800
    EMPTY_PATH = 0x1000
    RECURSIVE = 0x8000
    EXECVE_CHECK = 0x1_0000


class RESOLVE(_Described, IntFlag):
    """How openat2(2) may walk a path."""

    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10
    CACHED = 0x20


class MNT(_Described, IntFlag):
    """Flags of umount2(2)."""

    FORCE = 1
    DETACH = 2
    EXPIRE = 4
    NOFOLLOW = 8  # the kernel writes UMOUNT_NOFOLLOW


class FSOPEN(_Described, IntFlag):
    """Flags of fsopen(2)."""

    CLOEXEC = 1


class FSMOUNT(_Described, IntFlag):
    """Flags of fsmount(2)."""

    CLOEXEC = 1
    NAMESPACE = 2


class FSCONFIG(IntEnum):
    """Commands of fsconfig(2)."""

    SET_FLAG = 0
    SET_STRING = 1
    SET_BINARY = 2
    SET_PATH = 3
    SET_PATH_EMPTY = 4
    SET_FD = 5
    CMD_CREATE = 6
    CMD_RECONFIGURE = 7
    CMD_CREATE_EXCL = 8


class PIDFD(_Described, IntFlag):
    """Flags of pidfd_open(2)."""

    THREAD = 0o200
    NONBLOCK = 0o4000


class PIDFD_SIGNAL(_Described, IntFlag):
    """Whom pidfd_send_signal(2) reaches; 0 is what the pidfd itself stands for."""

    THREAD = 1
    THREAD_GROUP = 2
    PROCESS_GROUP = 4


def kernel_name(flag: IntFlag | IntEnum) -> str:
    """``CLONE_NEWPID`` for CLONE.NEWPID."""
    if flag is MNT.NOFOLLOW:
        return "UMOUNT_NOFOLLOW"
    return f"{type(flag).__name__}_{flag.name}"


def format_flags(flags: IntFlag) -> str:
    """``MS_BIND|MS_REC``, as strace writes it; unnamed bits in hexadecimal; ``0`` for none."""
    return _format(type(flags), int(flags))


def _format(kind: type[IntFlag], bits: int) -> str:
    names = []
    for flag in kind:
        if bits & flag:
            names.append(kernel_name(flag))
            bits &= ~int(flag)
    if bits or not names:
        names.append(hex(bits) if bits else "0")
    return "|".join(names)


def format_clone(flags: int, exit_signal: int = 0) -> str:
    """``CLONE_VM|CLONE_NEWPID|SIGCHLD``: clone's flags and exit signal, as strace writes them."""
    if not exit_signal:
        return _format(CLONE, int(flags))
    signal = signal_name(exit_signal)
    return f"{_format(CLONE, int(flags))}|{signal}" if flags else signal


def signal_name(number: int) -> str:
    """``SIGCHLD`` for 17; the bare number for one without a name."""
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return str(number)


def parse_flags(kind: type[F], given: str | int, *, field: str = "flags") -> F:
    """The flags named in ``"MS_BIND|MS_REC"``, ``"bind|rec"`` or ``"0x5000"``, or of a number.

    Raises SpecError for a name that is none, with the nearest one, and for bits that no flag has.
    """
    bits = 0
    for part in _parts(given, field):
        number = _number(part, field)
        bits |= _lookup(kind, part, field) if number is None else number
    unknown = bits & ~_all_bits(kind)
    if unknown:
        raise SpecError(f"{unknown:#x} is no flag of {kind.__name__}_*", field=field)
    return kind(bits)


def parse_clone(given: str | int, *, field: str = "flags") -> tuple[CLONE, int]:
    """The flags and the exit signal in ``"CLONE_VM|NEWPID|SIGCHLD"``, ``"0x10911"`` or a number.

    Bits that no kernel knows are kept, for the rules to speak of. The low seven bits are the exit signal,
    as in clone(2); the eighth is CLONE_NEWTIME, since no signal has so high a number.
    """
    bits = exit_signal = 0
    for part in _parts(given, field):
        number = _number(part, field)
        if number is None:
            signal = _signal_number(part)
            if signal is None:
                bits |= _lookup(CLONE, part, field)
                continue
            number = signal
        low = number & (CSIGNAL ^ int(CLONE.NEWTIME))
        if low and exit_signal not in (0, low):
            names = f"{signal_name(exit_signal)} and {signal_name(low)}"
            raise SpecError(f"names two exit signals, {names}; a child has one", field=field)
        exit_signal = low or exit_signal
        bits |= number & ~low
    return CLONE(bits), exit_signal


def _parts(given: str | int, field: str) -> list[str]:
    if isinstance(given, int):
        return [str(int(given))]
    parts = [part.strip() for part in given.split("|")]
    if not all(parts):
        raise SpecError(f"{given!r}: a name or a number belongs on each side of every |", field=field)
    return parts


def _number(part: str, field: str) -> int | None:
    if not (part[0].isdigit() or part[0] in "+-"):
        return None
    try:
        number = int(part, 0)
    except ValueError:
        raise SpecError(f"{part!r} is no number (write 256, 0x100 or 0o400)", field=field) from None
    if not 0 <= number < 1 << 64:
        raise SpecError(f"{part} does not fit an unsigned 64-bit word", field=field)
    return number


def _signal_number(part: str) -> int | None:
    if part[:3].upper() != "SIG" or part.upper() == "SIGHAND":
        return None
    from signal import Signals

    try:
        return int(Signals[part.upper()])
    except KeyError:
        return None


def _lookup(kind: type[IntFlag], part: str, field: str) -> int:
    name = part.upper()
    bare = name.removeprefix("UMOUNT_" if kind is MNT else "").removeprefix(f"{kind.__name__}_")
    try:
        return int(kind[bare])
    except KeyError:
        raise _no_such_flag(kind, part, bare, field) from None


def _no_such_flag(kind: type[IntFlag], part: str, bare: str, field: str) -> SpecError:
    from difflib import get_close_matches

    if kind is CLONE and bare in OBSOLETE_CLONE:
        from ramet.flag_facts import OBSOLETE

        return SpecError(f"CLONE_{bare} is obsolete: {OBSOLETE[bare].meaning}", field=field)
    names = {flag.name: flag for flag in kind if flag.name}
    near = get_close_matches(bare, names, n=1)
    hint = f"did you mean {kernel_name(names[near[0]])}?" if near else None
    if len(part.replace(",", " ").split()) > 1:
        hint = f"flags are joined by |: {'|'.join(part.replace(',', ' ').split())}"
    return SpecError(f"there is no flag {part!r} in {kind.__name__}_*", field=field, hint=hint)


def _all_bits(kind: type[IntFlag]) -> int:
    bits = 0
    for flag in kind:
        bits |= int(flag)
    return bits
