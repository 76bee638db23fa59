"""Where no control group is to be had: what can't be limited is refused before anything starts, unless it may be degraded, and then
the result says so. Asked of another process, to which a group is named that does not exist."""

import json
import os
import subprocess
import sys

import pytest

from ramet.plan.limits import used_up_alone

CODE = """
import json, os, sys, ramet
fields = json.loads(sys.argv[1])
fields["allow_degraded"] = tuple(fields.get("allow_degraded", ()))
if "namespaces" in fields:
    fields["namespaces"] = frozenset(ramet.Namespace.of(one, "") for one in fields["namespaces"])
argv = [sys.executable, "-I", "-S", "-c", sys.argv[2]]
try:
    result = ramet.run(argv, **fields)
except ramet.Error as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
else:
    print(json.dumps(result.to_mapping()))
"""


def without(code="pass", **fields):
    """The result, or the error, as data."""
    fields.setdefault("timeout", 60)
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(fields), code],
        env={**os.environ, "RAMET_CGROUP": "/no/such/group"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def protection(found, name):
    """How one limit was held, or None: the result tells of all other protections as well."""
    return next((one for one in found["protections"] if one["name"] == name), None)


def told_why(name, text):
    """That there is no group here; or, of what version 1 would not have in any, that."""
    return "/no/such/group" in text or (name == "memory_high" and "version 1 has no such limit" in text)


LIMITS = {
    "memory": "64M",
    "memory_high": "64M",
    "cpus": 0.5,
    "cpu_time": 5,
    "cpuset": "0",
    "cpu_weight": 50,
    "io_weight": 50,
    "io": None,
}


@pytest.mark.parametrize("name", [name for name in LIMITS if name != "io"])
def test_refused(name):
    """A limit that nothing holds here raises UnsupportedError, which names it, what is missing, and where to look."""
    found = without(**{name: LIMITS[name]})
    assert found.get("error") == "UnsupportedError", found
    assert name.replace("_", " ") in found["text"]
    assert told_why(name, found["text"])
    assert "hint:" in found["text"]


@pytest.mark.parametrize("name", [name for name in LIMITS if name != "io"])
def test_degraded(name):
    """With allow_degraded it runs, and the result says that the limit is not, or less well held; without the limit it says nothing."""
    found = without(**{name: LIMITS[name]}, allow_degraded=[name])
    assert (found["status"], found["exit_code"]) == ("exited", 0), found
    held = protection(found, name)
    assert held["state"] == ("degraded" if name in ("memory", "cpu_time", "cpuset") else "absent")
    assert told_why(name, held["fact"])
    assert protection(without(), name) is None


def test_memory_as_an_address_space():
    """Degraded, memory is RLIMIT_AS: what is beyond is refused to the process, and nobody is killed for it."""
    code = "x = b'x' * (200 << 20)"
    found = without(code, memory="100M", allow_degraded=["memory"])
    assert (found["status"], found["exit_code"]) == ("exited", 1) and "MemoryError" in found["stderr"]
    assert without(code, memory="500M", allow_degraded=["memory"])["exit_code"] == 0


def test_cpu_time_of_one_process():
    """Degraded, cpu_time is RLIMIT_CPU: whole seconds of each process, and the verdict is right all the same."""
    found = without("while True: pass", cpu_time=1, allow_degraded=["cpu_time"])
    assert (found["status"], found["limits_hit"], found["ended_by_limit"]) == ("cpu-time", ["cpu-time"], True)
    assert 1 <= found["usage"]["cpu_user"] + found["usage"]["cpu_system"] < 5
    assert (
        without(
            "import resource; print(resource.getrlimit(resource.RLIMIT_CPU))", cpu_time=1, allow_degraded=["cpu_time"]
        )["stdout"]
        == "(2, 2)\n"
    )


@pytest.mark.parametrize(
    ("used", "limit", "up"),
    [(4.75, 5, True), (7.2, 8, True), (1.0, 1, True), (0.9, 1, False), (2.9, 5, False), (0, 0.1, False)],
)
def test_ticks_run_ahead(used, limit, up):
    """RLIMIT_CPU counts by ticks: who was killed after 4.75 s that were measured, beside busy neighbours, had 6 s of those. Who was after
    less than half of them was killed for something else."""
    assert used_up_alone(used, limit) is up


def test_processes_by_the_user_namespace():
    """With a user namespace of its own and one id in it, RLIMIT_NPROC holds processes; that is no degradation."""
    code = "import os, time\nn = 1\ntry:\n  while n < 9:\n    if not os.fork(): time.sleep(60)\n    n += 1\nexcept BlockingIOError: pass\nprint(n)"
    found = without(code, processes=4)
    assert found["stdout"] == "4\n"
    held = protection(found, "processes")
    assert held["state"] == "enforced" and "RLIMIT_NPROC" in held["fact"]
    assert without(code, processes=20)["stdout"] == "9\n"


def test_processes_of_a_shared_user_namespace():
    """In the caller's user namespace RLIMIT_NPROC counts the caller's processes as well: that is refused, and degraded where allowed."""
    if os.geteuid() != 0:
        pytest.skip("only as root: others need a user namespace")
    kinds = ["mount", "pid", "net", "ipc", "uts", "cgroup"]
    assert without(processes=50, namespaces=kinds)["error"] == "UnsupportedError"
    found = without(processes=500, namespaces=kinds, allow_degraded=["processes"])
    assert protection(found, "processes")["state"] == "degraded", found


def test_limits_of_each_process_need_no_group():
    """file_size, open_files, nice, idle, disk, output and timeout are held everywhere."""
    found = without(file_size="1M", open_files=64, nice=5, idle=True, disk="4M", output=1000)
    assert found["status"] == "exited" and found["exit_code"] == 0, found
    assert not [one for one in found["protections"] if "/no/such/group" in one["fact"]]


def test_one_of_several_missing():
    """The error names the first that is missing; allowing that one does not allow the other."""
    found = without(memory="64M", cpus=0.5, allow_degraded=["memory"])
    assert found["error"] == "UnsupportedError" and "cpus" in found["text"]


def test_an_ordinary_user_to_whom_nothing_is_handed():
    """What such a user reads is how to get it: the commands for an administrator, or systemd-run."""
    if os.geteuid() == 0:
        pytest.skip("only as an ordinary user")
    env = {name: value for name, value in os.environ.items() if name != "RAMET_CGROUP"}
    code = "import ramet\ntry: ramet.run(['true'], memory='64M')\nexcept ramet.UnsupportedError as error: print(error)\nelse: print('limited')"
    said = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert said == "limited\n" or "chown" in said or "systemd-run" in said, said
