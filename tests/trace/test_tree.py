"""From records to tasks: who made whom, and what each call meant. Pure."""

import os
import signal

import pytest

from ramet.flags import CLONE
from ramet.trace.calls import I386, X86_64
from ramet.trace.records import CHILD, CUT, END, ENTER, EXEC, INSIDE, LEAVE, UNREADABLE, Record, pack, parse
from ramet.trace.tree import assemble

CLONE_, CLONE3, VFORK, UNSHARE, SETNS, EXECVE = 56, 435, 58, 272, 308, 59
THREAD = int(CLONE.VM | CLONE.SIGHAND | CLONE.THREAD)


def enter(tid, number, *args, tail=b"", arch=X86_64, state=0):
    return Record(ENTER, tid, number, arch, (*args, *(0,) * (6 - len(args))), tail, state)


def structure(flags, exit_signal=0):
    words = [flags, 0, 0, 0, exit_signal, *[0] * 6]
    return b"".join(word.to_bytes(8, "little") for word in words)


def test_records_survive_their_bytes():
    """What is packed is what is parsed, over the borders of chunks, tails of every length included."""
    found = [enter(7, EXECVE, 1, 2, tail=b"x" * n, state=CUT) for n in range(20)]
    found += [Record(LEAVE, 7, -2), Record(CHILD, 7, 8), Record(END, 8, 0x8B)]
    chunks = [b"".join(map(pack, found[:9])), b"", b"".join(map(pack, found[9:]))]
    assert list(parse(chunks)) == found


def test_a_child_hangs_below_the_call_that_made_it():
    """Without a return of the call its result is the child's number; each task has its own calls."""
    tasks = assemble(
        [
            enter(10, CLONE_, int(signal.SIGCHLD)),
            Record(CHILD, 10, 11),
            enter(11, EXECVE, tail=b"/bin/ls\0ls\0-l\0"),
            Record(EXEC, 11, 11),
            enter(10, VFORK),
            Record(CHILD, 10, 12),
            Record(END, 11, 2 << 8),
            Record(END, 12, 9),
            Record(END, 10, 0),
        ],
        10,
    )
    first, second = (call.child for call in tasks[0].calls)
    assert [task.tid for task in tasks] == [10, 11, 12] and [first, second] == tasks[1:]
    assert (tasks[0].calls[0].result, tasks[0].calls[0].exit_signal) == (11, signal.SIGCHLD)
    assert (first.calls[0].path, first.calls[0].argv, first.calls[0].result) == ("/bin/ls", ("ls", "-l"), 0)
    assert (first.exit_code, second.exit_code, second.signal) == (2, 137, 9)
    assert not first.thread and first.process is first


def test_threads_belong_to_their_process():
    """CLONE_THREAD tells a thread from a process; a thread's child process is a process."""
    tasks = assemble(
        [
            enter(10, CLONE3, tail=structure(THREAD)),
            Record(CHILD, 10, 11),
            enter(11, CLONE3, tail=structure(int(CLONE.VM), 17)),
            Record(CHILD, 11, 12),
        ],
        10,
    )
    assert [(task.thread, task.process.tid) for task in tasks] == [(False, 10), (True, 10), (False, 12)]
    assert tasks[1].calls[0].exit_signal == 17 and tasks[1].calls[0].fields["exit_signal"] == 17


def test_an_errno_is_the_call_s():
    """A negative result is an errno; other calls of the task are not touched."""
    tasks = assemble(
        [enter(10, UNSHARE, int(CLONE.NEWNET)), Record(LEAVE, 10, -1), enter(10, UNSHARE, 0), Record(LEAVE, 10, 0)], 10
    )
    refused, fine = tasks[0].calls
    assert (refused.errno_name, refused.result, refused.failed, refused.new) == ("EPERM", -1, True, ())
    assert (fine.errno_name, fine.result, fine.failed) == (None, 0, False)


def test_a_restarted_call_has_not_failed():
    """ERESTARTNOINTR is between the kernel and itself: it makes the call again."""
    (task,) = assemble([enter(10, CLONE_, 17), Record(LEAVE, 10, -513)], 10)
    assert task.calls[0].errno_name == "ERESTARTNOINTR" and not task.calls[0].failed


def test_a_call_that_never_returned_has_no_result():
    """Killed in the middle: neither a result nor an errno."""
    (task,) = assemble([enter(10, UNSHARE, 0), Record(END, 10, 9)], 10)
    assert (task.calls[0].result, task.calls[0].errno, task.signal) == (None, 0, 9)


