"""The C code on aarch64, run: by qemu's user mode, which emulates the processor and passes system calls on.

What it can't show, since this emulator makes every clone a fork or a thread: a child that shares the caller's memory
(CLONE_VM without CLONE_THREAD), and so a payload's process that waits for init on a word of that memory; clone3;
CLONE_PARENT; namespaces; PR_SET_CHILD_SUBREAPER. ``test_what_is_left_out_by_name`` names them to the emulator.
"""

import errno as E
import os
import platform
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from core_programs import EPROTO, step

from needs import need, only
from ramet.plan.calls import CALLS
from ramet.plan.encode import ADDRESS, HEADER, MAGIC, SAVE, SLOT, STEP, encode
from ramet.plan.steps import Block, Ptr, Slot, Stage
from ramet.run.control import COMMAND, receive

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"
AT_FDCWD = -100
CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC  # the same on both machines, as few flags of open are
FD, PID = Slot("fd"), Slot("pid")
NO_ENVIRONMENT = Block(bytes(8))
CLONE_SIGHAND = 0x800

NATIVE = platform.machine() == "aarch64"
COMPILER = "cc" if NATIVE else "aarch64-linux-gnu-gcc"
QEMU = [] if NATIVE else [shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64") or ""]


def as_in_meson(after):
    """The quoted words of the list that follows these words in meson.build."""
    text = (ROOT / "meson.build").read_text()
    return re.findall(r"'([^']+)'", re.search(re.escape(after) + r"[^\[]*\[(.*?)\]", text, re.S)[1])


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Where main and _init are, for aarch64, compiled as meson.build says."""
    need(shutil.which(COMPILER), "a compiler for aarch64: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    need(NATIVE or QEMU[0], "an emulator of aarch64: apt-get install qemu-user-static")
    to = tmp_path_factory.mktemp("aarch64")
    bare, static = as_in_meson("\nbare ="), as_in_meson("link_args:")
    assert "-fno-stack-protector" in bare and "-nostdlib" in static

    def make(*argv):
        done = subprocess.run(
            [COMPILER, "-std=gnu11", "-O2", *argv], cwd=to, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(argv)}\n{done.stderr}"

    for name in ("steps", "child", "plain", "init"):
        make(*bare, "-fno-pic", "-fno-asynchronous-unwind-tables", "-c", f"{CSRC / name}.c", "-o", f"{name}.o")
    make(*static, "init.o", "-o", "_init")
    source = str(Path(__file__).with_name("aarch64_main.c"))
    flags = "-static", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}"
    make(*flags, source, "steps.o", "child.o", "plain.o", "-o", "main")
    for name in ("main", "_init"):
        machine = (to / name).read_bytes()[18:20]
        assert machine == b"\xb7\0", "not a program for aarch64"
    return to


@pytest.fixture
def main(built):
    """Run a word of aarch64_main.c; what it says, by name."""

    def run(*argv, pass_fds=()):
        argv = [*QEMU, built / "main", *argv]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, pass_fds=pass_fds)
        assert done.returncode == 0 and not done.stderr, done
        return {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}

    return run


def program(*steps, machine="aarch64", **more):
    return encode(Stage("child", steps), machine, **more)


@pytest.fixture
def steps(main, tmp_path):
    """Run these steps; errno, the number of the last step made, and what is in the slots."""

    def run(*steps, inputs=None, pass_fds=(), **more):
        encoded = program(*steps, **more)
        blob = bytearray(encoded.blob)
        start = len(blob) - HEADER.unpack_from(blob)[3]
        for slot, value in (inputs or {}).items():
            struct.pack_into("<i", blob, start + encoded.offsets[slot], value)
        (tmp_path / "blob").write_bytes(blob)
        said = main("run", tmp_path / "blob", tmp_path / "data", pass_fds=pass_fds)
        assert said["check"] == 1
        data = (tmp_path / "data").read_bytes()
        slots = {slot: struct.unpack_from("<i", data, place)[0] for slot, place in encoded.offsets.items()}
        return said["error"], said["at"], slots

    return run


# System calls


def test_values_and_errors_come_back(main, tmp_path):
    """A raw call returns the kernel's value or -errno and passes all six arguments; the last errno is one, -4096 is none."""
    (tmp_path / "two").write_bytes(bytes(4096) + b"second" + bytes(4090))
    assert main("sys6", tmp_path / "two") == {
        "getpid": 1,
        "close": -E.EBADF,
        "nothing": -E.ENOSYS,
        "mapped": 1,
        "content": 1,
        "misaligned": -E.EINVAL,
        "failed": 1,
        "none": 0,
    }
    (tmp_path / "other").write_bytes(bytes(4096) + b"others" + bytes(4090))
    assert main("sys6", tmp_path / "other")["content"] == 0


# The interpreter


def test_steps_make_what_they_say(steps, tmp_path):
    """Directories and files appear as the steps of a plan for aarch64 say; numbers of another machine make none."""
    made = [
        step("mkdirat", AT_FDCWD, str(tmp_path / "d"), 0o700),
        step("openat", AT_FDCWD, str(tmp_path / "d"), os.O_RDONLY, result=Slot("dir")),
        step("openat", Slot("dir"), "file", CREATE, 0o600, result=FD),
        step("write", FD, b"written", 7, expect=7),
        step("close", FD),
        step("symlinkat", "file", Slot("dir"), "link"),
    ]
    error, at, slots = steps(*made)
    assert (error, at) == (0, 5)
    assert 2 < slots[Slot("dir")] < slots[FD]
    assert (tmp_path / "d/link").read_text() == "written"
    assert oct((tmp_path / "d/file").stat().st_mode) == "0o100600"
    shutil.rmtree(tmp_path / "d")
    assert steps(*made, machine="x86_64")[0] != 0
    assert not (tmp_path / "d").exists()


def test_results_are_kept_in_their_slots(steps):
    """The slot holds what the call returned, and one that no step filled is -1."""
    error, _, slots = steps(step("getpid", result=PID), step("close", Slot("never"), allow=(E.EBADF,)))
    assert error == 0
    assert slots[PID] > 1 and slots[Slot("never")] == -1


def test_slot_is_signed(steps, tmp_path):
    """An input of -100 is passed as AT_FDCWD; -99 is no descriptor."""
    where = Slot("where")
    made = step("chdir", str(tmp_path)), step("mkdirat", where, "here", 0o700)
    assert steps(*made, inputs={where: -99})[:2] == (E.EBADF, 1)
    assert not (tmp_path / "here").exists()
    assert steps(*made, inputs={where: AT_FDCWD})[:2] == (0, 1)
    assert (tmp_path / "here").is_dir()


def test_slot_is_signed_in_all_64_bits(steps, tmp_path, monkeypatch):
    """A slot that holds -1 is an offset of -1, one byte before the end; one of 1 is a byte behind it."""
    monkeypatch.setitem(CALLS, "lseek", (8, 62, ""))
    (tmp_path / "file").write_bytes(b"four")
    opened = step("openat", AT_FDCWD, str(tmp_path / "file"), os.O_RDONLY, result=FD)
    for by in (-1, 1):
        sought = step("lseek", FD, Slot("by"), os.SEEK_END, expect=4 + by)  # which is compared in all its bits
        assert steps(opened, sought, inputs={Slot("by"): by})[:2] == (0, 1)


def test_first_failure_ends_the_program(steps, tmp_path):
    """The number and errno of the failed step come back, and no later one is made."""
    late = step("mkdirat", AT_FDCWD, str(tmp_path / "late"), 0o700)
    assert steps(step("getpid"), step("chdir", "/nonexistent"), late)[:2] == (E.ENOENT, 1)
    assert not (tmp_path / "late").exists()
    assert steps(step("getpid"), step("chdir", "/"), late)[:2] == (0, 2)
    assert (tmp_path / "late").exists()


def test_allowed_errno_is_no_failure(steps):
    """Either of two allowed errnos is passed over and kept negative; a third one is a failure."""
    missing = ("openat", AT_FDCWD, "/nonexistent", 0)
    for allow in ((E.ENOENT,), (E.EROFS, E.ENOENT)):
        error, _, slots = steps(step(*missing, result=FD, allow=allow))
        assert (error, slots[FD]) == (0, -E.ENOENT)
    error, _, slots = steps(step(*missing, result=FD, allow=(E.EROFS, E.EEXIST)))
    assert (error, slots[FD]) == (E.ENOENT, -1)


def test_unexpected_result_is_eproto(steps, tmp_path):
    """A result other than the expected one is EPROTO; the expected one is none; a failed call keeps its errno."""
    opened = step("openat", AT_FDCWD, str(tmp_path / "file"), CREATE, 0o600, result=FD)
    assert steps(opened, step("write", FD, b"four", 4, expect=3))[:2] == (EPROTO, 1)
    assert steps(opened, step("write", FD, b"four", 4, expect=4))[:2] == (0, 1)
    assert steps(step("write", FD, b"four", 4, expect=4))[:2] == (E.EBADF, 0)


def test_injected_failure_is_reported_without_the_call(steps, tmp_path):
    """A step made to fail is not made, and its number and errno come back."""
    made = step("mkdirat", AT_FDCWD, str(tmp_path / "d"), 0o700)
    assert steps(step("getpid"), made, fail={1: E.EXDEV})[:2] == (E.EXDEV, 1)
    assert not (tmp_path / "d").exists()
    assert steps(step("getpid"), made)[:2] == (0, 1)
    assert (tmp_path / "d").exists()


def test_pointers_in_structures_are_relocated(steps):
    """sendmsg finds its text through a header and a vector, each holding addresses that were offsets; a null is none."""

    def message(*vector):
        return Block(bytes(16), Ptr(Block(*vector)), struct.pack("<QQQQ", 2, 0, 0, 0))

    pieces = Ptr(b"through "), struct.pack("<Q", 8), Ptr(b"pointers"), struct.pack("<Q", 8)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        given = {"inputs": {FD: theirs.fileno()}, "pass_fds": (theirs.fileno(),)}
        assert steps(step("sendmsg", FD, message(*pieces), 0, expect=16), **given)[:2] == (0, 0)
        assert ours.recv(99, socket.MSG_DONTWAIT) == b"through pointers"
        nowhere = message(struct.pack("<Q", 8), *pieces[1:])  # the first piece at address 8
        assert steps(step("sendmsg", FD, nowhere, 0, expect=16), **given)[:2] == (E.EFAULT, 0)


def blob_of(*steps, relocs=(), size=16, magic=MAGIC):
    """A program by hand, well-formed or not."""
    laid = b"".join(STEP.pack(*one) for one in steps) + struct.pack(f"<{len(relocs)}I", *relocs) + bytes(16)
    return HEADER.pack(magic, len(steps), len(relocs), size) + laid


def one(kinds=0, save=0, arg=0):
    return (-1, kinds, 0, 0, save, 0, arg, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({}, {"magic": MAGIC + 1}),
        ({}, {"size": 17}),
        ({}, {"size": 15}),
        ({"steps": [one(ADDRESS, arg=15)]}, {"steps": [one(ADDRESS, arg=16)]}),
        ({"steps": [one(SLOT, arg=12)]}, {"steps": [one(SLOT, arg=13)]}),
        ({"steps": [one(SLOT, arg=0)]}, {"steps": [one(SLOT, arg=2**64 - 4)]}),
        ({"steps": [one(SAVE, save=12)]}, {"steps": [one(SAVE, save=16)]}),
        ({"steps": [one(2)]}, {"steps": [one(3)]}),
        ({"relocs": (8,) * 4}, {"relocs": (8,) * 3}),
        ({"relocs": (8,) * 4}, {"relocs": (8, 8, 8, 12)}),
        ({"relocs": (8,) * 4}, {"relocs": (8, 8, 8, 16)}),
    ],
)
def test_malformed_program_is_refused(main, tmp_path, good, bad):
    """A size that does not add up, an offset outside the data, one not aligned, an unknown kind: refused; beside it, taken."""

    def checked(steps=(), **more):
        (tmp_path / "blob").write_bytes(blob_of(*steps, **more))
        return main("run", tmp_path / "blob", tmp_path / "data")

    assert checked(**good)["check"] == 1
    assert checked(**bad) == {"check": 0}


