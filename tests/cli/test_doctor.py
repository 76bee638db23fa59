"""`ramet doctor`: each failure's finding and fix, shown on hosts that are made up; and this host, for real."""

import errno
import json
import os
import stat
import subprocess
import sys

import pytest

from ramet.cgroups.place import Fact
from ramet.cli.doctor import report_json, report_text
from ramet.errors import StepError
from ramet.host import doctor
from ramet.host.doctor import DEGRADED, MISSING, OK, Refusal, examine

ROOT_MOUNT = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n"


class FakeHost:
    """A host on which everything works, but for what a test takes away."""

    def __init__(self, refusals=(), files=(), **changes):
        self.release, self.machine = "6.18.1-generic", "x86_64"
        self.uid = self.gid = 1000
        self.executable = "/usr/bin/python3.11"
        self.environ = {}
        self.refusals = dict(refusals)
        self.name = "ada"
        self.abi = 7
        self.modes = {f"/usr/bin/{name}": stat.S_IFREG | 0o4755 for name in ("newuidmap", "newgidmap")}
        self.files = {
            "/proc/self/mountinfo": ROOT_MOUNT,
            "/etc/subuid": "ada:100000:65536\n",
            "/etc/subgid": "ada:100000:65536\n",
        } | dict(files)
        self.can = [Fact("memory", True, "version 2, /sys/fs/cgroup", ""), Fact("cpu_time", True, "", "")]
        vars(self).update(changes)

    def read(self, path):
        return self.files.get(path)

    def exists(self, path):
        return path in self.files

    def mode(self, path):
        return self.modes.get(path)

    def user(self):
        return self.name

    def attempt(self, name):
        return self.refusals.get(name)

    def landlock(self):
        return self.abi

    def limits(self):
        return self.can


def find(name, *args, **changes):
    """The one check of this name on such a host."""
    (found,) = [check for check in examine(FakeHost(*args, **changes)) if check.name == name]
    return found


def test_sound_host_has_nothing_to_mend():
    """Where all works, every check is ok and none has a fix. The control of everything below."""
    checks = examine(FakeHost())
    assert {OK} == {check.state for check in checks}
    assert {""} == {check.fix for check in checks}


CLONE_EPERM = {"user": Refusal("clone3", errno.EPERM)}
CLONE_ENOSPC = {"user": Refusal("clone3", errno.ENOSPC)}


def test_sysctls_that_turn_user_namespaces_off():
    """The sysctl read is named with its value; the fix is the command, now and for the next boot."""
    found = find("user namespaces", CLONE_ENOSPC, {"/proc/sys/user/max_user_namespaces": "0\n"})
    assert found.state == MISSING
    assert found.fact == "clone3: ENOSPC (No space left on device); user.max_user_namespaces is 0"
    assert "sysctl user.max_user_namespaces=15000" in found.fix and "/etc/sysctl.d/" in found.fix
    found = find("user namespaces", CLONE_EPERM, {"/proc/sys/kernel/unprivileged_userns_clone": "0\n"})
    assert "kernel.unprivileged_userns_clone is 0" in found.fact
    assert "sysctl kernel.unprivileged_userns_clone=1" in found.fix


def test_sysctls_that_are_on_are_not_blamed():
    """Another value of the same sysctl is no cause."""
    on = {"/proc/sys/user/max_user_namespaces": "1000\n", "/proc/sys/kernel/unprivileged_userns_clone": "1\n"}
    found = find("user namespaces", CLONE_EPERM, on)
    assert "sysctl" not in found.fix and "max_user_namespaces" not in found.fact