def test_the_number_inside_is_kept_where_it_differs():
    """In another pid namespace a task has a number of its own, and its maker gets that namespace's."""
    tasks = assemble(
        [
            enter(10, CLONE_, int(CLONE.NEWPID) | 17),
            Record(CHILD, 10, 11),
            Record(INSIDE, 11, 1),
            enter(11, CLONE_, 17),
            Record(CHILD, 11, 12),
            Record(INSIDE, 12, 2),
            Record(LEAVE, 11, 2),
        ],
        10,
    )
    assert [task.inside for task in tasks] == [None, 1, 2]
    assert tasks[1].calls[0].result == 2 and tasks[1].calls[0].child.tid == 12
    assert tasks[0].calls[0].new == ("pid",)


def test_an_exec_by_a_thread_goes_on_in_the_leader():
    """The caller's number is gone, the leader has the new program, and a call that it was in never returns."""
    tasks = assemble(
        [
            enter(10, CLONE3, tail=structure(THREAD)),
            Record(CHILD, 10, 11),
            enter(10, VFORK),
            enter(11, EXECVE, tail=b"/bin/true\0true\0"),
            Record(EXEC, 10, 11),
            enter(10, UNSHARE, 0),
            Record(LEAVE, 10, 0),
            Record(END, 10, 0),
        ],
        10,
    )
    leader, thread = tasks
    assert thread.calls[0].leader is leader and thread.calls[0].result == 0
    assert [call.name for call in leader.calls] == ["clone3", "vfork", "unshare"]
    assert leader.calls[1].result is None and thread.status is None and leader.status == 0


def test_a_number_may_be_used_again():
    """Numbers come round: the same tid after an end is another task."""
    found = [enter(10, CLONE_, 17), Record(CHILD, 10, 11), Record(END, 11, 0)] * 2
    tasks = assemble(found, 10)
    assert [task.tid for task in tasks] == [10, 11, 11] and tasks[1] is not tasks[2]


def test_a_child_that_ended_before_it_was_told_of_is_one_task():
    """A killed child's end may come before its maker's event."""
    tasks = assemble([enter(10, CLONE_, 17), Record(END, 11, 9), Record(CHILD, 10, 11), Record(END, 10, 0)], 10)
    assert len(tasks) == 2 and tasks[0].calls[0].child is tasks[1] and tasks[1].signal == 9


def test_what_could_not_be_read_is_said_so():
    """An unreadable structure has no flags, an unreadable program neither path nor argv; the exec may fill it in."""
    (task,) = assemble(
        [
            enter(10, CLONE3, 1, 88, state=UNREADABLE),
            Record(LEAVE, 10, -14),
            enter(10, EXECVE, 1, 2, state=UNREADABLE),
            Record(LEAVE, 10, -14),
            enter(10, EXECVE, 1, 2, state=UNREADABLE),
            Record(EXEC, 10, 10, tail=b"/bin/ls\0ls\0", args=(0,) * 6),
        ],
        10,
    )
    clone, bad, good = task.calls
    assert (clone.flags, clone.errno_name, clone.as_dict()["flags"]) == (None, "EFAULT", None)
    assert (bad.path, bad.argv) == (None, None) and (good.path, good.argv) == ("/bin/ls", ("ls",))


def test_a_32_bit_call_is_decoded_by_its_own_numbers():
    """120 is clone to a 32-bit program; to others it is none of ours."""
    (task,) = assemble([enter(10, 120, 17, arch=I386), Record(LEAVE, 10, -11)], 10)
    assert (task.calls[0].name, task.calls[0].arch, task.calls[0].errno_name) == ("clone", "i386", "EAGAIN")
    with pytest.raises(KeyError):
        assemble([enter(10, 120, 17)], 10)


@pytest.mark.parametrize(
    ("number", "args", "own", "later"),
    [
        (UNSHARE, [int(CLONE.NEWUSER | CLONE.NEWNS | CLONE.NEWPID)], ("user", "mount"), ("pid",)),
        (UNSHARE, [int(CLONE.NEWTIME)], (), ("time",)),
        (UNSHARE, [int(CLONE.FS)], (), ()),
        (SETNS, [3, int(CLONE.NEWNET)], (), ()),
        (CLONE_, [int(CLONE.NEWUTS | CLONE.NEWCGROUP) | 17], ("uts", "cgroup"), ()),
    ],
)
def test_new_namespaces_by_call(number, args, own, later):
    """unshare moves its caller, but for pid and time only the children; setns makes nothing new."""
    (task,) = assemble([enter(10, number, *args), Record(LEAVE, 10, 0)], 10)
    assert (task.calls[0].new, task.calls[0].new_for_children) == (own, later)


def test_bytes_that_are_no_text_arrive():
    """Paths are bytes: what is no UTF-8 comes back as it was."""
    (task,) = assemble([enter(10, EXECVE, tail=b"/\xff\0\xfe\0"), Record(LEAVE, 10, -2)], 10)
    assert os.fsencode(task.calls[0].path) == b"/\xff" and os.fsencode(task.calls[0].argv[0]) == b"\xfe"
