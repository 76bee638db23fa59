"""/proc and /sys."""

import os

from probing import call as system_call
from probing import contains, first, opens, pids, probe


@probe()
def processes_seen(world):
    """The command lines of the host's processes."""
    return first(lambda pid=pid: contains(f"/proc/{pid}/cmdline", world["token"]) for pid in pids())


@probe()
def environment_of_others(world):
    """The caller's environment, at /proc/1/environ or wherever else."""
    return first(lambda pid=pid: contains(f"/proc/{pid}/environ", world["environment"]) for pid in pids())


@probe()
def own_environment(world):
    """The caller's environment is inherited."""
    return contains("/proc/self/environ", world["environment"])


def memory(pid):
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        with open(f"/proc/{pid}/maps") as file:
            start = next(int(line.split("-")[0], 16) for line in file if " r" in line)
        return len(os.pread(fd, 16, start)) and f"read the memory of {pid}"
    finally:
        os.close(fd)


@probe()
def memory_of_init(world):
    """/proc/1/mem: a heap of the caller's would be in it, if init was cloned and not exec'd."""
    return memory(world.get("init", 1))


@probe()
def memory_map_of_init(world):
    """/proc/1/maps tells where everything of pid 1 lies."""
    return opens(f"/proc/{world.get('init', 1)}/maps") and len(open(f"/proc/{world.get('init', 1)}/maps").read())


@probe()
def stack_of_init(world):
    """/proc/1/syscall tells what pid 1 waits in, and with which pointers."""
    return open(f"/proc/{world.get('init', 1)}/syscall").read()


@probe("root", absent=("ENOENT",))
def sysrq(world):
    """/proc/sysrq-trigger can be opened for writing: one byte restarts the machine."""
    return opens("/proc/sysrq-trigger", os.O_WRONLY)


@probe("root")
def core_pattern(world):
    """/proc/sys/kernel/core_pattern names the program that the kernel runs as root, outside, for a core."""
    return opens("/proc/sys/kernel/core_pattern", os.O_WRONLY)


@probe("root", absent=("ENOENT",))
def modprobe_path(world):
    """/proc/sys/kernel/modprobe names one more."""
    return opens("/proc/sys/kernel/modprobe", os.O_WRONLY)


@probe("root")
def binfmt_misc(world):
    """A file system of binary formats, to make the host run an interpreter of ours."""

    def fresh():
        return f"fsopen: {system_call('fsopen', b'binfmt_misc', 0)}"

    return first([lambda: opens("/proc/sys/fs/binfmt_misc/register", os.O_WRONLY), fresh])


def writable(top, limit=6):
    """Files below this that can be opened for writing, up to so many."""
    found = []
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            # Opening ns_last_pid is everybody's right, writing to it is not: that has a probe of its own.
            if "trigger" in path or name == "ns_last_pid" or not os.path.isfile(path):
                continue
            try:
                opens(path, os.O_WRONLY)
            except OSError:
                continue
            found.append(path)
            if len(found) == limit:
                return found
    return found


@probe("root")
def any_of_proc_sys(world):
    """Any file below /proc/sys can be opened for writing."""
    return writable("/proc/sys")


@probe("root")
def last_pid(world):
    """The pid that the next process gets is chosen, to be taken for one that has ended (pid reuse on purpose)."""
    with open("/proc/sys/kernel/ns_last_pid", "r+") as file:
        found = file.read()
        file.seek(0)
        file.write(found)
    return f"written {found}"


@probe("root", absent=("ENOENT",))
def kernel_memory(world):
    """/proc/kcore: the kernel's memory."""
    return opens("/proc/kcore")


@probe("root")
def kernel_addresses(world):
    """/proc/kallsyms with addresses in it."""
    with open("/proc/kallsyms") as file:
        return any(int(file.readline().split()[0], 16) for _ in range(100)) and "addresses"


@probe("root")
def kernel_log(world):
    """The kernel's log, by /proc/kmsg, /dev/kmsg or syslog(2)."""
    return first(
        [
            lambda: opens("/proc/kmsg"),
            lambda: opens("/dev/kmsg"),
            lambda: f"syslog: {system_call('syslog', 10, 0, 0)} bytes",
        ]
    )


@probe()
def keys_listed(world):
    """/proc/keys lists the keys of the caller."""
    return contains("/proc/keys", world["key"])


@probe("root")
def other_writable_files_of_proc(world):
    """Interrupts, buses, memory ranges: files of /proc beside processes and sysctls that can be opened for writing."""
    found = []
    for top in ("/proc/irq", "/proc/bus", "/proc/acpi", "/proc/scsi", "/proc/fs", "/proc/driver"):
        found += writable(top, 2)
    for name in (
        "mtrr",
        "slabinfo",
        "timer_list",
        "latency_stats",
        "vmallocinfo",
        "kpagecount",
        "kpageflags",
        "schedstat",
    ):
        if os.path.exists(f"/proc/{name}") and os.access(f"/proc/{name}", os.W_OK):
            found.append(name)
    return found


@probe(absent=("ENOENT", "EACCES"))
def pressure_triggers(world):
    """/proc/pressure: a trigger of one's own, which the kernel looks at every 2 s (Linux 6.5)."""
    fd = os.open("/proc/pressure/memory", os.O_RDWR | os.O_NONBLOCK)
    try:
        return os.write(fd, b"some 150000 2000000\0") and "set"
    finally:
        os.close(fd)


@probe("root", absent=("ENOENT",))
def page_frames(world):
    """/proc/kpagecount and its like: which page of the machine's memory is used how."""
    return opens("/proc/kpagecount")


@probe()
def sysfs(world):
    """/sys: the machine's devices."""
    return os.listdir("/sys")


@probe(absent=("ENOENT",))
def firmware(world):
    """/sys/firmware: what the firmware tells of the machine, and its serial numbers."""
    return os.listdir("/sys/firmware")


@probe("root", absent=("nothing found",))
def uevent_helper(world):
    """Any file of /sys/kernel or /sys/module that can be opened for writing (uevent_helper is one)."""
    return writable("/sys/kernel", 1) or writable("/sys/module", 1)


@probe("root", absent=("nothing found",))
def control_groups(world):
    """A file of /sys/fs/cgroup that can be opened for writing."""
    return writable("/sys/fs/cgroup", 1)


@probe()
def control_group_path(world):
    """/proc/self/cgroup names the caller's control group on the host."""
    return world["cgroup"] in open("/proc/self/cgroup").read().split("\n") and world["cgroup"]


@probe()
def cve_2021_25741_magic_root_of_others(world):
    """The secret through /proc/PID/root or /proc/PID/cwd of anybody."""
    return first(
        lambda p=p, n=n: contains(f"/proc/{p}/{n}{world['secret_file']}", world["secret"])
        for p in pids()
        for n in ("root", f"task/{p}/root")
    )


@probe("root", absent=("EACCES",))
def oom_score_lowered(world):
    """A process that the kernel spares when memory is short: oom_score_adj of one's own, lowered."""
    with open("/proc/self/oom_score_adj") as file:
        before = int(file.read())
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(before - 10))
    return f"lowered from {before}"


@probe()
def oom_score_of_init(world):
    """pid 1's oom_score_adj raised: the first to be killed then is who reaps and reports."""
    with open(f"/proc/{world.get('init', 1)}/oom_score_adj", "w") as file:
        file.write("1000")
    return "raised"
