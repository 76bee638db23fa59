"""A function in a sandbox of its own: what comes back, how it may end, and that it is in one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings

import pytest

import ramet
from needs import need
from ramet import isolated
from ramet.plan.check import check


def same(value):
    return value


def fail_with(error):
    raise error


#: clock_nanosleep on x86-64 and aarch64
SLEEPS = ("230", "115")


class Own(Exception):
    made = 0

    def __init__(self, first, second):
        super().__init__(first, second)
        Own.made += 1


# What comes back


def test_value_and_arguments():
    """The value comes back; arguments, closures and lambdas go in without being serialised."""
    lock = threading.Lock()
    assert isolated(lambda a, *, b: (a, b, lock.locked()))(1, b=[2]) == (1, [2], False)


def test_it_is_another_process_in_a_sandbox():
    """The function has another pid, no capabilities, no network and none of the host's files; called directly it has the caller's."""

    def look():
        return os.getpid(), sorted(name for _, name in socket.if_nameindex()), os.path.exists(__file__), os.getuid()

    pid, interfaces, sees_us, uid = isolated(look)()
    assert (pid, interfaces, sees_us, uid) == (2, ["lo"], False, 1000)
    assert look()[0] == os.getpid()
    assert look()[2]


def test_changes_stay_inside():
    """What it changes in its memory, environment and directory is its own copy's."""
    box = [1]

    def change():
        box.append(2)
        os.environ["RAMET_TEST"] = "set"
        os.chdir("/")
        random.seed(1)
        return len(box), os.getcwd()

    before = os.getcwd(), random.getstate()
    assert isolated(change)() == (2, "/")
    assert box == [1]
    assert "RAMET_TEST" not in os.environ
    assert (os.getcwd(), random.getstate()) == before


def test_environment_is_the_sandbox():
    """os.environ is what env= says; the caller's own variables are not in it, nor in that of what it starts."""
    os.environ["RAMET_SECRET"] = "s"
    try:
        look = isolated(lambda: (dict(os.environ), subprocess.check_output(["env"], text=True)), env={"A": "1"})
        seen, started = look()
    finally:
        del os.environ["RAMET_SECRET"]
    assert seen["A"] == "1"
    assert "A=1" in started
    assert "RAMET_SECRET" not in seen
    assert "RAMET_SECRET" not in started


def test_temporary_files(monkeypatch, tmp_path):
    """tempfile finds the sandbox's own directory, also where the caller's is elsewhere and known already."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert tempfile.gettempdir() == str(tmp_path)
    assert isolated(tempfile.gettempdir)() == "/tmp"
    assert tempfile.gettempdir() == str(tmp_path)


def test_a_method_and_a_decorator():
    """The decorator takes fields of Sandbox, keeps name and docstring, and works on methods."""

    class Parser:
        factor = 3

        @isolated(hostname="box", timeout=30)
        def parse(self, n):
            """Docs."""
            return n * self.factor, socket.gethostname()

    assert Parser().parse(2) == (6, "box")
    assert Parser().parse.run(3).value == (9, "box")
    assert (Parser.parse.__name__, Parser.parse.__doc__) == ("parse", "Docs.")


decorated = isolated(timeout=30)(same)
decorated.__qualname__ = "decorated"  # as the decorator syntax would have it


def test_pickles():
    """An isolated function goes to other processes: by its name where it stands for the function, else as a whole."""
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    copy = pickle.loads(pickle.dumps(isolated(same, hostname="elsewhere")))
    assert copy.sandbox.hostname == "elsewhere"
    assert copy(5) == 5


def test_coroutine_function():
    """A coroutine function is run to its end, whether or not the caller is in an event loop."""

    async def work(n):
        await asyncio.sleep(0)
        return n + 1

    async def outer():
        return isolated(work)(1)

    assert isolated(work)(1) == 2
    assert asyncio.run(outer()) == 2


def test_generator_functions_are_refused():
    """A generator function is refused when it is wrapped; a generator as a value, by its type."""

    def generate():
        yield 1

    with pytest.raises(ramet.SpecTypeError, match="generator function"):
        isolated(generate)
    with pytest.raises(ramet.ResultError, match=r"value: builtins\.generator"):
        isolated(lambda: (n for n in "ab"))()


def test_works_without_ramet_in_the_root():
    """What the function's process needs of ramet and the standard library is loaded before the fork."""

    def raises():
        raise ValueError(1)

    assert isolated(same, rootfs="empty")((1, {2})) == (1, {2})
    with pytest.raises(ValueError, match="1"):
        isolated(raises, rootfs="empty")()


