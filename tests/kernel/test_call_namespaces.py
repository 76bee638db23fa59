"""A function in namespaces: new ones, ones it joins, and the credentials that go with them."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

import ramet
from needs import as_root
from ramet import Join, Namespace
from ramet.call import call

FILES, NEWNS, NEWUTS, NEWIPC, NEWUSER = 0x400, 0x20000, 0x4000000, 0x8000000, 0x10000000
NEWPID, NEWNET, NEWCGROUP = 0x20000000, 0x40000000, 0x2000000

PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4


def user_namespaces() -> bool:
    try:
        call(int, flags=NEWUSER)
    except OSError:
        return False
    return True


users = pytest.mark.skipif(
    not user_namespaces() and not os.environ.get("RAMET_MUST_WORK"), reason="no user namespaces here"
)


def namespace(kind: str) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino


def prctl(option: int, value: int = 0) -> int:
    return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))


KINDS = {"mnt": NEWNS, "uts": NEWUTS, "ipc": NEWIPC, "net": NEWNET, "cgroup": NEWCGROUP}


@users
@pytest.mark.parametrize("kind", KINDS)
def test_new_namespace(kind):
    """Each CLONE_NEW flag gives the function a namespace of that kind; without it, it has the caller's."""
    outside = namespace(kind)
    assert call(namespace, kind, flags=NEWUSER | KINDS[kind]) != outside
    assert call(namespace, kind, flags=NEWUSER) == outside
    assert namespace(kind) == outside


@users
def test_ids_are_mapped():
    """map_uid and map_gid are the function's ids, whoever the caller is; unmapped, the overflow ids."""
    inside = call(lambda: (os.getuid(), os.getgid()), flags=NEWUSER, map_uid=7, map_gid=8)
    assert inside == (7, 8)
    assert call(lambda: (os.getuid(), os.getgid()), flags=NEWUSER) == (65534, 65534)


@users
def test_mapped_root_has_its_capabilities():
    """A mapped function may change its host name, and the caller's stays."""
    before = socket.gethostname()
    assert call(lambda: (socket.sethostname("ramet"), socket.gethostname())[1], flags=NEWUSER | NEWUTS, map_uid=0) == (
        "ramet"
    )
    assert socket.gethostname() == before


@users
def test_pid_namespace():
    """With CLONE_NEWPID the function is pid 1; without it, it is not."""
    assert call(os.getpid, flags=NEWUSER | NEWPID) == 1
    assert call(os.getpid, flags=NEWUSER) > 1


@users
def test_socket_from_another_network():
    """With CLONE_FILES a socket made in a new network namespace is the caller's to use, and belongs there."""

    def listen(port: int = 0) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=1)

    # loopback is down in a new namespace, so the address can be bound and not be reached
    here, kept = listen(), socket.socket()
    kept.bind(("127.0.0.1", 0))  # a port that nobody has here, where nobody listens
    there = call(listen, kept.getsockname()[1], flags=NEWUSER | NEWNET | FILES)
    with here, there, kept:
        socket.create_connection(here.getsockname(), timeout=30).close()
        with socket.socket() as probe:
            assert there.getsockname() == kept.getsockname()
            assert probe.connect_ex(there.getsockname()) == errno.ECONNREFUSED


