"""The zygote: how it may fail to start, how it dies and is replaced, and what it can do itself."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from buds import bud_of

import ramet
from needs import SLOW, only
from ramet.bpf import ALLOW
from ramet.plan.encode import failing
from ramet.pool import warm
from ramet.pool.clone import Clone
from ramet.run.fork import FAILED, NEWS
from ramet.run.image import SEALS
from ramet.seccomp import filters, library, profile
from ramet.seccomp.simulate import answer


@pytest.mark.parametrize(
    ("preload", "prepare", "why"),
    [
        (["no_such_module_of_anybody"], "", "can't load 'no_such_module_of_anybody': ModuleNotFoundError"),
        ([], "1 / 0", "can't load 'prepare': ZeroDivisionError"),
        ([], "raise SystemExit(3)", "can't load 'prepare': SystemExit"),
        ([], "import os; os._exit(3)", "its process has ended: it exited with 3"),
        ([], "import os; os.abort()", "its process has ended: killed by signal 6"),
        ([], "import threading, time; threading.Thread(target=time.sleep, args=(99,)).start()", "it starts threads"),
    ],
    ids=["missing", "raises", "exits", "_exit", "abort", "threads"],
)
def test_zygotes_that_cannot_start(preload, prepare, why):
    """A zygote that can't load what it should is an error that says what, and why; nothing of it is left."""
    with pytest.raises(ramet.ZygoteError) as caught:
        ramet.Pool(preload, size=1, spare=1, prepare=prepare)
    assert why in str(caught.value)


def test_a_zygote_that_fails_by_itself():
    """A zygote that fails at something else than a module, as for lack of descriptors, says at what; without that it starts."""
    code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))"
    with pytest.raises(ramet.ZygoteError, match=r"(?s)can't start: UnsupportedError: .*RLIMIT_NOFILE") as caught:
        ramet.Pool(size=1, spare=0, prepare=code.format(5))
    assert caught.value.module is None
    ramet.Pool(size=1, spare=0, prepare=code.format(1000)).close()