@pytest.mark.parametrize(
    "fields",
    [{"as_pid1": True}, {"namespaces": ()}, {"capabilities": {"CAP_CHOWN"}}, {"no_new_privs": False}],
    ids=lambda fields: next(iter(fields)),
)
def test_other_shapes(fields):
    """It works with and without init, namespaces, capabilities and no_new_privs; the plan is in order."""
    if fields.get("namespaces") == () and os.geteuid() == 0:
        pid = isolated(os.getpid, **fields)()
        assert pid > 2
        return
    assert isolated(same, **fields)("x") == "x"


def test_the_plan_is_in_order():
    """A function's payload stage executes nothing, shows its memory when its rights are gone, and unblocks signals last."""
    plan = isolated(same).plan()
    assert not [line for line in check(plan) if line.startswith("payload")]
    calls = [step.call for step in plan.stages["payload"].steps]
    assert calls[-1] == "rt_sigprocmask"
    assert "execve" not in calls
    control = ramet.Sandbox().plan(["true"])
    assert control.stages["payload"].steps[-1].call == "execve"


# Exceptions


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        FileNotFoundError(2, "No such file or directory", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        MemoryError(),
        AttributeError("no", name="x"),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_builtin_exceptions_come_back(error):
    """A builtin exception has its type, arguments, notes, and as cause the traceback that it had there."""
    error.add_note("a note")
    with pytest.raises(type(error)) as caught:
        isolated(fail_with)(error)
    assert caught.value.args == error.args
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "name", None) == getattr(error, "name", None)
    assert caught.value.__notes__ == ["a note"]
    assert isinstance(caught.value.__cause__, ramet.RemoteTraceback)
    assert "in fail_with\n    raise error" in str(caught.value.__cause__)


def test_other_exceptions_by_name():
    """Any other exception is a RemoteError with its name, text, notes and traceback."""
    error = Own("x", 2)
    error.add_note("n")
    with pytest.raises(ramet.RemoteError, match=r"test_isolated\.Own: \('x', 2\)") as caught:
        isolated(fail_with)(error)
    assert caught.value.type_name == f"{__name__}.Own"
    assert caught.value.notes == ("n",)
    assert "in fail_with" in caught.value.traceback


def test_own_exceptions_that_are_named():
    """A class in `exceptions` comes back as itself, with those of its attributes that can be sent, and without its __init__ being run."""
    error = Own("x", 2)
    error.more, error.lock = {"code": (7, "\udc80")}, threading.Lock()
    made = Own.made
    with pytest.raises(Own) as caught:
        isolated(fail_with, exceptions=[Own])(error)
    assert (caught.value.args, caught.value.more, Own.made) == (("x", 2), {"code": (7, "\udc80")}, made)
    assert not hasattr(caught.value, "lock")
    with pytest.raises(json.JSONDecodeError) as caught:
        isolated(json.loads, exceptions=[json.JSONDecodeError])("[1,")
    assert (caught.value.pos, caught.value.doc) == (3, "[1,")


class Missing(FileNotFoundError):
    """Of Python's own by its C fields, which are no attributes of its dictionary."""

    def __init__(self, code, path):
        super().__init__(code, "is missing", path)

    def __new__(cls, *args):
        raise AssertionError("its code is run")


