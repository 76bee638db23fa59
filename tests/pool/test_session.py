"""Sessions: state that stays, code that is interrupted, files, copies, and how they end."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import termios
import threading
import time
import warnings

import pytest

import ramet
import ramet.pool.session as module
from needs import need, own_places


@pytest.fixture
def session():
    with ramet.Session(timeout=30) as made:
        yield made


@pytest.fixture
def late(gate, monkeypatch):
    """A session whose clock runs ahead by an hour as soon as its code has reached the gate: so far it comes in time, however slow the machine is."""
    monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + 3600 * gate.is_reached)
    with ramet.Session(timeout=1800, mounts=[gate.mount]) as made:
        yield made


def test_state_stays(session):
    """What one piece of code makes, the next finds; what it prints and its last value come back each time."""
    assert session.exec("x = 1\nprint('one')").stdout == "one\n"
    found = session.exec("import math\nx += 1\nprint('two')\nmath.floor(x / 1)")
    assert (found.value, found.stdout, found.outputs) == (2, "two\n", {"x": 2})
    assert session.exec("y = x * z", {"z": 21}).outputs == {"y": 42}
    assert session.exec("def f(): return __name__\nf()").value == "__main__"


def test_objects_of_its_own_classes(session):
    """A session whose code makes classes, and objects of them, goes on: these stay inside, and everything else comes."""
    code = "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    n: int\nrow, n = Row(1), 1\nrow"
    found = session.exec(code)
    assert (found.error, found.outputs, found.text) == (None, {"n": 1}, "Row(n=1)")
    assert "Row" in found.unsent["row"]
    assert session.exec("row.n + 1").value == 2


def test_a_figure_that_cannot_be_drawn():
    """A figure that can't be drawn is the error of the code that made it, whose variables and other figures come; the next code goes on."""
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    with ramet.Session(["matplotlib.pyplot"], timeout=60) as session:
        found = session.exec(
            "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.figure()\nplt.title(r'$\\no$')\nx = 1\nx + 1"
        )
        assert isinstance(found.error, ValueError)
        assert (found.outputs["x"], found.value, len(found.figures)) == (1, 2, 1)
        found = session.exec("y = 2; plt.figure(); y")
        assert (found.error, found.value, len(found.figures)) == (None, 2, 1)


def test_an_error_keeps_the_state(session):
    """Code that raises is told of, with its own lines, and what it made before stays."""
    found = session.exec("a = 1\n1 / 0\na = 2")
    assert isinstance(found.error, ZeroDivisionError)
    assert 'File "<exec 1>", line 2' in str(found.error.__cause__)
    assert session.exec("a").value == 1
    assert isinstance(session.exec("raise SystemExit(3)").error, SystemExit)
    assert session.exec("a").value == 1


def test_interrupt(gate):
    """interrupt raises KeyboardInterrupt in the code that runs; the state stays. Without any code it does nothing."""
    with ramet.Session(timeout=30, mounts=[gate.mount]) as session:
        session.interrupt()
        thread = threading.Thread(target=lambda: (gate.await_reached(), session.interrupt()))
        thread.start()
        found = session.exec(f"import time\nbefore = 1\n{gate.REACH}\ntime.sleep(1000)\nafter = 1")
        thread.join()
        assert isinstance(found.error, KeyboardInterrupt)
        session.interrupt()
        assert session.exec("before, 'after' in globals()").value == (1, False)


def _payload_of(session):
    """The pid of the process that runs the session's code."""
    init = session._clone.launched.pid
    with open(f"/proc/{init}/task/{init}/children", encoding="ascii") as file:
        [pid] = map(int, file.read().split())
    return pid


def _status(pid, name):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(line.split()[1] for line in file if line.startswith(f"{name}:"))


def _interrupt_pends(pid):
    return int(_status(pid, "ShdPnd"), 16) >> (signal.SIGINT - 1) & 1


def _unread(session):
    """How much the session's process has not read yet of what it was sent (SIOCOUTQ, unix(7))."""
    return fcntl.ioctl(session._clone.channel_end, termios.TIOCOUTQ, bytes(4))


@pytest.mark.parametrize("first", [True, False])
def test_interrupt_of_code_that_is_on_its_way(session, first):
    """An interrupt that comes when code was sent, and does not run yet, interrupts that code, also where it is the session's first; one that
    comes before is for none."""
    if not first:
        session.exec("1")
    pid, found = _payload_of(session), []
    os.kill(pid, signal.SIGSTOP)
    while _status(pid, "State") != "T":
        time.sleep(0.001)
    caller, before = threading.Thread(target=lambda: found.append(session.exec("after = 1"))), _unread(session)
    caller.start()
    while _unread(session) == before:
        time.sleep(0.001)
    session.interrupt()
    while not _interrupt_pends(pid):
        time.sleep(0.001)
    os.kill(pid, signal.SIGCONT)
    caller.join()
    assert isinstance(found[0].error, KeyboardInterrupt)
    session.interrupt()
    os.kill(pid, signal.SIGINT)
    while _interrupt_pends(pid) or _status(pid, "State") != "S":
        time.sleep(0.001)
    assert session.exec("'after' in globals()").value is False


