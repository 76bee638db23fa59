"""The end of a plan: descriptors, session, working directory, exec."""

from __future__ import annotations

import errno
import os
import struct

from ramet.plan.idmap import CONTROL
from ramet.plan.life import CALLER, PR_SET_PDEATHSIG
from ramet.plan.steps import Block, Builder, Ptr, Slot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.shape import Shape
    from ramet.spec import Command, Sandbox

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
O_CLOEXEC = os.O_CLOEXEC
LAST_FD = 2**32 - 1
SIG_SETMASK = 2
TIOCSCTTY = 0x540E
RESOLVE_NO_MAGICLINKS = 0x02
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36
FUTEX_WAIT = 0
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


#: Inputs: the sealed copy of init; a word that the caller clears when the child has left our memory; the payload's pid.
INIT_EXE, INIT_RUNNING, PAYLOAD_PID = Slot("init"), Slot("init_running"), Slot("payload_pid")
#: csrc/init.h, csrc/child.h
INIT_CONTROL, INIT_CALLER, INIT_SIGNALS = 0, 1, 2
PID_TEXT_SIZE = 16


def environment(spec: Sandbox, shape: Shape) -> dict[str, str]:
    """Everything the payload finds in environ. env= adds, replaces, or, with None, takes away."""
    path = ":".join([*(f"{prefix}/bin" for prefix in shape.python), DEFAULT_PATH])
    found: dict[str, str | None] = {"PATH": path, "HOME": shape.home, "LANG": "C.UTF-8", "TERM": "dumb"}
    if spec.tty:
        found["TERM"] = "xterm"
    found.update(spec.env)
    return {name: value for name, value in found.items() if value is not None}


def place_descriptors(b: Builder, command: Command, shape: Shape) -> None:
    """Put what is passed on under its number, and close all else. Inputs lie above every number in use here."""
    b.about("stdin, stdout, stderr", "place the standard streams")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        b.call("dup3", shape.terminal or Slot(name), number, 0)
    kept = [0, 1, 2]
    for fd in command.pass_fds:
        b.about("pass_fds", f"pass on descriptor {fd}")
        b.call("dup3", Slot(f"fd{fd}"), fd, 0)
        kept.append(fd)
    close_others(b, kept)


def close_others(b: Builder, kept: list[int]) -> None:
    """Every descriptor but these is closed."""
    b.about("descriptors", "close every other descriptor")
    after = 0
    for fd in sorted(kept):
        if fd > after:
            b.call("close_range", after, fd - 1, 0)
        after = fd + 1
    b.call("close_range", after, LAST_FD, 0)