def test_own_exceptions_made_of_pythons():
    """A class in `exceptions` is made by what it inherits of Python's own, whose fields it has; code of its class is not run."""
    error = OSError.__new__(Missing, 2, "is missing")
    OSError.__init__(error, 2, "is missing")
    with pytest.raises(Missing) as caught:
        isolated(fail_with, exceptions=[Missing])(error)
    assert (caught.value.errno, caught.value.strerror) == (2, "is missing")
    with pytest.raises(AssertionError):  # the control
        Missing(2, "x")


@pytest.mark.parametrize("text", ["\ud800", "plain"])
def test_text_that_is_no_utf8_in_an_exception(text):
    """An exception comes back whatever text is in it: halves of surrogate pairs, as of file names that are no UTF-8, too."""
    for error in (ValueError(text, [text]), OSError(2, text, text), ExceptionGroup(text, [KeyError(text)])):
        error.add_note(text)
        with pytest.raises(type(error)) as caught:
            isolated(fail_with)(error)
        assert (str(caught.value), caught.value.__notes__) == (str(error), [text])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), StopIteration(3)], ids=repr)
def test_what_would_steer_the_caller_is_told_only(error):
    """KeyboardInterrupt, GeneratorExit and StopIteration would end the caller, or its loop: they are RemoteErrors."""
    with pytest.raises(ramet.RemoteError, match=type(error).__name__):
        isolated(fail_with)(error)


def test_exception_groups():
    """An ExceptionGroup comes back with what is in it."""
    with pytest.raises(ExceptionGroup) as caught:
        isolated(fail_with)(ExceptionGroup("both", [ValueError(1), Own(1, 2)]))
    assert [type(one) for one in caught.value.exceptions] == [ValueError, ramet.RemoteError]
    assert (caught.value.message, str(caught.value)) == ("both", "both (2 sub-exceptions)")


def test_an_exception_whose_str_raises():
    """An exception that can't be shown is told as such."""

    class Bad(Exception):
        def __str__(self):
            raise RuntimeError

        __repr__ = __str__

    with pytest.raises(ramet.RemoteError, match="its __str__ raised RuntimeError"):
        isolated(fail_with)(Bad())


def test_an_exception_that_lies_about_its_class():
    """What __class__ says does not count."""

    class Liar(Exception):
        @property
        def __class__(self):
            return ValueError

    with pytest.raises(ramet.RemoteError, match="Liar"):
        isolated(fail_with)(Liar("x"))


def test_arguments_that_cannot_be_sent():
    """A builtin exception with an argument of no form on the wire is a RemoteError."""
    with pytest.raises(ramet.RemoteError, match=r"builtins\.ValueError"):
        isolated(lambda: fail_with(ValueError(lambda: 0)))()


# How it may end


@pytest.mark.parametrize(
    ("leave", "code"),
    [(lambda: sys.exit(17), 17), (lambda: sys.exit(), 0), (lambda: sys.exit("why"), 1), (lambda: os._exit(3), 3)],
    ids=["17", "none", "text", "_exit"],
)
def test_leaving_is_no_result(leave, code):
    """sys.exit and os._exit end the function's process, and not the caller's; there is no value then, even with 0."""
    with pytest.raises(ramet.ExitError) as caught:
        isolated(leave)()
    assert caught.value.result.exit_code == code
    result = isolated(leave).run()
    assert not result.ok
    assert (result.status, result.exit_code, result.value) == ("exited", code, None)
    assert (result.stderr == b"why\n") == (code == 1)


def test_a_function_that_is_killed():
    """A function that dies of a signal is an ExitError that says which."""
    with pytest.raises(ramet.ExitError, match="SIGKILL") as caught:
        isolated(lambda: os.kill(os.getpid(), signal.SIGKILL))()
    assert caught.value.result.signal == signal.SIGKILL


def test_timeout():
    """A function that takes too long is a TimeLimitError, which is a TimeoutError, and has usage; a fast one is not."""
    with pytest.raises(TimeoutError) as caught:
        isolated(time.sleep, timeout=0.3)(600)
    assert isinstance(caught.value, ramet.TimeLimitError)
    assert caught.value.result.status == "timed-out"
    assert 0.3 <= caught.value.result.usage.wall < 600
    assert isolated(time.sleep, timeout=30)(0) is None


