"""Popen: a process handle in the shape of the standard library's."""

import gc
import os
import select
import signal
import sys
import threading
import time

import pytest

import ramet
from ramet import PIPE, CommandError, ExitError, Popen, SpecError, StepError, TimeoutExpired
from ramet.plan.compile import CLONE_AUTOREAP
from ramet.run.streams import Streams

needs_exit_info = pytest.mark.skipif(
    tuple(int(n) for n in os.uname().release.split(".")[:2]) < (6, 15),
    reason="only on Linux 6.15 and later: PIDFD_INFO_EXIT tells how a process ended that others have reaped",
)


def wait_readable(fd, seconds=20):
    return bool(select.select([fd], [], [], seconds)[0])


def test_wait_poll_returncode():
    """poll() is None while it runs; wait() gives the code; afterwards both, and returncode, stay."""
    with Popen(["sh", "-c", "read line; exit 7"], stdin=PIPE) as box:
        assert box.poll() is None
        assert box.returncode is None
        box.stdin.close()
        assert box.wait() == 7
        assert (box.poll(), box.returncode, box.wait()) == (7, 7, 7)


def test_returncode_of_a_signal():
    """A signal is a negative return code, as in subprocess."""
    with Popen(["sh", "-c", "kill -TERM $$"]) as box:
        assert box.wait() == -15


@pytest.mark.parametrize("as_pid1", [False, True])
def test_wait_timeout(as_pid1):
    """wait(timeout) raises TimeoutExpired, a TimeoutError; the sandbox goes on and can be waited for again."""
    with Popen(["sh", "-c", "read line; exit 4"], stdin=PIPE, as_pid1=as_pid1) as box:
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutExpired) as caught:
                box.wait(timeout=timeout)
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.seconds == timeout
        box.stdin.close()
        assert box.wait(timeout=20) == 4


def test_communicate_timeout_keeps_running():
    """communicate(timeout) raises TimeoutExpired; the sandbox goes on."""
    with Popen(["sleep", "600"], stdin=PIPE, stdout=PIPE) as box:
        with pytest.raises(TimeoutExpired):
            box.communicate(timeout=0.05)
        assert box.poll() is None
        box.kill()
        assert box.wait(timeout=20) == -9


def test_communicate_again_after_a_timeout():
    """After a timeout communicate can be called again, and nothing of the output is lost, as in subprocess."""
    reader, writer = os.pipe()
    code = f"import os, sys; print(sys.stdin.read(), flush=True); os.read({reader}, 1); print('two')"
    with Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, pass_fds=[reader]) as box:
        os.close(reader)
        with pytest.raises(TimeoutExpired):
            box.communicate(b"one", timeout=0.3)
        with pytest.raises(SpecError):
            box.communicate(b"more")
        os.write(writer, b"x")
        os.close(writer)
        out, _ = box.communicate(timeout=20)
        assert out == b"one\ntwo\n"


@pytest.mark.parametrize("as_pid1", [False, True])
def test_run_timeout(as_pid1):
    """A run past its timeout is killed with all its processes: status "timed-out", and what it said so far is there."""
    start = time.monotonic()
    result = ramet.run(["sh", "-c", "echo so far; sleep 600 & sleep 600"], timeout=2, as_pid1=as_pid1, text=True)
    assert (result.status, result.exit_code, result.signal) == ("timed-out", None, 9)
    assert result.stdout == "so far\n"
    assert 2 <= result.duration <= time.monotonic() - start < 50
    assert not result.ok


def test_timeout_as_text_and_in_the_spec():
    """A timeout may be text, and may stand in the Sandbox."""
    assert ramet.run(["sleep", "600"], timeout="100ms").status == "timed-out"
    assert ramet.run(["sleep", "600"], ramet.Sandbox(timeout=0.1)).status == "timed-out"
    assert ramet.run(["true"], timeout="1m30s").status == "exited"


def test_timeout_of_a_payload_that_closed_its_streams():
    """A payload that has closed stdout and stderr still runs out of time."""
    result = ramet.run(["sh", "-c", "exec >&- 2>&-; sleep 600"], timeout=0.2)
    assert result.status == "timed-out"


