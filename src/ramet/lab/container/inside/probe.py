"""What a process can see and do where it is: probe.py FD.

It knows nothing of ramet. FD is a socket to the caller: the probe says hello, is told what there would be to reach
outside, tries to, and answers with one cell for each row: "host" (the host's own), "own" (only what belongs to the
container), "yes", a number, or "-" (not at all), and a few words on what it saw. Of the host it changes nothing:
where a thing is the host's, it asks in a way that the kernel refuses only after it has looked at the rights.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Cell = tuple[str, str]  # what it comes to, what was seen

ARM = os.uname().machine == "aarch64"
NR = {
    "capget": 90 if ARM else 125,
    "fsopen": 430,
    "keyctl": 219 if ARM else 250,
    "process_vm_readv": 270 if ARM else 310,
}
CLONE_NEWUSER = 0x10000000
PR_GET_NO_NEW_PRIVS = 39
KEYCTL_GET_KEYRING_ID, SESSION_KEYRING = 0, -3
SIOCSIFFLAGS, SIOCGIFMTU, SIOCSIFMTU = 0x8914, 0x8921, 0x8922
MANY_FILES, MANY_PROCESSES, MUCH_MEMORY = 300, 48, 1024

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.shmat.restype = ctypes.c_void_p

outside: dict[str, Any] = {}  # what the caller told: where its own things are


def checked(result: int | None) -> int:
    """The result of a C function, or OSError."""
    if result is None or result == -1 or result == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def name(error: OSError) -> str:
    """EPERM for 1; the text of one that is no errno."""
    return errno.errorcode.get(error.errno or 0, str(error))


def syscall(call: str, *args: object) -> int:
    """A system call by its number."""
    return checked(libc.syscall(NR[call], *[ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]))


def is_hosts(kind: str) -> bool:
    """Is this namespace of ours the caller's too? The caller has looked at both."""
    return bool(kind in outside["shared"])