@pytest.mark.parametrize(
    "refusals",
    [
        {"user": Refusal('write(file2, "1000 1000 1")', errno.EPERM)},
        {"rights": Refusal("mount()", errno.EACCES)},
    ],
)
def test_apparmor_restriction_prints_the_whole_profile_for_this_interpreter(refusals):
    """Ubuntu's restriction lets clone succeed and takes the rights: the profile goes by our own executable."""
    on = {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}
    found = find("user namespaces", refusals, on, executable="/opt/my env/bin/python3.12")
    assert found.state == MISSING and "apparmor_restrict_unprivileged_userns is 1" in found.fact
    lines = found.fix.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("cat >/etc/apparmor.d/"))
    end = lines.index("END")
    profile = lines[start + 1 : end]
    assert profile[:2] == ["abi <abi/4.0>,", "include <tunables/global>"]
    assert profile[2] == 'profile ramet.opt.my_env.bin.python3.12 "/opt/my env/bin/python3.12" flags=(unconfined) {'
    assert "  userns," in profile and profile[-1] == "}"
    assert lines[end + 1].startswith("apparmor_parser -r /etc/apparmor.d/")


def test_apparmor_does_not_restrict_root():
    """A root caller is refused by something else."""
    on = {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}
    assert "apparmor_restrict" not in find("user namespaces", CLONE_EPERM, on, uid=0).fact


def test_chroot_is_found_by_a_root_that_is_no_mount():
    """A chroot'ed caller gets EPERM for no other reason."""
    elsewhere = {"/proc/self/mountinfo": ROOT_MOUNT.replace(" / / ", " / /mnt ")}
    found = find("user namespaces", CLONE_EPERM, elsewhere)
    assert "chroot" in found.fact and "pivot_root" in found.fix
    assert "chroot" not in find("user namespaces", CLONE_EPERM).fact


