"""What the payload may do: capabilities, no_new_privs, resource limits."""

from __future__ import annotations

import errno
import struct
from functools import lru_cache

from ramet.plan.idmap import capability_blocks
from ramet.plan.steps import Block, Builder, Ptr
from ramet.spec.capabilities import NAMES, NUMBERS, mask
from ramet.spec.limits import DEFAULT_RLIMITS, RLIM_INFINITY, RLIMITS
from ramet.spec.seccomp import keeps_from_keyrings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ramet.host.facts import Facts
    from ramet.plan.steps import Step
    from ramet.spec import Sandbox

LIMITING = "Sandbox.capabilities", "limit capabilities"
PR_CAPBSET_DROP = 24
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SOL_SOCKET, SCM_RIGHTS = 1, 1
CAP_KILL = 5
PR_SET_SECUREBITS = 28
#: linux/securebits.h
NOROOT, NOROOT_LOCKED, SETUID_FIXUP_LOCKED, KEEP_CAPS_LOCKED, NO_AMBIENT, NO_AMBIENT_LOCKED = 1, 2, 8, 32, 64, 128
KEYCTL_JOIN_SESSION_KEYRING = 1
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4


def limit_capabilities(b: Builder, spec: Sandbox, facts: Facts) -> None:
    """Empty every set but for those named; those stay through exec by the ambient set. See capabilities(7)."""
    kept = mask(spec.capabilities)
    b.about(*LIMITING)
    b.steps += _drop_all_but(kept, facts.last_cap)
    b.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    b.call("prctl", PR_SET_SECUREBITS, _securebits(spec), 0, 0, 0)
    b.call("capset", *capability_blocks(kept, kept, kept))
    for name in NAMES:
        if name in spec.capabilities:
            b.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, NUMBERS[name], 0, 0)


@lru_cache(maxsize=16)
def _drop_all_but(kept: int, last: int) -> tuple[Step, ...]:
    """Forty steps, the same in nearly every plan."""
    b = Builder()
    b.about(*LIMITING)
    for number in range(last + 1):
        if not kept >> number & 1:
            b.call("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
    return tuple(b.steps)


def _securebits(spec: Sandbox) -> int:
    """That uid 0 gives no capabilities, locked for ever; see capabilities(7).

    What setuid(2) takes away it is to go on taking: that is locked as it is. Set-uid programs that are to work (no_new_privs=False) need uid
    0 to mean something.
    """
    bits = SETUID_FIXUP_LOCKED | KEEP_CAPS_LOCKED
    if spec.no_new_privs:
        bits |= NOROOT | NOROOT_LOCKED
    if not spec.capabilities:
        bits |= NO_AMBIENT | NO_AMBIENT_LOCKED
    return bits


def own_keyring(b: Builder, spec: Sandbox) -> None:
    """The caller's session keyring is inherited, and in no namespace; see session-keyring(7). Where the filter refuses keyrings it
    is out of reach. Where the kernel has none, or somebody's filter refuses them to us, so it does to the payload."""
    if not keeps_from_keyrings(spec.seccomp):
        b.about("Sandbox.seccomp", "leave the caller's session keyring")
        b.call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, 0, allow=(errno.ENOSYS, errno.EPERM))


def keep_kill(b: Builder, *, has: bool) -> None:
    """Init's own: it must be able to end processes that have taken another uid, and nothing else.

    Before its exec: with CAP_DAC_OVERRIDE it could read its own program, and then others might trace it (would_dump()
    in the kernel's fs/exec.c).
    """
    kill = 1 << CAP_KILL if has else 0
    b.about("init", "leave init the right to signal" if has else "leave init no rights")
    b.call("capset", *capability_blocks(kill, kill, kill))
    if has:
        b.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0)


def filter_calls(b: Builder, programs: Sequence[bytes]) -> None:
    """seccomp(2). The last thing before the payload: whatever comes after must be in the filter too."""
    for program in programs:
        b.about("Sandbox.seccomp", "filter system calls")
        length = len(program) // 8
        text = f"{{len={length}, filter=...}}"
        b.call(
            "seccomp",
            SECCOMP_SET_MODE_FILTER,
            0,
            Block(struct.pack("<Hxxxxxx", length), Ptr(Block(program)), text=text),
        )


def report_calls(b: Builder, program: bytes, socket: int) -> None:
    """A filter that reports calls, to whom the other end of this socket belongs; see seccomp_unotify(2)."""
    b.about("Sandbox.seccomp", "have system calls reported")
    length = len(program) // 8
    filter_ = Block(struct.pack("<Hxxxxxx", length), Ptr(Block(program)), text=f"{{len={length}, filter=...}}")
    listener = b.open("listener", "seccomp", SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, filter_)
    message = Block(struct.pack("<Qii", 20, SOL_SOCKET, SCM_RIGHTS), listener, bytes(4))
    vector = Block(Ptr(b"L"), struct.pack("<Q", 1))
    parts = (bytes(16), Ptr(vector), struct.pack("<Q", 1), Ptr(message), struct.pack("<QQ", 24, 0))
    b.call("sendmsg", socket, Block(*parts, text="{SCM_RIGHTS, [listener]}"), 0x4000)
    b.close(listener)
    b.call("close", socket)


def no_new_privs(b: Builder) -> None:
    """Nothing exec'd from here on gains rights: no set-uid, no file capabilities. See prctl(2), since Linux 3.5."""
    b.about("Sandbox.no_new_privs", "set no_new_privs")
    b.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


#: Which field sets a limit that rlimits= does not name.
FIELDS = {
    "FSIZE": "Sandbox.file_size",
    "NOFILE": "Sandbox.open_files",
    "CPU": "Sandbox.cpu_time",
    "AS": "Sandbox.memory",
}


def limit_resources(b: Builder, spec: Sandbox, rlimits: Mapping[str, tuple[int, int]]) -> None:
    """prlimit64(2) on itself."""
    for name, (soft, hard) in rlimits.items():
        origin = f"Sandbox.rlimits[{name!r}]"
        if (soft, hard) != spec.rlimits.get(name):
            origin = FIELDS.get(name, "Sandbox.processes")
        b.about(origin, f"limit RLIMIT_{name}")
        shown = ["RLIM_INFINITY" if one == RLIM_INFINITY else str(one) for one in (soft, hard)]
        limit = Block(struct.pack("<QQ", soft, hard), text=f"{{{shown[0]}, {shown[1]}}}")
        # Who may have no core files at all, by a hard limit of 0, can't have 1 byte of them either.
        allow = (errno.EPERM,) if (name, soft, hard) == ("CORE", *DEFAULT_RLIMITS["CORE"]) else ()
        b.call("prlimit64", 0, RLIMITS[name], limit, 0, allow=allow)
