"""Real shortages: of descriptors, processes, namespaces."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(300)

HERE = os.path.dirname(__file__)


def python(code, *args):
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=HERE, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


FEW_NUMBERS = """
import resource
from hosts import children, descriptors
import ramet
kept = ramet.run(["true"])
before = children(), sorted(descriptors())
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
answers = []
for limit in range(0, 100):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        answers.append(str(ramet.run(["true"]).ok))
    except ramet.Error as error:
        answers.append(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    assert (children(), sorted(descriptors())) == before, limit
print(*answers)
"""


def test_few_descriptors_are_an_error_or_no_matter():
    """With RLIMIT_NOFILE from 0 to 99 each run succeeds or raises one of ramet's errors, and nothing is
    left; with enough it
    succeeds."""
    answers = python(FEW_NUMBERS).split()
    assert set(answers) <= {"True", "StepError", "UnsupportedError"}
    assert answers[0] == "StepError" and answers[-1] == "True"


FULL_TABLE = """
import os, resource
from hosts import children, descriptors
import ramet
ramet.run(["true"])
before = children(), sorted(descriptors())
resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
answers = []
for free in range(40):
    fill = []
    try:
        while True:
            fill.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for _ in range(free):
        os.close(fill.pop())
    try:
        answers.append(str(ramet.run(["true"]).ok))
    except ramet.Error as error:
        answers.append(type(error).__name__ + ":" + str(getattr(error, "errno", None)))
    for fd in fill:
        os.close(fd)
    assert (children(), sorted(descriptors())) == before, free
print(*answers)
"""


def test_full_descriptor_table_is_an_error():
    """With 0 to 39 free descriptors each run succeeds or raises a StepError with EMFILE or an UnsupportedError, and nothing is
    left."""
    answers = python(FULL_TABLE).split()
    assert set(answers) <= {"True", "StepError:24", "UnsupportedError:None"}
    assert answers[0] == "StepError:24" and answers[-1] == "True"


NO_PROCESSES = """
import os, resource
from hosts import children, descriptors
import ramet
if os.geteuid() == 0:
    os.setresgid(64999, 64999, 64999)
    os.setresuid(64999, 64999, 64999)  # limits do not hold for root
    from ramet import _core
    from ramet.plan.calls import numbers
    _core.syscall("prctl", numbers(os.uname().machine)["prctl"], 4, 1, 0, 0, 0)  # dumpable again
os.chdir("/")
ramet.run(["true"])
before = children(), sorted(descriptors())
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
try:
    ramet.run(["true"])
except ramet.StepError as error:
    print(error.errno, error.stage, error.hint)
assert (children(), sorted(descriptors())) == before
resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
print(ramet.run(["true"]).ok)
"""


def test_no_more_processes_is_named():
    """At RLIMIT_NPROC the clone is refused with EAGAIN, and the hint says which limit; with room it works."""
    first, second = python(NO_PROCESSES).splitlines()
    assert first.startswith("11 clone ") and "RLIMIT_NPROC" in first
    assert second == "True"


FEW_PROCESSES = """
import os, resource
from hosts import children, descriptors
import ramet
if os.geteuid() == 0:
    os.setresgid(64998, 64998, 64998)
    os.setresuid(64998, 64998, 64998)  # limits do not hold for root; nobody else is this user
    from ramet import _core
    from ramet.plan.calls import numbers
    _core.syscall("prctl", numbers(os.uname().machine)["prctl"], 4, 1, 0, 0, 0)  # dumpable again
os.chdir("/")
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
for as_pid1 in (False, True):
    ramet.run(["true"], as_pid1=as_pid1)
    before = children(), sorted(descriptors())
    answers = []
    for limit in [*range(12), 4000]:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        try:
            answers.append(str(ramet.run(["true"], as_pid1=as_pid1, rlimits={"NPROC": (4000, 4000)}).ok))
        except ramet.StepError as error:
            answers.append(f"{error.doing.replace(chr(32), chr(95))}:{error.errno}")
        assert (children(), sorted(descriptors())) == before, limit
    print(*answers)
"""


def test_few_processes_are_an_error_or_no_matter():
    """With RLIMIT_NPROC from 0 to 11, which another clone meets each time, each run succeeds or raises a StepError with EAGAIN that
    says whose clone it was; nothing is left; with enough it succeeds."""
    for line in python(FEW_PROCESSES).splitlines():
        answers = line.split()
        assert set(answers) <= {"True", "clone_the_child:11", "clone_the_payload's_process:11"}, line
        assert answers[0] == "clone_the_child:11" and answers[-1] == "True"


LITTLE_MEMORY = """
import errno, resource
from hosts import children, descriptors
import ramet
ramet.run(["true"])
before = children(), sorted(descriptors())
with open("/proc/self/status") as file:
    size = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmSize"))
answers = []
for more in [-(4 << 20), *range(0, 2 << 20, 64 << 10), 64 << 20]:  # -: what Python frees meanwhile is no room
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
    try:
        answer = str(ramet.run(["true"], as_pid1=True).ok)  # as_pid1: no stack is kept of a start like this
    except ramet.Error as error:
        answer = type(error).__name__
    except MemoryError:
        answer = "MemoryError"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers.append(answer)
    assert (children(), sorted(descriptors())) == before, more
print(*answers)
"""


def test_no_memory_for_the_child_is_an_error():
    """With an address space (RLIMIT_AS) that is full, and then larger by 64 KiB each time, each run succeeds or raises one of ramet's
    errors or MemoryError, and nothing is left; with enough it succeeds."""
    answers = python(LITTLE_MEMORY).split()
    assert set(answers) <= {"True", "UnsupportedError", "StepError", "MemoryError"}
    assert (answers[0], answers[-1]) == ("UnsupportedError", "True")


NO_NAMESPACES = """
import sys
from hosts import children, descriptors
import ramet
print(ramet.run(["true"]).ok)
before = children(), sorted(descriptors())
name = sys.argv[1]
path = "/proc/sys/user/max_" + name + "_namespaces"
with open(path) as file:
    old = file.read()
with open(path, "w") as file:
    file.write("0")
try:
    ramet.run(["true"])
except ramet.StepError as error:
    print(error.errno, error.stage, error.hint)
assert (children(), sorted(descriptors())) == before
with open(path, "w") as file:
    file.write(old)
print(ramet.run(["true"]).ok)
"""


@pytest.mark.parametrize("name", ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"])
def test_no_more_namespaces_is_named(name):
    """In a user namespace of the test's own where user.max_*_namespaces is 0, the clone is refused with
    ENOSPC and the hint
    says that it is such a limit."""
    inner = ["unshare", "--user", "--map-root-user", sys.executable, "-c", NO_NAMESPACES, name]
    done = subprocess.run(inner, cwd=HERE, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    before, first, after = done.stdout.splitlines()
    assert first.startswith("28 clone ") and "max_" in first
    assert before == after == "True"


@pytest.mark.parametrize("call", ["os.memfd_create", "os.pipe2", "os.pidfd_open", "ramet.run.control.pair"])
def test_a_descriptor_that_cannot_be_had_is_a_step_error(call, monkeypatch):
    """Whatever the caller itself can't open is a StepError of the stage "caller", not a bare OSError."""
    import importlib

    import ramet
    from ramet.run import ahead, image

    def refuse(*_args, **_kwargs):
        raise OSError(24, "Too many open files")

    ahead.forget()
    module, _, name = call.rpartition(".")
    with monkeypatch.context() as patched:
        if call == "os.pidfd_open":
            patched.setattr(image, "_self", {})
        if call == "os.memfd_create":
            patched.setattr(image, "_init", {})
        patched.setattr(importlib.import_module(module), name, refuse)
        with pytest.raises(ramet.StepError) as raised:
            ramet.run(["true"])
    assert (raised.value.errno, raised.value.stage) == (24, "caller")
    assert ramet.run(["true"]).ok