@pytest.fixture(autouse=True, scope="module")
def no_place_is_kept():
    """What other tests have left open of control groups is closed before the descriptors are counted."""
    from ramet import cgroups

    cgroups.forget()


def test_memory_limit():
    """A function that takes more memory than it may is a MemoryLimitError, which is a MemoryError; the caller goes on."""
    from ramet import cgroups

    try:
        need(cgroups.find().facts["memory"].ok, "a control group that limits memory")
        grow = isolated(lambda size: len(bytearray(size)), memory="64M")
        assert grow(1 << 20) == 1 << 20
        with pytest.raises(MemoryError) as caught:
            grow(300 << 20)
    finally:
        cgroups.forget()  # kept open on purpose, once for a process
    assert isinstance(caught.value, ramet.MemoryLimitError)
    assert caught.value.result.status == "out-of-memory"
    assert caught.value.result.limits_hit == ("out-of-memory",)


def test_a_fork_inside():
    """A copy that the function forks and that comes out of it tells nothing: the result is the function's."""

    def forks():
        if os.fork() == 0:
            return "copy"
        os.wait()
        return "function"

    assert isolated(forks)() == "function"


def test_threads_left_running():
    """Threads that the function leaves do not keep its process, whether they are daemons or not."""

    def leaves():
        threading.Thread(target=time.sleep, args=(600,)).start()
        return threading.active_count()

    assert isolated(leaves)() == 2


def test_descriptors_of_the_caller_are_out_of_reach():
    """A descriptor that the caller has open is none of the function's; an object that closes one closes nothing of its."""
    with open(__file__) as file:
        number = file.fileno()

        def look():
            target = os.readlink(f"/proc/self/fd/{number}")
            opened = open("/etc/passwd")
            file.close()
            return target, bool(opened.read())

        assert isolated(look)() == ("/dev/null", True)
        assert os.readlink(f"/proc/self/fd/{number}") == __file__


def test_signals_are_default():
    """Handlers of the caller are not the function's; Ctrl-C is KeyboardInterrupt as in every Python."""
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:

        def look():
            return signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL, not signal.pthread_sigmask(signal.SIG_BLOCK, ())

        assert isolated(look)() == (True, True)
        with pytest.raises(ramet.ExitError, match="SIGUSR1"):
            isolated(lambda: (os.kill(os.getpid(), signal.SIGUSR1), time.sleep(60)))()
        with pytest.raises(ramet.RemoteError, match="KeyboardInterrupt"):
            isolated(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)))()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_no_finalizer_of_the_caller_runs_inside():
    """Garbage of the caller's is not collected in the copy; the function's own is."""
    ran = []

    class Garbage:
        def __init__(self, name):
            self.me, self.name = self, name

        def __del__(self):
            ran.append(self.name)

    def collect():
        import gc

        Garbage("function")
        gc.collect()
        return list(ran)

    Garbage("caller")
    inside = isolated(collect)()
    assert inside.count("function") == 1
    assert "caller" not in inside[inside.index("function") :]


# Output


def test_output_is_captured_by_run():
    """run() has what went to descriptors 1 and 2, through Python and past it; nothing of the caller's own buffer."""

    def write():
        print("printed")
        sys.stdout.flush()
        os.write(1, b"raw\n")
        print("error", file=sys.stderr)
        os.system("echo shell")

    result = isolated(write).run()
    assert result.stdout == b"printed\nraw\nshell\n"
    assert result.stderr == b"error\n"
    assert result.ok


def test_output_is_passed_on_by_a_call(capsys):
    """A call passes on what the function writes, to sys.stdout and sys.stderr as they are for the caller."""
    isolated(lambda: (print("out ü"), os.write(2, b"err\xff")))()
    assert capsys.readouterr() == ("out ü\n", "err\\xff")