@pytest.mark.parametrize(("file", "program"), [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")])
def test_container_that_refuses_names_the_ways_out(file, program):
    """Inside a container, under its filter: the options to start it with, or not to be in it."""
    inside = {file: "", "/proc/self/status": "Seccomp:\t2\n"}
    found = find("user namespaces", CLONE_EPERM, inside)
    assert f"inside a container ({program})" in found.fact and "under a seccomp filter" in found.fact
    assert f"{program} run --security-opt seccomp=unconfined" in found.fix and "virtual machine" in found.fix
    outside = find("user namespaces", CLONE_EPERM)
    assert "container" not in outside.fact and "docker" not in outside.fix


def test_what_hangs_on_user_namespaces_is_not_tried_without_them():
    """One cause, one finding."""
    names = {check.name for check in examine(FakeHost(CLONE_EPERM))}
    assert not {"namespaces", "time namespaces", "/proc", "overlayfs", "subordinate ids"} & names


def test_clone3_hidden_by_a_filter_is_no_disaster_but_forbidden_is():
    """ENOSYS: clone takes its place. EPERM: a verdict."""
    assert find("clone3", {"clone3": Refusal("clone3", errno.ENOSYS)}).state == DEGRADED
    assert "clone is used in its place" in find("clone3", {"clone3": Refusal("clone3", errno.ENOSYS)}).fact
    assert find("clone3", {"clone3": Refusal("clone3", errno.EPERM)}).state == MISSING


def test_one_kind_of_namespace_missing():
    """Its own limit, its own kernel option, or a filter."""
    no_net = {"net": Refusal("clone3", errno.ENOSPC)}
    found = find("net namespaces", no_net, {"/proc/sys/user/max_net_namespaces": "0\n"})
    assert "user.max_net_namespaces is 0" in found.fact and "sysctl user.max_net_namespaces=15000" in found.fix
    assert find("namespaces", no_net).fact == "made each: mnt, pid, ipc, uts, cgroup"
    assert "CONFIG_NET_NS" in find("net namespaces", {"net": Refusal("clone3", errno.EINVAL)}).fix
    found = find("time namespaces", {"time": Refusal("unshare(0x80)", errno.EINVAL)})
    assert found.state == DEGRADED and found.needed_by == "Sandbox.time_offsets"


def test_covered_proc_is_recognised():
    """Inside a container parts of /proc are mounted over, and the kernel allows no fresh one."""
    refusal = {"proc": Refusal("fsmount(fs1)", errno.EPERM)}
    covered = {
        "/proc/self/mountinfo": ROOT_MOUNT + "40 39 0:50 / /proc/kcore rw - tmpfs tmpfs rw\n",
        "/.dockerenv": "",
    }
    found = find("/proc", refusal, covered)
    assert found.state == MISSING and "/proc/kcore are covered" in found.fact
    assert "systempaths=unconfined" in found.fix
    assert "covered" not in find("/proc", refusal).fact


def test_overlayfs_not_loaded():
    """ENODEV: modprobe. Anything else: the kernel's own."""
    found = find("overlayfs", {"overlay": Refusal('fsopen("overlay")', errno.ENODEV)})
    assert found.state == DEGRADED and "modprobe overlay" in found.fix
    assert "modprobe" not in find("overlayfs", {"overlay": Refusal("fsmount()", errno.EPERM)}).fix


def test_memfd_that_may_not_be_executed():
    """vm.memfd_noexec=2: the sysctl, or to do without init."""
    refusal = {"memfd": Refusal("memfd_create says EACCES (Permission denied)", 0)}
    found = find("memfd", refusal, {"/proc/sys/vm/memfd_noexec": "2\n"})
    assert found.state == MISSING and "sysctl vm.memfd_noexec=1" in found.fix
    assert "sysctl" not in find("memfd", refusal).fix


def test_subordinate_ids_need_lines_and_helpers():
    """Each missing part is named; the fix is the package, the lines, the bit."""
    found = find("subordinate ids", files={"/etc/subuid": "bob:100000:65536\n"})
    assert found.state == DEGRADED and found.fact == "/etc/subuid has no line for ada"
    assert "usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ada" in found.fix
    found = find("subordinate ids", modes={})
    assert found.fact == "newuidmap is not installed; newgidmap is not installed"
    assert "apt-get install uidmap" in found.fix and "usermod" not in found.fix
    plain = {f"/usr/bin/{name}": stat.S_IFREG | 0o755 for name in ("newuidmap", "newgidmap")}
    refused = {"subordinate": Refusal("newuidmap exited with 1", 0)}
    assert "chmod u+s /usr/bin/newuidmap" in find("subordinate ids", refused, modes=plain).fix
    assert find("subordinate ids", modes=plain).state == OK  # by file capabilities
    assert find("subordinate ids", modes={}, uid=0).state == OK  # root needs no helper


def test_limits_that_can_be_had_and_that_cannot():
    """One line for all that works; those that fail for the same reason in one, with the reason and the fix."""
    assert find("limits").fact == "by control groups: memory, cpu time"
    why, fix = "mkdir in /sys/fs/cgroup: EACCES", "systemd-run --user --scope -p Delegate=yes COMMAND"
    refused = [Fact("memory", False, why, fix), Fact("cpus", False, why, fix), Fact("kill", True, "", "")]
    found = find("no limit of", can=refused)
    assert (found.state, found.fact, found.fix) == (DEGRADED, f"memory, cpus: {why}", fix)
    assert find("limits", can=refused).fact == "by control groups: kill"
    assert "limits" not in {check.name for check in examine(FakeHost(can=refused[:2]))}


def test_kernel_and_the_rest():
    """Too old, another machine, no Landlock, no seccomp, no pidfd."""
    assert find("kernel", release="5.10.0-30-amd64").state == MISSING
    assert find("kernel", release="5.14.0").state == OK
    assert find("kernel", machine="riscv64").state == MISSING
    found = find("Landlock", abi=0, files={"/sys/kernel/security/lsm": "capability,apparmor\n"})
    assert found.state == DEGRADED and "now: lsm=capability,apparmor" in found.fix
    assert find("Landlock", abi=3).fact == "ABI 3; 7 can do more"
    assert "CONFIG_SECCOMP_FILTER" in find("seccomp", {"seccomp": Refusal("seccomp", errno.EINVAL)}).fix
    assert find("pidfds", {"pidfd": Refusal("pidfd_open", errno.EPERM)}).state == MISSING
    assert (
        "only CLONE_NNP"
        in find(
            "clone flags of 7.1",
            {name: Refusal("clone3", errno.EINVAL) for name in doctor.NEW_FLAGS if name != "CLONE_NNP"},
        ).fact
    )


WORST = FakeHost(
    {
        name: Refusal("fsconfig(fs1, FSCONFIG_CMD_CREATE, NULL, NULL, 0)", errno.EPERM)
        for name in (
            "proc",
            "overlay",
            "net",
            "uts",
            "time",
            "clone3",
            "pidfd",
            "memfd",
            "seccomp",
            "subordinate",
        )
    },
    {"/.dockerenv": "", "/etc/subuid": "", "/proc/sys/vm/memfd_noexec": "2"},
    abi=0,
    modes={},
    can=[
        Fact("memory", False, "mkdir in /sys/fs/cgroup/user.slice: EACCES (Permission denied)", "systemd-run --scope X")
    ],
)


@pytest.mark.parametrize(
    "host",
    [
        FakeHost(),
        WORST,
        FakeHost(CLONE_EPERM, {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}),
    ],
    ids=["sound", "worst", "apparmor"],
)
def test_page_fits_80_columns_and_does_not_need_colour(host):
    """Every line, and each state is a word; with colour the same words."""
    checks = examine(host)
    error = StepError(
        "map ids", errno=1, call="write(3)", origin="Sandbox.uid_mappings", stage="child", index=2, total=9
    )
    for failure in (None, error):
        text = report_text(checks, 0.0017, failure)
        assert [line for line in text.splitlines() if len(line) > 80] == []
        assert "\033" not in text
        assert all(
            any(line.startswith(f"{check.state:<8}  {check.name}") for line in text.splitlines()) for check in checks
        )
        coloured = report_text(checks, 0.0017, failure, colour=True)
        for code in ("\033[0m", "\033[31m", "\033[32m", "\033[33m"):
            coloured = coloured.replace(code, "")
        assert coloured == text
    assert report_text(checks, 0.0017, None).endswith("The default sandbox works: it ran /bin/true in 1.7 ms.")
    assert report_text(checks, 0, error).endswith("The default sandbox does not work here.")


def test_json_has_the_same_findings():
    """works, the error's parts, and every check with its five fields."""
    error = StepError("map ids", errno=1, call="write(3)", origin="x", stage="child")
    found = json.loads(json.dumps(report_json(examine(WORST), 0, error)))
    assert False is found["works"] and found["error"]["errno"] == "EPERM"
    assert {"name", "state", "fact", "needed_by", "fix"} == set(found["checks"][0])


def test_this_host_is_examined_for_real(ramet):
    """Exit code 0 since the default sandbox works here, and the page and the JSON say so."""
    done = ramet("doctor")
    assert done.returncode == 0, done.stderr
    assert "ok        user namespaces" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("The default sandbox works: it ran /bin/true in ")
    found = json.loads(ramet("doctor", "--json").stdout)
    assert found["works"] and found["seconds"] > 0


def test_no_probe_leaves_a_process(works):
    """Orphans of doctor would come to its subreaper; there are none, where a control leaves one."""
    reaper = """if 1:
        import ctypes, os, subprocess, sys
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            left = file.read().split()
        print(len(left))
        for pid in left:
            os.kill(int(pid), 9)
    """

    def left_by(*argv):
        return subprocess.run([sys.executable, "-c", reaper, *argv], capture_output=True, text=True, timeout=60).stdout

    assert left_by("sh", "-c", "sleep 60 & ") == "1\n"
    assert left_by(sys.executable, "-m", "ramet", "doctor") == "0\n"


def test_host_without_user_namespaces_is_found_for_real(works):
    """Inside a sandbox that forbids them: exit code 1, the cause by name, and no traceback."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    inside = [sys.executable, "-m", "ramet", "doctor"]
    argv = [sys.executable, "-m", "ramet", "run", "--bind", source, *inside]
    if not os.access(source, os.R_OK | os.X_OK):
        pytest.skip(f"{source} is not readable to a payload")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "missing   user namespaces" in done.stdout
    assert "user.max_user_namespaces is 0" in done.stdout.replace("\n" + " " * 31, " ")
    assert done.stdout.splitlines()[-1] == "The default sandbox does not work here."
    assert "Traceback" not in done.stderr
