"""Network: only loopback, and none of the host's."""

import socket

import pytest
from inside import python, said, shell

from needs import need
from ramet import Namespace, Sandbox

SHARED = Sandbox().namespaces - {Namespace.NET}


def test_only_loopback():
    """A new net namespace has lo, up, and nothing else."""
    names = [line.split(":")[0].strip() for line in said(shell("cat /proc/net/dev")).splitlines()[2:]]
    assert names == ["lo"]
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); print('up')"
    assert said(python(code)) == "up"


def test_loopback_left_down():
    """With loopback=False lo stays down: nothing can be connected."""
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 7777)); socket.create_connection(('127.0.0.1', 7777), 2)"
    )
    assert "Network is unreachable" in python(code, loopback=False).stderr
    assert python(code).ok


def test_loopback_ipv6():
    """::1 works, where the host has IPv6."""
    import os

    if not os.path.exists("/proc/net/if_inet6"):
        need(False, "a kernel with IPv6")
    code = "import socket; s = socket.create_server(('::1', 0), family=socket.AF_INET6); socket.create_connection(s.getsockname()[:2]); print('up')"
    assert said(python(code)) == "up"


def test_listener_of_the_caller_is_unreachable():
    """A listener on the caller's loopback is refused inside; with the net namespace shared it is reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection({server.getsockname()!r}, 5); print('reached')"
        assert "ConnectionRefusedError" in python(code).stderr
        assert said(python(code, namespaces=SHARED)) == "reached"


def test_outside_is_unreachable():
    """There is no route to any other address."""
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    assert "Network is unreachable" in python(code).stderr


def test_unix_socket_file_needs_a_bind(shared_dir):
    """A socket file of the host is not there; bound, it is reached: files are the mounts' business."""
    from ramet import Bind

    path = shared_dir / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r}); print('reached')"
        assert "FileNotFoundError" in python(code).stderr
        assert said(python(code, mounts=[Bind(shared_dir)])) == "reached"


def test_names_of_the_host_network():
    """With the host's network the minimal view has its resolver configuration; without, only localhost."""
    import os

    if not os.path.exists("/etc/resolv.conf"):
        pytest.skip("only where the host has /etc/resolv.conf")
    assert said(shell("test -e /etc/resolv.conf && echo there", namespaces=SHARED)) == "there"
    assert (
        said(shell("test -e /etc/resolv.conf || echo absent; getent hosts localhost | head -1")).split()[0] == "absent"
    )


def test_localhost_resolves():
    """The name localhost works in the default sandbox."""
    assert said(python("import socket; print(socket.gethostbyname('localhost'))")) == "127.0.0.1"