def test_warnings_and_logs_are_forwarded(caplog):
    """Warnings go through the caller's filters, records to the caller's logger of that name, with their tracebacks."""
    logging.getLogger("ramet.test.known")

    def speak():
        warnings.warn("careful", RuntimeWarning, stacklevel=1)
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("ramet.test.known").exception("oh %s", 1)
        logging.getLogger("ramet.test.new").warning("new")

    with pytest.warns(RuntimeWarning, match="careful"):
        isolated(speak)()
    known, new = caplog.records
    assert (known.name, known.getMessage(), known.levelno) == ("ramet.test.known", "oh 1", logging.ERROR)
    assert "ValueError: inner" in known.exc_text
    assert (known.filename, known.module, known.pathname) == ("test_isolated.py", "test_isolated", __file__)
    assert new.getMessage() == "new"
    assert "ramet.test.new" not in logging.root.manager.loggerDict


# Who calls


def test_many_at_once_from_threads():
    """Twenty threads call isolated functions at once, while others hold locks; every value is the right one."""
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            logging.getLogger("busy").debug("x")
            list(range(1000))

    noise = [threading.Thread(target=busy) for _ in range(3)]
    found = {}

    def work(n):
        found[n] = isolated(same, timeout=50)({"n": n})

    workers = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    try:
        for thread in noise + workers:
            thread.start()
        for thread in workers:
            thread.join()
    finally:
        stop.set()
        for thread in noise:
            thread.join()
    assert found == {n: {"n": n} for n in range(20)}


@pytest.mark.parametrize("fields", ["", "as_pid1=True"])
def test_it_dies_with_the_caller(fields):
    """When the caller is killed, the function ends, with init and without."""
    code = f"""
        import ramet, time
        ramet.isolated(time.sleep, hostname="dies", {fields})(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as caller:
        everyone = _wait_for(lambda: _sleeping(_below(caller.pid)))
        assert everyone
        caller.kill()
    assert _wait_for(lambda: not [pid for pid in everyone if os.path.exists(f"/proc/{pid}")])


def _wait_for(look):
    deadline = time.monotonic() + 20
    while not (found := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _sleeping(pids):
    """The processes, once one of them is in the function: the host name is the sandbox's, and it sleeps."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/syscall") as file:
                if file.read().split()[0] in SLEEPS:
                    return pids
        except OSError:
            continue
    return []


def _below(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in file.read().split():
                    found += [int(child), *_below(int(child))]
    except OSError:
        return found  # it has ended: on the way to a sandbox some do
    return found


def interrupted_sleep():
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    isolated(time.sleep)(600)


def test_ctrl_c_ends_it():
    """KeyboardInterrupt in the caller ends the function and leaves nothing."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted_sleep()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_step_that_fails_is_told():
    """A sandbox that can't be made is the same StepError as for a program, and the function is not called."""
    called = []
    with pytest.raises(ramet.StepError, match="enter the working directory"):
        isolated(lambda: called.append(1), workdir="/nowhere")()
    assert not called


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"results": "json"}, "results: must be one of plain, pickle"),
        ({"exceptions": [int]}, r"exceptions\[0\]: must be an exception class"),
        ({"results_max": "1X"}, "results_max"),
        ({"memroy": 1}, "memory"),
    ],
)
def test_bad_options(options, match):
    """A bad option is refused when the function is wrapped, with its name."""
    with pytest.raises(ramet.SpecError, match=match):
        isolated(same, **options)


def test_what_cannot_be_called():
    """Something that is no function is refused."""
    with pytest.raises(ramet.SpecTypeError, match="can't be called"):
        isolated(5)


def test_without_msgspec():
    """Without msgspec the error says what to install, and nothing ran."""
    code = """
        import sys
        sys.modules["msgspec"] = None
        import ramet
        try:
            ramet.isolated(print)("ran")
        except ramet.UnsupportedError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "pip install 'ramet[functions]'" in done.stdout
    assert "ran\n" not in done.stdout