# The child


@pytest.mark.parametrize("how", ["clone", "either", "old"])
def test_child_runs_on_its_own_stack(main, how):
    """The child gets its argument on the stack it was given, under no frame, and its exit status comes back: by clone,
    by whichever of clone3 and clone there is, and by clone though a flag of clone3's was asked for that it does not need."""
    assert main("clone", how) == {"made": 1, "status": 77, "pid": 1, "arg": 1, "stack": 1, "frame": 0}


def test_clone_finds_each_argument_where_aarch64_has_it(main):
    """clone(2) takes tls before child_tid here: both words get the child's pid, and the thread pointer is set only when
    CLONE_SETTLS is given."""
    words = {f"{word}{of}": 1 for word in ("parent", "child") for of in ("", "_tls", "_here")}
    statuses = dict.fromkeys(("status", "status_tls"), 77)
    assert main("clone", "words") == words | statuses | {"status_here": 77, "tls": 0, "tls_tls": 1}


def test_clone3_is_made_or_missing(main):
    """clone3 makes such a child, or is answered by ENOSYS, as this emulator does: the one error that is fallen back from."""
    said = main("clone", "clone3")
    assert said == {"result": -E.ENOSYS} or said["status"] == 77


def test_what_only_clone3_can_say_is_refused(main):
    """Without clone3 an unknown flag is EINVAL, not left out; what clone refuses comes back as -errno; no child runs."""
    assert main("clone", "refused") == {"old": -E.EINVAL, "raw": -E.EINVAL, "ran": 0}


