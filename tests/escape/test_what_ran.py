"""What ran is what the plan said: strace's account of a start, held against the plan's steps, call by call."""

import re
import shutil
import subprocess
import sys

import pytest

import ramet
from needs import need
from ramet import Namespace, Sandbox

#: What the core does besides the plan: it puts signal dispositions back, and clones.
OWN = {"rt_sigaction", "clone3"}
BOXES = {
    "default": "Sandbox()",
    "no walls": "Sandbox(seccomp='none', landlock=False, nested_namespaces=True)",
    "as pid 1": "Sandbox(as_pid1=True)",
    "empty": "Sandbox(rootfs='empty', mounts=[Bind('/usr'), Symlink('/lib', 'usr/lib'), Symlink('/lib64', 'usr/lib64')])",
    "host": "Sandbox(rootfs='host')",
    "mounts": "Sandbox(mounts=[Tmpfs('/tmp/a', size='1M'), File('/tmp/b', 'x'), Bind('/usr/bin', '/tmp/c')], masked_paths=['/proc/cpuinfo'], readonly_paths=['/proc/sys'])",
    "rights": "Sandbox(uid=0, gid=0, capabilities={'NET_ADMIN', 'KILL'}, no_new_privs=False)",
    "surroundings": "Sandbox(hostname='box', umask=0o77, env={'A': 'b'}, workdir='/tmp', nice=5, open_files=64, file_size='1M')",
    "time": "Sandbox(namespaces=frozenset(Namespace), time_offsets=TimeOffsets(boottime=1000))",
    "few": "Sandbox(namespaces={Namespace.USER, Namespace.PID})",
}
PROGRAM = """
from ramet import *
import ramet
print(ramet.run(["/usr/bin/true"], {box}, timeout=60))
"""


def traced(program, log):
    """The calls of each process, in order."""
    argv = ["strace", "-f", "-qq", "-o", log, sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert "exited with 0" in done.stdout, done.stdout + done.stderr[-2000:]
    calls = {}
    for line in log.read_text().splitlines():
        if found := re.match(r"(\d+) +(\w+)\(", line):
            calls.setdefault(found[1], []).append(found[2])
    return calls


def until(calls, last):
    """Up to the call by which a stage ends, without what is the core's own."""
    return [call for call in calls[: calls.index(last) + 1] if call not in OWN]


@pytest.mark.parametrize("name", BOXES)
def test_what_ran_is_what_the_plan_said(name, tmp_path):
    """Each process of a start makes the plan's calls, all of them, in order, and none besides; the caller makes none of them."""
    need(shutil.which("strace"), "strace")
    box = eval(BOXES[name], {**vars(ramet), "Sandbox": Sandbox, "Namespace": Namespace})
    plan = box.plan(["/usr/bin/true"])
    calls = traced(PROGRAM.format(box=BOXES[name]), tmp_path / "log")
    said = {stage: [step.call for step in plan.stages[stage].steps] for stage in plan.stages}
    ran = [made for made in calls.values() if "close_range" in made]
    if plan.init:
        inits = [made for made in ran if "execveat" in made]
        payloads = [made for made in ran if "execveat" not in made]
        assert until(inits[0], "execveat") == said["child"] + said["init"]
        assert until(payloads[0], "execve") == said["payload"]
        assert len(ran) == 2
    else:
        assert until(ran[0], "execve") == said["child"]
        assert len(ran) == 1


def test_the_control_another_plan(tmp_path):
    """The control: what ran for one sandbox is not what the plan of another said."""
    need(shutil.which("strace"), "strace")
    calls = traced(PROGRAM.format(box="Sandbox()"), tmp_path / "log")
    payload = next(made for made in calls.values() if "close_range" in made and "execveat" not in made)
    other = Sandbox(mounts=[ramet.Tmpfs("/tmp/a")]).plan(["/usr/bin/true"])
    assert until(payload, "execve") != [step.call for step in other.stages["payload"].steps]
