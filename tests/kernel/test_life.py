"""Init, orphans, daemons, ends: who lives how long, and what is said about it."""

import os
import resource
import select
import signal
import sys

import pytest
from inside import UNTIL_NAMED, Neighbour, python, said, shell

import ramet


def gone(pidfd, seconds=20):
    """Has the process ended, or does it within this time?"""
    return bool(select.select([pidfd], [], [], seconds)[0])


def test_init_is_pid_1_and_the_payload_is_not():
    """By default pid 1 is ramet's init; with as_pid1=True it is the payload."""
    assert said(shell(UNTIL_NAMED + "cat /proc/1/comm; echo $$")).split() == ["ramet-init", "2"]
    assert said(shell("cat /proc/1/comm; echo $$", as_pid1=True)).split() == ["sh", "1"]


@pytest.mark.parametrize(
    "name", ["environ", "mem", "maps", "fd/0", "exe", "cwd", "root", "auxv", "io", "stack", "syscall", "ns/net"]
)
@pytest.mark.parametrize("uid", [0, 1000])
def test_init_is_unreadable(name, uid):
    """Nothing of init can be read through /proc; the payload's own entry of the same name can."""
    probe = """
import os, sys
def look(pid):
    path = f"/proc/{pid}/" + sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if os.path.islink(path): return "read " + os.readlink(path)[:0]
        if os.path.isdir(path): return "read" if os.listdir(path) else "read"
        with open(path, "rb", buffering=0) as file:
            if sys.argv[1] != "mem": file.read(1)
            return "read"
    except OSError as error:
        return error.__class__.__name__
print(look(1).strip(), look("self").strip())
"""
    result = ramet.run([sys.executable, "-I", "-S", "-c", probe, name], uid=uid, gid=uid, text=True)
    init, own = said(result).split()
    assert init == "PermissionError"
    assert own == "read" or name in ("stack",)


@pytest.mark.parametrize("number", [1, 9, 10, 11, 15, 19])
def test_signals_from_inside_do_not_hurt_init(number):
    """No signal that the payload sends to pid 1 does anything; the same to another process ends or stops it."""
    script = f"kill -{number} 1; kill -{number} 1; sleep 600 & kill -{number} $!; "
    script += (
        "until grep State.*stopped /proc/$!/status; do sleep 0.01; done; kill -9 $!"
        if number == 19
        else "wait $!; echo $?"
    )
    result = said(shell(script))
    assert "stopped" in result if number == 19 else int(result) == 128 + number


def test_init_cannot_be_traced():
    """The payload can't ptrace init; it can its own child."""
    code = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
child = os.fork()
if child == 0:
    signal.pause()
print(libc.ptrace(PTRACE_SEIZE, 1, 0, 0), ctypes.get_errno(), libc.ptrace(PTRACE_SEIZE, child, 0, 0))
os.kill(child, 9)
"""
    assert said(ramet.run([sys.executable, "-I", "-c", code], text=True, seccomp="none")) == "-1 1 0"


def test_callers_environment_is_nowhere(monkeypatch):
    """What is in the caller's environment is in no process's environ inside."""
    monkeypatch.setenv("RAMET_SECRET", "very-secret-value")
    os.environ["RAMET_SECRET_2"] = "very-secret-value"
    try:
        result = shell("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'", uid=0, gid=0)
        assert "PATH=" in result.stdout
        assert "very-secret-value" not in result.stdout + result.stderr
    finally:
        del os.environ["RAMET_SECRET_2"]


def test_orphans_are_reaped():
    """Orphans that end are reaped: none stays a zombie while the payload lives. Its own child does, until it waits for it."""
    code = """
import os, time
def there():
    return sum(name.isdigit() for name in os.listdir("/proc"))
for _ in range(5):
    middle = os.fork()
    if middle == 0:
        os.fork()
        os._exit(0)
    os.waitpid(middle, 0)
while there() > 2:
    time.sleep(0.01)
print("reaped")
own = os.fork()
if own == 0:
    os._exit(0)
os.waitid(os.P_PID, own, os.WEXITED | os.WNOWAIT)
print(there())
"""
    assert said(python(code)).split() == ["reaped", "3"]


DAEMON = """
import os, sys, time, signal
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        os.write(writer, b"x")
        while True: time.sleep(1000)
    os._exit(0)