def test_time(late, gate, monkeypatch):
    """Code that is out of time is interrupted, and says so; the state stays."""
    monkeypatch.setattr(module, "GRACE", 60)
    assert late.exec("1", timeout=1800).value == 1
    found = late.exec(f"import time\nbefore = 1\nprint('printed', flush=True)\n{gate.REACH}\ntime.sleep(1000)")
    assert isinstance(found.error, ramet.TimeLimitError)
    assert (found.status, found.stdout, late.alive) == ("timed-out", "printed\n", True)
    assert late.exec("before").value == 1


def test_code_that_does_not_end(late, gate, monkeypatch):
    """Code that takes no interrupt is killed when its time is over, and the session with it."""
    monkeypatch.setattr(module, "GRACE", 0.2)
    code = f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{gate.REACH}\nwhile True: pass"
    late.exec("import time; time.sleep(0.5)")
    found = late.exec(code)
    assert isinstance(found.error, ramet.TimeLimitError)
    assert str(found.error) == f"'exec' ran out of time after {found.duration:.3g} s"
    assert (found.status, late.alive) == ("timed-out", False)
    with pytest.raises(ramet.PoolError, match="has ended"):
        late.exec("1")


def test_a_time_that_is_over_at_once(session):
    """By the clock on the wall, too, code that does not end is over: interrupted, or killed where it had not even begun."""
    found = session.exec("import time; time.sleep(1000)", timeout=0.2)
    assert isinstance(found.error, ramet.TimeLimitError)
    assert found.status == "timed-out"


def test_a_process_that_ends(session):
    """Code that ends its process ends the session; the error says how."""
    found = session.exec("import os\nprint('last', flush=True)\nos._exit(3)")
    assert isinstance(found.error, ramet.ExitError)
    assert (found.exit_code, found.stdout, session.alive) == (3, "last\n", False)
    assert str(found.error) == "'exec' exited with 3"
    with pytest.raises(ramet.PoolError, match="has ended"):
        session.put("x", b"")


def test_killed_by_a_signal():
    """A session whose process is killed by a signal says which."""
    with ramet.Session() as session:
        found = session.exec("import os; os.kill(os.getpid(), 9)")
        assert (found.status, found.signal, session.alive) == ("signaled", 9, False)


def test_processes_of_the_code(session):
    """A child that the code forks, and that comes out of it, tells nothing and does not go on."""
    assert session.exec("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\n7").value == 7
    assert session.exec("8").value == 8


def test_rubbish_on_the_channel(session):
    """What the code writes on the channel is no answer; the error says so."""
    code = "import os\nfor fd in range(3, 9):\n    try: os.write(fd, b'rubbish' * 100)\n    except OSError: pass"
    assert isinstance(session.exec(code).error, ramet.ResultError)


