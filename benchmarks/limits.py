"""What limits cost: a run with a control group against one without, and against others that do the same."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import ramet
import rivals
from measure import interleaved, timed
from ramet import cgroups
from report import Figure, Report, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measure import Candidate

HERE = Path(__file__).parent
ARGV = ["/bin/true"]
LIMITS = {"memory": 64 << 20, "processes": 20, "cpus": 1.0}
WITHOUT, WITH = "ramet.run, no limits", "ramet.run, memory, pids and cpus"
FLOOR = "C floor: groups, clone, execve, wait"
#: The same limits as files of each version.
FILES = {
    1: {"memory": "memory.limit_in_bytes=64M", "pids": "pids.max=20", "cpu": "cpu.cfs_quota_us=100000"},
    2: {"memory": "memory.max=64M", "pids": "pids.max=20", "cpu": "cpu.max=100000 100000"},
}


def measure(report: Report, directory: str, rounds: int) -> None:
    """Add the part to the report."""
    missing = [name for name in LIMITS if not cgroups.find().facts[name].ok]
    if missing:
        report.skip("limits", f"{', '.join(missing)} can't be limited here; `ramet doctor` says why")
        return
    plain, limited = ramet.Sandbox(), ramet.Sandbox(**LIMITS)
    candidates: dict[str, Candidate] = {
        WITHOUT: timed(lambda: ramet.run(ARGV, plain, check=True)),
        WITH: timed(lambda: ramet.run(ARGV, limited, check=True)),
    }
    others = {FLOOR: _floor(directory, plain), **dict(_others(report, directory))}
    try:
        found = interleaved(candidates | others, rounds)
    finally:
        for worker in others.values():
            worker.close()
    version = cgroups.find().by_controller["memory"].version
    report.add("A run with limits", *(Figure(name, seconds) for name, seconds in found.items()))
    report.add(
        "", Figure(f"limits, on version {version}", found[WITH] - found[WITHOUT], at_most=(0.6e-3, 0.3e-3)[version - 1])
    )
    for name, at_least in (("crun run", 8), ("runc run", 15), ("systemd-run --scope", None)):
        if name in found:
            report.add("", ratio(f"{name} / ramet with limits", found[name], found[WITH], at_least=at_least))
    report.add("", ratio("ramet with limits / C floor", found[WITH], found[FLOOR]))
    if "crun run" in found:
        report.add("", ratio("crun run / C floor", found["crun run"], found[FLOOR]))
    _crowd(report, limited, rounds)


def _crowd(report: Report, limited: ramet.Sandbox, rounds: int) -> None:
    """The same run beside many idle sandboxes; alone before and after, since a machine's speed changes."""
    start = {"alone": timed(lambda: ramet.run(ARGV, limited, check=True))}
    crowd = 1000 if rounds >= 100 else 60
    before = interleaved(start, rounds)["alone"]
    idle: list[ramet.Popen] = []
    try:
        for _ in range(crowd):
            idle.append(ramet.Popen(["sleep", "600"], limited, stdout=ramet.DEVNULL, stderr=ramet.DEVNULL))
        beside = interleaved(start, rounds)["alone"]
    finally:
        for one in idle:
            one.close()
    after = interleaved(start, rounds)["alone"]
    report.add("", Figure(f"a run with limits, beside {crowd} idle sandboxes", beside))
    report.add("", ratio("beside them / alone", beside, max(before, after), at_most=1.5))


def _floor(directory: str, plain: ramet.Sandbox) -> rivals.Worker:
    """The groups too, one for each hierarchy, are made and removed each time."""
    flags = plain.plan(ARGV).clone_flags & 0xFFFFFFFF
    spots = cgroups.find().by_controller
    groups: dict[str, list[str]] = {}
    for controller, file in FILES[spots["memory"].version].items():
        groups.setdefault(f"{spots[controller].path}/floor-{os.getpid()}", []).append(file)
    words = [word for path, files in groups.items() for word in (path, *files)]
    return rivals.Worker(rivals.compile_c("floor.c", directory), hex(flags), ARGV[0], *words)


def _others(report: Report, directory: str) -> Iterator[tuple[str, rivals.Worker]]:
    """The programs that are there and work, each asked once before."""
    bundle = make_bundle(directory)
    for name in ("crun", "runc"):
        label = f"{name} run"
        if shutil.which(name) is None or os.geteuid() != 0:
            report.skip(label, "is not installed" if os.geteuid() == 0 else "needs root for a bundle with limits")
            continue
        yield from _worker(report, label, [name, "run", "-b", bundle, f"bench-{os.getpid()}"], _without_v2())
    label = "systemd-run --scope"
    if not os.path.isdir("/run/systemd/system"):
        report.skip(label, "systemd does not run here")
        return
    who = [] if os.geteuid() == 0 else ["--user"]
    options = ["-p", "MemoryMax=64M", "-p", "TasksMax=20", "-p", "CPUQuota=100%"]
    yield from _worker(report, label, ["systemd-run", "--scope", "-q", *who, *options, *ARGV])


def _worker(
    report: Report, label: str, argv: list[str], around: tuple[str, ...] = ()
) -> Iterator[tuple[str, rivals.Worker]]:
    worker = rivals.Worker(*around, rivals.python(), str(HERE / "spawner.py"), *argv)
    try:
        worker()
    except RuntimeError as error:
        report.skip(label, str(error))
    else:
        yield label, worker


def _without_v2() -> tuple[str, ...]:
    """crun refuses a hybrid host; so version 2's hierarchy, which has none of these controllers there, is hidden from it."""
    if not os.path.ismount("/sys/fs/cgroup/unified"):
        return ()
    hide = 'umount /sys/fs/cgroup/unified; exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh")


def make_bundle(directory: str) -> str:
    """An OCI bundle that runs /bin/true over the host's /usr, with the same limits and new namespaces but user."""
    bundle = Path(directory, "bundle")
    for name in ("usr", "proc", "dev", "tmp"):
        (bundle / "rootfs" / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (bundle / "rootfs" / name).symlink_to(f"usr/{name}")
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ARGV,
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "ramet",
        "mounts": [
            {"destination": "/usr", "source": "/usr", "type": "bind", "options": ["rbind", "ro"]},
            {"destination": "/proc", "source": "proc", "type": "proc"},
            {"destination": "/dev", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/tmp", "source": "tmpfs", "type": "tmpfs"},
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "resources": {
                "memory": {"limit": LIMITS["memory"]},
                "pids": {"limit": LIMITS["processes"]},
                "cpu": {"quota": 100_000, "period": 100_000},
            },
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return str(bundle)
