"""Init: what holds for it from its first instruction on, and what it can end."""

import os
import platform
import signal
import struct
import sys
import threading
import time

import pytest

import ramet
from needs import as_root, only
from ramet import IdMapping
from ramet.plan.encode import Encodings
from ramet.plan.steps import Plan, Stage
from ramet.run import image
from ramet.run.launch import launch
from ramet.run.planning import plan_for

#: pause(2) for ever; a program that does nothing for its own defence
PAUSES = bytes.fromhex("b822000000 0f05 ebf7")


def program(code):
    """A static program for x86-64: one segment, one instruction after the other."""
    base, start = 0x400000, 64 + 56
    head = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, start + len(code), start + len(code), 4096) + code


@pytest.fixture
def helpless(monkeypatch):
    """Init's place taken by a program that only sleeps, in a memfd of this mode."""
    only(platform.machine() == "x86_64", "on x86-64, of which the stand-in for init is")
    opened = []

    def take(mode):
        fd = os.memfd_create("helpless")
        os.write(fd, program(PAUSES))
        os.fchmod(fd, mode)
        reader = os.open(f"/proc/self/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
        os.close(fd)
        opened.append(image.above(reader, image.LOWEST))
        os.close(reader)
        monkeypatch.setattr(image, "init_image", lambda: opened[-1])

    yield take
    for fd in opened:
        os.close(fd)


PROBE = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def ptrace(pid):
    if libc.ptrace(0x4206, pid, 0, 0):
        raise OSError(ctypes.get_errno(), "ptrace")
def opened(name):
    def look(pid):
        os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
    return look
probes = {name: opened(name) for name in ("mem", "environ", "exe", "maps")} | {"ptrace": ptrace}
child = os.fork()
if child == 0:
    signal.pause()
for name, probe in probes.items():
    answers = []
    for pid in (1, child):
        try:
            probe(pid)
            answers.append("ok")
        except OSError as error:
            answers.append(str(error.errno))
    print(name, *answers, end=";")
print(flush=True)
signal.pause()
"""


@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}], ids=["user", "root inside"])
@pytest.mark.parametrize("mode", [0o111, 0o555])
def test_init_is_closed_from_its_first_instruction_on(mode, ids, helpless):
    """A payload that holds all the rights that init does can't trace or read a program in init's place that does nothing
    about it, since the program is unreadable; made readable, the same probes succeed. They do on a process of the
    payload's own."""
    helpless(mode)
    answer = "ok" if mode == 0o555 else None
    rights = {"CAP_KILL"}
    if ids and mode == 0o555:
        rights = set(ramet.spec.capabilities.NAMES)  # uid 0 gains all of them by exec, and who traces must have them
        rights &= {name for name in rights if ramet.spec.capabilities.NUMBERS[name] <= last_capability()}
    argv = [sys.executable, "-I", "-c", PROBE]
    with ramet.Popen(
        argv,
        seccomp="none",
        landlock=False,
        capabilities=rights,
        stdout=ramet.PIPE,
        stderr=ramet.PIPE,
        text=True,
        **ids,
    ) as box:
        found = box.stdout.readline()
        error = "" if found else box.stderr.read()
        box.kill()
    assert found, error
    answers = {name: words for name, *words in (part.split() for part in found.strip().rstrip(";").split(";"))}
    assert set(answers) == {"mem", "environ", "exe", "maps", "ptrace"}
    for name, (init, own) in answers.items():
        assert own == "ok", answers
        assert init == answer if answer else init in ("1", "13"), (name, answers)


def last_capability():
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def test_limits_that_the_payload_sets_on_init_do_not_change_the_verdict():
    """prlimit(2) on init is allowed to a payload of its uid, and is no way to be reported otherwise than one ended; on a
    process of its own it bites. (RLIMIT_CPU is another matter: with none left, init is killed by whichever tick of the
    clock finds it at work, and that is what is told.)"""
    code = """
import os, resource, sys
limited = 0
for name in dir(resource):
    if name.startswith("RLIMIT_") and (name == "RLIMIT_CPU") == (sys.argv[1] == "CPU"):
        try:
            resource.prlimit(1, getattr(resource, name), (0, 0))
            limited += 1
        except (OSError, ValueError):
            pass
if os.fork() == 0:
    resource.prlimit(0, resource.RLIMIT_NOFILE, (0, 0))
    try:
        os.open("/", os.O_RDONLY)
    except OSError as error:
        print(error.errno, flush=True)
    os._exit(0)
os.wait()
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", "600"])
os._exit(7)
"""
    result = ramet.run([sys.executable, "-I", "-c", code, "others"], text=True, timeout=30)
    assert (result.status, result.exit_code, result.stdout) == ("exited", 7, "24\n"), result.stderr
    result = ramet.run([sys.executable, "-I", "-c", code, "CPU"], text=True, timeout=30)
    assert (result.status, result.exit_code, result.signal) in (("exited", 7, None), ("signaled", None, signal.SIGKILL))


@pytest.mark.parametrize("ids", [{}, {"uid": 0, "gid": 0}], ids=["user", "root inside"])
def test_init_holds_one_right(ids):
    """Of the rights over its sandbox init keeps CAP_KILL, under whichever uid; the payload has none of its own."""
    with ramet.Popen(["cat"], stdin=ramet.PIPE, stdout=ramet.PIPE, **ids) as box:
        deadline = time.monotonic() + 20
        while (found := rights(box.pid)) != [0, 0x20, 0x20, 0] and time.monotonic() < deadline:
            time.sleep(0.001)  # nothing tells when init has come so far
        box.communicate()
    assert found == [0, 0x20, 0x20, 0]
    inside = ramet.run(["grep", "^Cap[IPEA]", "/proc/self/status"], text=True, **ids).stdout.split()[1::2]
    assert inside == ["0" * 16] * 4


def rights(pid):
    """Inheritable, permitted, effective, ambient."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return [int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]


DAEMON = """
import os, signal
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    os.setgid(9)
    os.setuid(9)
    os.write(write, str(os.getpid()).encode())
    signal.pause()
daemon = int(os.read(read, 9))
try:
    os.kill(daemon, 9)
except PermissionError:
    print("not mine", os.stat(f"/proc/{daemon}").st_uid, flush=True)
os._exit(5)
"""


@as_root
@pytest.mark.parametrize("uid", [0, 7])
def test_init_ends_processes_of_another_uid(uid):
    """A daemon that took another uid, which the payload itself may not signal, does not keep the run from ending."""
    lines = [IdMapping(0, 300000, 2000)]
    result = ramet.run(
        [sys.executable, "-I", "-c", DAEMON],
        uid=uid,
        gid=uid,
        uid_mappings=lines,
        gid_mappings=lines,
        capabilities={"CAP_SETUID", "CAP_SETGID"},
        text=True,
        timeout=20,
    )
    assert (result.status, result.exit_code, result.stdout) == ("exited", 5, "not mine 9\n"), result.stderr


def changed(plan, stage, steps):
    """The plan with other steps in one stage."""
    names = [name for name in Plan.__slots__ if name not in ("encoded", "stages")]
    stages = {**plan.stages, stage: Stage(stage, tuple(steps))}
    return Plan(stages=stages, **{name: getattr(plan, name) for name in names})


@pytest.mark.parametrize("tied", [False, True])
def test_init_outlives_the_thread_that_started_it(tied, helpless):
    """The thread that started a sandbox may end at once, before init has done anything: the sandbox lives on. Without the
    step that sees to it, it dies."""
    helpless(0o111)
    plan = plan_for(["cat"], ramet.Sandbox())
    if tied:
        steps = plan.stages["init"].steps
        kept = [step for step in steps if step.args[:2] != (1, 0)]
        assert len(kept) == len(steps) - 1
        plan = changed(plan, "init", kept)
    reader, writer = os.pipe()
    started = []
    thread = threading.Thread(target=lambda: started.append(launch(plan, (reader, 1, 2), encoded=Encodings(plan, {}))))
    thread.start()
    thread.join()
    (launched,) = started
    from ramet.run.streams import readable

    ended = readable(launched.pidfd, 5000 if tied else 300)
    launched.close()
    os.close(reader)
    os.close(writer)
    assert ended == tied
