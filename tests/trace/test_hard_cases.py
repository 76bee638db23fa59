"""What is easily got wrong about ptrace, seen on a program that does it."""

import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from needs import need
from ramet.trace.collect import Tracee, trace

X86 = os.uname().machine == "x86_64"


def names(task):
    return [(call["call"], call["errno"]) for call in task["calls"]]


THREADS = """
import threading
for _ in range(3):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
"""


def test_threads_and_processes_are_told_apart(traced):
    """A thread is a thread of its process; what it starts is a process."""
    code = "import subprocess, threading as t; a = t.Thread(target=lambda: subprocess.run(['/bin/true'])); a.start(); a.join()"
    seen = traced(sys.executable, "-c", code)
    (thread,) = seen.children(seen.root, "thread")
    assert seen.tasks[thread["process"]] is seen.root and seen.children(seen.root) == []
    (child,) = seen.children(thread)
    assert child["kind"] == "process" and [call["path"] for call in child["calls"]] == ["/bin/true"]
    assert "CLONE_THREAD" in seen.root["calls"][1]["flags"]


def test_exec_by_another_thread(traced, program):
    """The process goes on under the leader's number, and the trace ends with it."""
    seen = traced(program, "thread-exec")
    (thread,) = seen.children(seen.root, "thread")
    (call,) = thread["calls"]
    assert (call["call"], call["goes_on_as"], call["errno"]) == ("execve", 0, None)
    assert call["argv"] == ["true", "-x"]
    assert (seen.root["exit_code"], thread["exit_code"], seen.done.returncode) == (0, None, 0)


def test_untraced_children_are_followed_and_the_flag_stays_the_caller_s(traced, program):
    """CLONE_UNTRACED: the children exec, though their filter asks for a tracer; registers and memory are as they were."""
    seen = traced(program, "untraced")
    assert seen.done.stdout.split() == ["clone", "1", "0", "clone3", "1", "0"]
    children = seen.children(seen.root)
    assert [names(child) for child in children] == [[("execve", None)]] * 2
    assert all("CLONE_UNTRACED" in call["flags"] for call in seen.root["calls"][1:])


def test_untraced_is_what_it_is_about(program):
    """The control: where nobody takes the flag out, the child of a tracee with our filter can't exec."""
    found = subprocess.run([sys.executable, "-c", BARE, program], capture_output=True, text=True, timeout=30)
    assert found.stdout.split() == ["clone", "1", "0", "clone3", "1", "0"], found.stderr
    refused = subprocess.run(
        [sys.executable, "-c", BARE, program, "filter"], capture_output=True, text=True, timeout=30
    )
    assert refused.returncode != 0 and "clone 1 0" not in refused.stdout


#: Runs it with our filter and without a tracer.
BARE = """
import os, sys
from ramet.trace.collect import _install_filter
if "filter" in sys.argv:
    pid = os.fork()
    if pid == 0:
        assert _install_filter() == 0
        os.execv(sys.argv[1], [sys.argv[1], "untraced"])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.execv(sys.argv[1], [sys.argv[1], "untraced"])
"""


@pytest.mark.parametrize("word", ["own-filter", "own-filter-of-threads"])
def test_a_filter_of_the_program_s_own_hides_nothing(traced, program, word):
    """A filter that answers a call before ours is asked: the call and its errno are seen, of children and threads too."""
    seen = traced(program, word)
    refused = seen.calls("unshare")
    assert {call["errno"] for call in refused} == {"EOPNOTSUPP"}
    flags = {"own-filter": [["CLONE_NEWUTS"], ["CLONE_NEWIPC"]], "own-filter-of-threads": [["CLONE_FILES"]]}
    assert [call["flags"] for call in refused] == flags[word]
    assert seen.done.returncode == 0


