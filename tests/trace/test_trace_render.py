"""The page: one made by hand in full, its width, its two alphabets, and chains deeper than Python. Pure."""

import signal
import sys

import pytest

from ramet.flags import CLONE
from ramet.trace.calls import I386
from ramet.trace.collect import Trace
from ramet.trace.records import CHILD, END, ENTER, EXEC, INSIDE, LEAVE, UNREADABLE, Record
from ramet.trace.render import ASCII, LINES, marks_for, render
from ramet.trace.tree import assemble
from ramet.trace.why import explain_refusals

NATIVE = 0xC000_003E
CLONE_, VFORK, UNSHARE, SETNS, EXECVE, CLONE3 = 56, 58, 272, 308, 59, 435
FORK = int(CLONE.CHILD_CLEARTID | CLONE.CHILD_SETTID) | signal.SIGCHLD


def enter(tid, number, *args, tail=b"", arch=NATIVE, state=0):
    return Record(ENTER, tid, number, arch, (*args, *(0,) * (6 - len(args))), tail, state)


def page(records, marks=LINES):
    tasks = assemble(records, 10)
    explain_refusals(tasks, (6, 12))
    return render(Trace(["x"], tasks, filtered=True, unfiltered_for=None), marks)


def program(*argv):
    return b"".join(word.encode() + b"\0" for word in argv)


RECORDS = [
    *[enter(10, EXECVE, tail=program("/usr/bin/box", "box", "--all")), Record(EXEC, 10, 10)],
    *[enter(10, UNSHARE, int(CLONE.NEWUSER | CLONE.NEWPID)), Record(LEAVE, 10, 0)],
    *[enter(10, CLONE_, FORK), Record(CHILD, 10, 11), Record(INSIDE, 11, 1), Record(LEAVE, 10, 11)],
    *[enter(11, EXECVE, tail=program("/bin/ls", "ls", "-l")), Record(LEAVE, 11, -2)],
    *[enter(11, EXECVE, tail=program("/usr/bin/ls", "ls", "-l")), Record(EXEC, 11, 11)],
    Record(END, 11, 2 << 8),
    *[enter(10, UNSHARE, int(CLONE.NEWNET)), Record(LEAVE, 10, -1)],
    *[enter(10, SETNS, 9, int(CLONE.NEWUTS)), Record(LEAVE, 10, 0)],
    *[enter(10, VFORK), Record(CHILD, 10, 12), Record(INSIDE, 12, 2), Record(END, 12, 0)],
    Record(END, 10, 9),
]
PAGE = """\
process 10
├─ execve("/usr/bin/box", ["box", "--all"])
├─ unshare(CLONE_NEWUSER|CLONE_NEWPID)
│     new user namespace
│     new pid namespace for the children to come
├─ process 11 (pid 1 inside) = clone(CLONE_CHILD_CLEARTID|CLONE_CHILD_SETTID|
│  │    SIGCHLD)
│  ├─ execve("/usr/bin/ls", ["ls", "-l"])
│  │     ENOENT at 1 other place before
│  └─ exited with 2
├─ unshare(CLONE_NEWNET) = EPERM (Operation not permitted)
│     needs CAP_SYS_ADMIN; with CLONE_NEWUSER beside it an ordinary user may
├─ setns(9, CLONE_NEWUTS)
│     joins another uts namespace
├─ process 12 (pid 2 inside) = vfork()
└─ killed by SIGKILL

3 processes, 2 new namespaces, 2 failed calls"""


def test_a_page():
    """Who made whom, in which namespaces, what failed and why: the whole page."""
    assert page(RECORDS) == PAGE


def test_in_ascii():
    """The same page where the locale has nothing else."""
    text = page(RECORDS, ASCII)
    assert text.isascii()
    for line, ascii in (("├─ ", "|- "), ("└─ ", "`- "), ("│  ", "|  ")):
        text = text.replace(ascii, line)
    assert text == PAGE


@pytest.mark.parametrize(
    ("environ", "marks"),
    [
        ({"LANG": "en_GB.UTF-8"}, LINES),
        ({"LANG": "C.utf8"}, LINES),
        ({"LC_ALL": "C", "LANG": "en_GB.UTF-8"}, ASCII),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, LINES),
        ({"LANG": "de_DE.ISO-8859-1"}, ASCII),
        ({}, ASCII),
    ],
)
def test_marks_by_locale(environ, marks):
    """LC_ALL before LC_CTYPE before LANG; UTF-8 under either of its names."""
    assert marks_for(environ) is marks