def in_a_child(action: Callable[[], object]) -> None:
    """Do something that can't be undone in a forked child; OSError where that got one."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        else:
            os.write(writer, b"0")
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        number = int(file.read() or errno.EIO)
    os.waitpid(pid, 0)
    if number:
        raise OSError(number, os.strerror(number))


# What it sees


def processes() -> Cell:
    pids = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    if not pids:
        return "-", "/proc is empty"
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if outside["token"].encode() in file.read():
                    return "host", f"{len(pids)} processes, the host's among them"
        except OSError:
            continue  # it has ended
    return "own", f"{len(pids)} process" + ("es" if len(pids) > 1 else "")


def host_files() -> Cell:
    with open(outside["marker"]) as file:
        seen = file.read() == outside["token"]
    return ("host" if seen else "own"), f"read {outside['marker']}"


def private_files() -> Cell:
    with open(outside["private"]) as file:
        return ("host" if file.read() == outside["token"] else "own"), "read a file with mode 0600"


def devices() -> Cell:
    found = os.stat("/dev")
    nodes = [entry for entry in os.listdir("/dev") if not os.path.islink(f"/dev/{entry}")]
    if [found.st_dev, found.st_ino] == outside["dev"]:
        return "host", f"{len(nodes)} entries in /dev, the host's"
    with open("/dev/null", "wb") as file:
        file.write(b"x")
    return "own", f"{len(nodes)} entries: {' '.join(sorted(nodes))}"


def interfaces() -> Cell:
    found = [interface for _, interface in socket.if_nameindex()]
    return ("host" if is_hosts("net") else "own"), " ".join(found)


def shared_memory() -> Cell:
    try:
        address = checked(libc.shmat(outside["segment"], None, 0))
    except OSError as error:
        own = checked(libc.shmget(0, 1, 0o600))
        checked(libc.shmctl(own, 0, None))
        return "own", f"shmat: {name(error)}"
    seen = ctypes.string_at(address, len(outside["token"])) == outside["token"].encode()
    return ("host" if seen else "own"), "attached the host's segment"


def environment() -> Cell:
    if os.environ.get(outside["variable"]) == outside["token"]:
        return "host", f"{len(os.environ)} variables, the caller's"
    return "own", f"{len(os.environ)} variables: {' '.join(sorted(os.environ))}"


def descriptor() -> Cell:
    seen = os.pread(outside["fd"], 200, 0) == outside["token"].encode()
    return ("host" if seen else "own"), "read a file that the caller has open"


# What it can do


def send_signals() -> Cell:
    """To the neighbour outside; the caller says whether it arrived. Otherwise to a child of its own."""
    try:
        os.kill(outside["pid"], signal.SIGUSR1)
    except OSError as error:
        why = f"kill: {name(error)}"
    else:
        return "sent", "signalled a process of the host's"
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "own", why


def read_memory() -> Cell:
    try:
        seen = memory_of(outside["pid"], outside["address"], len(outside["token"]))
        if seen == outside["token"].encode():
            return "host", "read the memory of a process of the host's"
        why = "that pid is another process here"
    except OSError as error:
        why = f"process_vm_readv: {name(error)}"
    kept = ctypes.create_string_buffer(b"ours")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        seen = memory_of(pid, ctypes.addressof(kept), 4)
    except OSError:
        seen = b""
    os.close(writer)
    os.close(reader)
    os.waitpid(pid, 0)
    return ("own" if seen == b"ours" else "-"), why


def memory_of(pid: int, address: int, size: int) -> bytes:
    """process_vm_readv(2): the same right as ptrace(2)."""
    buffer = ctypes.create_string_buffer(size)
    local = struct.pack("QQ", ctypes.addressof(buffer), size)
    remote = struct.pack("QQ", address, size)
    got = syscall("process_vm_readv", pid, local, 1, remote, 1, 0)
    return buffer.raw[:got]


def reach_loopback() -> Cell:
    try:
        with socket.create_connection(("127.0.0.1", outside["port"]), timeout=5) as client:
            if client.recv(200) == outside["token"].encode():
                return "host", "a listener on the host's 127.0.0.1 answered"
        why = "another program's listener"
    except OSError as error:
        why = f"the host's listener: {name(error)}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    return "own", why


def reach_abstract() -> Cell:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0" + outside["abstract"])
            if client.recv(200) == outside["token"].encode():
                return "host", "a listener on an abstract socket answered"
        why = "another program's listener"
    except OSError as error:
        why = f"the host's listener: {name(error)}"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("")
        server.listen()
        client.connect(server.getsockname())
    return "own", why


def chown() -> Cell:
    """A file in memory, given to another user."""
    fd = os.memfd_create("probe")
    try:
        os.fchown(fd, 12345, -1)
    finally:
        os.close(fd)
    return ("host" if is_hosts("user") else "own"), "a file now belongs to uid 12345"


def become() -> Cell:
    in_a_child(lambda: os.setresuid(12345, 12345, 12345))
    return ("host" if is_hosts("user") else "own"), "became uid 12345"


def set_hostname() -> Cell:
    """Of the host it only asks: a name too long is refused after the rights were looked at."""
    if is_hosts("uts"):
        try:
            checked(libc.sethostname(b"", ctypes.c_size_t(65)))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return "host", "sethostname is allowed"
    socket.sethostname("renamed")
    return "own", f"it is now {os.uname().nodename}"


def mount() -> Cell:
    """Of the host it only asks: fsopen(2) takes the same right, and mounts nothing."""
    if is_hosts("mnt"):
        os.close(syscall("fsopen", b"tmpfs", 0))
        return "host", "fsopen is allowed"
    before = os.stat("/tmp").st_dev
    checked(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None))
    after = os.stat("/tmp").st_dev
    checked(libc.umount2(b"/tmp", 0))
    return ("own" if before != after else "-"), "mounted a tmpfs on /tmp"


def configure_network() -> Cell:
    """Of the host it only asks: an interface that is not there is looked for after the rights."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if is_hosts("net"):
            try:
                fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"no-such-one", 0))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
            return "host", "SIOCSIFFLAGS is allowed"
        fcntl.ioctl(sock, SIOCSIFMTU, struct.pack("16si20x", b"lo", 1400))
        answer = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16s24x", b"lo"))
        return "own", f"MTU of lo set to {struct.unpack_from('16si', answer)[1]}"