def test_stream_held_by_nobody_but_a_daemon():
    """A daemon that holds stdout does not make run() wait: it ends with the payload."""
    result = ramet.run(["sh", "-c", "setsid sleep 600 & echo done"], timeout=30, text=True)
    assert (result.status, result.stdout) == ("exited", "done\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM, signal.SIGWINCH, 40])
def test_send_signal_reaches_the_payload(number):
    """send_signal gives the payload this very signal, through init, and not init itself."""
    code = (
        "import signal, sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{int(number)}])\n"
        "print('ready', flush=True)\n"
        f"info = signal.sigwaitinfo([{int(number)}])\n"
        "print(info.si_signo)\n"
    )
    with Popen([sys.executable, "-I", "-S", "-c", code], stdout=PIPE, text=True) as box:
        assert box.stdout.readline() == "ready\n"
        box.send_signal(number)
        assert box.stdout.readline() == f"{int(number)}\n"
        assert box.wait(timeout=20) == 0


def test_terminate():
    """terminate() is SIGTERM to the payload, which may catch it."""
    with Popen(["sleep", "600"]) as box:
        box.terminate()
        assert box.wait(timeout=20) == -15
    with Popen(["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 600 & wait; done"], stdout=PIPE) as box:
        box.stdout.readline()
        box.terminate()
        assert box.wait(timeout=20) == 3


def test_terminate_as_pid1():
    """A payload that is pid 1 is immune to a SIGTERM that it does not catch, as the kernel has it; kill() still works."""
    with Popen(["sh", "-c", "echo ready; sleep 600; :"], as_pid1=True, stdout=PIPE) as box:
        box.stdout.readline()
        box.terminate()
        with pytest.raises(TimeoutExpired):
            box.wait(timeout=0.1)
        box.kill()
        assert box.wait(timeout=20) == -9


def test_kill_ends_everything():
    """kill() ends every process inside, whatever it ignores."""
    reader, writer = os.pipe()
    with Popen(
        ["sh", "-c", "trap '' TERM INT HUP; setsid sleep 600 & echo up; sleep 600"], stdout=PIPE, pass_fds=[writer]
    ) as box:
        os.close(writer)
        box.stdout.readline()
        assert not wait_readable(reader, 0)
        box.kill()
        assert box.wait(timeout=20) == -9
    assert wait_readable(reader) and os.read(reader, 1) == b""
    os.close(reader)


def test_signals_after_the_end():
    """Signals to what has ended, or is closed, do nothing: no other process can be hit."""
    box = Popen(["true"])
    box.wait()
    box.send_signal(15)
    box.kill()
    box.terminate()
    box.close()
    box.kill()
    box.terminate()


@pytest.mark.parametrize("bad", [-1, 65, 1 << 40, "TERM", None, True, 1.5])
def test_bad_signals(bad):
    """What is no signal is refused."""
    with Popen(["cat"], stdin=PIPE) as box:
        with pytest.raises(SpecError):
            box.send_signal(bad)
        assert box.poll() is None
        box.kill()


@pytest.mark.parametrize("as_pid1", [False, True])
def test_pidfd_is_pollable(as_pid1):
    """pidfd is not readable while it runs and is when it has ended."""
    with Popen(["cat"], stdin=PIPE, as_pid1=as_pid1) as box:
        assert not wait_readable(box.pidfd, 0)
        assert not os.get_inheritable(box.pidfd)
        box.stdin.close()
        assert wait_readable(box.pidfd)
        assert box.wait() == 0


def test_pid_is_the_childs():
    """pid is that of a child of this process."""
    with Popen(["cat"], stdin=PIPE) as box:
        with open(f"/proc/{box.pid}/status", encoding="ascii") as file:
            assert f"PPid:\t{os.getpid()}\n" in file.read()
        box.kill()


@pytest.mark.parametrize("as_pid1", [False, pytest.param(True, marks=needs_exit_info)])
def test_other_waits_do_not_take_it(as_pid1):
    """A caller that waits for any child, or ignores SIGCHLD, does not take the sandbox's end away."""
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert ramet.run(["sh", "-c", "exit 6"], as_pid1=as_pid1).exit_code == 6
        assert ramet.run(["sh", "-c", "kill -9 $$; exec true"], as_pid1=False).signal == 9
    finally:
        signal.signal(signal.SIGCHLD, old)
    with Popen(["sh", "-c", "exit 5"], as_pid1=as_pid1) as box:
        pid = box.pid
        wait_readable(box.pidfd)
        if box.plan.clone_flags & CLONE_AUTOREAP:
            with pytest.raises(ChildProcessError):  # there is nothing to take: the kernel has reaped it
                os.waitpid(-1, 0)
        else:
            assert os.waitpid(-1, 0)[0] == pid
        assert box.wait() == 5


def test_handler_that_reaps_everything():
    """A SIGCHLD handler that waits for any child, as event loops have, does not take the sandbox's end away."""
    heard = []

    def handler(*_):
        try:
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                heard.append(found)
        except ChildProcessError:
            return

    old = signal.signal(signal.SIGCHLD, handler)
    try:
        for code in range(5):
            assert ramet.run(["sh", "-c", f"exit {code}"]).exit_code == code
        pid = os.posix_spawn("/bin/true", ["true"], {})
        while (pid, 0) not in heard:
            signal.sigtimedwait([], 0.01)
    finally:
        signal.signal(signal.SIGCHLD, old)


def test_context_manager_waits():
    """The block's end closes stdin and waits for the payload; its code stays."""
    with Popen(["sh", "-c", "cat >/dev/null; exit 9"], stdin=PIPE) as box:
        box.stdin.write(b"data")
    assert box.returncode == 9
    assert "closed" in repr(box)


def test_context_manager_kills_on_an_exception():
    """An exception in the block kills the sandbox and goes on."""
    box = Popen(["sleep", "600"])
    pidfd = os.dup(box.pidfd)
    with pytest.raises(ZeroDivisionError), box:
        raise ZeroDivisionError
    assert wait_readable(pidfd, 0)
    os.close(pidfd)


def test_close_twice():
    """close() kills, reaps, closes; again it does nothing."""
    box = Popen(["sleep", "600"], stdout=PIPE)
    pidfd = os.dup(box.pidfd)
    box.close()
    assert wait_readable(pidfd, 0)
    os.close(pidfd)
    box.close()
    assert box.returncode == -9
    for use in (lambda: box.pid, lambda: box.pidfd):
        with pytest.raises(SpecError, match="closed"):
            use()


def test_wait_after_close():
    """What is known of a closed sandbox's end stays known."""
    box = Popen(["sh", "-c", "exit 3"])
    box.wait()
    box.close()
    assert (box.wait(), box.poll(), box.returncode) == (3, 3, 3)


def test_collected_objects_take_their_sandbox_along():
    """A Popen that nobody holds any more kills its sandbox, as its documentation says."""
    box = Popen(["sleep", "600"])
    pidfd = os.dup(box.pidfd)
    assert not wait_readable(pidfd, 0)
    del box
    gc.collect()
    assert wait_readable(pidfd)
    os.close(pidfd)


def test_check():
    """check=True raises ExitError with the whole result for anything but exit 0, and nothing for that."""
    assert ramet.run(["true"], check=True).ok
    for argv, fields, words in (
        (["sh", "-c", "echo why; exit 3"], {}, "exited with 3"),
        (["sh", "-c", "kill -9 $$"], {}, "SIGKILL"),
        (["sleep", "600"], {"timeout": 0.1}, "ran out of time"),
    ):
        with pytest.raises(ExitError, match=words) as caught:
            ramet.run(argv, check=True, **fields)
        assert caught.value.result.argv == tuple(argv)


def test_result_as_data():
    """A result is plain data on request, bytes that are no UTF-8 escaped."""
    import json

    result = ramet.run(["printf", "\\377", b"\xfe"])
    data = json.loads(json.dumps(result.to_mapping()))
    assert data["argv"][2] == "\\xfe"
    assert data["stdout"] == "\\xff"
    assert (data["status"], data["exit_code"], data["signal"], data["truncated"]) == ("exited", 0, None, [])
    assert data["usage"]["memory_peak"] > 0
    assert json.loads(json.dumps(ramet.run(["sh", "-c", "kill -9 $$"]).to_mapping()))["signal"] == "SIGKILL"


def test_command_not_found():
    """A command that is not there is a CommandError with exit code 127."""
    for argv in (["no-such-command-anywhere"], ["/no/such/command"], ["/etc/passwd/x"]):
        with pytest.raises(CommandError) as caught:
            ramet.run(argv)
        assert caught.value.exit_code == 127
        assert argv[0] in str(caught.value)


def test_command_that_cannot_be_executed(tmp_path):
    """A directory, a file without x, and one that is no program are CommandErrors with exit code 126."""
    for above in (tmp_path, tmp_path.parent):
        above.chmod(0o755)
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "data").write_text("")
    for name in ("/usr", "/in/text", "/in/data"):
        with pytest.raises(CommandError) as caught:
            ramet.run([name], mounts=[ramet.File("/in/text", "no program", mode=0o755), ramet.File("/in/data", "x")])
        assert caught.value.exit_code == 126


