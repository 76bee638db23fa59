"""EAGAIN, ENOSPC, ENOMEM and EMFILE: limits that are reached, each set by the process itself or by its namespace."""

from __future__ import annotations

import os

from ramet import lowlevel
from ramet.flags import CLONE, NAMESPACE_FILES, NAMESPACES, format_clone
from ramet.lab.ground import write_file
from ramet.lab.refusals import Case, NotHere, answer_of_clone, become_ordinary, enter_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ERRORS = "clone(2), ERRORS"
_DEEPEST = 40
_MOST_PIDS = 400


def cases() -> Iterator[Case]:
    """All of this kind."""
    yield Case(
        "EAGAIN",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _nproc,
        why="this user may not have more processes",
        manual=f"{_ERRORS}, EAGAIN; setrlimit(2), RLIMIT_NPROC",
        situation="as an ordinary user, with RLIMIT_NPROC 1",
    )
    yield Case(
        "EAGAIN",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _pid_max,
        why="every pid of the namespace is taken",
        manual="fork(2), ERRORS, EAGAIN: pid_max",
        situation="in a pid namespace with kernel.pid_max 301 (its own since Linux 6.14), full",
    )
    yield Case(
        "EAGAIN",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _deadline,
        why="a child would take over the caller's share of the processor, unless it has reset-on-fork",
        manual="fork(2), ERRORS, EAGAIN: SCHED_DEADLINE",
        situation="under SCHED_DEADLINE",
    )
    yield Case(
        "EMFILE",
        "clone3({flags=CLONE_PIDFD})",
        _full_table,
        why="the pidfd needs a descriptor, and RLIMIT_NOFILE leaves none",
        situation="with a full descriptor table",
    )
    yield Case(
        "ENOMEM",
        "clone3({flags=0, exit_signal=SIGCHLD})",
        _overcommit,
        why="the child's copy of a mapping larger than the machine's memory could never be backed",
        manual=f"{_ERRORS}, ENOMEM; proc_sys_vm(5), overcommit_memory",
        situation="holding one private mapping larger than all memory, made of two smaller ones, untouched",
    )
    for flag in NAMESPACES:
        yield _namespace_limit(flag)
    yield Case(
        "ENOSPC",
        "clone3({flags=CLONE_NEWUSER})",
        _nested_user,
        why="user namespaces nest 32 deep below the first",
        manual=f"{_ERRORS}, ENOSPC: CLONE_NEWUSER",
        situation="in user namespaces nested as deep as they go",
    )
    yield Case(
        "ENOSPC",
        "clone3({flags=CLONE_NEWPID})",
        _nested_pid,
        why="pid namespaces nest 32 deep below the first",
        manual=f"{_ERRORS}, ENOSPC: CLONE_NEWPID",
        situation="in pid namespaces nested as deep as they go",
    )


def _nproc() -> None:
    import resource

    become_ordinary()
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (1 if hard else 0, hard))
    lowlevel.clone3(child=[]).wait()


def _deadline() -> None:
    from struct import pack

    from ramet import _core
    from ramet.lab.numbers import NR

    milliseconds = 1_000_000
    attributes = pack("IIQiIQQQ", 48, 6, 0, 0, 0, milliseconds, 100 * milliseconds, 100 * milliseconds)
    try:
        _core.syscall("sched_setattr", NR["sched_setattr"], 0, attributes, 0)
    except OSError as error:
        raise NotHere(f"sched_setattr(SCHED_DEADLINE): {error.strerror}") from None
    lowlevel.clone3(child=[]).wait()


def _full_table() -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)  # the lowest that is free; below it all are taken
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    lowlevel.clone3(pidfd=True, child=[]).wait()


def _overcommit() -> None:
    """Each mapping alone passes the kernel's heuristic; the two grow together, and fork asks for them as one."""
    import mmap

    with open("/proc/sys/vm/overcommit_memory", encoding="ascii") as file:
        mode = int(file.read())
    if mode == 1:
        raise NotHere("vm.overcommit_memory is 1: the kernel promises any amount")
    if mode == 2:
        raise NotHere("vm.overcommit_memory is 2: what is left of the limit is everybody's, and not to be used up here")
    with open("/proc/meminfo", encoding="ascii") as file:
        amounts = {line.split(":")[0]: int(line.split()[1]) << 10 for line in file}
    most = amounts["MemTotal"] + amounts["SwapTotal"]
    size = int(most * 0.7) // mmap.PAGESIZE * mmap.PAGESIZE
    try:
        held = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]
    except OSError as error:
        raise NotHere(f"two mappings of {size} bytes: {error.strerror}") from None
    if _largest_mapping() <= most:
        raise NotHere("the kernel did not join the two mappings into one")
    lowlevel.clone3(child=[]).wait()
    for each in held:
        each.close()


