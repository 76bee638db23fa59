"""Races: against the start of a sandbox, from inside it, and from within the files that it is made of."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import ramet
from needs import SLOW
from ramet import Bind, File, Join, Namespace, Rootfs, Sandbox, StepError, Tmpfs

#: How often each plot is tried.
TRIES = 10_000 if SLOW else 80
STARTS = 1000 if SLOW else 100
OPEN = Sandbox(seccomp="none", landlock=False)
NOTHING_REACHED = "tried\n"


# From the payload's first instruction on


@pytest.mark.timeout(900)
@pytest.mark.parametrize("box", [OPEN, Sandbox()], ids=["no filter", "default"])
def test_cve_2016_9962_init_from_the_first_instruction(attacker, box):
    """A payload that reaches for init from its first instruction on gets neither memory, environment, descriptors nor a
    hold on it, also without a filter: what was shared with the caller is gone before the payload starts."""
    box = box.replace(mounts=[Bind(attacker)])
    for _ in range(STARTS):
        result = ramet.run([str(attacker), "reach", "1", "40"], box, text=True, timeout=60)
        assert result.stdout == NOTHING_REACHED, result


def test_the_control_a_process_that_can_be_reached(attacker):
    """The control: of a process that does not hide, the same program reaches all of that."""
    with subprocess.Popen(
        [attacker, "find", "0", "x", "1000000000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as target:
        assert target.stdout.readline() == b"ready\n"
        done = subprocess.run([attacker, "reach", str(target.pid), "3"], capture_output=True, text=True, timeout=60)
        target.stdin.close()
    reached = set(done.stdout.split())
    assert reached >= {
        "mem",
        "maps",
        "environ",
        "exe",
        "fd",
        "root",
        "cwd",
        "ns/mnt",
        "ptrace",
        "process_vm_readv",
        "tried",
    }


@pytest.mark.timeout(900)
def test_cve_2016_9962_a_join_is_watched(attacker):
    """While processes join a sandbox, one that is in there already looks for the caller's memory in all that appear, and
    finds it in none."""
    secret = ctypes.create_string_buffer(b"the caller's secret")
    box = OPEN.replace(mounts=[Bind(attacker)])
    argv = [str(attacker), "find", hex(ctypes.addressof(secret) + 4), "caller'", "1000000000"]
    inside = ramet.Popen(argv, box, stdin=ramet.PIPE, stdout=ramet.PIPE, text=True)
    try:
        assert inside.stdout.readline() == "ready\n"
        joins = [Join(kind, pid=inside.pid) for kind in (Namespace.USER, Namespace.MOUNT, Namespace.PID, Namespace.NET)]
        into = Sandbox(namespaces=set(), join=joins, seccomp="none", landlock=False)
        for _ in range(STARTS):
            ramet.run(["true"], into, timeout=60, check=True)
        inside.stdin.close()
        said = inside.stdout.read()
    finally:
        inside.kill()
        inside.wait()
        inside.close()
    assert "found" not in said
    assert int(said.split()[-1]) > STARTS, "it has seen others than itself"


def test_the_control_memory_that_can_be_read(attacker):
    """The control: outside, the same program finds the word in its parent, who does not hide."""
    secret = ctypes.create_string_buffer(b"the caller's secret")
    argv = [attacker, "find", hex(ctypes.addressof(secret) + 4), "caller'", "1"]
    read_end, write_end = os.pipe()
    try:
        said = subprocess.run(argv, stdin=read_end, capture_output=True, text=True, timeout=60).stdout
    finally:
        os.close(read_end)
        os.close(write_end)
    assert said.startswith("ready\nfound\n")


# While the root is made, somebody in it exchanges names


@pytest.fixture
def plot():
    """A root of which somebody else has the names, and a victim outside that must stay as it is."""
    folder = Path(tempfile.mkdtemp(prefix="escape-plot-", dir="/var/tmp"))
    folder.chmod(0o755)
    root, victim = folder / "root", folder / "victim"
    for name in ("usr", "proc/sub", "dev/sub", "tmp", "etc", "data/sub", "work"):
        (root / name).mkdir(parents=True)
    for name in ("lib", "lib64", "bin"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "data/secret").write_text("the root's")
    (victim / "sub").mkdir(parents=True)
    (victim / "secret").write_text("the victim's")
    for path in (root, *root.rglob("*"), victim, *victim.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o777 if path.is_dir() else 0o666)
    yield root, victim
    shutil.rmtree(folder)


def tree_of(victim):
    """Names and contents: what must not change."""
    return {str(path.relative_to(victim)): path.read_bytes() if path.is_file() else None for path in victim.rglob("*")}


LOOK = "cat /proc/self/mountinfo; echo; for f in /data/secret /data/sub/made; do test -f $f && cat $f; done; exit 0"

#: Which name is exchanged for a link to the victim, and what the sandbox is to be made of meanwhile.
PLOTS = {
    "cve_2021_30465_destination": ("data/sub", "sub", {"mounts": [Bind("/usr"), Tmpfs("/data/sub")]}),
    "cve_2021_30465_above_a_destination": ("data", "", {"mounts": [Bind("/usr"), Tmpfs("/data/sub")]}),
    "cve_2024_45310_a_file_made": ("data", "", {"mounts": [Bind("/usr"), File("/data/made", "x")]}),
    "cve_2019_19921_proc": ("proc", "", {"mounts": [Bind("/usr")]}),
    "cve_2025_52565_dev": ("dev", "", {"mounts": [Bind("/usr")]}),
    "cve_2025_31133_masked": ("data/secret", "secret", {"mounts": [Bind("/usr")], "masked_paths": ["/data/secret"]}),
    "readonly_path": ("data", "", {"mounts": [Bind("/usr")], "readonly_paths": ["/data/sub"]}),
    "workdir": ("work", "", {"mounts": [Bind("/usr")], "workdir": "/work"}),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PLOTS)
def test_symlink_swapped_while_the_root_is_made(attacker, plot, name):
    """Whoever exchanges a name in the rootfs for a link out of it, again and again while the sandbox starts, never gets a
    mount, a file or a directory of the victim's: the start ends with an error, or it all lies in the root."""
    root, victim = plot
    swapped, target, fields = PLOTS[name]
    link = root / "link"
    link.symlink_to(victim / target)
    before = tree_of(victim)
    writes = "kept" if any(isinstance(mount, File) for mount in fields["mounts"]) else "refused"
    box = Sandbox(rootfs=Rootfs(root, writes=writes), **fields)
    started = refused = 0
    argv = [attacker, "swap", root / swapped, link, "1000000000"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as swapper:
        for _ in range(TRIES):
            try:
                result = ramet.run(["/usr/bin/sh", "-c", LOOK], box, text=True, timeout=60)
            except StepError:
                refused += 1
                continue
            started += 1
            assert str(victim) not in result.stdout and "the victim's" not in result.stdout
        swapper.stdin.close()
        swaps = int(swapper.stdout.read().split()[-1])
    assert tree_of(victim) == before
    assert started and refused, f"{started} started, {refused} refused: there was no race"
    assert swaps > TRIES


def test_the_control_paths_that_follow_links(attacker, plot):
    """The control: who opens the same names by their paths, as a naive runtime would, is led to the victim."""
    root, victim = plot
    link = root / "link"
    link.symlink_to(victim)
    argv = [attacker, "swap", root / "data", link, "1000000000"]
    seen = set()
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as swapper:
        while len(seen) < 2:  # however long the other is not given a processor
            try:
                seen.add((root / "data/secret").read_text())
            except OSError:
                continue
        swapper.stdin.close()
        swapper.stdout.read()
    assert seen == {"the root's", "the victim's"}
