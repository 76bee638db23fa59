"""The caller killed by SIGKILL, at any moment: nothing of it is left."""

import json
import os
import random
import subprocess
import sys

import pytest
from hosts import Caller, alive, processes, wait_until

pytestmark = pytest.mark.timeout(300)

HERE = os.path.dirname(__file__)
#: All of 1,000 with RAMET_SLOW=1, as CI has it; otherwise enough to notice a window of one in fifty.
KILLS = 1000 if os.environ.get("RAMET_SLOW") else 150
SHARES = {"default": 0.5, "as_pid1": 0.2, "thread": 0.2, "ahead": 0.2}


def killed(count, mode, **env):
    seed = str(random.randrange(2**32))
    argv = [sys.executable, "killer.py", str(count), mode, seed]
    done = subprocess.run(
        argv, cwd=HERE, capture_output=True, text=True, timeout=280, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("mode", SHARES)
def test_killed_at_random_moments_leaves_nothing(mode):
    """A caller killed while it starts sandboxes leaves no process, whatever the moment; and the moments were such that there was something to leave."""
    found = killed(int(KILLS * SHARES[mode]), mode)
    assert found["survivors"] == []
    assert found["descendants"] > found["killed"] / 10


def test_control_a_killed_caller_of_plain_processes_leaves_them():
    """The same harness finds what subprocess leaves behind, every time."""
    found = killed(3, "control", PATIENCE="0.2")
    assert len(found["survivors"]) == 9


IN_SYNC = """
import os, sys
from ramet.run import launch as launching  # not ramet.run.launch: there, run is the function
from ramet.host.facts import IdRange, facts
from ramet.plan.compile import compile
from ramet.spec import Command, Sandbox
mark, way = sys.argv[1:]

def hang(plan, control, pid):
    print(pid, flush=True)
    os.read(os.pipe()[0], 1)

host, spec = facts(), Sandbox()
if way == "helper" or os.geteuid():
    host = host.replace(newuidmap="/nonexistent", newgidmap="/nonexistent", subuids=(IdRange(100000, 9),), subgids=(IdRange(100000, 9),))
    host = host.replace(capabilities=0) if way == "helper" else host
    spec = Sandbox(uid_mappings="subordinate", gid_mappings="subordinate")
launching.serve = hang
plan = compile(spec, host, Command(("/bin/true", mark)))
assert plan.sync
launching.launch(plan, (0, 1, 2))
"""


@pytest.mark.parametrize("way", ["write", "helper"])
def test_killed_in_sync_leaves_no_waiting_child(way):
    """A caller killed while its child waits for it, as when newuidmap hangs, leaves no child."""
    mark = f"ramet-in-sync-{os.getpid()}-{way}"
    with Caller(IN_SYNC, mark, way) as caller:
        child = int(caller.line())
        assert child in processes(mark)  # the child shares the caller's memory, and so its command line
        caller.kill()
        assert wait_until(lambda: not alive(child))
        assert processes(mark) == set()


WITH_FORKED_CHILD = """
import os, sys
import ramet
box = ramet.Popen(["sh", "-c", "sleep 1000; : $0", sys.argv[1]], as_pid1=sys.argv[2] == "1")
if (forked := os.fork()) == 0:
    os.read(0, 1)  # with a copy of every descriptor of the caller's, until the test lets go
    os._exit(0)
print(forked, flush=True)
os.read(0, 1)
"""


@pytest.mark.parametrize("as_pid1", ["0", "1"])
def test_killed_while_a_forked_child_holds_its_descriptors(as_pid1):
    """A plain fork of the caller, which holds copies of the control socket and the pidfd, does not keep the
    sandbox alive."""
    mark = f"ramet-forked-{os.getpid()}-{as_pid1}"
    with Caller(WITH_FORKED_CHILD, mark, as_pid1) as caller:
        forked = int(caller.line())
        # In the middle of an exec, when the caller goes on already, a process has no arguments to be known by.
        inside = wait_until(lambda: processes(mark) - {caller.pid, forked})
        assert inside
        caller.process.kill()
        assert wait_until(lambda: not any(alive(pid) for pid in inside))
        assert alive(forked)


EXITS = """
import sys
import ramet
boxes = [ramet.Popen(["sh", "-c", "sleep 1000; : $0", sys.argv[1]], as_pid1=n % 2 == 1) for n in range(4)]
print("ready", flush=True)
if sys.argv[2] == "raise":
    raise ValueError("on purpose")
if sys.argv[2] == "cycle":
    boxes.append(boxes)
if sys.argv[2] == "_exit":
    import os
    os._exit(0)
"""


@pytest.mark.parametrize("how", ["return", "raise", "cycle", "_exit"])
def test_interpreter_that_exits_with_sandboxes_alive_leaves_nothing(how):
    """Sandboxes that still run when the interpreter ends, in whichever way, end with it."""
    mark = f"ramet-exits-{os.getpid()}-{how}"
    done = subprocess.run(
        [sys.executable, "-c", EXITS, mark, how], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "ready\n"
    assert ("on purpose" in done.stderr) == (how == "raise")
    assert "Exception ignored" not in done.stderr
    assert wait_until(lambda: not processes(mark))
