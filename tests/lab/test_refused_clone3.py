"""In a container whose filter refuses clone3: what can still be shown is shown, and nothing is said to fail."""

import errno
import subprocess
import sys

import pytest

#: Installs a filter that answers clone3 with ERRNO, see seccomp(2), and becomes `ramet lab all`.
PROGRAM = """
import ctypes, os, struct, sys
from ramet import _core
from ramet.lab.numbers import NR
clone3 = 435  # on every machine
code = b"".join(struct.pack("<HBBI", *one) for one in (
    (0x20, 0, 0, 0),                          # load the call's number
    (0x15, 0, 1, clone3),                     # is it clone3?
    (0x06, 0, 0, 0x50000 | int(sys.argv[1])), # SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7FFF0000),                 # SECCOMP_RET_ALLOW
))
held = ctypes.create_string_buffer(code)
program = struct.pack("<H6xQ", len(code) // 8, ctypes.addressof(held))
_core.syscall("prctl", NR["prctl"], 38, 1, 0, 0, 0)
_core.syscall("prctl", NR["prctl"], 22, 2, program, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "ramet", "lab", "all"])
"""


@pytest.mark.parametrize(
    ("number", "still"),
    [(errno.ENOSYS, ["directory", "files", "handlers", "semaphores", "io"]), (errno.EPERM, [])],
    ids=["ENOSYS", "EPERM"],
)
def test_clone3_refused(number, still):
    """Experiments that need it are open and name the call and its answer; ramet.call's run on after ENOSYS."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(number)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    words = {line.split()[1]: line.split()[2] for line in done.stdout.splitlines() if line[:3].strip().isdigit()}
    assert "FAILS" not in words.values()
    assert "open" == words["clone3"] == words["answer"] == words["obsolete"] == words["thread"]
    assert set(still) <= {name for name, word in words.items() if word in ("confirmed", "corrected")}
    assert errno.errorcode[number] in done.stdout