def adopt_orphans(b: Builder) -> None:
    """In a pid namespace that is not its own, init is no pid 1: orphans come to it all the same."""
    b.about("init", "adopt orphans")
    b.call("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def leave_group(b: Builder, spec: Sandbox) -> None:
    """Init forwards what it gets from outside. In the caller's process group it would get Ctrl-C as the payload does, and
    the payload have it twice."""
    if spec.new_session:
        b.about("Sandbox.new_session", "leave the caller's session")
        b.call("setsid")
    else:
        b.about("init", "leave the payload's process group")
        b.call("setpgid", 0, 0)


def exec_init(b: Builder, disk: str = "/") -> None:
    """exec the sealed copy of init, with its descriptors and no others; argv[1] is the payload's pid (csrc/init.h)."""
    b.about("init", "hand init its descriptors")
    b.call("dup3", CONTROL, INIT_CONTROL, 0)
    b.call("dup3", CALLER, INIT_CALLER, 0)
    b.call("dup3", INIT_EXE, INIT_SIGNALS + 1, O_CLOEXEC)
    close_others(b, [INIT_CONTROL, INIT_CALLER, INIT_SIGNALS + 1])
    b.about("init", "let init read its signals")
    b.call("signalfd4", -1, Block(b"\xff" * 8, text="~[]"), 8, 0, expect=INIT_SIGNALS)
    b.about("init", "outlive the thread that started it")
    b.call("prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0)  # it may end as soon as we have exec'd; from there the pidfd watches
    b.about("init", "leave the host's directory")
    b.call("chdir", "/")  # so that pivot_root takes us along
    b.about("init", "start init")
    pid = Block(PAYLOAD_PID, bytes(PID_TEXT_SIZE - 4))
    argv = Block(Ptr("ramet-init"), Ptr(pid), Ptr(disk), bytes(8), text=f'["ramet-init", payload_pid, "{disk}"]')
    b.call("execveat", INIT_SIGNALS + 1, "", argv, _strings(), AT_EMPTY_PATH)


def enter_session(b: Builder, spec: Sandbox) -> None:
    """A session of its own: no signals from the caller's terminal, and no input pushed into it (TIOCSTI)."""
    if spec.new_session:
        b.about("Sandbox.new_session", "start a session")
        b.call("setsid")
    if spec.tty:
        b.about("Sandbox.tty", "make the terminal the controlling one")
        b.call("ioctl", 0, TIOCSCTTY, 0)


def enter_directory(b: Builder, spec: Sandbox, shape: Shape) -> None:
    """The working directory. No descriptor of the host is open any more, and magic links are refused: a path
    as /proc/self/fd/7 leads nowhere (the shape of CVE-2024-21626)."""
    where = shape.home if spec.workdir is None else spec.workdir
    b.about("Sandbox.workdir", f"enter the working directory {where!r}")
    how = Block(
        struct.pack("<QQQ", os.O_PATH | os.O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS),
        text="{O_PATH|O_DIRECTORY|O_CLOEXEC, RESOLVE_NO_MAGICLINKS}",
    )
    fd = b.open("workdir", "openat2", AT_FDCWD, where, how, 24)
    b.call("fchdir", fd)
    b.close(fd)


def wait_for_init(b: Builder) -> None:
    """Until the child has exec'd init, and so left the caller's memory: the caller is told by the kernel, and tells us."""
    word = Block(INIT_RUNNING, bytes(4), text="init_running")
    b.about("init", "wait until init has started")
    b.call("futex", word, FUTEX_WAIT, 1, 0, 0, 0, allow=(errno.EAGAIN,))


def show_memory(b: Builder) -> None:
    """What exec would have done: a process that is not dumpable owns nothing below /proc/self."""
    b.about("function", "own /proc/self again")
    b.call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)


def unblock_signals(b: Builder) -> None:
    """Last: until now what came must not have hit us."""
    b.about("command", "unblock signals")
    b.call("rt_sigprocmask", SIG_SETMASK, Block(bytes(8), text="[]"), 0, 8)


def exec_payload(b: Builder, command: Command, env: dict[str, str]) -> None:
    """Unblock the signals and become the payload. A bare name is tried along PATH, as execvp(3) does."""
    unblock_signals(b)
    name = command.argv[0]
    b.about("command", f"execute {name!r}")
    argv, envp = _strings(*command.argv), _strings(*(f"{key}={value}" for key, value in env.items()))
    if "/" in name:
        b.call("execve", name, argv, envp)
        return
    for directory in env.get("PATH", DEFAULT_PATH).split(":"):
        b.attempt("execve", f"{directory or '.'}/{name}", argv, envp)


SHOWN_STRINGS, SHOWN_LETTERS = 32, 200


def _strings(*texts: str) -> Block:
    """An argv or envp. It is shown in errors too: as much of it as a person reads."""
    shown = [_quoted(text) for text in texts[:SHOWN_STRINGS]] + ["..."] * (len(texts) > SHOWN_STRINGS)
    return Block(*(Ptr(text) for text in texts), bytes(8), text=f"[{', '.join(shown)}]")


def _quoted(text: str) -> str:
    cut = "..." if len(text) > SHOWN_LETTERS else ""
    return '"' + ascii(text[:SHOWN_LETTERS])[1:-1].replace('"', '\\"') + '"' + cut
