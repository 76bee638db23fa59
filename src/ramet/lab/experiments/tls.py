"""Experiment 14: where does a child's thread-local storage lie?"""

from __future__ import annotations

from ctypes import addressof, create_string_buffer

from ramet import _core, lowlevel
from ramet.errors import UnsupportedError
from ramet.flags import CLONE
from ramet.lab.experiment import CONFIRMED, Experiment, Seen
from ramet.lab.kernel import ARM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.lab.evidence import Notes
    from ramet.lab.experiment import Findings

ARCH_PRCTL, ARCH_GET_FS = 158, 0x1003


def run(flags: CLONE, see: Notes) -> None:
    if ARM:
        why = "no system call of aarch64 tells the address"
        raise UnsupportedError("tls", needs="x86-64", fact=why)
    room, ours = create_string_buffer(64), bytearray(8)
    address = lowlevel.Buffer(8)
    ask = lowlevel.Call(ARCH_PRCTL, ARCH_GET_FS, address)
    child = lowlevel.clone3(flags, tls=addressof(room), child=[ask])
    child.wait()
    _core.syscall("arch_prctl", ARCH_PRCTL, ARCH_GET_FS, ours)
    theirs = int.from_bytes(child.output(0, 1), "little")
    see.caller("its TLS is at", hex(int.from_bytes(ours, "little")))
    see.caller("the field tls says", hex(addressof(room)))
    see.child("its TLS is at", hex(theirs))


def conclude(seen: Seen, control: Seen) -> Findings:
    at = "its TLS is at"
    return (
        (
            "the child's storage is where the field tls says",
            seen.child[at] == seen.caller["the field tls says"] is not None,
        ),
        ("without CLONE_SETTLS it is where the caller's is", control.child[at] == control.caller[at]),
    )


EXPERIMENT = Experiment(
    number=14,
    name="tls",
    title="thread-local storage at an address",
    question="Where does a child's thread-local storage lie?",
    flags=CLONE.VM | CLONE.SETTLS,
    exit_signal=lowlevel.SIGCHLD,
    without=CLONE.SETTLS,
    run=run,
    conclude=conclude,
    answer="Where the field tls says, with CLONE_SETTLS. Without it, where the caller's lies; in shared memory both "
    "then have one errno and one thread id, which is why libc's threads have this flag.",
    claimed="CLONE_SETTLS sets the thread-local storage descriptor.",
    verdict=CONFIRMED,
    page="clone(2), CLONE_SETTLS",
    manual="The thread-local storage descriptor is set to tls; on x86-64 that is the base of the FS register.",
)
