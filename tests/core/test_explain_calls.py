"""ramet explain: a line of strace, and why unshare refuses."""

import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from needs import need
from ramet import lowlevel
from ramet.errors import SpecError
from ramet.explain import explain, explain_call, explain_json
from ramet.explain.call import CALLS, parse_call
from ramet.explain.causes import UNSHARED, check_unshare, other_causes
from ramet.flags import CLONE
from ramet.rules import ORDINARY, ROOT, Caller

FORK = "clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f45b0a10) = 1234"
THREAD = (
    "clone3({flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|"
    "CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID, child_tid=0x7f4f4c3b0990, parent_tid=0x7f4f4c3b0990, exit_signal=0, "
    "stack=0x7f4f4bbb0000, stack_size=0x7fff80, tls=0x7f4f4c3b06c0} => {parent_tid=[13453]}, 88) = 13453 <0.0001>"
)


@pytest.mark.parametrize(
    ("line", "flags", "exit_signal", "result", "error"),
    [
        (FORK, CLONE.CHILD_CLEARTID | CLONE.CHILD_SETTID, 17, 1234, 0),
        (f"[pid 99] 11:28:58.223809 {FORK}", CLONE.CHILD_CLEARTID | CLONE.CHILD_SETTID, 17, 1234, 0),
        (f"1234  1700000000.123456 {FORK}", CLONE.CHILD_CLEARTID | CLONE.CHILD_SETTID, 17, 1234, 0),
        ("clone(child_stack=0x7f00, flags=0x1200011 /* CLONE_X|SIGCHLD */) = 5", CLONE(0x1200000), 17, 5, 0),
        ("clone(0x1200011, 0, 0, 0x7f1, 0) = 0x7d1", CLONE(0x1200000), 17, 2001, 0),
        ("vfork()                                 = 77", CLONE.VM | CLONE.VFORK, 17, 77, 0),
        ("vfork(strace: Process 77 attached\n)      = 77", CLONE.VM | CLONE.VFORK, 17, 77, 0),
        ("fork( <unfinished ...>", CLONE(0), 17, None, 0),
        ("fork() = ? ERESTARTNOINTR (To be restarted)", CLONE(0), 17, None, 0),
        ("fork() = -1 EAGAIN (Resource temporarily unavailable)", CLONE(0), 17, -1, errno.EAGAIN),
        ("unshare(CLONE_NEWNS|CLONE_NEWUSER)      = 0", CLONE.NEWNS | CLONE.NEWUSER, 0, 0, 0),
        ("setns(3<net:[4026531840]>, CLONE_NEWNET) = -1 EPERM (Operation not permitted)", CLONE.NEWNET, 0, -1, 1),
        ("setns(7, 0) = 0", CLONE(0), 0, 0, 0),
        (
            "clone3({flags=CLONE_PIDFD|CLONE_INTO_CGROUP, pidfd=0x7ff, exit_signal=SIGCHLD, cgroup=5</sys/fs/cgroup/a>} "
            "=> {pidfd=[18<anon_inode:[pidfd]>]}, 88) = 9",
            CLONE.PIDFD | CLONE.INTO_CGROUP,
            17,
            9,
            0,
        ),
    ],
)
def test_lines_are_read(line, flags, exit_signal, result, error):
    """Flags, exit signal, result and errno, in each form that strace has for them."""
    call = parse_call(line)
    assert (call.flags, call.exit_signal, call.result, call.errno) == (flags, exit_signal, result, error)


@pytest.mark.parametrize(
    "options", [[], ["-f"], ["-f", "-tt", "-T", "-y"], ["-f", "-X", "verbose"], ["-f", "-X", "raw"]]
)
def test_what_strace_really_prints_is_read(options):
    """Every line of clone's family that strace prints of a shell, a threaded program and unshare(1) is understood, and
    the result is the pid that strace names."""
    need(shutil.which("strace"), "strace")
    python = [sys.executable, "-S", "-c", "import threading; threading.Thread(target=print).start()"]
    programs = [
        ["sh", "-c", "true & wait; (true)"],
        python,
        ["unshare", "-U", "-n", "true"],
        ["sh", "-c", "unshare -Un true"],
    ]
    seen = set()
    for program in programs:
        traced = [
            "strace",
            "-o",
            "/dev/stderr",
            *options,
            "-e",
            "trace=clone,clone3,fork,vfork,unshare,setns",
            *program,
        ]
        done = subprocess.run(traced, capture_output=True, text=True, timeout=50)
        for line in done.stderr.splitlines():
            if not re.search(rf"\b({'|'.join(CALLS)})\(", line):
                continue
            call = parse_call(line)
            found = re.search(r"= (-?\d+)( <[\d.]+>)?$", line)
            assert call.result == (int(found[1]) if found else None), line
            assert str(explain_call(line)), line
            seen.add("thread" if call.flags & CLONE.THREAD else "process" if call.makes_process else call.name)
    assert {"thread", "process", "unshare"} <= seen


