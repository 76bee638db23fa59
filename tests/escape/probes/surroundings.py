"""What a process inherits without asking."""

import os
import resource
import signal

from probing import probe


def status(name):
    with open("/proc/self/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith(name + ":")), 16)


@probe()
def blocked_signals(world):
    """Signals that the caller had blocked are blocked still."""
    return status("SigBlk") >> (signal.SIGUSR2 - 1) & 1 and "SIGUSR2 is blocked"


@probe()
def ignored_signals(world):
    """bubblewrap#705: signals that the caller ignored are ignored still (SIGCHLD: wait finds nobody)."""
    return status("SigIgn") >> (signal.SIGCHLD - 1) & 1 and "SIGCHLD is ignored"


@probe()
def file_mode_mask(world):
    """The caller's umask, of 0, makes what the payload makes writable for everybody."""
    found = os.umask(0o022)
    return found == 0 and "umask 0"


@probe()
def core_files(world):
    """A core may be written, or a program of the host's is started as root for it (core_pattern): so at every RLIMIT_CORE but 1."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/limits") as file:
        found = next(line.split()[4] for line in file if line.startswith("Max core file size"))
    return found != "1" and f"a limit of {found}"


@probe()
def processes_without_end(world):
    """No limit on the number of processes."""
    return not 0 <= resource.getrlimit(resource.RLIMIT_NPROC)[1] <= 4096 and "none below 4096"


@probe()
def session_of_the_caller(world):
    """The caller's session and process group, and with them its terminal's signals."""
    return os.getsid(0) != os.getpid() and os.getsid(0) == world["session"] and "the caller's session"


@probe()
def users_listed(world):
    """The host's users, by /etc/passwd."""
    import pwd

    return any(user.pw_name == world["user"] for user in pwd.getpwall()) and world["user"]


@probe(absent=("ENOENT",))
def machine_id(world):
    """/etc/machine-id, by which this machine can be told from all others."""
    return open("/etc/machine-id").read()


@probe()
def resolver(world):
    """/etc/resolv.conf or /etc/hosts: names of the network here."""
    with open("/etc/hosts") as file:
        return world["hosts"] in file.read() and "/etc/hosts"


@probe("root")
def faster_than_others(world):
    """A priority above others', or a real-time one."""
    os.nice(-1)
    return "nice -1"


@probe(left="the kernel's version")
def kernel_version(world):
    """Which kernel this is."""
    return os.uname().release