def test_missing_interpreter():
    """A script whose interpreter is not inside is ENOENT, though the script is there: the error says which is possible."""
    script = ramet.File("/in/script", "#!/no/such/interpreter\n", mode=0o755)
    with pytest.raises(CommandError) as caught:
        ramet.run(["/in/script"], mounts=[script])
    assert caught.value.exit_code == 127
    assert "interpreter" in (caught.value.hint or "")


def test_many_threads():
    """Many threads can run sandboxes at once; each gets its own output and code."""
    found = {}

    def one(n):
        for k in range(5):
            r = ramet.run(["sh", "-c", f"echo {n}.{k}; exit {n}"], text=True)
            found[n, k] = (r.stdout, r.exit_code)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {(n, k): (f"{n}.{k}\n", n) for n in range(12) for k in range(5)}


def test_wait_from_several_threads():
    """Several threads may wait for one sandbox: all get the same code."""
    codes = []
    with Popen(["sh", "-c", "read line; exit 6"], stdin=PIPE) as box:
        threads = [threading.Thread(target=lambda: codes.append(box.wait())) for _ in range(8)]
        for thread in threads:
            thread.start()
        box.stdin.close()
        for thread in threads:
            thread.join(20)
    assert codes == [6] * 8


def test_started_in_a_thread_that_ends():
    """A sandbox outlives the thread that started it."""
    boxes = []
    thread = threading.Thread(target=lambda: boxes.append(Popen(["sh", "-c", "read line; exit 2"], stdin=PIPE)))
    thread.start()
    thread.join()
    (box,) = boxes
    assert box.poll() is None
    with pytest.raises(TimeoutExpired):
        box.wait(timeout=0.1)
    box.stdin.close()
    assert box.wait(timeout=20) == 2
    box.close()


