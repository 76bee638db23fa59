"""What ran is what the plan said: strace's account of a start, held against the plan's steps, call by call."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from contextlib import contextmanager

import pytest

import ramet
from needs import need, only
from ramet import Namespace, Sandbox, cgroups
from ramet.run.planning import plan_for

MASK = 2**32 - 1  # strace shows an int as an int, where the plan has 64 bits of it

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
    "rootfs": "Sandbox(rootfs=Rootfs(PLACE))",
    "rootfs, writes kept": "Sandbox(rootfs=Rootfs(PLACE, writes='kept'))",
    "overlay": "Sandbox(rootfs=Rootfs(PLACE, writes='discarded'), mounts=[Overlay('/srv', ('/usr/share', '/usr/lib'))])",
    "terminal": "Sandbox(tty=True)",
    "joined": "Sandbox(namespaces={Namespace.MOUNT}, join=JOIN)",
    "joined, with init": "Sandbox(namespaces={Namespace.MOUNT, Namespace.PID}, join=JOIN)",
    "no namespaces": "Sandbox.without_namespaces(PLACE + '/tmp')",
    "limits": "Sandbox(memory='64M', processes=20, cpus=1)",
}
PROGRAM = """
import os, sys
from ramet import *
import ramet
PLACE = {place!r}
JOIN = {join}
print(ramet.run(["/usr/bin/true"], {box}, timeout=60))
"""
Call = namedtuple("Call", "name args")


@pytest.fixture(scope="session")
def warm(warm):
    """Besides what every test has open from the start: the place, where groups are made."""
    cgroups.find()


@pytest.fixture
def place():
    """A root file system of one program, whose directories the payload's user, whoever that is, may write to."""
    with tempfile.TemporaryDirectory(prefix="what-ran-") as path:
        os.chmod(path, 0o777)
        for folder in ("bin", "proc", "dev", "tmp", "etc", "home", "usr", "usr/bin", "sys", "run", "srv"):
            os.mkdir(f"{path}/{folder}")
            os.chmod(f"{path}/{folder}", 0o777)
        if busybox := shutil.which("busybox"):
            shutil.copy(busybox, f"{path}/usr/bin/true")
        yield path


def arguments(text):
    """A call's arguments as strace wrote them, split at the commas that are not within a string or a structure."""
    found, depth, quoted, start, at = [], 0, False, 0, 0
    while at < len(text):
        c = text[at]
        if quoted:
            at += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c in "([{":
            depth += 1
        elif c in ")]}" and depth == 0:
            break
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [*found, text[start:at].strip()]


def number(text):
    """As strace writes one in -X raw; None for what is none."""
    if not re.fullmatch(r"-?\d+|0x[0-9a-f]+", text):
        return None
    octal = len(text) > 1 and text[0] == "0" and text[1] != "x"
    return int(text, 8 if octal else 0) & MASK