@pytest.mark.skipif(not X86, reason="only on x86-64, which runs 32-bit calls")
def test_32_bit_calls_are_decoded_by_their_own_numbers(traced, program):
    """clone, execve and unshare of 32-bit programs are shown as such; the numbers that mean other calls here are not."""
    seen = traced(program, "thirty-two")
    need(seen.done.returncode == 0, "a kernel with CONFIG_IA32_EMULATION")
    (child,) = seen.children(seen.root)
    clone, unshare = seen.root["calls"][1:]
    assert (clone["call"], clone["arch"], clone["flags"]) == ("clone", "i386", ["CLONE_FILES"])
    assert (unshare["call"], unshare["arch"], unshare["flags"]) == ("unshare", "i386", ["CLONE_FS"])
    assert [(c["arch"], c["path"], c["argv"]) for c in child["calls"]] == [("i386", "/bin/true", ["/bin/true", "-y"])]


@pytest.mark.parametrize("turn", range(3))
def test_killed_in_the_middle_of_many_clones(traced, program, turn):
    """Eight threads that fork are killed at once: the trace ends, every task has its end, each child one maker."""
    seen = traced(program, "storm")
    assert seen.done.returncode == 128 + signal.SIGKILL and seen.root["signal"] == "SIGKILL"
    assert len(seen.children(seen.root, "thread")) == 8
    assert all(task["signal"] or task["exit_code"] is not None for task in seen.tasks)
    made = [call["child"] for call in seen.calls() if call.get("child") is not None]
    assert len(made) == len(set(made)) and len(seen.tasks) > 9


@pytest.mark.parametrize("options", [[], ["--no-seccomp"]])
def test_replaced_in_the_middle_of_many_clones(traced, program, options):
    """The same, but a ninth thread executes another program: it ends the others, and goes on as the process."""
    seen = traced(program, "storm-exec", options=options)
    assert seen.done.returncode == 0 and len(seen.children(seen.root, "thread")) == 9
    (call,) = seen.calls("execve")[1:]
    assert (call["argv"], call["goes_on_as"]) == (["true", "-x"], 0)


@pytest.mark.parametrize("options", [[], ["--no-seccomp"]])
def test_killed_in_the_middle_inside_a_pid_namespace(traced, program, options):
    """The same in a pid namespace, where a clone's return is awaited."""
    seen = traced("unshare", "-Urpf", "sh", "-c", '"$0" storm; exit 5', program, options=options)
    (init,) = seen.children(seen.root)
    (inside,) = seen.children(init)
    assert (init["exit_code"], seen.done.returncode) == (5, 5)
    assert inside["signal"] == "SIGKILL" and len(seen.children(inside, "thread")) == 8
    assert all(task["pid_inside"] for task in seen.tasks[1:] if task["maker"] is not None)


def test_a_program_that_hides_its_memory(traced, tmp_path):
    """Who executes what its tracer may read only for a moment: path and arguments are there all the same."""
    code = "import ctypes, os; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); os.execv('/bin/true', ['true', 'x' * 3000])"
    seen = traced(sys.executable, "-c", code)
    call = seen.root["calls"][-1]
    assert os.path.realpath(call["path"]) == os.path.realpath("/bin/true") and call["errno"] is None
    assert call["argv"] == ["true", "x" * 3000]


def test_long_arguments_arrive_whole_and_endless_ones_cut(traced):
    """Arguments over page borders are read to their end; more than can be kept is marked."""
    words = [str(n) * 50 for n in range(90)]
    call = traced("/bin/true", *words).root["calls"][0]
    assert call["argv"] == ["/bin/true", *words] and not call["cut"]
    call = traced("/bin/true", *["y" * 1000] * 200).root["calls"][0]
    assert call["cut"] and 10 < len(call["argv"]) < 200


def test_deep_chains(traced, program, ramet_trace):
    """A hundred generations: each is the child of the one before."""
    seen = traced(program, "deep", "100")
    assert [task["maker"] for task in seen.tasks] == [None, *range(100)]
    assert "101 processes" in ramet_trace("--", program, "deep", "100").stderr


