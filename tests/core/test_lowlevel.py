"""The sharp layer: both kinds of child, the fields of clone3, namespaces and pidfds."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from needs import since
from ramet import lowlevel
from ramet.errors import SpecError, TimeoutExpired
from ramet.flags import AT, CLONE, PIDFD
from ramet.host.namespaces import kernel_version
from ramet.lowlevel import Buffer, Call, Clone, Result, clone, clone3, wait_pidfd

pytestmark = pytest.mark.vm

ARM = platform.machine() == "aarch64"
GETPID, GETTID, GETCWD = (172, 178, 17) if ARM else (39, 186, 79)
WRITE, PRCTL, PPOLL, CLOSE = (64, 167, 73, 57) if ARM else (1, 157, 271, 3)
GETEUID, DUP = (175, 23) if ARM else (107, 32)
PAUSE = Call(PPOLL, 0, 0, 0, 0)
THREAD = CLONE.VM | CLONE.SIGHAND | CLONE.THREAD
KERNEL = kernel_version()

Made = Callable[..., int]


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """No child and no descriptor is left by any test in here."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, lowlevel.WALL | os.WNOHANG)
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert [mapping for mapping in lowlevel._in_use if mapping.in_use] == []


def python_child(run: Callable[[Clone], int], flags: int = 0, **fields: object) -> tuple[Clone, int]:
    """A Python child that exits with what run returns; the clone, and the exit code."""
    made = clone3(flags, **fields)  # type: ignore[arg-type]
    if made.pid == 0:
        status = 99
        try:
            status = run(made)
        finally:
            os._exit(status)
    return made, os.waitstatus_to_exitcode(made.wait())


def test_a_python_child_goes_on_in_a_copy_of_the_memory() -> None:
    """The child sees what the caller had, what it changes stays its own, and it has a pid of its own."""
    box = ["caller"]

    def run(made: Clone) -> int:
        seen = box[0]
        box[0] = "child"
        return 7 if seen == "caller" and os.getpid() != caller and os.getppid() == caller else 1

    caller = os.getpid()
    made, code = python_child(run)
    assert code == 7 and made.pid > 0 and box == ["caller"]


def test_a_python_child_runs_the_hooks_of_fork() -> None:
    """os.register_at_fork's functions run before the clone and after it, on the side they belong to."""
    script = (
        "import os; from ramet.lowlevel import clone3; seen = []\n"
        "os.register_at_fork(before=lambda: seen.append('before'),"
        " after_in_child=lambda: seen.append('child'), after_in_parent=lambda: seen.append('parent'))\n"
        "made = clone3()\n"
        "if made.pid: made.wait()\n"
        "os.write(1, ' '.join(seen).encode() + b'\\n')\n"
        "if not made.pid: os._exit(0)"
    )
    import subprocess

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["before child", "before parent"]


def test_a_python_child_has_its_own_tid_in_libc() -> None:
    """libc's copy of the thread id is renewed: an error-checking lock and raise() work in the child."""

    def run(made: Clone) -> int:
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(5))
        signal.raise_signal(signal.SIGUSR1)
        return 1

    assert python_child(run)[1] == 5


def test_a_python_child_can_start_threads_and_children() -> None:
    """The child is a sound interpreter: threads and children of its own work in it."""

    def run(made: Clone) -> int:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(1))
        thread.start()
        thread.join(10)
        return found[0] + python_child(lambda _: 3)[1]

    assert python_child(run)[1] == 4


@pytest.mark.parametrize("flags", [CLONE.VM, THREAD, CLONE.SETTLS])
def test_a_python_child_cannot_share_memory(flags: CLONE) -> None:
    """What a Python child can't have is refused before anything runs, and ramet.call is named."""
    with pytest.raises(SpecError, match=r"ramet\.call"):
        clone3(flags)


def test_a_python_child_cannot_have_a_stack() -> None:
    """A stack for a Python child is refused."""
    with pytest.raises(SpecError, match="stack"):
        clone3(stack=4096, stack_size=4096)


