"""newuidmap(1) missing, slow, failing and babbling; a host whose /tmp can't be written to; no memory for a clone."""

import errno as E
import os
import shutil
import subprocess
import sys

import pytest

import ramet
from needs import need
from ramet.host.facts import IdRange, facts
from ramet.plan.compile import compile
from ramet.run import launch  # noqa: F401 - so that the module is there to be found below
from ramet.spec import Command, Sandbox

launching = sys.modules["ramet.run.launch"]


def start(folder, script):
    """Start with a newuidmap and a newgidmap that are this shell script. None: there are none."""
    paths = {"newuidmap": None, "newgidmap": None}
    if script is not None:
        for name in paths:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
            paths[name] = str(folder / name)
    ids = (IdRange(100000, 65536),)
    host = facts().replace(capabilities=0, subuids=ids, subgids=ids, **paths)
    plan = compile(
        Sandbox(uid_mappings="subordinate", gid_mappings="subordinate"),
        host,
        Command(("/bin/touch", str(folder / "ran"))),
    )
    assert plan.sync
    launching.launch(plan, (0, 1, 2))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'uid range not allowed' >&2; exit 1", "uid range not allowed"),
        ("exit 77", "exited with 77"),
        ("kill -9 $$", "exited with -9"),
        (r"printf '\377\376 \033[2J' >&2; exit 1", r"\xff\xfe"),
        ("head -c 1000000 /dev/zero >&2; exit 1", "exited with 1"),
    ],
    ids=["refuses", "fails", "dies", "babbles", "floods"],
)
def test_failing_helper_is_named_and_leaves_nothing(script, says, tmp_path, nothing_left):
    """Whatever way newuidmap fails, it is a HelperError that says how, the payload does not run, and nothing is left."""
    with pytest.raises(ramet.HelperError) as caught:
        start(tmp_path, script)
    assert says in str(caught.value)
    assert "newuidmap" in caught.value.argv[0]
    assert not (tmp_path / "ran").exists()
    assert ramet.run(["true"]).ok


def test_missing_helper_is_said_before_anything_starts(tmp_path, nothing_left):
    """Without newuidmap, an ordinary user's range of ids is an UnsupportedError that says what to install."""
    with pytest.raises(ramet.UnsupportedError) as caught:
        start(tmp_path, None)
    assert "newuidmap" in str(caught.value)


def test_helper_that_vanishes_is_named(tmp_path, nothing_left, monkeypatch):
    """A newuidmap that was there when the host was looked at, and is gone when it is called, is a HelperError."""
    monkeypatch.setattr(sys.modules[__name__], "compile", vanishing(compile, tmp_path))
    with pytest.raises(ramet.HelperError, match="No such file"):
        start(tmp_path, "exit 0")


def vanishing(function, folder):
    def after(*args):
        plan = function(*args)
        (folder / "newuidmap").unlink()
        return plan

    return after


def test_slow_helper_has_a_limit(tmp_path, nothing_left, monkeypatch):
    """A newuidmap that does not answer is given up, with a HelperError that says so, and the child is gone."""
    monkeypatch.setattr(sys.modules["ramet.run.sync"], "HELPER_SECONDS", 0.3)
    with pytest.raises(ramet.HelperError, match=r"no answer in 0\.3 s"):
        start(tmp_path, "exec sleep 1000")
    assert not (tmp_path / "ran").exists()


def test_helper_that_lies_is_noticed(tmp_path, nothing_left):
    """A newuidmap that says it has mapped, and has not, ends in an error of the first step that needs the ids: the payload
    never runs as somebody else."""
    with pytest.raises(ramet.StepError) as caught:
        start(tmp_path, "exit 0")
    assert caught.value.stage == "child"
    assert not (tmp_path / "ran").exists()


NO_PLACE = """
import os, sys
for path in ("/tmp", "/var/tmp", "/dev/shm"):
    try:
        with open(path + "/x", "w") as file:
            file.write("x" * 10000)
        sys.exit(f"{path} can be written to")
    except OSError as error:
        assert error.errno == int(sys.argv[1]), error
import ramet
print(ramet.run(["sh", "-c", "echo fine >/tmp/x; cat /tmp/x"], text=True, check=True).stdout)
"""


@pytest.mark.parametrize(("options", "errno"), [("ro", E.EROFS), ("size=4k", E.ENOSPC), ("nr_inodes=1", E.ENOSPC)])
def test_host_without_a_place_for_temporary_files(options, errno):
    """On a host where /tmp, /var/tmp and /dev/shm are read-only, or full, or out of inodes, sandboxes start and have a /tmp of
    their own."""
    need(shutil.which("unshare"), "util-linux")
    own = (
        ["unshare", "--mount"]
        if os.geteuid() == 0
        else ["unshare", "--mount", "--user", "--map-current-user", "--keep-caps"]
    )
    script = (
        f'for d in /tmp /var/tmp /dev/shm; do mount -t tmpfs -o {options} none $d || exit 9; done; exec "$0" -c "$@"'
    )
    if sys.executable.startswith(("/tmp/", "/var/tmp/")) or os.getcwd().startswith(("/tmp/", "/var/tmp/")):
        pytest.skip("only where neither Python nor the checkout lies in /tmp")
    done = subprocess.run(
        [*own, "sh", "-c", script, sys.executable, NO_PLACE, str(errno)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "fine\n\n", done.stderr


CLONES = """
import errno, os, ramet
for _ in range(2):
    try:
        print(ramet.run(["true"]).ok)
    except ramet.StepError as error:
        print(errno.errorcode[error.errno], error.doing)
        assert not open("/proc/thread-self/children").read()
"""


@pytest.mark.parametrize("errno", ["ENOMEM", "EAGAIN", "ENOSPC", "EPERM", "EINVAL"])
def test_a_clone_that_fails_is_named(errno, tmp_path):
    """If the kernel refuses a clone, the caller's or init's, for want of memory say, it is a StepError with that errno that
    says which, and no child is left; if it does not, both runs are fine."""
    need(shutil.which("strace"), "strace")
    # Each tracee has a count of its own: first it is the caller's clone that fails, then that of each child of it.
    inject = ["-e", "trace=clone3", "-e", f"inject=clone3:error={errno}:when=1"]
    argv = ["strace", "-f", "-qq", "-o", tmp_path / "log", *inject, sys.executable, "-c", CLONES]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"{errno} clone the child", f"{errno} clone the payload's process"], done.stderr
    fine = subprocess.run([sys.executable, "-c", CLONES], capture_output=True, text=True, timeout=60)
    assert fine.stdout.split() == ["True", "True"]