def test_child_on_the_callers_stack_returns_to_the_caller(main):
    """With CLONE_VFORK and no stack of its own the child runs below the caller's frame, and the caller goes on after it."""
    assert main("clone", "here") == {"made": 1, "status": 77, "pid": 1, "below": 1, "refused": -E.EINVAL}


@pytest.fixture
def blob(tmp_path):
    """Write a program for main to a file; its path."""

    def write(name, *steps):
        (tmp_path / name).write_bytes(program(*steps).blob)
        return tmp_path / name

    return write


def say(path):
    """Steps that leave a file there."""
    return step("mknodat", AT_FDCWD, str(path), 0o100600, 0)


def test_child_reports_which_step_failed(main, blob, tmp_path):
    """A child whose step fails ends with 125 and leaves stage, step and errno; one without a failure leaves none."""
    bad = blob("bad", say(tmp_path / "first"), step("chdir", "/nonexistent"), say(tmp_path / "late"))
    assert main("child", bad) == {"status": 125, "stage": 3, "step": 1, "errno": E.ENOENT}
    assert (tmp_path / "first").exists() and not (tmp_path / "late").exists()
    good = blob("good", step("chdir", "/"))
    assert main("child", good) == {"status": 125, "stage": 0, "step": 0, "errno": 0}