def test_started_as_pid1_in_a_thread_that_ends():
    """The same without init."""
    boxes = []
    thread = threading.Thread(
        target=lambda: boxes.append(Popen(["sh", "-c", "read line; exit 2"], stdin=PIPE, as_pid1=True))
    )
    thread.start()
    thread.join()
    (box,) = boxes
    try:
        with pytest.raises(TimeoutExpired):
            box.wait(timeout=0.2)
        box.stdin.close()
        assert box.wait(timeout=20) == 2
    finally:
        box.close()


INTERRUPTED = """
import os, sys, threading, _thread, signal
import ramet
print("start", flush=True)
reader, writer = os.pipe()
try:
    {call}
except KeyboardInterrupt:
    os.close(writer)
    print("interrupted", repr(os.read(reader, 1)), flush=True)
children = open(f"/proc/self/task/{{os.getpid()}}/children").read()
print("children", children.split(), flush=True)
"""


@pytest.mark.parametrize(
    "call",
    [
        "ramet.run(['sh', '-c', 'echo up; sleep 600'], stdout=1, pass_fds=[writer])",
        "ramet.Popen(['sh', '-c', 'echo up; sleep 600'], pass_fds=[writer]).wait()",
        "ramet.Popen(['sh', '-c', 'echo up; sleep 600'], pass_fds=[writer], stderr=ramet.PIPE).communicate()",
        "ramet.run(['sh', '-c', 'trap \"\" INT; echo up; sleep 600'], stdout=1, pass_fds=[writer], as_pid1=True)",
    ],
)
def test_sigint_interrupts_the_wait(call):
    """A real SIGINT while waiting raises KeyboardInterrupt, and the sandbox is dead, all of it."""
    import subprocess

    caller = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(call=call)], stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert caller.stdout.readline() == "start\n"
    assert caller.stdout.readline() == "up\n"
    caller.send_signal(signal.SIGINT)
    assert caller.stdout.readline() == "interrupted b''\n"
    rest = caller.stdout.read()
    assert caller.wait(timeout=20) == 0
    caller.stdout.close()
    assert rest == "children []\n" or ".Popen" in call


