"""Interfaces of the kernel that are no business of a payload's, and the machine's clock and name."""

import ctypes
import mmap
import os

from probing import NEWCGROUP, NEWNS, NEWUSER, call, first, libc, probe, reached

NO_FILTER = {"seccomp": "none"}
RIGHTS = {"seccomp": "none", "uid": 0, "gid": 0, "capabilities": ["SYS_ADMIN", "SYS_CHROOT"]}


@probe("root")
def bpf(world):
    """bpf(2): programs inside the kernel."""
    return reached("bpf", 0, ctypes.create_string_buffer(128), 128)


@probe(NO_FILTER, absent=("ENOSYS", "EPERM"))
def io_uring(world):
    """io_uring: system calls that no filter sees."""
    return reached("io_uring_setup", 0, None)


@probe("root")
def perf_events(world):
    """perf_event_open(2): counts what other processes do."""
    return reached("perf_event_open", ctypes.create_string_buffer(b"\xff" * 128), 0, -1, -1, 0xFF)


@probe(NO_FILTER, absent=("ENOSYS",))
def userfaultfd(world):
    """userfaultfd(2): stops the kernel in the middle of a copy."""
    return f"fd {call('userfaultfd', 1)}"


@probe("root", absent=("ENOSYS",))
def modules(world):
    """Modules: code in the kernel."""
    return first(
        [
            lambda: reached("init_module", None, 0, None, errors=("EINVAL", "EFAULT", "ENOEXEC")),
            lambda: reached("finit_module", -1, b"", 0, errors=("EBADF",)),
            lambda: reached("delete_module", None, 0),
        ]
    )


@probe("root", absent=("ENOSYS",))
def kexec(world):
    """Another kernel."""
    return first(
        [
            lambda: reached("kexec_load", 0, 99, None, 0xFFFF),
            lambda: reached("kexec_file_load", -1, -1, 0, None, 0xFFFF, errors=("EINVAL", "EBADF")),
        ]
    )


@probe("root")
def restart(world):
    """reboot(2), with numbers that mean nothing to it."""
    return reached("reboot", 1, 2, 3, 0)


@probe("root")
def swap(world):
    """swapon(2), of nothing."""
    return reached("swapon", None, 0)


@probe("root")
def accounting(world):
    """acct(2) of no file."""
    return reached("acct", b"/nonexistent", errors=("ENOENT",))


@probe(NO_FILTER)
def quotas(world):
    """quotactl(2) with a command that there is none of."""
    return reached("quotactl", 0x7FFFFF00, b"/nonexistent", 0, None, errors=("EINVAL", "ENOENT"))


@probe("root")
def watch_file_systems(world):
    """fanotify_init(2) with every right: watches whole file systems."""
    return f"fd {call('fanotify_init', 4, 0)}"


@probe(NO_FILTER)
def no_randomisation(world):
    """personality(ADDR_NO_RANDOMIZE), and old behaviours."""
    call("personality", 0x0040000)
    return "set"


@probe("root")
def set_the_clock(world):
    """adjtimex(2) with a tick that no clock can have: only who may set the clock is told that."""
    buffer = (ctypes.c_long * 64)()
    buffer[0] = 0x4000  # ADJ_TICK; a tick of 0
    return reached("adjtimex", ctypes.byref(buffer), errors=("EINVAL",))


@probe("root")
def set_the_host_name(world):
    """sethostname(2), to what it is."""
    name = os.uname().nodename.encode()
    call("sethostname", name, len(name))
    return "set"


@probe()
def host_name(world):
    """The name of the host."""
    return os.uname().nodename == world["hostname"] and world["hostname"]


@probe(RIGHTS)
def cve_2022_0492_release_agent(world):
    """CVE-2022-0492: namespaces of one's own, in them a control group hierarchy, and its release_agent runs outside as root."""

    def mounted(kind, options):
        os.makedirs("/tmp/hierarchy", exist_ok=True)
        call("mount", b"none", b"/tmp/hierarchy", kind, 0, options)
        return "mounted a control group hierarchy"

    try:
        call("unshare", NEWUSER | NEWNS | NEWCGROUP)
    except OSError:
        if os.geteuid():
            raise
    return first(
        [
            lambda: mounted(b"cgroup", b"none,name=ramet-escape"),
            lambda: mounted(b"cgroup2", None),
            lambda: mounted(b"tmpfs", None),
        ]
    )


def machine_code(code):
    """Run these bytes; what they leave in eax."""
    if os.uname().machine != "x86_64":
        raise OSError(38, "only on x86-64")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return function()


@probe(NO_FILTER, absent=("ENOSYS",))
def entry_for_32_bits(world):
    """int 0x80: the table of 32-bit calls, past a filter that only knows the other. Number 20 there is getpid."""
    found = machine_code(b"\x53\xb8\x14\0\0\0\xcd\x80\x5b\xc3")
    return found == os.getpid() and f"getpid says {found}"


@probe(NO_FILTER)
def old_interfaces(world):
    """Obsolete calls that nobody needs: modify_ldt, ustat, sysfs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.uname().machine != "x86_64":
        raise OSError(38, "only on x86-64")
    return first([lambda n=n: libc.syscall(n, 3) >= 0 and f"call {n}" for n in (139, 154)])


@probe(NO_FILTER)
def calls_of_the_future(world):
    """Numbers that no filter has heard of reach the kernel (ENOSYS is its answer, EPERM is the filter's)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(4000)
    return ctypes.get_errno() == 38 and "the kernel answered"


@probe(NO_FILTER)
def quotas_by_descriptor(world):
    """quotactl_fd(2), the same by a descriptor."""
    return reached("quotactl_fd", -1, 0x7FFFFF00, 0, None, errors=("EBADF", "EINVAL"))


@probe(NO_FILTER, absent=("ENOSYS",))
def security_modules(world):
    """lsm_list_modules(2) tells which security modules the host has."""
    return reached("lsm_list_modules", None, None, 0)


@probe(NO_FILTER, absent=("ENOSYS",))
def memory_policy(world):
    """set_mempolicy(2): on which nodes of the machine memory lies. To what it is."""
    call("set_mempolicy", 0, None, 0)
    return "set"


@probe(NO_FILTER)
def filter_that_allows(world):
    """A second filter, of the payload's own, that allows everything: is the first one still asked?"""
    allow = ctypes.create_string_buffer((0x06).to_bytes(4, "little") + (0x7FFF0000).to_bytes(4, "little"), 8)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    program = Program(1, ctypes.addressof(allow))
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0):  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "prctl")
    return quotas(world)


@probe(left="io_setup(2)")
def contexts_of_the_machine(world):
    """io_setup(2): what it takes is counted for the whole machine (fs.aio-max-nr), so one can leave none for others."""

    def taken():
        with open("/proc/sys/fs/aio-nr") as file:
            return int(file.read())

    for _ in range(5):  # others take and leave meanwhile
        before, context = taken(), ctypes.c_ulong()
        call("io_setup", 64, ctypes.byref(context))
        after = taken()
        call("io_destroy", context)
        if after >= before + 64:
            return f"{before}, then {after}"
    return None