def test_a_python_child_of_a_caller_with_threads_is_refused() -> None:
    """With a second thread clone3 refuses, allow_threads overrides, and a plain child needs neither."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(SpecError, match="2 threads"):
            clone3()
        assert clone3(child=[], exit_status=3).wait() >> 8 == 3
        made = clone3(allow_threads=True)
        if made.pid == 0:
            os._exit(4)
        assert made.wait() >> 8 == 4
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("make", [clone3, clone])
@pytest.mark.parametrize("flags", [0, CLONE.VM, CLONE.VM | CLONE.VFORK, CLONE.FILES, CLONE.VM | CLONE.SIGHAND])
def test_a_plain_child_makes_its_calls(make: Callable[..., Clone], flags: int) -> None:
    """A plain child keeps what its calls returned, fills their buffers, exits with its status."""
    made = make(flags, child=[Call(GETPID), Call(GETCWD, Buffer(4096), 4096)], exit_status=9)
    assert os.waitstatus_to_exitcode(made.wait()) == 9
    assert made.results[0] == made.pid != os.getpid()
    assert made.output(1, 0)[: made.results[1]] == os.getcwdb() + b"\0"


def test_a_plain_child_uses_earlier_results() -> None:
    """Result is what an earlier call returned; a failed call is -errno, and the next one runs."""
    read, write = os.pipe()
    calls = [Call(DUP, write), Call(WRITE, Result(0), b"hello", 5), Call(CLOSE, -1), Call(GETEUID)]
    made = clone3(child=calls)
    made.wait()
    assert os.read(read, 10) == b"hello"
    assert made.results[1:] == (5, -errno.EBADF, os.geteuid())
    os.close(read)
    os.close(write)


def test_a_thread_child_leaves_the_caller_alone() -> None:
    """A CLONE_THREAD child has the caller's pid and its own tid, and only itself ends."""
    made = clone3(THREAD, child=[Call(GETPID), Call(GETTID)])
    assert made.wait(10) == 0
    assert made.results == (os.getpid(), made.pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(made.pid, lowlevel.WALL)


def test_descriptors_are_shared_only_with_clone_files() -> None:
    """What a child closes is closed for the caller with CLONE_FILES, and open without it."""
    for flags, shared in ((CLONE.FILES, True), (CLONE(0), False)):
        fd = os.open("/", os.O_PATH)
        clone3(flags, child=[Call(CLOSE, fd)]).wait()
        with pytest.raises(OSError, match="Bad file") if shared else contextlib.nullcontext():
            os.fstat(fd)
        if not shared:
            os.close(fd)


def test_a_forgotten_child_keeps_its_memory() -> None:
    """The mapping of a running CLONE_VM child outlives its Clone, and a later clone frees it."""
    read, write = os.pipe()
    made = clone3(CLONE.VM, child=[Call(63 if ARM else 0, read, Buffer(8), 1)])
    pid = made.pid
    assert made.shares_memory
    del made
    gc.collect()
    assert len(lowlevel._in_use) == 1
    os.write(write, b"x")
    assert os.waitpid(pid, lowlevel.WALL)[1] == 0
    clone3(child=[]).wait()
    assert lowlevel._in_use == []
    os.close(read)
    os.close(write)


def test_tids_are_written_where_the_flags_say() -> None:
    """The two SETTID flags write the child's tid on either side; without them nothing is."""
    both = CLONE.PARENT_SETTID | CLONE.CHILD_SETTID
    for more in (CLONE(0), CLONE.VM):
        made = clone3(both | more, child=[])
        made.wait()
        assert made.parent_tid == made.child_tid == made.pid
    bare = clone3(child=[])
    bare.wait()
    assert bare.parent_tid is None and bare.child_tid is None
    assert python_child(lambda made: made.child_tid == os.getpid(), both)[1] == 1


def test_words_of_ones_own_are_used() -> None:
    """child_tid and parent_tid may be addresses of the user's own words."""
    from ctypes import addressof, c_int32

    ours, theirs = c_int32(0), c_int32(1)
    made = clone3(CLONE.PARENT_SETTID, parent_tid=addressof(ours), child=[])
    made.wait()
    assert ours.value == made.pid and made.parent_tid is None
    flags = CLONE.VM | CLONE.VFORK | CLONE.CHILD_CLEARTID
    made = clone3(flags, child_tid=addressof(theirs), child=[])
    made.wait()
    assert theirs.value == 0


@pytest.mark.parametrize("exit_signal", [0, signal.SIGCHLD, signal.SIGUSR1])
def test_exit_signal_decides_who_sees_the_child(exit_signal: int) -> None:
    """A plain waitpid sees the child only with SIGCHLD; Clone.wait sees it always."""
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        made = clone3(exit_signal=exit_signal, child=[])
        if exit_signal != signal.SIGCHLD:
            with pytest.raises(ChildProcessError):
                os.waitpid(made.pid, 0)
        assert made.wait() == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == ([signal.SIGUSR1] if exit_signal == signal.SIGUSR1 else [])


def test_signals_are_blocked_in_a_plain_child_and_not_in_the_caller() -> None:
    """A plain child has every signal blocked, so no handler runs in it; the caller's mask is as it was."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    made = clone3(CLONE.VM, pidfd=True, child=[PAUSE])
    with open(f"/proc/{made.pid}/status") as status:
        blocked = next(line.split()[1] for line in status if line.startswith("SigBlk"))
    assert int(blocked, 16) == 0xFFFF_FFFF_FFFF_FFFF & ~(1 << 8 | 1 << 18)  # all but KILL and STOP
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    lowlevel.pidfd_send_signal(made.pidfd or -1, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(made.wait()) == -signal.SIGKILL
    made.close()


def test_set_tid_chooses_the_pid(new_pid_flags: CLONE) -> None:
    """In a new pid namespace set_tid names the first process 1, and anything else is EINVAL."""
    made = clone3(new_pid_flags, set_tid=[1], child=[Call(GETPID)])
    made.wait()
    assert made.results == (1,)
    with pytest.raises(OSError, match="clone3") as caught:
        clone3(new_pid_flags, set_tid=[2], child=[])
    assert caught.value.errno == errno.EINVAL


@pytest.fixture
def new_pid_flags() -> CLONE:
    """A new pid namespace, with what an ordinary user needs for it."""
    return CLONE.NEWPID if os.geteuid() == 0 else CLONE.NEWPID | CLONE.NEWUSER


def test_clone_cannot_say_what_clone3_can() -> None:
    """clone refuses flags that its word has no room for; clone3 takes them."""
    with pytest.raises(SpecError, match="CLONE_CLEAR_SIGHAND"):
        clone(CLONE.CLEAR_SIGHAND, child=[])
    with pytest.raises(SpecError, match="CLONE_NEWTIME"):
        clone(CLONE.NEWTIME, child=[])
    assert clone3(CLONE.CLEAR_SIGHAND, child=[]).wait() == 0


@pytest.mark.parametrize("make", [clone3, clone])
def test_what_the_kernel_refuses_is_an_oserror_with_the_calls_name(make: Callable[..., Clone]) -> None:
    """A refused combination raises OSError naming the call, and leaves no child, for both kinds of child."""
    with pytest.raises(OSError, match=make.__name__) as caught:
        make(CLONE.NEWUSER | CLONE.FS, child=[])
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match=make.__name__) as caught:
        make(CLONE.NEWUSER | CLONE.FS)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "wrong",
    [
        {"exit_status": 256},
        {"child": [Call(1, Result(0))]},
        {"exit_signal": -1},
        {"set_tid": [1 << 40]},
        {"tls": 1 << 64},
    ],
)
def test_fields_that_fit_nowhere_are_spec_errors(wrong: dict[str, object]) -> None:
    """A number that a field has no room for, or a result from later on, is a SpecError; nothing runs."""
    with pytest.raises(SpecError):
        clone3(**{"child": [], **wrong})  # type: ignore[arg-type]


def test_a_call_has_six_arguments_at_most() -> None:
    """A seventh argument is refused."""
    with pytest.raises(SpecError, match="six"):
        Call(1, *range(7))


def test_a_pidfd_stands_for_the_child() -> None:
    """pidfd=True gives a close-on-exec descriptor; wait, signal and info go through it."""
    with clone3(pidfd=True, child=[PAUSE]) as made:
        assert made.pidfd is not None and not os.get_inheritable(made.pidfd)
        with pytest.raises(TimeoutExpired):
            made.wait(0.01)
        if KERNEL >= (6, 13):
            info = lowlevel.pidfd_info(made.pidfd)
            assert (info.pid, info.tgid, info.ppid) == (made.pid, made.pid, os.getpid())
            assert (info.real_uid, info.exit_code) == (os.getuid(), None)
        lowlevel.pidfd_send_signal(made.pidfd, signal.SIGKILL)
        assert made.wait(10) == signal.SIGKILL
        with pytest.raises(ProcessLookupError, match="pidfd_send_signal"):
            lowlevel.pidfd_send_signal(made.pidfd, 0)
    assert made.pidfd is None
    without = clone3(child=[])
    with pytest.raises(SpecError, match="pidfd"):
        without.wait(1)
    without.wait()


@since(6, 15)
def test_the_status_of_what_was_reaped_is_kept_in_the_pidfd() -> None:
    """After somebody else has waited for the child, wait_pidfd still tells how it ended."""
    made = clone3(pidfd=True, child=[], exit_status=5)
    os.waitpid(made.pid, lowlevel.WALL)
    assert made.pidfd is not None
    assert wait_pidfd(made.pidfd, 5) == 5 << 8
    info = lowlevel.pidfd_info(made.pidfd)
    assert info.exit_code == 5 << 8 and info.pid is None
    made.close()


@since(7, 1)
def test_autoreap_and_autokill() -> None:
    """An AUTOREAP child leaves its status in the pidfd; closing an AUTOKILL pidfd kills."""
    with clone3(CLONE.AUTOREAP, pidfd=True, child=[], exit_status=3) as made:
        assert made.wait(10) == 3 << 8
    flags = CLONE.AUTOREAP | CLONE.PIDFD | CLONE.PIDFD_AUTOKILL | CLONE.NNP | CLONE.VM
    made = clone3(flags, child=[PAUSE])
    other = lowlevel.pidfd_open(made.pid)
    with pytest.raises(TimeoutExpired):
        wait_pidfd(other, 0.05)
    made.close()
    assert wait_pidfd(other, 10) == signal.SIGKILL
    os.close(other)


def test_pidfd_getfd_copies_a_descriptor() -> None:
    """pidfd_getfd gives a descriptor that the child has and the caller had closed."""
    read, write = os.pipe()
    made = clone3(pidfd=True, child=[PAUSE])
    os.close(write)
    assert made.pidfd is not None
    copy = lowlevel.pidfd_getfd(made.pidfd, write)
    os.write(copy, b"x")
    assert os.read(read, 1) == b"x"
    lowlevel.pidfd_send_signal(made.pidfd, signal.SIGKILL)
    made.wait(10)
    for fd in (read, copy):
        os.close(fd)
    made.close()


def test_pidfd_open_of_nobody_is_esrch() -> None:
    """pidfd_open of a child that was reaped is ESRCH; of the caller it is a descriptor."""
    made = clone3(child=[])
    made.wait()
    with pytest.raises(ProcessLookupError, match="pidfd_open"):
        lowlevel.pidfd_open(made.pid)
    os.close(lowlevel.pidfd_open(os.getpid(), PIDFD.NONBLOCK))


def test_unshare_and_setns_change_the_namespace() -> None:
    """unshare gives the caller a namespace of its own, and setns with a pidfd or a file leads into it."""

    def link(kind: str, pid: int | str = "self") -> str:
        return os.readlink(f"/proc/{pid}/ns/{kind}")

    def run(made: Clone) -> int:
        before = link("uts")
        lowlevel.unshare(CLONE.NEWUSER | CLONE.NEWUTS)
        own = link("uts")
        fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
        lowlevel.unshare(CLONE.NEWUTS)
        third = link("uts")
        lowlevel.setns(fd, CLONE.NEWUTS)
        with clone3(CLONE.NEWUTS, pidfd=True, child=[PAUSE]) as other:
            assert other.pidfd is not None
            theirs = link("uts", other.pid)
            back = link("uts")
            lowlevel.setns(other.pidfd, CLONE.NEWUTS)
            joined = link("uts")
            lowlevel.pidfd_send_signal(other.pidfd, signal.SIGKILL)
            other.wait(10)
        return 0 if back == own and joined == theirs and third != own and len({before, own, theirs}) == 3 else 1

    assert python_child(run)[1] == 0


def test_execveat_becomes_the_program() -> None:
    """execveat runs a path, or with AT.EMPTY_PATH the descriptor, with arguments and environment."""
    sh = os.open("/bin/sh", os.O_PATH)

    def by_fd(made: Clone) -> int:
        lowlevel.execveat(sh, "", ["sh", "-c", 'exit "$X$1"', "sh", "2"], {"X": "4"}, AT.EMPTY_PATH)
        return 1

    def by_path(made: Clone) -> int:
        lowlevel.execveat(lowlevel.AT_FDCWD, "/bin/sh", ["sh", "-c", "exit 8"])
        return 1

    assert python_child(by_fd)[1] == 42
    assert python_child(by_path)[1] == 8
    os.close(sh)
    with pytest.raises(FileNotFoundError, match="execveat"):
        lowlevel.execveat(lowlevel.AT_FDCWD, "/nonexistent", ["x"])
    with pytest.raises(SpecError, match="empty"):
        lowlevel.execveat(lowlevel.AT_FDCWD, "/bin/sh", [])
    with pytest.raises(SpecError, match="NUL"):
        lowlevel.execveat(lowlevel.AT_FDCWD, "/bin/sh", ["a\0b"])


def test_into_cgroup_needs_a_cgroup() -> None:
    """A descriptor that is no version 2 cgroup is EBADF; cgroup= sets CLONE_INTO_CGROUP by itself."""
    with open("/dev/null") as null, pytest.raises(OSError, match="clone3") as caught:
        clone3(cgroup=null.fileno(), child=[])
    assert caught.value.errno == errno.EBADF