@pytest.mark.parametrize("interrupted", [True, False])
def test_interrupt_in_the_last_lines_of_a_start(monkeypatch, interrupted):
    """A Ctrl-C when the payload runs and Popen has not returned yet ends the sandbox at once, though the exception names the object in its
    traceback; without it the payload goes on."""
    reader, writer = os.pipe()
    real = Streams.close_theirs

    to_come = [KeyboardInterrupt] if interrupted else []

    def close_theirs(self):
        real(self)
        if to_come:
            raise to_come.pop()

    monkeypatch.setattr(Streams, "close_theirs", close_theirs)
    box = error = None
    try:
        box = Popen(["sleep", "600"], pass_fds=[writer])
    except KeyboardInterrupt as caught:
        error = caught
    os.close(writer)
    assert wait_readable(reader, 20 if interrupted else 0.1) is interrupted
    assert (error is not None, box is None) == (interrupted, interrupted)
    os.close(reader)
    if box is not None:
        box.close()


def test_handlers_that_do_not_raise_do_not_end_the_wait():
    """A signal whose handler returns leaves the wait as it was (PEP 475)."""
    heard = []
    old = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        result = ramet.run(["sh", "-c", "sleep 0.2; exit 4"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert result.exit_code == 4
    assert heard


def test_interpreter_exit_with_a_sandbox_alive():
    """An interpreter that ends with a sandbox alive ends at once, and the sandbox with it."""
    import subprocess

    code = "import ramet, sys; box = ramet.Popen(['sh', '-c', 'echo up; sleep 600'], stdout=ramet.PIPE); print(box.pid, box.stdout.readline())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/", check=True)
    assert "up" in done.stdout and done.stderr == ""
    pid = int(done.stdout.split()[0])
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert wait_readable(pidfd)
    os.close(pidfd)


def test_fork_while_a_sandbox_runs():
    """A forked copy of the caller that exits takes nothing along, and can run sandboxes of its own."""
    with Popen(["sh", "-c", "read line; exit 8"], stdin=PIPE) as box:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = ramet.run(["sh", "-c", "exit 5"]).exit_code
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
        assert box.poll() is None
        box.stdin.close()
        assert box.wait(timeout=20) == 8


def test_failed_start_leaves_nothing():
    """A start that fails leaves no descriptor and no child, again and again (the folder's fixture looks)."""
    for _ in range(5):
        for argv, fields in (
            (["nope"], {}),
            (["true"], {"workdir": "/nope"}),
            (["true"], {"rlimits": {"NOFILE": 2**63}}),
        ):
            try:
                ramet.run(argv, stdin=PIPE, **fields)
            except StepError:
                continue
            if "rlimits" not in fields:
                pytest.fail("it started")


def test_repr():
    """repr tells the command and the state."""
    with Popen(["cat"], stdin=PIPE) as box:
        assert repr(box) == "<ramet.Popen 'cat' running>"
        box.stdin.close()
        box.wait()
        assert repr(box) == "<ramet.Popen 'cat' ended 0>"


def test_duration_is_wall_time():
    """duration is the wall-clock time of the run."""
    start = time.monotonic()
    result = ramet.run(["sleep", "0.2"])
    assert 0.2 <= result.duration <= time.monotonic() - start