os.read(reader, 1)
print("payload done")
"""


@pytest.mark.parametrize("as_pid1", [False, True])
def test_daemons_die_with_the_payload(as_pid1, tmp_path):
    """A daemon that double-forks, starts a session and ignores every signal ends when the payload ends."""
    reader, writer = os.pipe()
    result = python(DAEMON, pass_fds=[writer], as_pid1=as_pid1)
    os.close(writer)
    assert said(result) == "payload done"
    assert gone(reader, 0) and os.read(reader, 1) == b""  # no one holds the other end any more
    os.close(reader)


def test_daemon_lives_as_long_as_the_payload():
    """The control for it: while the payload lives, so does the daemon."""
    reader, writer = os.pipe()
    box = ramet.Popen(
        [sys.executable, "-c", DAEMON + "\nsys.stdout.flush(); sys.stdin.read()"],
        pass_fds=[writer],
        stdin=ramet.PIPE,
        stdout=ramet.PIPE,
    )
    os.close(writer)
    assert box.stdout.readline() == b"payload done\n"
    assert not gone(reader, 0)
    box.stdin.close()
    assert box.wait(timeout=20) == 0
    assert gone(reader)
    os.close(reader)
    box.close()


@pytest.mark.parametrize("as_pid1", [False, True])
@pytest.mark.parametrize("code", [0, 1, 2, 42, 125, 126, 127, 128, 137, 255])
def test_exit_code_is_exact(code, as_pid1):
    """The payload's exit code is told as it is; 137 is an exit, not a signal."""
    result = shell(f"exit {code}", as_pid1=as_pid1)
    assert (result.status, result.exit_code, result.signal) == ("exited", code, None)
    assert result.ok is (code == 0)


@pytest.mark.parametrize("number", [1, 2, 3, 6, 9, 11, 13, 15, 31, 34, 64])
def test_signal_is_exact(number):
    """A payload that a signal ended is told as such, with the number, real-time ones too."""
    result = shell(f"kill -{number} $$")
    assert (result.status, result.exit_code, result.signal) == ("signaled", None, number)
    assert not result.ok


def test_the_payloads_children_do_not_change_its_status():
    """Only the payload's own end counts, whatever its children or orphans do."""
    assert shell("(exit 3); sh -c 'kill -9 $$'; exit 5").exit_code == 5


def test_killing_init_from_outside_ends_everything():
    """SIGKILL to init ends every process inside, and is told as a signal."""
    reader, writer = os.pipe()
    box = ramet.Popen(["sh", "-c", "sleep 600 & sleep 600 & wait"], pass_fds=[writer])
    os.close(writer)
    assert not gone(reader, 0)
    os.kill(box.pid, signal.SIGKILL)
    assert box.wait(timeout=20) == -9
    assert gone(reader)
    os.close(reader)
    box.close()


@pytest.mark.parametrize("as_pid1", [False, True])
def test_sandbox_dies_with_its_caller(as_pid1):
    """When the caller is killed, everything in the sandbox ends."""
    import subprocess

    code = f"""
import ramet, sys, time
box = ramet.Popen(["sh", "-c", "sleep 600 & echo up; wait"], stdout=ramet.PIPE, as_pid1={as_pid1})
print(box.pid, box.stdout.readline().decode().strip(), flush=True)
time.sleep(1000)
"""
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd="/")
    pid, word = caller.stdout.readline().split()
    assert word == "up"
    pidfd = os.pidfd_open(int(pid))
    assert not gone(pidfd, 0)
    caller.kill()
    caller.wait()
    assert gone(pidfd)
    os.close(pidfd)
    caller.stdout.close()


def test_sandboxes_do_not_see_each_other():
    """Two sandboxes at once share no process, no file, no abstract socket and no message."""
    with Neighbour("echo mine >/tmp/file; ipcmk -Q >/dev/null") as box:
        script = "cat /tmp/file 2>&-; wc -l </proc/sysvipc/msg; set -- /proc/[0-9]*; echo $#"
        assert said(shell(script)).split() == ["1", "2"]  # init and the shell
        assert box.process.poll() is None


def test_sandbox_can_end_while_a_stopped_process_is_in_it():
    """A stopped process inside does not keep the sandbox alive."""
    assert said(shell("sleep 600 & kill -STOP $!; echo done")) == "done"


def test_usage_counts_the_whole_tree():
    """Usage counts what children and orphans have used, and the peak is of the largest process."""
    busy = python(
        "import os\nif os.fork() == 0:\n    x = bytearray(64 << 20)\n    for _ in range(10**7): pass\n    os._exit(0)\nos.wait()"
    )
    assert busy.ok
    assert busy.usage.cpu_user > 0.05
    assert busy.usage.memory_peak > 64 << 20
    idle = shell("true")
    assert idle.usage.cpu_user < busy.usage.cpu_user
    assert idle.usage.memory_peak_of == "caller" or idle.usage.memory_peak < 64 << 20
    assert busy.duration >= busy.usage.cpu_user * 0.5


def test_peak_that_may_be_the_callers_is_called_so():
    """The kernel counts what the payload's process shared with us before exec: of a payload smaller than us the peak is
    called the caller's; of a larger one it is its own."""
    large = bytearray(64 << 20)
    large[::4096] = b"x" * (len(large) // 4096)
    small = shell("true").usage
    # Afterwards, since a run is more for us too; and the kernel counts roughly (percpu counters).
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert (small.memory_peak_of, small.memory_peak <= own + (8 << 20)) == ("caller", True)
    more = own + (32 << 20)
    big = python(f"x = bytearray({more}); x[::4096] = b'x' * len(x[::4096])").usage
    assert big.memory_peak_of == "process"
    assert more < big.memory_peak < more + (64 << 20)
