"""What every probe uses. Standard library and ctypes only: probes run in sandboxes of several makers, and outside.

A probe is a function with a docstring that says what it tries. It answers with what it got hold of (something true), or with
nothing; an OSError is a no. Whatever it succeeds in is harmless: it reads a secret of ours, marks a file of ours, or goes as far as the
kernel's first look at nonsense.
"""

import ctypes
import errno
import json
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
PROBES = {}
#: The same number on every machine since Linux 5.0; what is older is said by machine.
OLD = {
    "x86_64": {
        "acct": 163,
        "adjtimex": 159,
        "add_key": 248,
        "bpf": 321,
        "chroot": 161,
        "clone": 56,
        "delete_module": 176,
        "fanotify_init": 300,
        "finit_module": 313,
        "init_module": 175,
        "kcmp": 312,
        "kexec_file_load": 320,
        "kexec_load": 246,
        "keyctl": 250,
        "mount": 165,
        "move_pages": 279,
        "mq_open": 240,
        "msgrcv": 70,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "perf_event_open": 298,
        "personality": 135,
        "pivot_root": 155,
        "process_vm_readv": 310,
        "ptrace": 101,
        "quotactl": 179,
        "reboot": 169,
        "request_key": 249,
        "sethostname": 170,
        "setns": 308,
        "swapon": 167,
        "syslog": 103,
        "umount2": 166,
        "unshare": 272,
        "io_setup": 206,
        "io_destroy": 207,
        "ioprio_set": 251,
        "ioprio_get": 252,
        "set_mempolicy": 238,
        "userfaultfd": 323,
    },
    "aarch64": {
        "acct": 89,
        "adjtimex": 171,
        "add_key": 217,
        "bpf": 280,
        "chroot": 51,
        "clone": 220,
        "delete_module": 106,
        "fanotify_init": 262,
        "finit_module": 273,
        "init_module": 105,
        "kcmp": 272,
        "kexec_file_load": 294,
        "kexec_load": 104,
        "keyctl": 219,
        "mount": 40,
        "move_pages": 239,
        "mq_open": 180,
        "msgrcv": 188,
        "name_to_handle_at": 264,
        "open_by_handle_at": 265,
        "perf_event_open": 241,
        "personality": 92,
        "pivot_root": 41,
        "process_vm_readv": 270,
        "ptrace": 117,
        "quotactl": 60,
        "reboot": 142,
        "request_key": 218,
        "sethostname": 161,
        "setns": 268,
        "swapon": 224,
        "syslog": 116,
        "umount2": 39,
        "unshare": 97,
        "io_setup": 0,
        "io_destroy": 1,
        "ioprio_set": 30,
        "ioprio_get": 31,
        "set_mempolicy": 237,
        "userfaultfd": 282,
    },
}
NUMBERS = {
    **OLD[os.uname().machine],
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "clone3": 435,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "io_uring_setup": 425,
    "process_madvise": 440,
    "mount_setattr": 442,
    "statmount": 457,
    "listmount": 458,
    "quotactl_fd": 443,
    "cachestat": 451,
    "lsm_list_modules": 461,
}
NEWNS, NEWCGROUP, NEWUSER, NEWPID, NEWNET = 0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000


def probe(control="outside", left=None, absent=()):
    """Register a probe. control: where it must succeed: "outside", "root" (outside, for root only), or the fields of a Sandbox that
    has the hole opened on purpose. left: what SECURITY.md says of it, where ramet leaves it open. absent: with what error the control may
    fail, since not every kernel has such a thing.
    """

    def register(function):
        PROBES[function.__name__] = function
        function.control, function.left, function.absent = control, left, absent
        return function

    return register


def call(name, *arguments):
    """A raw system call; OSError if the kernel refuses."""
    found = libc.syscall(NUMBERS[name], *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if found == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return found


def reached(name, *arguments, errors=("EINVAL", "EFAULT")):
    """Does the kernel get so far as to look at these nonsensical arguments?"""
    try:
        call(name, *arguments)
    except OSError as error:
        if errno.errorcode[error.errno] in errors:
            return f"{name}: {errno.errorcode[error.errno]}"
        raise
    return f"{name} succeeded"


def opens(path, flags=os.O_RDONLY):
    """Can this be opened? Nothing is read or written."""
    os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    return f"opened {path}"


def contains(path, what):
    """Is this in that file's first megabyte?"""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return what.encode() in os.read(fd, 1 << 20) and f"read {path}"
    finally:
        os.close(fd)


def first(tries):
    """The first of these that succeeds; the last refusal if none does."""
    refusal = None
    for attempt in tries:
        try:
            if found := attempt():
                return found
        except OSError as error:
            refusal = error
    if refusal:
        raise refusal
    return None


def pids():
    """Every process that can be seen, but this one."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]


def main(name, world):
    """Run one probe and say how it went, as a line of JSON."""
    try:
        found = PROBES[name](world)
        answer = {"could": bool(found), "how": str(found or "nothing found")}
    except OSError as error:
        answer = {"could": False, "how": f"{errno.errorcode.get(error.errno, error.errno)}: {error.filename or ''}"}
    sys.stdout.write("\nprobe says " + json.dumps(answer) + "\n")
    sys.stdout.flush()
