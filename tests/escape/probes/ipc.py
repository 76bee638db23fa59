"""System V, message queues, shared memory, keyrings and sockets."""

import ctypes
import os
import socket

from probing import call, contains, first, libc, probe

IPC_STAT = 2
libc.shmat.restype = ctypes.c_void_p


def checked(found, name):
    if found in (-1, None) or found == 2**64 - 1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return found


@probe()
def sysv_shared_memory(world):
    """A System V segment of the caller's, by its id or its key."""

    def read(number):
        at = checked(libc.shmat(number, None, 0o10000), "shmat")
        return world["secret"].encode() in ctypes.string_at(at, 64) and "read the segment"

    return first([lambda: read(world["shm"]), lambda: read(checked(libc.shmget(world["key_number"], 64, 0), "shmget"))])


@probe()
def sysv_semaphores(world):
    """A System V semaphore of the caller's."""
    return f"value {checked(libc.semctl(world['sem'], 0, 12), 'semctl')}"


@probe()
def sysv_messages(world):
    """A System V message queue of the caller's: a message is put into it."""
    message = ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0mark")
    checked(libc.msgsnd(world["msg"], message, 4, 0o4000), "msgsnd")
    return "sent"


@probe()
def posix_message_queue(world):
    """A POSIX message queue of the caller's, by its name."""
    return f"fd {call('mq_open', world['queue'].encode(), os.O_RDONLY, 0, None)}"


@probe()
def posix_shared_memory(world):
    """A file in /dev/shm of the caller's."""
    return contains(f"/dev/shm/{world['shared']}", world["secret"])


@probe()
def key_of_the_session(world):
    """keyctl(2): the key that the caller has in its session keyring."""
    number = call("keyctl", 10, -3, b"user", world["key"].encode(), 0)  # KEYCTL_SEARCH
    buffer = ctypes.create_string_buffer(256)
    size = call("keyctl", 11, number, buffer, 256)
    return world["secret"].encode() in buffer.raw[:size] and "read the key"


@probe()
def key_left_behind(world):
    """A key put into the user's keyring, to be found later by others of that user."""
    number = call("add_key", b"user", b"ramet-escape-mark", b"mark", 4, -4)
    call("keyctl", 9, number, -4)  # KEYCTL_UNLINK
    return f"key {number}"


@probe()
def key_requested(world):
    """request_key(2), which may start a program of the host as root."""
    return f"key {call('request_key', b'user', world['key'].encode(), None, 0)}"


@probe()
def abstract_socket(world):
    """An abstract unix socket of the caller's."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + world["abstract"])
    return "connected"


@probe()
def unix_socket(world):
    """A unix socket in a directory of the caller's, by its path."""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(world["socket"])
    return "connected"


@probe()
def fifo(world):
    """A FIFO of the caller's, by its path."""
    os.close(os.open(world["fifo"], os.O_RDWR | os.O_NONBLOCK))
    return "opened"


@probe()
def host_loopback(world):
    """A service on the host's 127.0.0.1."""
    with socket.create_connection(("127.0.0.1", world["port"]), timeout=20):
        return "connected"


@probe()
def host_loopback_by_other_names(world):
    """The same by 127.0.0.2, 0.0.0.0 and a mapped IPv6 address."""

    def connected(family, address):
        with socket.socket(family) as s:
            s.settimeout(20)
            s.connect((address, world["port"]))
            return f"connected to {address}"

    names = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::ffff:127.0.0.1")]
    return first([lambda f=f, a=a: connected(f, a) for f, a in names])


@probe()
def host_udp(world):
    """A datagram to a service on the host's loopback, and its answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(20)
        s.connect(("127.0.0.1", world["udp"]))  # so that it is told at once where there is nobody
        s.send(b"ping")
        return s.recv(16) == b"pong" and "answered"


@probe(absent=("nothing found",))
def host_interfaces(world):
    """The host's network interfaces, but lo, by name."""
    return [name for _, name in socket.if_nameindex() if name in world["interfaces"]]


@probe(absent=("EAFNOSUPPORT",))
def vsock(world):
    """AF_VSOCK, which is in no namespace: the way to the hypervisor and to virtual machines."""
    with socket.socket(40, socket.SOCK_STREAM):
        return "a socket"


@probe()
def netlink_uevents(world):
    """AF_NETLINK, NETLINK_KOBJECT_UEVENT: the machine's devices as they come and go."""
    with socket.socket(16, socket.SOCK_RAW, 15) as s:
        s.bind((0, 1))
    return "listens"


@probe()
def netlink_families(world):
    """Other netlink families: audit, netfilter, generic, crypto, sock_diag."""

    def made(number):
        with socket.socket(16, socket.SOCK_RAW, number):
            return f"family {number}"

    return first([lambda n=n: made(n) for n in (9, 12, 16, 21, 4)])


@probe("root")
def raw_sockets(world):
    """Raw and packet sockets."""

    def made(family, kind, protocol):
        with socket.socket(family, kind, protocol):
            return f"family {family}"

    return first([lambda: made(socket.AF_INET, socket.SOCK_RAW, 1), lambda: made(17, socket.SOCK_RAW, 0x300)])


@probe(absent=("EAFNOSUPPORT", "EPROTONOSUPPORT"))
def kernel_crypto_sockets(world):
    """AF_ALG, and other families that are drivers little tested (CVE-2017-7308 and others were in such)."""

    def made(family, kind):
        with socket.socket(family, kind):
            return f"family {family}"

    return first([lambda f=f: made(f, socket.SOCK_SEQPACKET) for f in (38, 31, 29, 30, 21)])


@probe(absent=("EPROTONOSUPPORT", "ENOPROTOOPT"))
def other_protocols(world):
    """Of IPv4, other protocols than TCP, UDP and ICMP: MPTCP, UDP-Lite, SCTP, DCCP, L2TP. Each is a driver, loaded for who asks."""

    def made(kind, protocol):
        with socket.socket(socket.AF_INET, kind, protocol):
            return f"protocol {protocol}"

    stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
    return first(
        [lambda k=k, p=p: made(k, p) for k, p in ((stream, 262), (datagram, 136), (stream, 132), (datagram, 115))]
    )


@probe(absent=("ENETUNREACH",))
def network_reached(world):
    """A route to any address outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))  # a datagram socket: nothing is sent
        return f"from {s.getsockname()[0]}"
