"""Signals, tracing, and the other ways one process reaches into another."""

import ctypes
import os

from probing import call, libc, probe, reached

PTRACE_SEIZE, PTRACE_ATTACH = 0x4206, 16


@probe()
def signal_to_the_victim(world):
    """A signal to a process of the host, by the pid it has there."""
    os.kill(world["pid"], 10)
    return "signalled"


@probe()
def signal_to_everybody(world):
    """kill(-1, 0): is there anybody else to be signalled?"""
    os.kill(-1, 0)
    return "somebody"


@probe()
def signal_to_the_victims_group(world):
    """A signal to the process group of a process of the host."""
    os.killpg(world["pid"], 10)
    return "signalled"


@probe()
def pidfd_of_the_victim(world):
    """A pidfd of a process of the host, and a signal by it."""
    fd = call("pidfd_open", world["pid"], 0)
    import signal

    signal.pidfd_send_signal(fd, 10)
    return "signalled"


@probe()
def ptrace_of_the_victim(world):
    """PTRACE_SEIZE of a process of the host."""
    call("ptrace", PTRACE_SEIZE, world["pid"], 0, 0)
    return "seized"


@probe()
def ptrace_of_init(world):
    """PTRACE_SEIZE of pid 1 inside; outside, of the victim."""
    call("ptrace", PTRACE_SEIZE, world.get("init", 1), 0, 0)
    return "seized"


@probe()
def process_vm_readv(world):
    """process_vm_readv(2) from pid 1; outside, from the victim."""
    pid = world.get("init", 1)
    here = ctypes.create_string_buffer(16)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(here), 16)
    remote = (ctypes.c_void_p * 2)(world["address"], 16)
    call("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return "read"


@probe()
def kcmp(world):
    """kcmp(2) tells whether two processes share what; it takes the right to trace them."""
    return f"kcmp: {call('kcmp', os.getpid(), world.get('init', 1), 1, 0, 0)}"


@probe()
def priority_of_the_victim(world):
    """A process of the host made slower, by setpriority(2)."""
    os.setpriority(os.PRIO_PROCESS, world["pid"], os.getpriority(os.PRIO_PROCESS, world["pid"]))
    return "set"


@probe()
def processors_of_the_victim(world):
    """A process of the host put onto other processors."""
    os.sched_setaffinity(world["pid"], os.sched_getaffinity(world["pid"]))
    return "set"


@probe()
def limits_of_the_victim(world):
    """prlimit(2) of a process of the host."""
    import resource

    return str(resource.prlimit(world["pid"], resource.RLIMIT_NOFILE))


@probe()
def scheduling_of_the_victim(world):
    """The scheduling of a process of the host."""
    os.sched_setscheduler(world["pid"], os.SCHED_OTHER, os.sched_param(0))
    return "set"


@probe()
def session_of_the_victim(world):
    """getsid(2) answers for a process of the host."""
    return os.getsid(world["pid"])


@probe()
def pages_of_the_victim(world):
    """move_pages(2) tells where another's memory is (a way round address randomisation)."""
    address, status = (ctypes.c_void_p * 1)(world["address"]), ctypes.c_int()
    call("move_pages", world.get("init", 1), 1, ctypes.byref(address), None, ctypes.byref(status), 0)
    return "asked"


@probe()
def advice_about_others(world):
    """process_madvise(2) about another's memory."""
    fd = call("pidfd_open", world.get("init", 1), 0)
    return reached("process_madvise", fd, 0, 1, 999, 0)


@probe()
def robust_list_of_init(world):
    """get_robust_list(2) gives an address in another's memory."""
    head, size = ctypes.c_void_p(), ctypes.c_size_t()
    number = {"x86_64": 274, "aarch64": 100}[os.uname().machine]
    if libc.syscall(number, ctypes.c_long(world.get("init", 1)), ctypes.byref(head), ctypes.byref(size)):
        raise OSError(ctypes.get_errno(), "get_robust_list")
    return f"{head.value}"


@probe()
def parent_seen(world):
    """The parent's pid: whoever has one outside could be found by it."""
    return os.getppid() not in (0, 1) and os.getppid()


@probe()
def io_priority_of_the_victim(world):
    """ioprio_set(2) for a process of the host, to what it is."""
    call("ioprio_set", 1, world["pid"], call("ioprio_get", 1, world["pid"]))
    return "set"


@probe("root")
def io_priority_above_others(world):
    """ioprio_set(2): before all others at every disk."""
    call("ioprio_set", 1, 0, 1 << 13 | 4)
    return "real time"


@probe(absent=("ENOTTY", "EINVAL"))
def namespaces_of_init_by_pidfd(world):
    """ioctl PIDFD_GET_MNT_NAMESPACE (Linux 6.11): the namespaces of pid 1, or outside of the victim, without /proc."""
    import fcntl

    pidfd = call("pidfd_open", world.get("init", 1), 0)
    try:
        return f"fd {fcntl.ioctl(pidfd, 0xFF03, 0)}"
    finally:
        os.close(pidfd)


@probe("root")
def pid_of_ones_choice(world):
    """clone3(2) with set_tid: a process that is taken for one that has ended. Asked for is one that there is."""
    tids = (ctypes.c_int * 1)(os.getpid())
    fields = (ctypes.c_uint64 * 11)()
    fields[8], fields[9] = ctypes.addressof(tids), 1
    return reached("clone3", fields, ctypes.sizeof(fields), errors=("EEXIST",))