def shell(script):
    """A step that executes the host's shell: what an emulated process executes is not emulated."""
    return step("execve", "/bin/sh", Block(Ptr("sh"), Ptr("-c"), Ptr(script), bytes(8)), NO_ENVIRONMENT)


def test_child_resets_dispositions(main, blob):
    """A caller's SIG_IGN for SIGTERM does not reach what the child executes: it is killed by it, before it exits by itself."""
    assert main("child", blob("term", shell("kill -TERM $$; exit 3")))["status"] == -signal.SIGTERM
    assert main("child", blob("none", shell("trap '' TERM; kill -TERM $$; exit 3")))["status"] == 3


def test_intermediate_clones_the_child(main, blob, tmp_path):
    """After the join's steps the child is made and its pid is known; a failing join step makes none; nor does a refused clone."""
    join, bad = blob("join", say(tmp_path / "joined")), blob("bad", step("getpid"), step("close", -1))
    child = blob("child", say(tmp_path / "made"))
    assert main("join", join, child, "0") == {"status": 0, "made": 1, "stage": 0, "step": 0, "errno": 0}
    assert (tmp_path / "joined").exists() and (tmp_path / "made").exists()  # the output ended with the child
    (tmp_path / "made").unlink()
    failed = {"stage": 1, "step": 1, "errno": E.EBADF}
    assert main("join", bad, child, "0") == {"status": 125, "made": 0} | failed
    refused = {"stage": 2, "step": 0, "errno": E.EINVAL}
    again = blob("again", step("getpid"))
    assert main("join", again, child, hex(CLONE_SIGHAND)) == {"status": 0, "made": 0} | refused
    assert not (tmp_path / "made").exists()


def test_plain_child_keeps_what_each_call_returned(main, tmp_path):
    """ramet.lowlevel's child: a value, a pointer, the result of an earlier call, an errno, and its exit status."""
    (tmp_path / "file").touch()
    said = {"status": 78, "made": 4, "tid": 5, "parent": 1}
    assert main("plain", tmp_path / "file") == said | {"opened": 1, "closed": 0, "again": -E.EBADF}
    assert main("plain", tmp_path / "none") == said | {"opened": 0, "closed": -E.EBADF, "again": -E.EBADF}