def test_pages_fit_80_columns():
    """Flags, arguments and reasons are wrapped; only what has no break is longer."""
    flags = int(CLONE.VM | CLONE.FS | CLONE.FILES | CLONE.SIGHAND | CLONE.THREAD | CLONE.SYSVSEM | CLONE.SETTLS)
    text = page(
        [
            enter(10, EXECVE, tail=program("/usr/bin/python3", "python3", "-c", "x = 1\n" * 99, *["word"] * 30)),
            Record(EXEC, 10, 10),
            enter(10, CLONE3, tail=(flags | 1 << 32).to_bytes(8, "little") + bytes(80)),
            Record(LEAVE, 10, -22),
            enter(10, CLONE_, int(CLONE.THREAD) | 17),
            Record(LEAVE, 10, -22),
        ]
    )
    assert max(map(len, text.splitlines())) <= 80 and len(text.splitlines()) > 10
    assert '"x = 1\\nx = 1\\n' in text and '"...' in text
    assert "CLONE_THREAD needs CLONE_SIGHAND" in text


def test_chains_deeper_than_python():
    """More generations than Python may recurse: every one has its line, under the one before."""
    depth = sys.getrecursionlimit() + 200
    records = []
    for tid in range(10, 10 + depth):
        records += [enter(tid, CLONE_, 17), Record(CHILD, tid, tid + 1)]
    lines = page(records).splitlines()
    assert [line.count("process") for line in lines[: depth + 1]] == [1] * (depth + 1)
    assert lines[depth].startswith(" " * 3 * (depth - 1) + "└─ process ")


def test_what_is_not_known_is_a_question_mark():
    """Unreadable flags, an unreadable program, a call that never returned, an inner number that nobody told."""
    text = page(
        [
            enter(10, CLONE3, 1, 88, state=UNREADABLE),
            Record(CHILD, 10, 11),
            Record(INSIDE, 11, 0),
            enter(11, EXECVE, state=UNREADABLE),
            Record(END, 11, 9),
            enter(10, CLONE_, 17, arch=NATIVE),
            Record(LEAVE, 10, -513),
        ]
    )
    assert "process 11 (pid ? inside) = clone3(?)" in text and 'execve("?", ?) = ? (it ended first)' in text
    assert "ERESTARTNOINTR (a signal came; made again)" in text and "failed" not in text


def test_32_bit_calls_are_marked():
    """Whose numbers a call used is said where they are not the machine's own."""
    text = page([enter(10, 310, int(CLONE.FS), arch=I386), Record(LEAVE, 10, 0)])
    assert text.splitlines()[1:3] == ["└─ unshare(CLONE_FS)", "      a 32-bit call (i386)"]


def test_what_would_steer_a_terminal_is_escaped():
    """Arguments are somebody else's: control characters and broken text are shown, not sent."""
    text = page([enter(10, EXECVE, tail=b'/x\0\x1b[2J\0\xff\0q"\0'), Record(LEAVE, 10, -2)])
    assert '["\\x1b[2J", "\\xff", "q\\""]' in text and text.isprintable() is False and "\x1b" not in text


def test_an_exec_by_a_thread_says_where_it_goes_on():
    """The thread's line is the last of its own, the process's lines go on."""
    flags = int(CLONE.VM | CLONE.SIGHAND | CLONE.THREAD)
    text = page(
        [
            enter(10, CLONE3, tail=flags.to_bytes(8, "little")),
            Record(CHILD, 10, 11),
            enter(11, EXECVE, tail=program("/bin/true", "true")),
            Record(EXEC, 10, 11),
        ]
    )
    assert "thread 11 = clone3(" in text
    assert "by a thread: it goes on as process 10, whose other threads end here" in text


def test_bits_that_clone_drops_are_told_of():
    """What clone is given above its 32 bits is shown beside what it takes; a call that is given no such bits has no such line."""
    text = page(
        [enter(10, CLONE_, 17 | CLONE.CLEAR_SIGHAND, arch=NATIVE), Record(CHILD, 10, 11), Record(LEAVE, 10, 11)]
    )
    assert "clone(SIGCHLD)" in text
    assert "0x100000000 was given, too: clone drops what is above 32 bits" in text
    assert "drops" not in page([enter(10, CLONE_, 17, arch=NATIVE), Record(CHILD, 10, 11), Record(LEAVE, 10, 11)])
