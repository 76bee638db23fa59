"""Capabilities, no_new_privs, nested user namespaces."""

import os
import sys
from pathlib import Path

import pytest
from inside import as_root, python, said, shell

import ramet
from needs import need
from ramet import Namespace, Sandbox, SpecError
from ramet.spec.capabilities import NAMES, NUMBERS

SETS = "grep -E '^Cap' /proc/self/status"
LAST = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))


def sets_of(result):
    """The five sets as numbers: inheritable, permitted, effective, bounding, ambient."""
    words = said(result).split()
    return [int(word, 16) for word in words[1::2]]


@pytest.mark.parametrize("uid", [0, 1000])
def test_no_capabilities_by_default(uid):
    """All five capability sets are empty, for uid 0 inside as well."""
    assert sets_of(shell(SETS, uid=uid, gid=uid)) == [0] * 5


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("as_pid1", [False, True])
def test_named_capabilities_are_kept_through_exec(uid, as_pid1):
    """The capabilities named, and no others, are in all five sets, whoever the payload is inside."""
    expected = 1 << NUMBERS["CAP_NET_RAW"] | 1 << NUMBERS["CAP_SYS_CHROOT"]
    assert (
        sets_of(shell(SETS, uid=uid, gid=uid, as_pid1=as_pid1, capabilities={"net_raw", "CAP_SYS_CHROOT"}))
        == [expected] * 5
    )


def test_a_capability_can_be_used():
    """With CAP_SYS_CHROOT chroot works; without, it is EPERM."""
    code = "import os; os.chroot('/usr'); print('bin' in os.listdir('/'), os.path.exists('/usr'))"
    assert said(python(code, capabilities={"SYS_CHROOT"})) == "True False"
    assert "PermissionError" in python(code).stderr


def test_every_capability():
    """ALL is every capability the running kernel knows; a name it does not know is refused before anything runs."""
    known = [name for name in NAMES if NUMBERS[name] <= LAST]
    assert sets_of(shell(SETS, capabilities=set(known))) == [sum(1 << NUMBERS[name] for name in known)] * 5


def test_unknown_capability():
    """A misspelt name is refused with the nearest one."""
    with pytest.raises(SpecError, match="CAP_NET_RAW") as caught:
        Sandbox(capabilities={"NET_ROW"})
    assert caught.value.field == "Sandbox.capabilities"
    with pytest.raises(SpecError):
        Sandbox(capabilities="NET_RAW")


def test_nothing_regains_capabilities():
    """What the bounding set has lost can't come back: a uid 0 payload that executes anything stays without."""
    again = ramet.run(["sh", "-c", "exec sh -c 'exec grep -E ^Cap /proc/self/status'"], uid=0, gid=0, text=True)
    assert sets_of(again) == [0] * 5


@as_root
def test_capabilities_without_a_user_namespace():
    """A root caller's payload in the host's user namespace has none either, and is not root."""
    kept = Sandbox().namespaces - {Namespace.USER}
    assert said(shell("id -u", namespaces=kept)) == "65533"
    assert sets_of(shell(SETS, namespaces=kept)) == [0] * 5


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_no_new_privs(no_new_privs):
    """no_new_privs is set unless it is asked not to be."""
    here = Path("/proc/self/status").read_text(encoding="ascii")
    if "NoNewPrivs:\t1" in here:
        need(False, "a caller without no_new_privs")
    assert said(shell("grep NoNewPrivs /proc/self/status", no_new_privs=no_new_privs)).split()[1] == str(
        int(no_new_privs)
    )


@pytest.mark.parametrize("as_pid1", [False, True])
def test_no_user_namespaces_inside(as_pid1):
    """The payload can't make a user namespace; with nested_namespaces=True it can."""
    script = "unshare -U true && echo made"
    refused = shell(script, as_pid1=as_pid1)
    assert refused.stdout == "" and not refused.ok
    assert said(shell(script, as_pid1=as_pid1, nested_namespaces=True)) == "made"


def test_no_user_namespaces_with_capabilities():
    """The ban holds for a payload that is uid 0 inside with capabilities other than those that could lift it."""
    script = "echo 100 >/proc/sys/user/max_user_namespaces; unshare -U true && echo made"
    assert shell(script, uid=0, gid=0, capabilities={"NET_ADMIN", "SETUID", "SETGID"}).stdout == ""


INNER = """
import os, sys
import ramet
depth = int(sys.argv[1])
if depth == 0:
    print("bottom", os.getpid(), len(open("/proc/self/uid_map").read().split("\\n")) - 1)
else:
    mounts = [ramet.Bind(p) for p in eval(sys.argv[2])]
    r = ramet.run([sys.executable, "-c", open("/inner.py").read(), str(depth - 1), sys.argv[2]], text=True,
        nested_namespaces=depth > 1, mounts=[*mounts, ramet.Bind("/inner.py")])
    print(r.stdout, r.stderr, end="")
    sys.exit(0 if r.ok else 1)
"""


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_ramet_inside_ramet(depth):
    """A sandbox can hold a sandbox, three deep."""
    package = os.path.dirname(os.path.dirname(ramet.__file__))
    paths = [package]
    mounts = [ramet.Bind(package), ramet.File("/inner.py", INNER)]
    env = {"PYTHONPATH": package}
    inner = INNER.replace("text=True,", f"text=True, env={env!r},")
    mounts[1] = ramet.File("/inner.py", inner)
    result = ramet.run(
        [sys.executable, "-c", inner, str(depth), repr(paths)],
        text=True,
        nested_namespaces=True,
        mounts=mounts,
        env=env,
        timeout=60,
    )
    assert said(result) == "bottom 2 1"


def test_nested_as_user_namespaces_run_out():
    """Where the sandbox does not allow nesting, a sandbox in it is refused with the limit named."""
    package = os.path.dirname(os.path.dirname(ramet.__file__))
    code = "import ramet\ntry:\n    ramet.run(['true'])\nexcept ramet.StepError as e: print(e.errno, e.stage, e.hint)"
    result = ramet.run(
        [sys.executable, "-c", code],
        text=True,
        mounts=[ramet.Bind(package)],
        env={"PYTHONPATH": package},
        seccomp="none",
    )
    assert said(result).startswith("28 clone user.max_user_namespaces is 0")