def test_what_is_left_out_by_name(main):
    """The emulator refuses memory shared by processes, a caller's sibling, new namespaces and subreapers: so no test here
    asks for them."""
    only(not NATIVE, "in an emulator")
    names = ("CLONE_VM", "CLONE_PARENT", "CLONE_NEWUSER", "PR_SET_CHILD_SUBREAPER")
    assert main("emulated") == dict.fromkeys(names, -E.EINVAL)


# Init


PLACE = Slot("place")
PID_TEXT = Block(PLACE, bytes(12))


def test_child_clones_the_payloads_process_and_becomes_init(main, tmp_path):
    """After its own steps the child makes the payload's process and runs init's, which find its pid in digits; a failing
    step of init is named and the payload's process killed; after a failing one of its own there is neither."""
    numbers, pids = str(tmp_path / "digits"), str(tmp_path / "pids")

    def written(path, what, length):
        yield step("openat", AT_FDCWD, path, CREATE, 0o600, result=FD)
        yield step("write", FD, what, length, expect=length)

    def run(child=(), init=(), payload=()):
        encoded = {"child": program(*child), "init": program(*init), "payload": program(*payload)}
        for name, one in encoded.items():
            (tmp_path / name).write_bytes(one.blob)
        paths = {name: tmp_path / name for name in encoded}
        return main("become", paths["child"], paths["init"], str(encoded["init"].offsets[PLACE]), paths["payload"])

    own_pid = shell(f"echo $$ >{pids}; exec sleep 60 >/dev/null 2>&1")
    good = {"status": 125, "waiting": 0, "stage": 0, "step": 0, "errno": 0}
    started = [step("getpid"), *written(numbers, PID_TEXT, 16)]
    assert run([step("getpid")], started, [step("getpid"), own_pid]) == good
    digits = Path(numbers).read_bytes().rstrip(b"\0")
    assert digits.isdigit() and int(digits) > 1
    deadline = time.monotonic() + 50
    while not (os.path.exists(pids) and Path(pids).read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(pids).read_text() == digits.decode() + "\n"
    os.kill(int(digits), signal.SIGKILL)
    # a failing step of init
    bad = [*written(numbers, PID_TEXT, 16), step("fchdir", 999)]
    assert run([step("getpid")], bad, [shell("exec sleep 60 >/dev/null 2>&1")]) == good | {
        "stage": 4,
        "step": 2,
        "errno": E.EBADF,
    }
    killed = int(Path(numbers).read_bytes().rstrip(b"\0"))
    while os.path.exists(f"/proc/{killed}") and "Z" not in state_of(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{killed}") or "Z" in state_of(killed)
    # a failing step of the child
    os.unlink(pids)
    os.unlink(numbers)
    assert run([step("fchdir", 999)], started, [own_pid]) == good | {"stage": 3, "errno": E.EBADF}
    assert not os.path.exists(pids) and not os.path.exists(numbers)


def state_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


#: What csrc/child.c does where this emulator can't: fork the payload, then become init. CONTROL CALLER SCRIPT INIT...
LAUNCHER = """
import os, signal, struct, sys
from ramet import _core
control, caller, script, *argv = sys.argv[1:]
signals = signal.SIGCHLD, signal.SIGTERM  # as ramet's child does: they come blocked, and init reads them
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
payload = os.fork()
if payload == 0:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    os.close(int(control))
    os.execv("/bin/sh", ["sh", "-c", script])
mask = struct.pack("Q", sum(1 << number - 1 for number in signals))
number = {"x86_64": 289, "aarch64": 74}[os.uname().machine]
watched = _core.syscall("signalfd4", number, -1, mask, 8, 0)
for fd, to in ((int(control), 0), (int(caller), 1), (watched, 2)):
    os.dup2(fd, to)
os.closerange(3, 100)
os.execv(argv[0], [word.replace("PAYLOAD", str(payload)) for word in argv])
"""


@pytest.fixture
def init(built):
    """Start _init beside a shell script as its child; the caller's end of the control socket and the process. Ends what
    is left."""
    started = []

    def start(script, *, prefix=(), words=("PAYLOAD", "/"), watch=None, stdout=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        caller = os.pidfd_open(watch or os.getpid())
        argv = [*prefix, sys.executable, "-c", LAUNCHER, str(theirs.fileno()), str(caller), script]
        try:
            process = subprocess.Popen(
                [*argv, *QEMU, built / "_init", *words], pass_fds=(theirs.fileno(), caller), stdout=stdout
            )
        finally:
            os.close(caller)
            theirs.close()
        started.append((ours, process))
        return ours, process

    yield start
    for ours, process in started:
        ours.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def told(control):
    """Init's one message, its status as an exit code or minus the signal; or None where it has gone without."""
    message = receive(control.fileno())
    return None if message is None else os.waitstatus_to_exitcode(message.status)


def test_init_reports_the_payloads_end(init):
    """Init tells the wait status of its child, with what it cost, then exits with 0."""
    control, process = init("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exit 7")
    ended = receive(control.fileno())
    assert os.waitstatus_to_exitcode(ended.status) == 7
    assert ended.user_usec > 0 and ended.max_rss_kib > 0
    assert receive(control.fileno()) is None
    assert process.wait() == 0
    assert told(init("kill -9 $$")[0]) == -9


@pytest.mark.parametrize("words", [(), ("PAYLOAD",), ("PAYLOAD", "/", "more")])
def test_init_wants_two_arguments(init, words):
    """Without the payload's pid, or with more, init ends without a word."""
    control, process = init("exit 0", words=words)
    assert told(control) is None and process.wait() == 125
    control, process = init("exit 0")
    assert told(control) == 0 and process.wait() == 0


def test_init_keeps_the_right_to_signal_and_no_other(init):
    """Of the rights that init has got by exec only CAP_KILL is left; an ordinary user's has none."""
    control, process = init("exec sleep 60 >/dev/null 2>&1")
    wanted = 0x20 if os.geteuid() == 0 else 0

    def rights():
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return [int(line.split()[1], 16) for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff"))]

    deadline = time.monotonic() + 20
    while process.poll() is None and (rights() != [0, wanted, wanted]) and time.monotonic() < deadline:
        time.sleep(0.01)
    found = rights()
    control.close()
    assert found == [0, wanted, wanted]


def test_init_forwards_what_the_caller_sends(init):
    """A signal sent over the control socket ends the payload, and init tells which; without one it sleeps on."""
    control, _ = init("exec sleep 60 >/dev/null 2>&1")
    assert not select.select([control], [], [], 0.3)[0]
    control.send(COMMAND.pack(signal.SIGTERM))
    assert told(control) == -signal.SIGTERM


@pytest.fixture
def alone():
    """The words that make init pid 1 of a namespace, so that its end is that of everything in it."""
    argv = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    done = subprocess.run([*argv, "true"], capture_output=True, text=True, check=False)
    need(done.returncode == 0, f"unshare(1) and user namespaces ({done.stderr.strip()})")
    return argv


def test_init_dies_when_the_caller_lets_go(init, alone):
    """Init, and with it all of its pid namespace, ends when the control socket is closed; not before."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as reader:
        control, process = init("echo up; exec sleep 60", prefix=alone, stdout=write)
        os.close(write)
        assert reader.read(3) == b"up\n"
        assert process.poll() is None
        control.close()
        assert process.wait(20) == 125
        assert reader.read(1) == b""  # nobody is left who could write


def test_init_dies_with_the_caller(init):
    """Init ends when the process whose pidfd it was given has ended; not before."""
    caller = subprocess.Popen(["sleep", "60"])
    try:
        control, process = init("exec sleep 60 >/dev/null 2>&1", watch=caller.pid)
        assert not select.select([control], [], [], 0.3)[0]
        assert process.poll() is None
    finally:
        caller.kill()
        caller.wait()
    assert process.wait(20) == 125


def test_init_as_pid_1_ends_what_the_payload_left_behind(init, alone):
    """The report comes after the payload's orphans were killed and reaped: their pipe is at its end by then."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as reader:
        control, process = init("(sleep 60)& echo up; exit 9", prefix=alone, stdout=write)
        os.close(write)
        assert told(control) == 9
        assert process.wait(20) == 0
        assert reader.read(99) == b"up\n" and reader.read(1) == b""