def traced(program, log):
    """The calls of each process, in order."""
    argv = ["strace", "-f", "-qq", "-s", "65536", "-X", "raw", "-o", log, sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert "exited with 0" in done.stdout, done.stdout + done.stderr[-2000:]
    calls = {}
    for line in log.read_text(errors="surrogateescape").splitlines():
        if found := re.match(r"(\d+) +(\w+)\((.*)", line):
            calls.setdefault(found[1], []).append(Call(found[2], arguments(found[3].removesuffix(" <unfinished ...>"))))
    return calls


def until(calls, last):
    """Up to the call by which a stage ends, without what is the core's own."""
    end = [call.name for call in calls].index(last)
    return [call for call in calls[: end + 1] if call.name not in OWN]


def compared(steps, calls):
    """Hold the calls against the steps: the same ones, in order, and with the same numbers and strings. How many of these."""
    assert [call.name for call in calls] == [step.call for step in steps]
    count = 0
    for step, call in zip(steps, calls, strict=True):
        for said, seen in zip(step.args, call.args, strict=False):
            if isinstance(said, int) and (found := number(seen)) is not None:
                assert said & MASK == found, (step, call)
                count += 1
            elif isinstance(said, str) and seen.startswith('"') and re.fullmatch(r'[^"\\]*', said):
                assert seen == f'"{said}"', (step, call)
                count += 1
    return count


@contextmanager
def joinable(name):
    """What "joined" joins here, for the plan; as root what this process is in, else what the program makes: (join, how)."""
    if not name.startswith("joined") or os.geteuid() == 0:
        yield [ramet.Join("uts", pid=os.getpid())] if name.startswith("joined") else []
        return
    with ramet.Popen(["sleep", "1000"], as_pid1=True) as holder:
        yield [ramet.Join(kind, pid=holder.pid) for kind in ("user", "uts")]
        holder.kill()


@pytest.mark.parametrize("name", BOXES)
def test_what_ran_is_what_the_plan_said(name, tmp_path, place):
    """Each process of a start makes the plan's calls, all of them, in order, with the numbers and strings of the plan, and none
    besides; the caller makes none of them."""
    need(shutil.which("strace"), "strace")
    if "PLACE" in BOXES[name]:
        need(shutil.which("busybox"), "busybox: apt-get install busybox-static")
    if name == "limits":
        facts = cgroups.find().facts
        only(
            all(facts[it].ok for it in ("memory", "processes", "cpus")),
            "where the caller may limit these (controllers handed to it)",
        )
    with joinable(name) as join:
        box = eval(
            BOXES[name], {**vars(ramet), "Sandbox": Sandbox, "Namespace": Namespace, "PLACE": place, "JOIN": join}
        )
        plan = plan_for(["/usr/bin/true"], box)
        calls = traced(PROGRAM.format(box=BOXES[name], place=place, join=repr_of(join)), tmp_path / "log")
    said = {stage: list(plan.stages[stage].steps) for stage in plan.stages}
    ran = [made for made in calls.values() if "close_range" in {call.name for call in made}]
    execs = [{call.name for call in made} for made in ran]
    count = 0
    if plan.init:
        inits = [made for made, names in zip(ran, execs, strict=True) if "execveat" in names]
        payloads = [made for made, names in zip(ran, execs, strict=True) if "execveat" not in names]
        count += compared(said["child"] + said["init"], until(inits[0], "execveat"))
        count += compared(said["payload"], until(payloads[0], "execve"))
        assert len(ran) == 2
    else:
        count += compared(said["child"], until(ran[0], "execve"))
        assert len(ran) == 1
    if "join" in said:
        joins = [made for made in calls.values() if made[0].name != "execve" and made not in ran and joined(made)]
        assert len(joins) == 1
        count += compared(said["join"], [call for call in joins[0] if call.name not in OWN | {"exit_group"}])
    assert count > 100


def repr_of(join):
    return "[" + ", ".join(f"ramet.Join({one.kind.value!r}, pid={one.pid})" for one in join) + "]"


def joined(made):
    return "setns" in {call.name for call in made}


def test_the_control_another_plan(tmp_path):
    """The control: what ran for one sandbox is not what the plan of another said; nor with one number of it changed."""
    need(shutil.which("strace"), "strace")
    calls = traced(PROGRAM.format(box="Sandbox()", place="", join="[]"), tmp_path / "log")
    names = [{call.name for call in made} for made in calls.values()]
    payload = next(
        made for made, has in zip(calls.values(), names, strict=True) if "close_range" in has and "execveat" not in has
    )
    other = Sandbox(mounts=[ramet.Tmpfs("/tmp/a")]).plan(["/usr/bin/true"])
    with pytest.raises(AssertionError):
        compared(other.stages["payload"].steps, until(payload, "execve"))
    steps = Sandbox(umask=0o77).plan(["/usr/bin/true"]).stages["payload"].steps
    with pytest.raises(AssertionError, match="umask"):
        compared(steps, until(payload, "execve"))
    compared(Sandbox().plan(["/usr/bin/true"]).stages["payload"].steps, until(payload, "execve"))
