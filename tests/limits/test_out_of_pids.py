"""ramet in a control group that has no more room for processes."""

import os
import sys

from limited import may

import ramet
from ramet import Bind

SOURCES = os.path.dirname(os.path.dirname(ramet.__file__))
FEW_PIDS = """
import errno, os
import ramet
from ramet.run import ahead
def left():
    ahead.forget()  # kept on purpose
    with open("/proc/thread-self/children") as file:
        return file.read(), len(os.listdir("/proc/self/fd"))
answers, before = [], left()
for number in range(4):
    try:
        answers.append(str(ramet.run(["true"]).ok))
    except ramet.StepError as error:
        answers.append(f"{errno.errorcode[error.errno]}:{error.doing.replace(chr(32), chr(95))}")
    if number == 0:
        before = left()  # what is kept: init's memfd, and a pidfd of this process
    assert left() == before and before[0] == "", left()
print(*answers[1:])
"""


def test_out_of_pids_is_an_error():
    """In a sandbox with room for so many processes and no more (pids.max), ramet's own runs are a StepError with EAGAIN that says
    whose clone it was, each time, and no child and no descriptor is left; with room for all of them they succeed."""
    may("processes")
    box = {"nested_namespaces": True, "seccomp": "none", "mounts": [Bind(SOURCES)], "env": {"PYTHONPATH": SOURCES}}
    found = {}
    for most in (1, 2, 9):
        done = ramet.run([sys.executable, "-B", "-c", FEW_PIDS], processes=most, text=True, **box)
        assert done.returncode == 0, done.stderr
        found[most] = done.stdout.split()
    assert found[1] == ["EAGAIN:clone_the_child"] * 3
    assert found[2] == ["EAGAIN:clone_the_payload's_process"] * 3
    assert found[9] == ["True"] * 3