def user_namespace() -> Cell:
    in_a_child(lambda: checked(libc.unshare(CLONE_NEWUSER)))
    return "yes", "unshare(CLONE_NEWUSER)"


def gain_rights() -> Cell:
    if libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0):
        return "-", "no_new_privs is 1"
    return "yes", "no_new_privs is 0"


def keyring() -> Cell:
    """A key ring is in no namespace: it goes from process to process."""
    serial = syscall("keyctl", KEYCTL_GET_KEYRING_ID, SESSION_KEYRING, 0)
    return ("host" if serial == outside["keyring"] else "own"), "keyctl answers"


# How much of it


def open_files() -> Cell:
    opened = [os.memfd_create("probe")]
    try:
        while len(opened) < MANY_FILES:
            opened.append(os.dup(opened[0]))
        return f"{MANY_FILES}+", f"stopped asking at {MANY_FILES}"
    except OSError as error:
        return str(len(opened)), f"then {name(error)}"
    finally:
        for fd in opened:
            os.close(fd)


def make_processes() -> Cell:
    reader, writer = os.pipe()
    children: list[int] = []
    ended = f"stopped asking at {MANY_PROCESSES}"
    try:
        while len(children) < MANY_PROCESSES:
            pid = os.fork()
            if pid == 0:
                os.close(writer)
                os.read(reader, 1)  # until the parent has closed it, or died
                os._exit(0)
            children.append(pid)
    except OSError as error:
        ended = f"then {name(error)}"
    os.close(writer)
    os.close(reader)
    for pid in children:
        os.waitpid(pid, 0)
    return (f"{len(children)}+" if ended.startswith("stopped") else str(len(children))), ended


def reserve_memory() -> Cell:
    """Address space: none of it is touched."""
    size = MUCH_MEMORY
    while size:
        try:
            mmap.mmap(-1, size << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError:
            size //= 2
            continue
        return ("1G+" if size == MUCH_MEMORY else f"{size}M"), f"reserved {size} MiB at once"
    return "-", "not even 1 MiB"


ROWS = {
    "processes": processes,
    "files": host_files,
    "private": private_files,
    "devices": devices,
    "interfaces": interfaces,
    "shared_memory": shared_memory,
    "environment": environment,
    "descriptor": descriptor,
    "signal": send_signals,
    "memory": read_memory,
    "loopback": reach_loopback,
    "abstract": reach_abstract,
    "chown": chown,
    "become": become,
    "hostname": set_hostname,
    "mount": mount,
    "configure": configure_network,
    "userns": user_namespace,
    "gain": gain_rights,
    "keyring": keyring,
    "open_files": open_files,
    "make_processes": make_processes,
    "reserve": reserve_memory,
}


def capabilities() -> int:
    """How many are effective, by capget(2): there may be no /proc."""
    header, data = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    syscall("capget", header, data)
    low, _, _, high, _, _ = struct.unpack("6I", data.raw)
    return bin(low | high << 32).count("1")


def look() -> dict[str, Any]:
    """Every row, tried."""
    cells = {}
    for key, ask in ROWS.items():
        try:
            cells[key] = ask()
        except OSError as error:
            cells[key] = "-", f"{name(error)}: {error.strerror}"
    return {"pid": os.getpid(), "uid": os.getuid(), "capabilities": capabilities(), "cells": cells}


def main() -> None:
    """Talk with the caller, as long as there is one. Ctrl-C is for the caller, who then ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=int(sys.argv[1])) as caller:
        caller.sendall(b"hello\n")
        with caller.makefile("rb") as lines:
            told = lines.readline()
        outside.update(json.loads(told))
        caller.sendall(json.dumps(look()).encode() + b"\n")
        select.select([caller], [], [], 20)  # the caller looks at us from outside, and lets go


if __name__ == "__main__":
    main()