@pytest.fixture
def sandbox():
    """A process in user, uts, mount, network and pid namespaces of its own."""
    process = subprocess.Popen(
        ["unshare", "-r", "-u", "-n", "-p", "-f", "--kill-child", "sh", "-c", "echo ready; exec sleep 60"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        if process.stdout.readline() != "ready\n":
            pytest.skip("unshare(1) can't make user namespaces here")
        yield process.pid
        process.kill()
        process.wait()


def test_join_paths(sandbox):
    """join enters the namespaces named by paths, in order; the caller stays where it is."""
    paths = [f"/proc/{sandbox}/ns/{kind}" for kind in ("user", "uts", "net")]
    outside = [namespace(kind) for kind in ("user", "uts", "net")]
    inside = call(lambda: [namespace(kind) for kind in ("user", "uts", "net")], join=paths)
    assert inside == [os.stat(path).st_ino for path in paths]
    assert [namespace(kind) for kind in ("user", "uts", "net")] == outside
    assert not set(inside) & set(outside)


def test_join_pidfd_and_descriptor(sandbox):
    """join takes a pidfd with flags, and an open descriptor, and closes neither."""
    pidfd = os.pidfd_open(sandbox)
    net = os.open(f"/proc/{sandbox}/ns/net", os.O_RDONLY)
    try:
        inside = call(lambda: (namespace("uts"), namespace("net")), join=[(pidfd, NEWUSER | NEWUTS), net])
        assert inside == (os.stat(f"/proc/{sandbox}/ns/uts").st_ino, os.fstat(net).st_ino)
        named = [Join(Namespace.USER, pid=sandbox), Join(Namespace.UTS, pidfd=pidfd), Join(Namespace.NET, pid=sandbox)]
        assert call(lambda: (namespace("uts"), namespace("net")), join=named) == inside
    finally:
        os.close(pidfd)
        os.close(net)


def test_join_refused_names_the_call():
    """A descriptor that is no namespace is refused as setns, and a path that isn't there as itself."""
    ran: list[int] = []
    with open("/dev/null") as null, pytest.raises(OSError, match="setns"):
        call(ran.append, 1, join=[null])
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        call(ran.append, 1, join=["/nowhere"])
    assert ran == []
    call(ran.append, 1)
    assert ran == [1]


def test_join_user_namespace_hides_memory(sandbox):
    """In a joined user or pid namespace the memory is not dumpable; in others and afterwards it is."""
    before = prctl(PR_GET_DUMPABLE)
    if before != 1:
        pytest.skip("this process is not dumpable to begin with")
    user, uts = (f"/proc/{sandbox}/ns/{kind}" for kind in ("user", "uts"))
    assert call(prctl, PR_GET_DUMPABLE, join=[user]) == 0
    assert prctl(PR_GET_DUMPABLE) == 1
    if os.geteuid() == 0:
        assert call(prctl, PR_GET_DUMPABLE, join=[uts]) == 1


@as_root
def test_credentials_and_dumpable():
    """setuid in the child is the child's alone; the flag it clears in the shared memory comes back."""
    assert prctl(PR_GET_DUMPABLE) == 1
    inside = call(lambda: (os.setgid(65000), os.setuid(65000), os.getuid(), prctl(PR_GET_DUMPABLE))[2:])
    assert inside == (65000, 0)
    assert os.getuid() == 0
    assert prctl(PR_GET_DUMPABLE) == 1


@as_root
def test_dumpable_waits_for_the_last_call():
    """While a child with other credentials runs, the end of another call doesn't make the memory dumpable."""
    import threading

    ready, go = threading.Event(), threading.Event()

    def drop() -> None:
        os.setuid(65000)
        ready.set()
        go.wait(50)

    thread = threading.Thread(target=call, args=(drop,))
    thread.start()
    assert ready.wait(50)
    call(int)
    during = prctl(PR_GET_DUMPABLE)
    go.set()
    thread.join(50)
    assert during == 0
    assert prctl(PR_GET_DUMPABLE) == 1


@users
def test_signals_in_a_pid_namespace():
    """As pid 1 the function can start, signal and reap processes of its own."""

    def start() -> int:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        process.terminate()
        return process.wait(50)

    assert call(start, flags=NEWUSER | NEWPID) == -signal.SIGTERM


SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", 4000)) as server:
    print("ready", flush=True)
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(sys.argv[1].encode() + b" got " + peer.recv(100))
"""


def serving(name):
    """A sandbox with a network of its own, in which a server listens."""
    process = ramet.Popen(["python3", "-c", SERVER, name], stdout=ramet.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_connections_made_in_two_networks():
    """A TCP connection made in each of two networks, at the same address, is usable here, by CLONE_FILES; here nobody answers."""
    with serving("one") as one, serving("two") as two:
        try:
            for process in (one, two):
                join = [Join(kind, pid=process.pid) for kind in (Namespace.USER, Namespace.NET)]
                with call(socket.create_connection, ("127.0.0.1", 4000), flags=FILES, join=join) as made:
                    made.sendall(b"hello")
                    assert made.recv(100).decode() == f"{process.args[3]} got hello"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", 4000), timeout=30)
        finally:
            one.kill()
            two.kill()


def test_connections_from_threads_at_once():
    """Many threads are each in their own network at once; every connection is to the one it asked for."""
    import threading

    found: dict[int, str] = {}
    with serving("one") as one, serving("two") as two:

        def work(n: int) -> None:
            process = (one, two)[n % 2]
            join = [Join(kind, pid=process.pid) for kind in (Namespace.USER, Namespace.NET)]
            with call(socket.create_connection, ("127.0.0.1", 4000), flags=FILES, join=join) as made:
                made.sendall(b"x")
                found[n] = made.recv(100).decode()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            one.kill()
            two.kill()
    assert found == {n: f"{('one', 'two')[n % 2]} got x" for n in range(16)}


@as_root
def test_ids_directory_umask_and_root_for_the_call():
    """Other ids, working directory, umask and root are the function's for the call, and the caller keeps its own."""

    def change() -> tuple[object, ...]:
        os.chroot("/usr")
        os.chdir("/lib")
        os.umask(0o077)
        os.setresgid(65000, 65000, 65000)
        os.setresuid(65001, 65001, 65001)
        return os.getcwd(), os.umask(0o022), os.getresuid(), os.getresgid(), os.path.exists("/usr/lib")

    before = os.getcwd(), os.getresuid(), os.getresgid(), os.stat("/").st_ino
    mask = os.umask(0o022)
    try:
        assert call(change) == ("/lib", 0o077, (65001,) * 3, (65000,) * 3, False)
        assert (os.getcwd(), os.getresuid(), os.getresgid(), os.stat("/").st_ino) == before
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)
