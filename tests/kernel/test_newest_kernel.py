"""CLONE_AUTOREAP, CLONE_NNP and CLONE_PIDFD_AUTOKILL (Linux 7.1): the kernel reaps, and kills for a dead caller."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from inside import said, shell
from test_life import gone

import ramet
from needs import since
from ramet.host.facts import facts
from ramet.plan.compile import CLONE_AUTOREAP, CLONE_NNP, CLONE_PIDFD_AUTOKILL

NEW = CLONE_AUTOREAP | CLONE_NNP | CLONE_PIDFD_AUTOKILL

pytestmark = pytest.mark.vm
newest = since(7, 1)


def flags(**fields):
    return ramet.Sandbox(**fields).plan(["true"]).clone_flags


@newest
def test_the_kernel_is_asked():
    """Where the kernel can, the default sandbox is made with all three; the probe leaves nothing behind."""
    before = sorted(os.listdir("/proc/self/fd"))
    assert facts().autokill is True
    assert flags() & NEW == NEW
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_kernel_is_not_asked_otherwise():
    """The control: none of them without the fact, nor for a payload that is pid 1 or may gain privileges."""
    if not facts().autokill:
        assert flags() & NEW == 0
    assert flags(as_pid1=True) & NEW == 0
    assert flags(no_new_privs=False) & NEW == 0


@newest
def test_a_failed_start_is_gone():
    """Nobody has to reap what the kernel reaps; when a start has failed the child is no longer on the list of children all the same."""
    for _ in range(100):
        with pytest.raises(ramet.StepError):
            ramet.run(["true"], workdir="/nowhere")
        assert Path("/proc/thread-self/children").read_text() == ""
    with ramet.Popen(["sleep", "50"]) as box:  # the control: who lives is on it
        assert str(box.pid) in Path("/proc/thread-self/children").read_text().split()


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("exit 0", ("exited", 0, None)),
        ("exit 137", ("exited", 137, None)),
        ("exit 255", ("exited", 255, None)),
        ("kill -9 $$", ("signaled", None, 9)),
        ("kill -11 $$", ("signaled", None, 11)),
        ("kill -64 $$", ("signaled", None, 64)),
    ],
)
@pytest.mark.parametrize("as_pid1", [False, True])
def test_endings(script, ending, as_pid1):
    """How the payload has ended is told, whoever reaps; a pid 1 can't signal itself."""
    if as_pid1 and "kill" in script:
        script, ending = "exit 7", ("exited", 7, None)
    result = shell(script, as_pid1=as_pid1)
    assert (result.status, result.exit_code, result.signal) == ending


@pytest.mark.parametrize("how", ["kill", "init", "terminate", "close"])
def test_ends_from_outside(how):
    """kill(), SIGKILL to init, terminate() and close() end it and are told as the signal."""
    box = ramet.Popen(["sh", "-c", "echo up; exec sleep 600"], stdout=ramet.PIPE)
    assert box.stdout.readline() == b"up\n"
    watch = os.pidfd_open(box.pid)
    if how == "init":
        os.kill(box.pid, signal.SIGKILL)
    else:
        getattr(box, how)()
    assert gone(watch)
    if how != "close":
        assert box.wait(timeout=30) == (-15 if how == "terminate" else -9)
        assert box.poll() == box.returncode
    assert box.returncode == (-15 if how == "terminate" else -9)
    box.close()
    os.close(watch)


def test_timeout():
    """A timeout ends it, with what it had written."""
    result = shell("echo early; sleep 600", timeout=5)  # with less, a machine that stalls has written nothing by then
    assert (result.status, result.stdout) == ("timed-out", "early\n")


def test_a_caller_that_ignores_sigchld():
    """With SIGCHLD ignored the kernel reaps every child: the ending is told none the less."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert shell("exit 9").exit_code == 9
        box = ramet.Popen(["sleep", "600"])
        box.kill()
        assert box.wait(timeout=30) == -9
        box.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_child_is_left():
    """Nothing is left to wait for, also after a start that failed."""
    children = Path("/proc/thread-self/children")
    before = children.read_text()
    said(shell("true"))
    with pytest.raises(ramet.CommandError):
        ramet.run(["/nonexistent"])
    assert children.read_text() == before


CALLER = """
import os, sys, time
sys.path[:0] = [{path!r}]
import ramet
box = ramet.Popen(["sh", "-c", "sleep 600 & echo up; wait"], stdout=ramet.PIPE, **{fields!r})
assert box.stdout.readline() == b"up\\n"
print(box.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("fields", [{}, {"no_new_privs": False}, {"as_pid1": True}], ids=["new", "privs", "pid1"])
def test_dies_with_a_killed_caller(fields):
    """A killed caller's sandbox ends, with the new flags and without; while the caller lives, it lives."""
    path = os.path.dirname(os.path.dirname(ramet.__file__))
    code = CALLER.format(path=path, fields=fields)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd="/") as caller:
        watch = os.pidfd_open(int(caller.stdout.readline()))
        assert not gone(watch, 0.2)
        caller.kill()
        assert gone(watch)
        os.close(watch)


@newest
def test_the_kernel_kills_without_inits_help():
    """Init is stopped and can't watch; closing the last copy of the pidfd ends everything all the same."""
    box = ramet.Popen(["sleep", "600"])
    watch = os.pidfd_open(box.pid)
    os.kill(box.pid, signal.SIGSTOP)
    fd = box._launched.pidfd
    copy = os.dup(fd)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, fd, inheritable=False)
    assert not gone(watch, 0.2)  # the copy holds it
    os.close(copy)
    assert gone(watch)
    os.dup2(watch, fd, inheritable=False)
    for other in (watch, null):
        os.close(other)
    assert box.wait(timeout=30) == -9
    box.close()


def test_many_at_once():
    """Each of many tells its own ending."""
    boxes = [ramet.Popen(["sh", "-c", f"exit {code}"]) for code in range(8)]
    assert [box.wait(timeout=60) for box in boxes] == list(range(8))
    for box in boxes:
        box.close()