def test_a_caller_without_standard_descriptors():
    """A daemon that has closed 0 to 2 has pools and sessions as anybody has."""
    code = (
        "import os, sys, ramet\n"
        "told = os.fdopen(os.dup2(1, 100), 'w')\n"
        "sys.stdin = sys.stdout = sys.stderr = None\n"
        "for fd in range(3): os.close(fd)\n"
        "with ramet.Pool(size=1, spare=0) as pool: told.write(repr(pool.run(abs, -1)))\n"
        "with ramet.Session() as session: told.write(session.exec('print(2)').stdout)\n"
        "told.close()\n"
        "os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("12\n", 0)


def test_a_module_that_raises(tmp_path, monkeypatch):
    """A module that raises when it is imported is named, with the traceback of the zygote."""
    (tmp_path / "faulty_module.py").write_text("def fail():\n    raise ValueError('not today')\nfail()\n")
    tmp_path.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = ramet.Bind(str(tmp_path), str(tmp_path))
    with pytest.raises(ramet.ZygoteError, match="not today") as caught:
        ramet.Pool(["faulty_module"], size=1, spare=0, mounts=[shown])
    assert caught.value.module == "faulty_module"
    assert "in fail" in caught.value.traceback


def test_a_module_that_the_sandbox_shows(tmp_path, monkeypatch):
    """A module of the user's own is loaded from where a Bind shows it, and its functions go in by name."""
    (tmp_path / "shown_module.py").write_text("state = []\ndef grow():\n    state.append(1)\n    return len(state)\n")
    tmp_path.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    import shown_module

    try:
        with ramet.Pool(["shown_module"], size=1, spare=1, mounts=[ramet.Bind(str(tmp_path), str(tmp_path))]) as pool:
            assert [pool.run(shown_module.grow) for _ in range(2)] == [1, 1]
        assert shown_module.state == []
    finally:
        del sys.modules["shown_module"]


def test_a_module_that_speaks_in_the_zygotes_name():
    """What a module writes to the caller is no word of the zygote's, and the error says so."""
    code = "import os\nfor fd in range(3, 200):\n    try: os.write(fd, b'rubbish')\n    except OSError: pass"
    with pytest.raises(ramet.ZygoteError, match="nonsense"):
        ramet.Pool(size=1, spare=0, prepare=code)


def test_a_start_that_takes_too_long():
    """A zygote that is not ready in time is ended, also one of which nothing more can be heard."""
    for code in ("import time; time.sleep(100)", "import os, time; os.closerange(3, 200); time.sleep(100)"):
        with pytest.raises(ramet.ZygoteError, match="took more than"):
            ramet.Pool(size=1, spare=0, prepare=code, start_timeout=0.5)


def kill_zygote(pool):
    zygote = pool._engine.zygote
    os.kill(_zygote_of(pool), signal.SIGKILL)
    while zygote.alive:
        time.sleep(0.001)


def test_another_zygote_takes_the_place_of_a_dead_one():
    """When the zygote dies, the next call has another; a call in flight ends with it, and the error says so."""
    with ramet.Pool(size=1, spare=1) as pool:
        assert pool.run(int) == 0
        kill_zygote(pool)
        assert pool.run(int) == 0
        future = pool.submit(time.sleep, 1000)
        while not pool._engine._in_flight:
            time.sleep(0.001)
        kill_zygote(pool)
        error = future.exception(60)
        assert isinstance(error, ramet.ExitError)
        assert any("zygote has died" in note or "given up" in note for note in error.__notes__)
        assert pool.run(int) == 0
        assert pool.counts["restarts"] == 2


def reach_and_sleep():
    with open("/gate/reached", "w"):
        time.sleep(1000)


@pytest.mark.parametrize("running", [True, False])
def test_a_zygote_whose_init_takes_its_time(running, gate):
    """That the zygote has died is told with the end of a call, however long the zygote's own init takes to end; a call that has no copy yet has
    one of another zygote."""
    with ramet.Pool(size=1, spare=0, mounts=[gate.mount]) as pool:
        bud_of(pool)
        if running:
            future = pool.submit(reach_and_sleep)
            gate.await_reached()
        init, zygote = pool._engine.zygote.pid, _zygote_of(pool)
        os.kill(init, signal.SIGSTOP)
        try:
            os.kill(zygote, signal.SIGKILL)
            if running:
                error = future.exception(60)
                assert any("zygote has died" in note for note in error.__notes__)
            else:
                assert pool.run(abs, -1) == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(init, signal.SIGCONT)
        assert pool.run(int) == 0
        assert pool.counts["restarts"] == 1


def test_a_call_cannot_end_the_zygote():
    """A call that signals every process it can reach ends itself at most."""

    def rage():
        for pid in (-1, 0, 1, 2, 3):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue

    with ramet.Pool(size=1, spare=1) as pool:
        for _ in range(3):
            pool.report(rage)
        assert pool.run(int) == 0
        assert pool.counts["restarts"] == 0


def test_files_that_the_zygote_has_open_are_not_there():
    """A file that a module holds open in the zygote is /dev/null in a copy, and closing it closes nothing of the copy's."""
    code = "import os\nos.held = open('/etc/passwd')\nos.other = [open('/dev/zero') for _ in range(5)]"

    def look():
        content, number = os.held.read(), os.held.fileno()
        mine = open("/etc/passwd")
        os.held.close()
        os.other.clear()
        return content, number != mine.fileno(), len(mine.read()) > 0

    with ramet.Pool(size=1, spare=0, prepare=code) as pool:
        assert pool.run(look) == ("", True, True)


def test_the_zygote_is_no_stronger_than_a_payload_that_may_nest():
    """The zygote itself is in a sandbox: no capabilities, a filter, no network, none of the host's files."""
    with ramet.Pool(size=1, spare=0) as pool:
        pid = _zygote_of(pool)
        with open(f"/proc/{pid}/status") as file:
            found = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        assert found["CapEff"] == found["CapPrm"] == found["CapBnd"] == "0000000000000000"
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert found["Uid"].split()[0] not in ("0",)
        for kind in ("user", "mnt", "pid", "net", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def count_of_filters():
    with open("/proc/self/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith("Seccomp_filters:")))


def test_another_filter_of_the_users():
    """What the user's own filter allows, the zygote's does not take away; what it denies is denied."""
    policy = ramet.Seccomp.default().allow("vhangup").deny("getppid")

    def attempt():
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.getppid()

    with ramet.Pool(size=1, spare=0, seccomp=policy) as pool:
        assert pool.run(attempt) == -1
    with ramet.Pool(size=1, spare=0, seccomp="none") as pool:
        assert pool.run(attempt) >= 0
        assert pool.run(count_of_filters) == 0


def _zygote_of(pool):
    init = pool._engine.zygote.pid
    with open(f"/proc/{init}/task/{init}/children") as file:
        return int(file.read().split()[0])


def test_what_is_loaded_lies_in_a_file():
    """What the zygote has loaded is in a file that copies have mapped, not in pages that each has copied; it is the same in each,
    whatever another has done to its own. The file is sealed, and no copy can open it."""

    def change():
        import builtins

        with open("/proc/self/maps") as file:
            places = [line.split()[0] for line in file if "/memfd:ramet-zygote" in line]
        sound = builtins.things == [str(n) for n in range(300_000)]
        for n in range(300_000):
            builtins.things[n] = b""
        sizes = [int(end, 16) - int(start, 16) for start, end in (place.split("-") for place in places)]
        try:
            os.open(f"/proc/self/map_files/{places[0]}", os.O_RDWR)
        except OSError as error:
            return sound, sum(sizes), errno.errorcode[error.errno]

    with ramet.Pool(
        size=1, spare=0, prepare="import builtins; builtins.things = [str(n) for n in range(300_000)]"
    ) as pool:
        for _ in range(2):
            sound, size, refused = pool.run(change)
            assert sound
            assert size > 15 << 20
            assert refused in ("EPERM", "EACCES", "ENOENT")
        if os.geteuid() == 0:
            folder = f"/proc/{_zygote_of(pool)}/map_files"
            place = next(one for one in os.listdir(folder) if "ramet-zygote" in os.readlink(f"{folder}/{one}"))
            with open(f"{folder}/{place}", "rb") as file:
                assert fcntl.fcntl(file, fcntl.F_GET_SEALS) == SEALS


def test_a_copy_that_ends_before_its_zygote_tells_why():
    """The copy's end of the channel may close before the zygote has told which step has failed: that is waited for."""
    with ramet.Pool(size=1, spare=0) as pool:
        clone = Clone(pool.plan(), None)
    try:
        clone._theirs.close()

        def tell():
            time.sleep(0.2)
            os.write(clone._their_control, NEWS.pack(FAILED, 3, 1, errno.EIO))

        zygote = threading.Thread(target=tell)
        zygote.start()
        with pytest.raises(ramet.StepError) as caught:
            clone.hear()
        zygote.join()
        assert (caught.value.stage, caught.value.index, caught.value.errno) == ("child", 1, errno.EIO)
    finally:
        clone.close()


def test_every_step_of_a_copy_that_fails_is_told(monkeypatch):
    """Whichever step of a copy's sandbox fails, the call is not made, and the error names the step; without that it is made."""
    with ramet.Pool(size=1, spare=0) as pool:
        plan = pool.plan()
    every = 1 if SLOW else 41
    failures = [("child", 1), ("child", len(plan.stages["child"].steps) - 1), ("init", 0), ("init", 12)]
    failures += [("view", n) for n in range(0, len(plan.stages["view"].steps) - 1, every)]
    failures += [("payload", n) for n in range(0, len(plan.stages["payload"].steps) - 1, every)]
    for stage, number in failures:
        if plan.stages[stage].steps[number].allow:
            continue
        monkeypatch.setattr(warm, "encodings", lambda plan, at=(stage, number): failing(plan, *at, errno.EIO))
        with ramet.Pool(size=1, spare=0) as pool:
            with pytest.raises(ramet.StepError) as caught:
                pool.run(int)
            assert (caught.value.stage, caught.value.index, caught.value.errno) == (stage, number, errno.EIO)
    monkeypatch.undo()
    with ramet.Pool(size=1, spare=0) as pool:
        assert pool.run(int) == 0


def test_the_filter_that_is_shipped():
    """The zygote's filter in its file answers every call as the profile compiled anew does: more than the default one, and less than none."""
    only(os.path.exists(filters.SHIPPED_ZYGOTE), "where the profile is shipped compiled")
    machine = os.uname().machine
    with open(filters.SHIPPED_ZYGOTE, "rb") as file:
        shipped = filters.unpacked(file.read())
    assert filters.programs_of_zygote() == shipped
    anew = filters.compiled(profile.zygote())
    for number in range(library.NUMBERS_END):
        assert answer(shipped, machine, number) == answer(anew, machine, number), number
    for name, allowed in (
        ("unshare", True),
        ("mount", True),
        ("chroot", True),
        ("ptrace", False),
        ("keyctl", False),
        ("bpf", False),
    ):
        assert (answer(shipped, machine, library.number(name)) == ALLOW) == allowed, name
