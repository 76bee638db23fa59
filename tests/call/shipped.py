"""Isolated functions as a program has them in a module of its own, and their hostile kin: the tests ship them to other processes."""

import os
import signal

import ramet

GENEROUS = 120


class Own(Exception):
    pass


class Other(Exception):
    pass


def plain(n):
    return n + 1


@ramet.isolated(timeout=GENEROUS)
def square(n):
    return n * n


@ramet.isolated(timeout=GENEROUS)
def where():
    """What tells that it runs in a sandbox: its uid, and whether this file can be seen."""
    return os.getuid(), os.path.exists(__file__)


@ramet.isolated(timeout=GENEROUS, exceptions=[Own])
def fail(kind):
    raise {"builtin": KeyError("k"), "named": Own("x", 2), "other": Other("y")}[kind]


class Scale:
    def __init__(self, factor):
        self.factor = factor

    @ramet.isolated(timeout=GENEROUS)
    def of(self, n):
        return self.factor * n


# What a cluster is sent


@ramet.isolated(timeout=0.5)
def loops(n):
    while True:
        pass


@ramet.isolated(memory="48M", timeout=GENEROUS)
def eats(n):
    held = []
    while True:
        held.append(bytearray(1 << 20))


@ramet.isolated(timeout=GENEROUS)
def kills_its_parent(n):
    """Whom it takes for its parent, and everybody else that it may signal."""
    for pid in (os.getppid(), -1):
        try:
            os.kill(pid, signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            continue  # init is not its to signal, and there is nobody else
    return n


@ramet.isolated(timeout=GENEROUS)
def dies(n):
    os.kill(os.getpid(), signal.SIGSEGV)


@ramet.isolated(timeout=GENEROUS)
def leaves(n):
    os._exit(3)


@ramet.isolated(timeout=GENEROUS)
def raises(n):
    raise ValueError(n)


@ramet.isolated(timeout=GENEROUS)
def forges(n):
    """Rubbish into every descriptor that takes it, the channel of results among them."""
    for fd in range(3, 200):
        try:
            os.write(fd, b"\x80rubbish" * 20)
        except OSError:
            continue
    return n


#: What the verdict on each is: status, and the exception that a call raises.
HOSTILE = {
    loops: ("timed-out", "TimeLimitError"),
    eats: ("out-of-memory", "MemoryLimitError"),
    dies: ("signaled", "ExitError"),
    leaves: ("exited", "ExitError"),
    raises: ("exited", "ValueError"),
    forges: ("exited", "ResultError"),
}
#: Of so many, each of these once, and twice the one that kills its parent.
TURN = 40


def job(n):
    """The n-th: which function, and what must come of it: value, status, exception."""
    turn, hostile = n % TURN, list(HOSTILE)
    if turn < len(hostile):
        return hostile[turn], (None, *HOSTILE[hostile[turn]])
    if turn < len(hostile) + 2:
        return kills_its_parent, (n, "exited", None)
    return square, (n * n, "exited", None)


def verdict(result):
    """Of a FunctionResult, in the form of `job`."""
    return result.value, result.status, result.exception and type(result.exception).__name__
