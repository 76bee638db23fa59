"""EPERM, ENOSYS and EEXIST: what the caller may not do, what is hidden from it, and what is taken."""

from __future__ import annotations

import os

from ramet import _core, lowlevel
from ramet.bpf import ALLOW, AT_NUMBER, ERRNO, JUMP_EQUAL, LOAD, RETURN, packed
from ramet.flags import CLONE, NAMESPACES, format_clone
from ramet.lab.numbers import NR
from ramet.lab.refusals import Case, NotHere, answer_of_clone, become_ordinary, enter_user_namespace
from ramet.lab.script import is_clones

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ERRORS = "clone(2), ERRORS"


def cases() -> Iterator[Case]:
    """All of this kind."""
    yield from _privileged_namespaces()
    yield from _user_namespaces()
    yield Case(
        "EPERM",
        "clone3({flags=0, set_tid=[7]})",
        _ordinary(lambda: lowlevel.clone3(0, set_tid=[7], child=[])),
        why="choosing a pid needs CAP_CHECKPOINT_RESTORE over the pid namespace",
        manual=f"{_ERRORS}, EPERM: set_tid",
        situation="as an ordinary user",
    )
    if os.uname().machine == "x86_64":
        yield Case(
            "EPERM",
            "clone3({flags=CLONE_SETTLS, tls=0xfffffffffffff000})",
            lambda: lowlevel.clone3(CLONE.SETTLS, tls=0xFFFF_FFFF_FFFF_F000, child=[]).wait(),
            why="that address is not user memory's",
        )
    yield Case(
        "EPERM",
        "clone(SIGCHLD)",
        _filtered(NR["clone"], 1, lambda: lowlevel.clone(child=[])),
        why="a filter can answer anything",
        manual="seccomp(2)",
        situation="behind a seccomp filter that refuses clone with EPERM",
    )
    yield Case(
        "ENOSYS",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _filtered(NR["clone3"], 38, lambda: lowlevel.clone3(child=[])),
        why="as on Linux before 5.3, and in containers whose filter can't see flags behind a pointer",
        manual="clone(2), VERSIONS; seccomp(2)",
        situation="behind a seccomp filter that answers clone3 with ENOSYS",
    )
    yield Case(
        "EEXIST",
        "clone3({flags=0, set_tid=[1]})",
        _taken,
        why="pid 1 is taken: it is the caller",
        manual=f"{_ERRORS}, EEXIST (clone3() only)",
        situation="as pid 1 of a new pid namespace",
    )
    yield from _other_pid_namespace()


def _ordinary(make: Callable[[], object]) -> Callable[[], object]:
    def made() -> None:
        become_ordinary()
        make()

    return made


def _privileged_namespaces() -> Iterator[Case]:
    for flag in NAMESPACES:
        if flag is not CLONE.NEWUSER:
            yield Case(
                "EPERM",
                f"clone3({{flags={format_clone(flag)}}})",
                _ordinary(lambda flag=flag: lowlevel.clone3(flag, child=[])),  # type: ignore[misc]
                why="it needs CAP_SYS_ADMIN; with CLONE_NEWUSER beside it an ordinary user may",
                manual=f"{_ERRORS}, EPERM",
                situation="as an ordinary user",
            )


def _user_namespaces() -> Iterator[Case]:
    call = "clone3({flags=CLONE_NEWUSER})"

    def in_chroot() -> None:
        enter_user_namespace()
        os.chroot("/proc")
        lowlevel.clone3(CLONE.NEWUSER, child=[])

    yield Case(
        "EPERM",
        call,
        in_chroot,
        why="in a user namespace of its own it could leave the chroot",
        manual=f"{_ERRORS}, EPERM: chroot",
        situation="in a chroot",
    )

    def unmapped() -> None:
        try:
            lowlevel.unshare(CLONE.NEWUSER)
        except OSError as error:
            raise NotHere(f"unshare(CLONE_NEWUSER): {error.strerror}") from None
        lowlevel.clone3(CLONE.NEWUSER, child=[])

    yield Case(
        "EPERM",
        call,
        unmapped,
        why="the caller's ids mean nothing in the user namespace it is in",
        manual=f"{_ERRORS}, EPERM: mapping in the parent namespace",
        situation="in a user namespace without id maps",
    )


