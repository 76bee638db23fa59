"""strace as the judge: process by process the same calls, with the same flags and results."""

import os
import shutil
import sys

import pytest
import strace
from programs import PYTHON

from needs import need

BWRAP = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--mount", "--fork", "--mount-proc"]
#: A namespace is made and entered, by its file; one descriptor, so that both runs have the same number.
ENTER = "exec 9< /proc/self/ns/uts; nsenter --uts=/proc/self/fd/9 true; unshare -U true"

#: clone is given CLONE_CLEAR_SIGHAND, which lies above the 32 bits that it takes; and then is not.
DROPPED = """
from ramet import _core
from ramet.lab.numbers import NR
import os
for flags in (0x1_0000_0011, 0x11):
    if _core.syscall("clone", NR["clone"], flags, 0, 0, 0, 0) == 0:
        os._exit(0)
    os.wait()
"""

COMMANDS = {
    "one": ["true"],
    "pipeline": ["sh", "-c", "ls / | sort -r | head -n 1 | cat"],
    "shell": ["bash", "-c", "true; (exit 3); x=$(echo $(echo y)); { true & wait; }; nonexistent; exec /bin/true"],
    "background": ["sh", "-c", "sleep 0.1 & true"],
    "python": [sys.executable, "-c", PYTHON],
    "unshare": [*UNSHARE, "sh", "-c", "true; ls / | cat; nonexistent"],
    "unshare within": [*UNSHARE, *UNSHARE, "sh", "-c", "true; true"],
    "refused": ["sh", "-c", "unshare --net --user true; unshare --time=x true; setpriv --nnp unshare -U true"],
    "bwrap": [*BWRAP, "sh", "-c", "true; ls / | cat"],
    "bwrap within": [*BWRAP, "--", "unshare", "--user", "--net", "true"],
    "setns": ["sh", "-c", ENTER],
    "ramet": [sys.executable, "-m", "ramet", "run", "--", "sh", "-c", "true; ls / | cat"],
    "dropped": [sys.executable, "-c", DROPPED],
    "xargs": ["sh", "-c", "seq 20 | xargs -n 1 -P 1 echo"],
    "env": ["env", "-i", "PATH=/nonexistent:/bin", "sh", "-c", "true"],
}
WORDS = ("thread-exec", "own-filter", "own-filter-of-threads", "refused", "deep 30")


@pytest.fixture
def both(traced, tmp_path):
    """The trees of strace and of ours, of two runs of a command."""
    need(shutil.which("strace"), "strace")

    def run(argv):
        status = strace.run(argv, tmp_path / "strace")
        seen = traced(*argv)
        assert seen.done.returncode == status
        return strace.tree((tmp_path / "strace").read_text()), strace.of_ours(seen.tasks)

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_the_calls_are_those_that_strace_lists(both, name):
    """Process by process: the same calls in the same order, with the same flags, arguments, errnos and children."""
    need(shutil.which(COMMANDS[name][0]), COMMANDS[name][0])
    theirs, ours = both(COMMANDS[name])
    assert ours == theirs
    assert ours[0][0] == "execve"


@pytest.mark.parametrize("word", WORDS)
def test_the_calls_of_hard_cases_are_those_that_strace_lists(both, program, word):
    """Also of an exec by a thread, of filters of the program's own, of long chains."""
    theirs, ours = both([program, *word.split()])
    assert ours == theirs and len(ours) > 1


def test_as_root_namespaces_without_a_user_namespace(both):
    """What needs privilege succeeds for root and fails for others: in both lists."""
    theirs, ours = both(["unshare", "--net", "--ipc", "--uts", "--mount", "true"])
    assert ours == theirs
    flags = frozenset({"CLONE_NEWNET", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWNS"})
    assert ("unshare", flags, None if os.geteuid() == 0 else "EPERM", None) in ours


def test_the_comparison_would_notice(both, tmp_path):
    """The control: another command, a missing call, another flag, errno or child is a difference."""
    theirs, ours = both(COMMANDS["unshare"])
    name, flags, errno, child = ours[1]
    assert name == "unshare"
    for other in (
        ours[:1] + ours[2:],
        [ours[0], (name, flags - {"CLONE_NEWPID"}, errno, child), *ours[2:]],
        [ours[0], (name, flags, "EPERM", child), *ours[2:]],
        [*ours[:2], (*ours[2][:3], []), *ours[3:]],
    ):
        assert other != theirs
    strace.run(["true"], tmp_path / "other")
    assert strace.tree((tmp_path / "other").read_text()) != theirs
