"""begin: a child that is started, and met later."""

import gc
import os
import select
import signal
import socket
import time

import pytest

from ramet import _core
from ramet.plan.encode import encode
from ramet.plan.steps import Block, Builder, Slot, Stage

NEWUSER, NEWUTS, NEWNET = 0x10000000, 0x4000000, 0x40000000
CONTROL = Slot("control")
MACHINE = os.uname().machine


def program(*, build=lambda b: None, **options):
    """Steps that tell when they are reached, and wait to be let go."""
    b = Builder()
    b.about("test", "be there")
    b.call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    b.call("close_range", 1000, 2**32 - 1, 2)  # CLOSE_RANGE_UNSHARE: until then it shares our descriptors
    build(b)
    b.call("write", CONTROL, b"R", 1, expect=1)
    b.call("read", CONTROL, Block(bytes(8), text='""'), 1, expect=1)
    return encode(Stage("child", tuple(b.steps)), MACHINE, **options)


class Begun:
    """What begin returns, and the end of the socket that is the child's: ours too, until the child was met and so has its own."""

    def __init__(self, core, mine, its):
        self.core, self.mine, self.its, self.end = core, mine, its, core.end

    def meet(self, sync):
        def met(pid, pidfd):
            select.select([self.mine, pidfd], [], [])  # it is there, or has ended
            self.its.close()
            sync(pid, pidfd)

        self.core.meet(met)


def begin(flags=NEWUSER | NEWUTS, child=None):
    """The object, and our end of its socket."""
    child = child or program()
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Begun(_core.begin(child.blob, [(child.offsets[CONTROL], its.fileno())], flags), mine, its), mine


def whole(begun, mine):
    """Met, let go, and ended with all of its steps made."""
    begun.meet(lambda pid, pidfd: mine.send(b"G"))
    return begun.end()


def children():
    with open("/proc/thread-self/children") as file:
        return file.read().split()


def test_met_and_ended():
    """The child is in namespaces of its own, waits until it was met and let go, and then it is gone and reaped."""
    before = children()
    begun, mine = begin()
    seen = []

    def sync(pid, pidfd):
        seen.append((os.readlink(f"/proc/{pid}/ns/uts"), os.fstat(pidfd).st_ino > 0, str(pid) in children()))
        assert mine.recv(1) == b"R"
        mine.send(b"G")

    begun.meet(sync)
    assert seen == [(seen[0][0], True, True)] and seen[0][0] != os.readlink("/proc/self/ns/uts")
    assert begun.end() is True
    assert children() == before
    for again in (lambda: begun.meet(sync), begun.end):
        with pytest.raises(ValueError, match="nothing was begun here"):
            again()


def test_dropped_before_it_was_met():
    """Whoever drops the object ends the child, whether it waits already or is just being made; 50 times at random moments."""
    before = children()
    for turn in range(50):
        begun, mine = begin(NEWUSER | NEWNET)
        time.sleep(turn * 0.00002)
        del begun
        gc.collect()
        assert mine.recv(1) in (b"R", b"")
        mine.close()
        assert children() == before


def test_a_step_that_fails_is_noticed():
    """A child of which a step fails is not whole, and nothing is left."""
    before = children()

    def wrong(b):
        b.call("close", -1)

    begun, mine = begin(child=program(build=wrong))
    begun.meet(lambda pid, pidfd: None)
    assert mine.recv(1) == b""  # it has ended
    assert begun.end() is False
    assert children() == before


def test_a_clone_that_is_refused():
    """What the kernel refuses is an OSError, and nothing is left."""
    before = children()
    with pytest.raises(OSError, match="clone3"):
        begin(0x20000 | 0x200)  # CLONE_NEWNS with CLONE_FS
    assert children() == before


def test_an_exception_while_it_is_met():
    """An exception of the caller's part comes out as it is; the child is gone when the object is."""
    before = children()
    begun, _mine = begin()
    with pytest.raises(LookupError, match="on purpose"):
        begun.meet(lambda pid, pidfd: (_ for _ in ()).throw(LookupError("on purpose")))
    del begun
    assert children() == before


def test_a_fork_leaves_it_to_its_parent():
    """A forked copy of the object can't be used, and dropping it ends nothing; the parent's goes on."""
    begun, mine = begin()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            begun.end()
        except ValueError:
            del begun
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert whole(begun, mine)


def test_signals_in_between_reach_the_caller_alone():
    """A timer's signals are all the caller's: none is lost or taken by a child, and the mask afterwards is the one before."""
    count = []
    old = signal.signal(signal.SIGALRM, lambda *_: count.append(1))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(30):
            assert whole(*begin())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert count
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_one_that_is_killed_is_not_whole():
    """A child that somebody kills while it waits has not made its steps; end says so, and does not wait for ever."""
    begun, mine = begin()
    begun.meet(lambda pid, pidfd: signal.pidfd_send_signal(pidfd, signal.SIGKILL))
    assert begun.end() is False
    mine.close()


def test_a_malformed_program_is_refused():
    """Bytes that are no program raise ValueError before anything is cloned."""
    with pytest.raises(ValueError, match="malformed"):
        _core.begin(b"rubbish", [], 0)
    with pytest.raises(TypeError):
        _core.begin(bytearray(program().blob), [], 0)
    with pytest.raises(TypeError):
        _core.Begun()


def test_out_of_processes_is_an_oserror():
    """The control of the rest: where the kernel makes no process at all, begin says so."""
    if os.geteuid() == 0:
        pytest.skip("only as an ordinary user: RLIMIT_NPROC is not root's")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    try:
        with pytest.raises(BlockingIOError):
            begin()
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
