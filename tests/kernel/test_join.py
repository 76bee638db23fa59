"""Namespaces that exist, entered by pid, pidfd or path."""

import os
import socket
import threading
from pathlib import Path

import pytest
from inside import OUTSIDE_ID, UNTIL_NAMED, Neighbour, as_root, as_user, python, said, shell

import ramet
from needs import since
from ramet import Join, Namespace, Sandbox, SpecError, StepError
from ramet.host.facts import facts

LISTEN = """
exec 3<&0
{python} -I -S -c '
import socket, os
server = socket.create_server(("127.0.0.1", {port}))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    peer.sendall(b"from inside")
    peer.close()
'
"""

CONNECT = "import socket; s = socket.create_connection(('127.0.0.1', {port}), 30); print(s.recv(99).decode())"


def joins(neighbour, kinds, by):
    """Join these kinds of the neighbour's, named in one of the three ways."""
    process = neighbour.process
    return [
        Join(kind, pid=process.pid)
        if by == "pid"
        else Join(kind, pidfd=process.pidfd)
        if by == "pidfd"
        else Join(kind, path=f"/proc/{process.pid}/ns/{kind.value}")
        for kind in kinds
    ]


@pytest.fixture
def neighbour():
    with Neighbour() as found:
        yield found


@pytest.mark.parametrize("by", ["pid", "pidfd", "path"])
@pytest.mark.parametrize("kind", [kind for kind in Namespace if kind is not Namespace.TIME])
def test_joined_namespace_is_the_neighbours(kind, by, neighbour):
    """A kind that is joined, by whichever name, is the neighbour's; the same kind not joined is not."""
    theirs = os.readlink(f"/proc/{neighbour.process.pid}/ns/{kind.value}")
    look = f"readlink /proc/self/ns/{kind.value}"
    # A /proc shows itself only to who is in its pid namespace.
    kinds = {Namespace.USER, kind} | ({Namespace.PID} if kind is Namespace.MOUNT else set())
    joined = shell(look, namespaces=set(), join=joins(neighbour, kinds, by))
    assert said(joined) == theirs
    assert said(shell(look, namespaces=set())) != theirs


@since(6, 3)  # before, a neighbour's init is not in its time namespace: only what it forks is
def test_join_time_namespace():
    """A time namespace can be joined: the clocks are the neighbour's."""
    every = frozenset(Namespace)
    with Neighbour(namespaces=every, time_offsets=ramet.TimeOffsets(boottime=5_000_000)) as neighbour:
        kinds = (Namespace.USER, Namespace.TIME)
        up = said(shell("cat /proc/uptime", namespaces=set(), join=joins(neighbour, kinds, "pid")))
    assert float(up.split()[0]) > 5_000_000 > float(said(shell("cat /proc/uptime", namespaces=set())).split()[0])


def test_listener_of_a_joined_net_namespace():
    """Whoever joins the net namespace reaches the listener in there; whoever doesn't, can't."""
    import sys

    # A port that nobody else has here either, and where nobody listens.
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        connect = CONNECT.format(port=port)
        with Neighbour(LISTEN.format(python=sys.executable, port=port)) as neighbour:
            joined = python(connect, namespaces=set(), join=joins(neighbour, (Namespace.USER, Namespace.NET), "pid"))
            assert said(joined) == "from inside"
            assert "ConnectionRefusedError" in python(connect).stderr
            assert "ConnectionRefusedError" in python(connect, namespaces=set()).stderr


@pytest.mark.parametrize("by", ["pid", "pidfd", "path"])
def test_join_user_mount_and_pid(by):
    """Joined user, mount and pid namespaces of a running sandbox: its files, its processes, its ids."""
    with Neighbour("echo secret >/tmp/mine") as neighbour:
        kinds = (Namespace.USER, Namespace.MOUNT, Namespace.PID)
        script = f"cat /tmp/mine; {UNTIL_NAMED}cat /proc/1/comm; test -e /proc/2/cmdline && echo payload; id -u"
        inside = shell(script, namespaces=set(), join=joins(neighbour, kinds, by), workdir="/")
        assert said(inside).split() == ["secret", "ramet-init", "payload", said(shell("id -u"))]
        assert neighbour.process.poll() is None
    assert "mine" not in said(shell("ls /tmp"))


def test_the_neighbour_outlives_its_visitor():
    """A visitor's end, and what it leaves behind, do not end the sandbox that it visited."""
    with Neighbour() as neighbour:
        kinds = (Namespace.USER, Namespace.MOUNT, Namespace.PID)
        with ramet.Popen(
            ["sh", "-c", "sleep 600 & sleep 600"], namespaces=set(), join=joins(neighbour, kinds, "pid"), workdir="/"
        ) as visitor:
            visitor.kill()
            visitor.wait()
        neighbour.process.stdin.write("done\n")
        neighbour.process.stdin.flush()
        assert neighbour.process.wait(timeout=20) == 0


def test_visitors_die_with_the_sandbox():
    """When the visited sandbox ends, its visitors end with it: their pid namespace is gone."""
    with Neighbour() as neighbour:
        kinds = (Namespace.USER, Namespace.MOUNT, Namespace.PID)
        visitor = ramet.Popen(["sleep", "600"], namespaces=set(), join=joins(neighbour, kinds, "pid"), workdir="/")
        assert visitor.poll() is None
        neighbour.process.kill()
        assert visitor.wait(timeout=20) != 0
        visitor.close()