def test_output_and_warnings(session):
    """Output of a program that the code starts is the code's; its warnings come to the caller's filters."""
    found = session.exec("import subprocess, sys\nsubprocess.run(['echo', 'program'])\nprint('aside', file=sys.stderr)")
    assert (found.stdout, found.stderr) == ("program\n", "aside\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.exec("import warnings; warnings.warn('careful')")
    assert [str(one.message) for one in caught] == ["careful"]


def test_usage_is_of_one_piece_of_code(session):
    """CPU time is what this code took, not what the session has taken in all."""
    busy = session.exec("import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass").usage
    idle = session.exec("1").usage
    assert busy.cpu_user + busy.cpu_system >= 0.4
    assert idle.cpu_user + idle.cpu_system < 0.3


def test_two_threads_take_turns(session):
    """Code of two threads does not mix: one waits for the other."""
    session.exec("log = []\nimport time\ndef work(n):\n    log.append(n); time.sleep(0.05); log.append(n)")
    threads = [threading.Thread(target=session.exec, args=(f"work({n})",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = session.exec("log").value
    assert log[::2] == log[1::2]
    assert sorted(log) == [0, 0, 1, 1, 2, 2, 3, 3]


# Files


def test_files(session):
    """Files go in and out, large ones too; relative paths begin at the home directory."""
    large = os.urandom(3 << 20)
    session.put("large", large)
    session.put("/tmp/text", "text")
    assert session.exec("import os; os.chdir('/'); os.path.getsize('/home/user/large')").value == len(large)
    assert session.get("large") == large
    assert session.get("/tmp/text") == b"text"
    session.put("large", b"short")
    assert session.get("large") == b"short"


def test_only_regular_files_come_out(session):
    """No link, directory, FIFO or device comes out, nothing larger than asked for, and nothing that never ends."""
    session.exec(
        "import os\nos.symlink('/etc/passwd', 'link')\nos.mkfifo('fifo')\nos.mkdir('dir')\n"
        "open('large', 'wb').write(bytes(1000))\nos.symlink('dir', 'other')\nopen('dir/file', 'w').write('x')"
    )
    with pytest.raises(OSError, match="symbolic link"):
        session.get("link")
    for name in ("fifo", "dir", "/dev/zero"):
        with pytest.raises((ValueError, OSError)):
            session.get(name)
    with pytest.raises(ValueError, match="999 may come"):
        session.get("large", most=999)
    assert len(session.get("large", most=1000)) == 1000
    with pytest.raises(FileNotFoundError):
        session.get("nothing")
    with pytest.raises(OSError, match=r"Read-only|denied"):
        session.put("/usr/file", b"")
    with pytest.raises(ramet.SpecError, match="path"):
        session.get("a\0b")


# Copies


@pytest.fixture
def forkable():
    with ramet.Session(timeout=30, forkable=True) as made:
        yield made


def test_copies_have_the_state_and_go_their_own_way(forkable):
    """A copy has the variables and files of the moment; what either does then the other does not see."""
    forkable.exec(
        "state = [1]\nfor place in ('/tmp', '/home/user', '/dev/shm'): open(place + '/file', 'w').write('before')"
    )
    look = "state, [open(p + '/file').read() for p in ('/tmp', '/home/user', '/dev/shm')]"
    change = (
        "state.append({0!r})\nfor place in ('/tmp', '/home/user', '/dev/shm'): open(place + '/file', 'w').write({0!r})"
    )
    with forkable.fork() as copy:
        assert copy.exec(look).value == ([1], ["before"] * 3)
        copy.exec(change.format("copy"))
        forkable.exec(change.format("first"))
        assert copy.exec(look).value == ([1, "copy"], ["copy"] * 3)
        assert forkable.exec(look).value == ([1, "first"], ["first"] * 3)
        with copy.fork() as second:
            assert second.exec(look).value == ([1, "copy"], ["copy"] * 3)


def test_links_and_special_files_are_copied_as_what_they_are(forkable):
    """Symbolic links stay links, modes stay, and what has no content is left out."""
    forkable.exec(
        "import os\nos.chdir('/tmp')\nos.symlink('nowhere', 'link')\nos.mkfifo('fifo')\nos.makedirs('deep/er')\n"
        "open('deep/er/file', 'w').write('x')\nos.chmod('deep/er/file', 0o640)"
    )
    with forkable.fork() as copy:
        found = copy.exec(
            "sorted(os.listdir('/tmp')), os.readlink('/tmp/link'), oct(os.stat('/tmp/deep/er/file').st_mode)"
        )
        there = sorted({"deep", "link"} | own_places("/tmp"))
        assert found.value == (there, "nowhere", "0o100640")


def test_copies_are_in_sandboxes_of_their_own(forkable):
    """A copy has namespaces, processes and random numbers of its own, no capabilities, and sees nobody of its session."""
    code = (
        "import os, random\n"
        "spaces = {k: os.readlink('/proc/self/ns/' + k) for k in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup')}\n"
        "caps = [l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs'))]\n"
        "others = [n for n in os.listdir('/proc') if n.isdigit()]\n"
        "drawn = random.random()\n"
    )
    first = forkable.exec(code).outputs
    with forkable.fork() as copy:
        second = copy.exec(code).outputs
        again = forkable.exec("drawn = random.random(); drawn").value
        third = copy.exec("random.random()").value
    assert all(first["spaces"][kind] != second["spaces"][kind] for kind in first["spaces"])
    assert second["caps"] == first["caps"]
    assert second["caps"][:2] == ["0000000000000000"] * 2
    assert len(second["others"]) == 2
    assert len({first["drawn"], second["drawn"], again, third}) == 4


def test_ten_copies_of_one_state(forkable):
    """Ten attempts branch from one prepared state, at once."""
    forkable.exec("prepared = list(range(1000))")
    copies = [forkable.fork() for _ in range(10)]
    try:
        found = [copy.exec(f"prepared.append({n}); prepared[-1], len(prepared)").value for n, copy in enumerate(copies)]
        assert found == [(n, 1001) for n in range(10)]
        assert forkable.exec("len(prepared)").value == 1000
    finally:
        for copy in copies:
            copy.close()


def test_a_copy_outlives_its_session():
    """A session that is closed before its copies stays, as their ground, until the last is closed; then all is gone."""
    session = ramet.Session(forkable=True)
    session.exec("x = 1")
    copy = session.fork()
    second = copy.fork()
    session.close()
    assert copy.exec("x").value == 1
    copy.close()
    assert second.exec("x").value == 1
    with pytest.raises(ramet.PoolError, match="closed"):
        copy.exec("x")
    second.close()


def test_a_state_with_threads_is_not_copied(forkable):
    """With threads running the state can't be copied, which is said; when they have ended it can."""
    forkable.exec(
        "import threading\nevent = threading.Event()\nthread = threading.Thread(target=event.wait)\nthread.start()"
    )
    with pytest.raises(ramet.ResultError, match="threads"):
        forkable.fork()
    assert forkable.exec("event.set(); thread.join(); 5").value == 5
    with forkable.fork() as copy:
        assert copy.exec("thread.is_alive()").value is False


def test_copies_have_to_be_wanted(session):
    """A session that was not made for it refuses to be copied, and says how; its walls are those of any sandbox."""
    with pytest.raises(ramet.SpecError, match="forkable=True"):
        session.fork()
    code = "import ctypes\nctypes.CDLL(None).unshare(0x10000000)"
    assert session.exec(code).value == -1
    with pytest.raises(ramet.SpecError, match="landlock"):
        ramet.Session(forkable=True, landlock=True)


# Limits, and the end


def test_memory():
    """A session that takes more memory than it may is ended, and says so."""
    try:
        session = ramet.Session(memory="150M")
    except ramet.UnsupportedError as error:
        need(False, f"control groups: {error.fact}")
    with session:
        assert session.exec("x = bytearray(10 << 20); len(x)").value == 10 << 20
        found = session.exec("y = bytearray(400 << 20)")
        assert isinstance(found.error, ramet.MemoryLimitError)
        assert (found.status, session.alive) == ("out-of-memory", False)


def test_copies_have_the_limits_too():
    """A copy has a control group of its own, with the session's limits."""
    try:
        session = ramet.Session(memory="150M", forkable=True)
    except ramet.UnsupportedError as error:
        need(False, f"control groups: {error.fact}")
    with session:
        session.exec("x = 1")
        with session.fork() as copy:
            assert isinstance(copy.exec("y = bytearray(400 << 20)").error, ramet.MemoryLimitError)
        assert session.exec("x").value == 1


def test_ends():
    """A closed session refuses; one that is dropped ends by itself; in a fork of the process it refuses."""
    session = ramet.Session()
    pid = os.fork()
    if pid == 0:
        try:
            session.exec("1")
        except ramet.PoolError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert session.exec("1").value == 1
    session.close()
    session.close()
    assert not session.alive
    with pytest.raises(ramet.PoolError, match="closed"):
        session.exec("1")
    dropped = ramet.Session()
    dropped.exec("1")
    del dropped
    gc.collect()


def test_bad_input(session):
    """Code that is no text, bad times and bad names are refused, and the session goes on."""
    with pytest.raises(ramet.SpecTypeError, match="code"):
        session.exec(1)
    with pytest.raises(ramet.SpecError, match="timeout"):
        session.exec("1", timeout=0)
    with pytest.raises(ramet.SpecTypeError, match="content: must be bytes or text, not int"):
        session.put("file", 5)
    with pytest.raises(ramet.ZygoteError):
        ramet.Session(["no_such_module"])
    assert session.exec("1").value == 1


def test_a_session_that_lies_about_its_copy(forkable):
    """Code that sends something else than a copy, a file or its own process, is found out, or gets what it has: itself. Then nothing hangs."""
    forkable.exec(
        "import os, socket\nfrom ramet.pool import zygote\nfrom ramet.run.fork import CLONED, NEWS\n"
        "def lie(self, fds, *_):\n"
        "    end = socket.socket(fileno=fds[1])\n"
        "    socket.send_fds(end, [NEWS.pack(CLONED, 1, 0, 0)], [os.open('/dev/null', os.O_RDWR)])\n"
        "    for fd in (fds[0], fds[2], fds[3]): os.close(fd)\n"
        "    end.close()\n"
        "    return -1\n"
        "zygote.Warm.put_forth = lie"
    )
    with pytest.raises(ramet.ResultError, match="could not be copied"):
        forkable.fork()
    assert forkable.exec("1").value == 1
