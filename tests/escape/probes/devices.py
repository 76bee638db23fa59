"""Terminals and devices."""

import fcntl
import os
import stat
import struct

from probing import first, libc, opens, probe

TIOCSTI, TIOCLINUX, TIOCSCTTY, TIOCGWINSZ, TIOCSWINSZ, TIOCSETD = 0x5412, 0x541C, 0x540E, 0x5413, 0x5414, 0x5423
ROOT = {"seccomp": "none", "uid": 0, "gid": 0, "capabilities": ["SYS_ADMIN", "MKNOD"]}


@probe()
def controlling_terminal(world):
    """/dev/tty is the caller's terminal."""
    return opens("/dev/tty", os.O_RDWR)


@probe()
def cve_2017_5226_tiocsti(world):
    """CVE-2017-5226: TIOCSTI types into the caller's terminal."""

    def typed(fd):
        fcntl.ioctl(fd, TIOCSTI, b"#")
        return f"typed by fd {fd}"

    fds = [2, 0, 1]
    try:
        fds.append(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        pass  # no terminal of ours: the ones that were handed down are left to try
    return first([lambda fd=fd: typed(fd) for fd in fds])


@probe()
def cve_2019_10063_tiocsti_by_high_bits(world):
    """CVE-2019-10063: the same, with bits set above the 32 that the kernel looks at."""
    import ctypes

    if libc.syscall({"x86_64": 16, "aarch64": 29}[os.uname().machine], 2, ctypes.c_long(TIOCSTI | 1 << 32), b"#"):
        raise OSError(ctypes.get_errno(), "ioctl")
    return "typed"


@probe()
def terminal_read(world):
    """What the caller's user types is read."""
    fd = os.open("/dev/tty", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(fd, 1) or "could be read"
    except BlockingIOError:
        return "could be read"
    finally:
        os.close(fd)


@probe()
def foreground_of_the_terminal(world):
    """The caller's terminal is asked for its foreground group, which the same process could then set."""
    return os.tcgetpgrp(2)


@probe()
def terminals_of_others(world):
    """/dev/pts holds the host's terminals."""
    return os.path.exists(world["tty"]) and opens(world["tty"], os.O_WRONLY)


@probe("root")
def make_devices(world):
    """mknod(2) of a device that is the host's."""
    path = f"{world['open']}/device" if os.path.isdir(world["open"]) else "/tmp/device"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    try:
        return opens(path)
    finally:
        os.unlink(path)


@probe("root", absent=("ENOSYS", "EPERM"))
def memory_and_ports(world):
    """/dev/mem, /dev/port, /dev/kmem, and iopl(2)."""

    def raw():
        import ctypes

        if os.uname().machine != "x86_64":
            raise OSError(38, "no ports on this machine")
        if libc.syscall(173, 0, 1, 0):  # ioperm(0, 1, off): asks for nothing
            raise OSError(ctypes.get_errno(), "ioperm")
        return "ioperm"

    def level():
        import ctypes

        if os.uname().machine != "x86_64" or libc.syscall(172, 1):
            raise OSError(ctypes.get_errno() or 38, "iopl")
        libc.syscall(172, 0)
        return "iopl"

    return first([lambda: opens("/dev/mem"), lambda: opens("/dev/port"), level])


@probe("root")
def disks(world):
    """The host's disks, /dev/kvm, /dev/fuse, /dev/net/tun, /dev/loop-control."""
    names = ("vda", "sda", "nvme0n1", "kvm", "fuse", "net/tun", "loop-control", "vsock", "vhost-net", "uinput")
    return first([lambda n=n: opens(f"/dev/{n}") for n in names])


@probe(ROOT)
def device_file_system(world):
    """A devtmpfs or a devpts of one's own, with the devices in it."""
    from probing import call

    return first([lambda n=n: f"{n}: {call('fsopen', n, 0)}" for n in (b"devtmpfs", b"devpts", b"proc", b"sysfs")])


@probe()
def window_size(world):
    """The size of the caller's terminal is set, to what it is."""
    found = struct.unpack("HHHH", fcntl.ioctl(2, TIOCGWINSZ, b"\0" * 8))
    fcntl.ioctl(2, TIOCSWINSZ, struct.pack("HHHH", *found))
    return found


@probe("root")
def other_devices(world):
    """Devices that are interfaces to the kernel or to the processor: userfaultfd, vhost, cuse, msr, dma_heap, hwrng, rtc, snapshot."""
    names = (
        "userfaultfd",
        "vhost-net",
        "vhost-vsock",
        "cuse",
        "cpu/0/msr",
        "dma_heap/system",
        "hwrng",
        "rtc0",
        "snapshot",
        "hpet",
    )
    return first(
        [lambda n=n: opens(f"/dev/{n}") for n in (*names, "btrfs-control", "mapper/control", "nvram", "autofs", "ppp")]
    )


@probe({"seccomp": "none"})
def cve_2017_2636_line_disciplines(world):
    """CVE-2017-2636: TIOCSETD on a terminal of one's own loads drivers of modems and the like. Set to what it is."""
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, TIOCSETD, struct.pack("i", 0))
    finally:
        os.close(ours)
        os.close(theirs)
    return "set"