def _taken() -> None:
    _as_pid_1(lambda: lowlevel.clone3(set_tid=[1], child=[]))


def _as_pid_1(make: Callable[[], object]) -> None:
    """make(), by pid 1 of a new pid namespace. Its OSError is raised here."""
    enter_user_namespace()
    read, write = os.pipe()
    made = lowlevel.clone3(CLONE.NEWPID)
    if made.pid == 0:
        number = 0
        try:
            make()
        except OSError as error:
            number = error.errno or 0 if is_clones(error) else 0
        finally:
            os.write(write, bytes([number]))
            os._exit(0)
    os.close(write)
    number = os.read(read, 1)[0]
    made.wait()
    if number:
        raise answer_of_clone(number)


def _other_pid_namespace() -> Iterator[Case]:
    """The rules that depend on what the caller has become."""

    def parent_of_init() -> None:
        _as_pid_1(lambda: lowlevel.clone3(CLONE.PARENT, child=[]))

    yield Case(
        "EINVAL",
        "clone3({flags=CLONE_PARENT})",
        parent_of_init,
        why="nobody would reap the sibling of a pid namespace's init",
        manual=f"{_ERRORS}, EINVAL: CLONE_PARENT",
        situation="as pid 1 of a new pid namespace",
    )
    thread = CLONE.VM | CLONE.SIGHAND | CLONE.THREAD
    for flags, why, manual in (
        (thread, "a thread can't be in another pid namespace than its process", f"{_ERRORS}, EINVAL: CLONE_THREAD"),
        (CLONE.NEWPID, "the caller's children go to another pid namespace already", "pid_namespaces(7)"),
    ):

        def make(flags: CLONE = flags) -> None:
            enter_user_namespace()
            lowlevel.unshare(CLONE.NEWPID)
            lowlevel.clone3(flags, child=[])

        yield Case(
            "EINVAL",
            f"clone3({{flags={format_clone(flags)}}})",
            make,
            why=why,
            manual=manual,
            situation="after unshare(CLONE_NEWPID)",
        )

    def dead_init() -> None:
        enter_user_namespace()
        lowlevel.unshare(CLONE.NEWPID)
        lowlevel.clone3(child=[]).wait()
        lowlevel.clone3(child=[])

    yield Case(
        "ENOMEM",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        dead_init,
        why="the init of the pid namespace that the caller's children go to has ended, and with it the namespace",
        manual="pid_namespaces(7), The namespace init process",
        situation="after unshare(CLONE_NEWPID), a first child, and its end",
    )


def _filtered(number: int, answer: int, make: Callable[[], object]) -> Callable[[], object]:
    """make() behind a seccomp filter that answers this system call with this errno, and lets all others through."""
    from ctypes import addressof, create_string_buffer
    from struct import pack

    def made() -> None:
        program = packed(
            (
                (LOAD, 0, 0, AT_NUMBER),
                (JUMP_EQUAL, 0, 1, number),
                (RETURN, 0, 0, ERRNO | answer),
                (RETURN, 0, 0, ALLOW),
            )
        )
        code = create_string_buffer(program, len(program))
        try:
            _core.syscall("prctl", NR["prctl"], 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
            _core.syscall("prctl", NR["prctl"], 22, 2, pack("HxxxxxxQ", 4, addressof(code)), 0, 0)  # PR_SET_SECCOMP
        except OSError as error:
            raise NotHere(f"no seccomp filter can be set: {error.strerror}") from None
        make()

    return made