def _largest_mapping() -> int:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        ends = [line.split()[0].split("-") for line in file]
    return max(int(end, 16) - int(start, 16) for start, end in ends)


def _namespace_limit(flag: CLONE) -> Case:
    name = f"user/max_{NAMESPACE_FILES[flag]}_namespaces"

    def make() -> None:
        enter_user_namespace()
        try:
            write_file(f"/proc/sys/{name}", "0")
        except OSError as error:
            raise NotHere(f"/proc/sys/{name} can't be written: {error.strerror}") from None
        lowlevel.clone3(flag, child=[]).wait()

    return Case(
        "ENOSPC",
        f"clone3({{flags={format_clone(flag)}}})",
        make,
        why="the limit is reached, here or in a user namespace above",
        manual=f"{_ERRORS}, ENOSPC; namespaces(7), /proc/sys/user",
        situation="in a user namespace with that kind's user.max_*_namespaces 0",
    )


def _nested_user() -> None:
    for _ in range(_DEEPEST):
        enter_one_more()
    raise NotHere(f"{_DEEPEST} could be nested, more than the manual says")


def enter_one_more() -> None:
    """One user namespace deeper; the OSError of the one that is too deep, asked of clone3."""
    lowlevel.clone3(CLONE.NEWUSER, child=[]).wait()
    enter_user_namespace()


def _nested_pid() -> None:
    """Each namespace's init makes the next one. What the innermost is answered comes through a pipe."""
    enter_user_namespace()
    read, write = os.pipe()
    made = lowlevel.clone3()
    if made.pid == 0:
        try:
            _descend(write, _DEEPEST)
        finally:
            os._exit(0)
    os.close(write)
    number = os.read(read, 1)
    made.wait()
    if number and number[0]:
        raise answer_of_clone(number[0])
    raise NotHere(f"{_DEEPEST} could be nested, more than the manual says")


def _descend(write: int, depth: int) -> None:
    if not depth:
        os.write(write, b"\0")
        return
    try:
        made = lowlevel.clone3(CLONE.NEWPID)
    except OSError as error:
        os.write(write, bytes([error.errno or 0]))
        return
    if made.pid:
        made.wait()
    else:
        _descend(write, depth - 1)


def _pid_max() -> None:
    """Fill a pid namespace of 300 numbers with children that sleep, in an own user namespace; pid 1 ends them all.

    An older kernel's pid_max is the whole machine's, and uid 0 may write to it from any namespace: so neither is it
    tried there, nor as uid 0 here.
    """
    from ramet.host.namespaces import kernel_version

    if kernel_version() < (6, 14):
        raise NotHere("before Linux 6.14 kernel.pid_max is the whole machine's")
    become_ordinary()
    enter_user_namespace()
    lowlevel.unshare(CLONE.NEWPID | CLONE.NEWNS)
    read, write = os.pipe()
    made = lowlevel.clone3()
    if made.pid == 0:
        answer = b"?"
        try:
            answer = _fill()
        finally:
            os.write(write, answer)
            os._exit(0)
    os.close(write)
    answer = os.read(read, 1)
    made.wait()
    if answer[:1] == b"?":
        raise NotHere("kernel.pid_max can't be written in a pid namespace here")
    raise answer_of_clone(answer[0])


def _fill() -> bytes:
    from ramet.lab.ground import mount
    from ramet.lab.numbers import NR
    from ramet.lowlevel import Call

    try:
        mount("proc", "/proc", "proc", 0)
        before = _read("/proc/sys/kernel/pid_max")
        write_file("/proc/sys/kernel/pid_max", "301")
        if before == _read("/proc/sys/kernel/pid_max"):
            return b"?"
    except OSError:
        return b"?"
    children = []
    for _ in range(_MOST_PIDS):
        try:
            children.append(lowlevel.clone3(CLONE.VM, child=[Call(NR["ppoll"], 0, 0, 0, 0, 8)]))
        except OSError as error:
            return bytes([error.errno or 0])
    return b"?"


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