def test_a_fork_and_a_thread_are_told_apart():
    """The one copies, the other shares, and each is called what it is."""
    fork, thread = explain_json(FORK), explain_json(THREAD)
    assert "made process 1234" in str(explain_call(FORK)) and "made thread 13453" in str(explain_call(THREAD))
    assert "memory" in fork["effects"]["copied"] and "memory" in thread["effects"]["shared"]
    assert fork["effects"]["shared"] == "every namespace" and "copied" not in thread["effects"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            "clone3({flags=CLONE_THREAD|CLONE_NEWPID, exit_signal=0}, 88) = -1 EINVAL (x)",
            "CLONE_THREAD needs CLONE_SIGHAND",
        ),
        ("clone3({flags=CLONE_PARENT, exit_signal=SIGCHLD}, 88) = -1 EINVAL (x)", "exit_signal must be 0"),
        ("clone3({flags=0, exit_signal=0, stack=0x7f00}, 88) = -1 EINVAL (x)", "stack is given without stack_size"),
        ("clone(child_stack=NULL, flags=CLONE_SIGHAND|SIGCHLD) = -1 EINVAL (x)", "CLONE_SIGHAND needs CLONE_VM"),
        ("unshare(CLONE_NEWNET) = -1 EPERM (x)", "CLONE_NEWNET needs CAP_SYS_ADMIN"),
        ("unshare(CLONE_PIDFD) = -1 EINVAL (x)", "unshare can't do CLONE_PIDFD"),
    ],
)
def test_a_failure_that_the_flags_explain(line, reason):
    """The reason comes from the rules, with the errno of the line; without the fault there is none."""
    found = explain_call(line, kernel=(6, 12))
    assert reason in found.reasons()[0].reason
    assert reason in " ".join(str(found).split())
    assert explain_call(FORK.replace("1234", "-1 EAGAIN (x)")).reasons() == ()


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (FORK.replace("1234", "-1 EAGAIN (Resource temporarily unavailable)"), "RLIMIT_NPROC"),
        (
            "clone3({flags=CLONE_NEWUSER, exit_signal=SIGCHLD}, 88) = -1 ENOSPC (No space left on device)",
            "max_*_namespaces",
        ),
        ("clone3({flags=0, exit_signal=SIGCHLD, set_tid=[5], set_tid_size=1}, 88) = -1 EEXIST (File exists)", "taken"),
        (
            "clone3({flags=CLONE_INTO_CGROUP, exit_signal=0, cgroup=3}, 88) = -1 EBUSY (Device or resource busy)",
            "controllers",
        ),
        ("setns(3, CLONE_NEWUSER) = -1 EINVAL (Invalid argument)", "more than one thread"),
        ("setns(3, 0) = -1 EPERM (Operation not permitted)", "CAP_SYS_CHROOT"),
        ("clone3({flags=0}, 88) = -1 ENOSYS (Function not implemented)", "seccomp"),
    ],
)
def test_a_failure_that_the_flags_do_not_explain(line, cause):
    """What the errno can come from is listed, and said to be no more than that."""
    found = explain_call(line, kernel=(6, 12))
    assert not found.reasons() and any(cause in each for each in found.others)
    assert "comes from one of these" in " ".join(str(found).split())


def test_a_success_that_this_kernel_would_refuse():
    """A line from another kernel is not taken to be wrong."""
    line = "clone3({flags=CLONE_AUTOREAP|CLONE_PIDFD, pidfd=0x7f1, exit_signal=0}, 88) = 7"
    assert "another kernel" in str(explain_call(line, kernel=(6, 12)))
    assert "another kernel" not in str(explain_call(line, kernel=(7, 2)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clon(CLONE_VM) = 3", "did you mean clone?"),
        ("openat(AT_FDCWD, 0) = 3", "no call that explain knows"),
        ("<... clone resumed>, child_tidptr=0x7f) = 1234", "on an earlier line"),
        ("clone(child_stack=NULL, flags=CLONE_NEWPIDD|SIGCHLD) = 3", "did you mean CLONE_NEWPID"),
        ("clone() = 3", "has no flags"),
        ("setns(3) = 0", "has no flags"),
        ("clone3({}, 88) = 3", "has no flags"),
        ("fork() = -1 EWHATEVER (x)", "no errno"),
    ],
)
def test_lines_that_are_none(line, said):
    """What can't be read raises SpecError with the reason, or the nearest name."""
    with pytest.raises(SpecError, match=re.escape(said)):
        explain(line)