def test_inner_pids_are_beside_ours(traced):
    """Who is in another pid namespace is shown with both numbers, and what clone returned there is the inner one."""
    seen = traced("unshare", "-Urpf", "sh", "-c", "true & wait; echo $$")
    (first,) = seen.children(seen.root)
    (second,) = seen.children(first)
    assert (first["pid_inside"], second["pid_inside"]) == (1, 2) and seen.done.stdout == "1\n"
    assert first["calls"][-1]["result"] == 2 != second["pid"]
    assert seen.root["pid_inside"] is None  # the control: the one who stayed outside
    unshare = seen.root["calls"][1]
    assert (unshare["new_namespaces"], unshare["new_namespaces_for_children"]) == (["user"], ["pid"])


def test_signals_arrive_as_they_were_sent(ramet_trace):
    """Handlers run, deadly signals kill, and si_code and value are those of the sender."""
    code = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
os.kill(os.getpid(), signal.SIGUSR1)
info = signal.sigwaitinfo({signal.SIGUSR1})
print(info.si_signo == signal.SIGUSR1, info.si_pid == os.getpid(), flush=True)
signal.signal(signal.SIGTRAP, lambda *_: print("trap", flush=True))
os.kill(os.getpid(), signal.SIGTRAP)
os.kill(os.getpid(), signal.SIGTERM)
"""
    done = ramet_trace("--", sys.executable, "-c", code)
    assert done.stdout.split() == ["True", "True", "trap"]
    assert done.returncode == 128 + signal.SIGTERM and "killed by SIGTERM" in done.stderr


def test_a_stopped_process_stays_stopped_until_it_is_continued(ramet_trace):
    """SIGSTOP stops a tracee, its parent sees that, and SIGCONT lets it go on."""
    code = """
import os, signal
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
_, status = os.waitpid(pid, os.WUNTRACED)
print(os.WIFSTOPPED(status), os.WSTOPSIG(status) == signal.SIGSTOP)
with open(f"/proc/{pid}/stat") as file:
    print(file.read().split(")")[1].split()[0] in "tT")
os.kill(pid, signal.SIGCONT)
_, status = os.waitpid(pid, os.WCONTINUED)
print(os.WIFCONTINUED(status) or os.waitstatus_to_exitcode(status) == 7)
if os.WIFCONTINUED(status):
    _, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
"""
    done = ramet_trace("--", sys.executable, "-c", code)
    assert done.stdout.split() == ["True", "True", "True", "True", "7"], done.stderr


def test_the_command_ends_with_its_tracer(tmp_path):
    """When ramet is killed, nothing of what it traced goes on."""
    script = "echo $$; sleep 100 & wait"
    process = subprocess.Popen(
        [sys.executable, "-m", "ramet", "trace", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    )
    pid = int(process.stdout.readline())
    fd = os.pidfd_open(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    assert select.select([fd], [], [], 40)[0], "it lives on"
    os.close(fd)


# Without a filter


@pytest.mark.parametrize("command", ["threads", "unshare", "own-filter", "untraced", "thread-exec"])
def test_without_a_filter_the_same_is_seen(traced, program, command):
    """--no-seccomp sees the same calls; the command then has neither a filter nor no_new_privs."""
    argv = {
        "threads": [sys.executable, "-c", THREADS],
        "unshare": ["unshare", "-Urpf", "sh", "-c", "true & wait; ls / | cat"],
    }.get(command, [program, command])

    def shape(seen):
        # One that a signal interrupts is made again; whether one does is chance.
        made = [[call for call in task["calls"] if call["errno"] != "ERESTARTNOINTR"] for task in seen.tasks]
        return [[(c["call"], c["errno"], c.get("flags"), c.get("child")) for c in calls] for calls in made]

    fast, slow = traced(*argv), traced(*argv, options=["--no-seccomp"])
    assert shape(fast) == shape(slow) and fast.json["filtered"] and not slow.json["filtered"]


def test_what_the_filter_changes_for_the_command(traced):
    """With the filter an ordinary user's command has no_new_privs; with --no-seccomp it has not. Root's never."""
    script = "grep -E 'NoNewPrivs|^Seccomp:' /proc/self/status"

    def status(*options):
        lines = traced("sh", "-c", script, options=options).done.stdout.split()
        return dict(zip(lines[::2], map(int, lines[1::2]), strict=True))

    before = status("--no-seccomp")
    after = status()
    assert before == {"NoNewPrivs:": before["NoNewPrivs:"], "Seccomp:": before["Seccomp:"]}
    assert after["Seccomp:"] == 2
    assert after["NoNewPrivs:"] == (before["NoNewPrivs:"] if os.geteuid() == 0 else 1)


def refuse(number, errno):
    """Start Python code under a filter that refuses one system call; the words of the command line to put before."""
    program = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, number)
    program += struct.pack("=HBBI", 6, 0, 0, 0x50000 | errno) + struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    code = f"""