def test_join_and_new_together():
    """One kind joined, the rest new: the neighbour's network with files and processes of its own."""
    with Neighbour("echo secret >/tmp/mine") as neighbour:
        new = {Namespace.MOUNT, Namespace.PID, Namespace.IPC, Namespace.UTS}
        script = "readlink /proc/self/ns/net; cat /tmp/mine 2>&-; echo $$"
        found = said(shell(script, namespaces=new, join=joins(neighbour, (Namespace.USER, Namespace.NET), "pid")))
        theirs = os.readlink(f"/proc/{neighbour.process.pid}/ns/net")
    assert found.split() == [theirs, "2"]


@as_root
def test_root_is_not_root_in_what_it_joins():
    """A root caller's visitor is not uid 0 outside, nor in any group of the caller's."""
    with Neighbour() as neighbour:
        join = joins(neighbour, (Namespace.USER, Namespace.PID, Namespace.MOUNT), "pid")
        with Neighbour(namespaces=set(), join=join, workdir="/") as visitor:
            status = Path(f"/proc/{visitor.process.pid}/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1:] for line in status if ":" in line}
    assert found["Uid"] == found["Gid"] == [str(OUTSIDE_ID)] * 4
    assert found["Groups"] == []


def test_uid_in_a_joined_user_namespace():
    """uid= names another id of a joined user namespace; one that is not mapped there is an error, not ignored."""
    with Neighbour() as neighbour:
        join = joins(neighbour, (Namespace.USER,), "pid")
        assert said(shell("id -u", namespaces=set(), join=join, uid=1000)) == "1000"
        with pytest.raises(StepError, match="become uid 77"):
            shell("id -u", namespaces=set(), join=join, uid=77)


@as_root
def test_root_joins_a_net_namespace_alone():
    """A privileged caller can join a net namespace without its user namespace, with a user namespace of its own."""
    with Neighbour() as neighbour:
        theirs = os.readlink(f"/proc/{neighbour.process.pid}/ns/net")
        join = joins(neighbour, (Namespace.NET,), "pid")
        new = Sandbox().namespaces - {Namespace.NET}
        assert said(
            shell("readlink /proc/self/ns/net; cat /proc/self/status | grep CapEff", namespaces=new, join=join)
        ).split() == [
            theirs,
            "CapEff:",
            "0" * 16,
        ]


@as_user
def test_user_needs_the_owning_user_namespace():
    """An ordinary caller who joins a net namespace without the user namespace that owns it gets EPERM at that step."""
    with Neighbour() as neighbour, pytest.raises(StepError, match="join the net namespace") as caught:
        shell("true", namespaces=set(), join=joins(neighbour, (Namespace.NET,), "pid"))
    assert caught.value.errno == 1
    assert caught.value.stage == "join"


def test_join_from_many_threads():
    """Joining works from any thread at any time: not the caller's namespaces nor other launches are disturbed."""
    before = os.readlink("/proc/self/ns/net")
    found = []
    with Neighbour() as neighbour:
        theirs = os.readlink(f"/proc/{neighbour.process.pid}/ns/net")
        join = joins(neighbour, (Namespace.USER, Namespace.NET), "pidfd")

        def visit():
            for _ in range(10):
                found.append(said(shell("readlink /proc/self/ns/net", namespaces=set(), join=join)) == theirs)
                found.append(said(shell("readlink /proc/self/ns/net")) not in (theirs, before))

        threads = [threading.Thread(target=visit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 80
    assert os.readlink("/proc/self/ns/net") == before
    assert is_dumpable()


def test_join_of_a_process_that_is_gone():
    """A pid that is nobody's is named in the error, and nothing is started."""
    with Neighbour() as neighbour:
        pid = neighbour.process.pid
    with pytest.raises(StepError, match=f"/proc/{pid}/ns/net"):
        shell("true", namespaces=set(), join=[Join("net", pid=pid)])


def test_join_of_the_wrong_kind_of_file():
    """A path that is no namespace, or one of another kind, is refused by setns and named."""
    for path in ("/proc/self/ns/uts", "/etc/passwd"):
        with pytest.raises(StepError, match="join the net namespace"):
            shell("true", namespaces=set(), join=[Join("net", path=path)])


def test_new_and_joined_contradict():
    """One kind can't be both new and joined, nor joined twice."""
    with pytest.raises(SpecError, match="both new"):
        Sandbox(join=[Join("net", pid=1)])
    with pytest.raises(SpecError, match="joined twice"):
        Sandbox(namespaces=set(), join=[Join("net", pid=1), Join("net", pid=2)])


def is_dumpable():
    """Can an ordinary process of the same user trace this one? PR_GET_DUMPABLE, see prctl(2)."""
    import ctypes

    return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 1


def test_caller_stays_dumpable(neighbour):
    """After joining, and after a launch that fails, the caller is as dumpable as it was."""
    assert is_dumpable()
    said(shell("true", namespaces=set(), join=joins(neighbour, (Namespace.USER, Namespace.MOUNT), "pid"), workdir="/"))
    assert is_dumpable()
    with pytest.raises(StepError):
        shell("true", namespaces=set(), join=[Join("net", path="/proc/self/ns/uts")])
    assert is_dumpable()


def test_abstract_socket_of_the_caller():
    """An abstract socket of the caller is out of reach in a new net namespace; in the shared one Landlock keeps it out of reach."""
    name = f"\0ramet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); print('reached')"
        shared = Sandbox().namespaces - {Namespace.NET}
        assert said(python(code, namespaces=shared, landlock=False)) == "reached"
        if facts().landlock >= 6:
            assert "PermissionError" in python(code, namespaces=shared).stderr
        assert "ConnectionRefusedError" in python(code).stderr
