"""Hazard 1 of csrc/spawn.c: signals in memory that child and caller share."""

import re

import pytest

pytestmark = pytest.mark.timeout(
    240
)  # 500 starts under a storm of signals, and half a minute where other tests run beside them

#: A process group of its own, to which somebody sends queued signals at 1 kHz; every run of the C-level
#: handler,
#: in whichever process that shares the wake-up pipe, puts one byte into it.
STORM = """
import fcntl, os, select, signal, sys, time
import ramet
os.setpgid(0, 0)
NUMBER = signal.SIGRTMIN + 3
reader, writer = os.pipe2(os.O_NONBLOCK)
seen = 0
def handler(*_):
    global seen
    seen += 1
signal.signal(NUMBER, handler)
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)  # room for a quarter of an hour
signal.set_wakeup_fd(writer, warn_on_full_buffer=True)
asked, ask = os.pipe()
done, tell = os.pipe()
sender = os.fork()
if sender == 0:
    signal.signal(NUMBER, signal.SIG_IGN)
    os.close(ask)
    poller = select.poll()
    poller.register(asked, select.POLLIN)
    sent = 0
    while not poller.poll(1):  # one a millisecond, until the caller lets go
        os.killpg(os.getpgrp(), NUMBER)
        sent += 1
    os.write(tell, sent.to_bytes(8, "little"))
    os._exit(0)
os.close(asked)
BODY
os.close(ask)
sent = int.from_bytes(os.read(done, 8), "little")
os.waitpid(sender, 0)
handled = 0
while True:
    try:
        handled += len(os.read(reader, 65536))
    except BlockingIOError:
        break
print(sent, handled, seen)
"""


def storm(python, body, **more):
    return [int(word) for word in python(STORM.replace("BODY", body), **more).split()]


def test_1_signals_no_handler_runs_in_a_child_and_none_is_lost(python):
    """With queued signals to the whole process group at 1 kHz while 500 sandboxes start, every one is
    handled once, by
    the caller."""
    body = """
for _ in range(500):
    assert ramet.run(["/bin/true"], as_pid1=True).ok
"""
    sent, handled, seen = storm(python, body)
    assert sent > 200
    assert handled == sent
    assert 0 < seen <= sent


def test_1_signals_control_a_plain_fork_runs_the_handler_twice(python):
    """The same storm with children of os.fork(), which keep the handler: more runs than signals, so the
    count would tell."""
    body = """
for _ in range(20):
    stop, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        time.sleep(0.02)
        os._exit(0)
    os.waitpid(pid, 0)
"""
    sent, handled, _seen = storm(python, body)
    assert handled > sent


def test_1_signals_callers_timer_goes_on(python):
    """A 1 kHz itimer of the caller with a Python handler neither disturbs 500 spawns nor is stopped by
    them."""
    out = python("""
        import signal
        import ramet
        ticks = 0
        def tick(*_):
            global ticks
            ticks += 1
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        results = [ramet.run(["/bin/true"]).exit_code for _ in range(500)]
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(set(results), ticks > 100)
    """)
    assert out == "{0} True\n"


def test_1_signals_mask_is_restored(python):
    """The caller's signal mask is after a spawn what it was before: after success, failure, and an
    exception in sync."""
    out = python("""
        import os, signal
        from core_programs import CLEAR_SIGHAND, spawn, step, Step
        from ramet import _core
        mask = {signal.SIGUSR1, signal.SIGRTMIN + 5}
        signal.pthread_sigmask(signal.SIG_BLOCK, mask)
        now = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [])
        def fail(*_):
            assert now() == mask, "the callback runs with the caller's own mask"
            raise KeyError
        spawn(step("chdir", "/"))
        print(now() == mask)
        spawn(step("chdir", "/nonexistent"))
        print(now() == mask)
        spawn(step("chdir", "/"), flags=2**40)
        print(now() == mask)
        try:
            spawn(step("chdir", "/"), sync=fail)
        except KeyError:
            print(now() == mask)
    """)
    assert out == "True\n" * 4


def test_1_signals_ignored_ones_and_blocked_ones_are_not_inherited(python):
    """What the caller ignores (Python ignores SIGPIPE) or blocks, the payload does not; its own child, by
    contrast, does."""
    out = python("""
        import signal, subprocess
        import ramet
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        argv = ["grep", "^Sig[BI]", "/proc/self/status"]
        for more in ({}, {"as_pid1": True}):
            print(ramet.run(argv, text=True, **more).stdout)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        print(subprocess.run(argv, capture_output=True, text=True, restore_signals=False).stdout)
    """)
    masks = [int(word, 16) for word in re.findall(r"^Sig\w+:\s*(\w+)", out, re.M)]
    assert masks[:4] == [0, 0, 0, 0]
    assert all(masks[4:]) and len(masks) == 6


#: Waits for SIGINT and for a line at once. A shell's `read` would miss a signal that comes just before it.
LISTENS = """
import os, select, signal
caught, catch = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(catch)
signal.signal(signal.SIGINT, lambda *_: None)
os.write(1, b"ready\\n")
ready = select.select([0, caught], [], [])[0]
os.write(1, b"caught\\n" if caught in ready else os.read(0, 99))
"""


@pytest.mark.parametrize("fields", ["{}", "{'as_pid1': True}", "{'new_session': False}"])
def test_1_signals_of_the_callers_terminal_do_not_reach_the_payload(python, fields):
    """A signal to the caller's process group, as Ctrl-C sends, is the caller's alone; with
    new_session=False, the payload's
    too."""
    out = python(f"""
        import os, signal, sys
        import ramet
        os.setpgid(0, 0)
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))
        box = ramet.Popen([sys.executable, "-I", "-S", "-c", {LISTENS!r}], stdin=ramet.PIPE, stdout=ramet.PIPE, **{fields})
        first = os.read(box.stdout.fileno(), 6)
        os.killpg(os.getpgrp(), signal.SIGINT)
        if {fields}.get("new_session", True):
            box.stdin.write(b"done\\n")
            box.stdin.close()
        print(first, os.read(box.stdout.fileno(), 99), seen)
        box.close()
    """)
    answer = "caught" if "new_session" in fields else "done"
    assert out == f"b'ready\\n' b'{answer}\\n' [1]\n"