import ctypes, os, struct, sys
from array import array
code = array("B", bytes.fromhex("{program.hex()}"))
libc = ctypes.CDLL(None, use_errno=True)
header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, code.buffer_info()[0]))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, header, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
    return [sys.executable, "-c", code]


def numbers(name):
    x86, arm = {"seccomp": (317, 277), "ptrace": (101, 117), "process_vm_readv": (310, 270)}[name]
    return x86 if X86 else arm


def test_where_seccomp_is_refused_it_goes_without(traced):
    """A container that refuses seccomp: the same tree, more slowly, and a word about it."""
    seen = traced("sh", "-c", "true & wait", before=refuse(numbers("seccomp"), 1))
    assert not seen.json["filtered"] and len(seen.tasks) == 2
    assert seen.done.stderr.startswith("ramet: no seccomp filter (EPERM")


def test_where_ptrace_is_refused_it_says_what_it_needs(ramet_trace):
    """A container that refuses ptrace: an error with the fact and the remedy, and the command has not run."""
    before = refuse(numbers("ptrace"), 1)
    done = subprocess.run(
        [*before, sys.executable, "-m", "ramet", "trace", "--", "echo", "ran"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 125 and done.stdout == ""
    assert done.stderr.startswith("ramet: can't follow the command: ptrace says EPERM")
    assert "hint: " in done.stderr


def test_where_process_vm_readv_is_refused_memory_is_read_by_ptrace(traced):
    """A container that refuses process_vm_readv: paths, arguments and clone3's structure are read word by word."""
    code = "import threading; t = threading.Thread(target=int); t.start(); t.join()"
    seen = traced(sys.executable, "-c", code, before=refuse(numbers("process_vm_readv"), 38))
    assert seen.root["calls"][0]["argv"] == [sys.executable, "-c", code]
    assert "CLONE_THREAD" in seen.root["calls"][1]["flags"]


# In a program of one's own


def test_as_a_function_it_leaves_other_children_alone():
    """`trace` waits for what it traces, and for nobody else's child."""
    other = subprocess.Popen(["sleep", "0.05"])
    found = trace(["sh", "-c", "exit 3"])
    assert found.exit_code == 3 and len(found.tasks) == 1
    assert other.wait() == 0


def test_a_tracee_that_is_abandoned_is_killed():
    """end_all ends what runs, and the trace is still there."""
    tracee = Tracee(["sleep", "100"])
    while not Path(f"/proc/{tracee.pid}/cmdline").read_bytes().startswith(b"sleep"):
        time.sleep(0.005)
    tracee.end_all()
    os.eventfd_read(tracee.done)
    found = tracee.result()
    assert found.exit_code == 137 and found.tasks[0].calls[0].argv == ("sleep", "100")


@pytest.mark.parametrize("blocked", [False, True])
def test_no_stop_wakes_who_waits(monkeypatch, blocked):
    """The main thread sleeps until the trace is over. The control: with SIGCHLD blocked in the tracer, each stop wakes it."""
    block = signal.pthread_sigmask
    if blocked:
        monkeypatch.setattr(signal, "pthread_sigmask", lambda how, mask: block(how, {*mask, signal.SIGCHLD}))
    before = switches()
    loop = "for n in 1 2 3 4 5 6 7 8 9 10; do /bin/true; /bin/true; /bin/true; /bin/true; /bin/true; done"
    found = trace(["sh", "-c", loop])
    assert len(found.tasks) == 51, "each of them stops at least five times"
    assert (switches() - before > 30) is blocked


def switches():
    """How often this thread has gone to sleep."""
    with open("/proc/thread-self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))