@pytest.mark.parametrize(
    "line", [FORK, THREAD, "unshare(CLONE_NEWPID|CLONE_NEWTIME) = 0", "setns(3, 0x7e000000) = -1 EPERM"]
)
def test_text_fits_80_columns_and_json_is_json(line):
    """Whatever the line, its explanation fits, and the JSON form has a kind."""
    text = str(explain(line))
    assert max(map(len, text.splitlines())) <= 80
    assert json.loads(json.dumps(explain_json(line)))["kind"] == "call"


def unshared(flags):
    """The errno with which the kernel answers unshare(flags) to a process of one thread; 0 if it did it."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            lowlevel.unshare(flags)
            status = 0
        except OSError as error:
            status = error.errno
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_unshare_rules_are_the_kernels():
    """For every flag of the low 32 bits alone, and every pair of those that unshare knows, the rules say what the
    kernel says."""
    caller = ROOT if os.geteuid() == 0 else ORDINARY
    singles = [1 << bit for bit in range(32)]
    known = [int(flag) for flag in CLONE if flag & UNSHARED]
    differing = []
    for flags in [*singles, *(a | b for a, b in itertools.combinations(known, 2))]:
        ruled = check_unshare(flags, caller=caller)
        if (ruled[0].errno if ruled else 0) != (found := unshared(flags)):
            differing.append((hex(flags), found, ruled))
    assert differing == []


def test_unshare_of_a_threaded_process():
    """With a second thread, what is for one thread only is refused; the rest is not."""
    import threading

    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        for flags in (CLONE.NEWUSER, CLONE.VM, CLONE.SIGHAND, CLONE.THREAD):
            assert check_unshare(flags, threads=2)[0].errno == errno.EINVAL and not check_unshare(flags)
            with pytest.raises(OSError, match="unshare") as refused:
                lowlevel.unshare(flags)
            assert refused.value.errno == errno.EINVAL
        assert not check_unshare(CLONE.FS, threads=2)
    finally:
        done.set()
        thread.join()


def test_causes_depend_on_the_flags():
    """A cause that only some flags can have is not named without them."""
    assert not [cause for cause in other_causes("clone", errno.ENOSPC, CLONE.VM) if "nest" in cause]
    assert [cause for cause in other_causes("clone", errno.ENOSPC, CLONE.NEWUSER) if "nest" in cause]


def test_real_failures_get_their_reason():
    """Calls that this kernel refuses, as strace shows them: the rules have a reason with the very errno."""
    need(shutil.which("strace"), "strace")
    program = """
from ramet import lowlevel
for call, flags in ((lowlevel.unshare, 0x1000), (lowlevel.clone3, 0x10000), (lowlevel.clone3, 0x20000200)):
    try:
        call(flags, child=[]) if call is lowlevel.clone3 else call(flags)
    except OSError:
        pass
"""
    traced = ["strace", "-f", "-e", "trace=clone3,unshare", sys.executable, "-c", program]
    done = subprocess.run(traced, capture_output=True, text=True, timeout=50)
    lines = [line for line in done.stderr.splitlines() if re.search(r"= -1 E[A-Z]+", line)]
    assert len(lines) == (2 if os.geteuid() == 0 else 3), done.stderr
    for line in lines:
        found = explain(line)
        assert found.reasons() and found.reasons()[0].errno == found.call.errno, line


def test_unshare_of_a_second_pid_namespace():
    """It works once: the rule and the kernel say EINVAL for the second."""
    child = os.fork()
    if child == 0:
        status = 255
        try:
            lowlevel.unshare(CLONE.NEWUSER | CLONE.NEWPID)
            lowlevel.unshare(CLONE.NEWPID)
            status = 0
        except OSError as error:
            status = error.errno
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EINVAL
    assert check_unshare(CLONE.NEWPID, caller=Caller(other_pid_ns=True))[0].errno == errno.EINVAL
    assert not check_unshare(CLONE.NEWPID)


def test_bits_that_clone_drops_are_no_flags():
    """Of bits above 32 clone takes none: they are named as dropped, and clone3's are not."""
    dropped = explain_call("clone(child_stack=NULL, flags=0x100000000 /* CLONE_??? */|SIGCHLD) = 3")
    taken = explain_call("clone3({flags=CLONE_CLEAR_SIGHAND, exit_signal=SIGCHLD}, 88) = 3")
    assert dropped.call.flags == 0 and taken.call.flags == CLONE.CLEAR_SIGHAND
    assert "clone takes 32 bits and dropped CLONE_CLEAR_SIGHAND" in " ".join(str(dropped).split())
    assert "dropped" not in str(taken)
