"""Host name, environment, working directory, umask: what is around the payload."""

import os
import socket
import sys
from pathlib import Path

import pytest
from inside import python, said, shell

import ramet
from ramet import Bind, Namespace, Sandbox, SpecError, StepError


def test_hostname():
    """The host name inside is "ramet", or what was asked for; the caller's stays."""
    here = socket.gethostname()
    assert said(shell("hostname")) == "ramet"
    assert said(shell("hostname", hostname="büro-7")) == "büro-7"
    assert said(shell("uname -n", namespaces=Sandbox().namespaces - {Namespace.UTS})) == here
    assert socket.gethostname() == here


def test_domainname():
    """The NIS domain name is the caller's unless asked for."""
    here = Path("/proc/sys/kernel/domainname").read_text(encoding="ascii").strip()
    assert said(shell("cat /proc/sys/kernel/domainname", domainname="example.org")) == "example.org"
    assert said(shell("cat /proc/sys/kernel/domainname")) == here
    assert Path("/proc/sys/kernel/domainname").read_text(encoding="ascii").strip() == here


def test_longest_hostname():
    """64 bytes are a host name; one more is refused, counted in bytes."""
    assert said(shell("hostname", hostname="h" * 64)) == "h" * 64
    for name in ("h" * 65, "ü" * 33):
        with pytest.raises(SpecError, match="64 bytes"):
            Sandbox(hostname=name)


ENVIRONMENT = "import os; print(sorted(os.environb.items()))"


def test_environment_is_exact(monkeypatch):
    """The payload's environment is PATH, HOME, LANG, TERM and what env= says: nothing of the caller's."""
    monkeypatch.setenv("RAMET_SECRET", "hidden")
    result = ramet.run(["/usr/bin/env", "-0"], env={"MINE": "a b\n=c", "EMPTY": ""})
    found = dict(item.split(b"=", 1) for item in result.stdout.split(b"\0") if item)
    path = found.pop(b"PATH")
    assert path.endswith(b"/usr/bin:/sbin:/bin")
    assert found == {b"HOME": b"/home/user", b"LANG": b"C.UTF-8", b"TERM": b"dumb", b"MINE": b"a b\n=c", b"EMPTY": b""}


def test_environment_defaults_can_be_replaced_and_left_out():
    """env= replaces a default, and None leaves it out."""
    result = ramet.run(["/usr/bin/env"], env={"PATH": "/bin", "HOME": None, "LANG": None, "TERM": "vt100"}, text=True)
    assert result.stdout.split() == ["PATH=/bin", "TERM=vt100"]


def test_environment_of_bytes():
    """Names and values that are no UTF-8 arrive byte for byte."""
    result = ramet.run(["/usr/bin/env"], env={b"N\xff": b"v\xfe", os.fsdecode(b"M\xfd"): "ü"})
    assert b"N\xff=v\xfe\n" in result.stdout
    assert b"M\xfd=\xc3\xbc\n" in result.stdout


def test_path_decides_which_program_runs(shared_dir):
    """A bare name is looked up along PATH of the sandbox's environment, in the sandbox."""
    program = shared_dir / "true"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    mounts = [Bind(shared_dir, "/mine")]
    found = ramet.run(["true"], mounts=mounts, env={"PATH": "/nonexistent:/mine:/usr/bin"}, text=True)
    assert said(found) == "mine"
    assert said(ramet.run(["true"], mounts=mounts, text=True)) == ""


def test_workdir_defaults_to_home():
    """The working directory is the home directory in the minimal root, / in others; not the caller's."""
    assert said(shell("pwd")) == "/home/user"
    assert said(shell("pwd", rootfs="host")) == "/"


def test_workdir(shared_dir):
    """workdir= is a path inside."""
    assert said(shell("pwd -P", workdir="/usr/bin")) == "/usr/bin"
    assert said(shell("pwd -P", workdir="/in", mounts=[Bind(shared_dir, "/in")])) == "/in"


def test_workdir_that_does_not_exist_inside(shared_dir):
    """A workdir that exists on the host but not inside is an error that names it, and the payload does not run."""
    with pytest.raises(StepError, match=f"enter the working directory '{shared_dir}'") as caught:
        shell("true", workdir=shared_dir)
    assert (caught.value.errno, caught.value.origin) == (2, "Sandbox.workdir")
    assert "does not exist inside" in caught.value.hint


def test_workdir_that_is_a_file():
    """A workdir that is no directory is an error."""
    with pytest.raises(StepError) as caught:
        shell("true", workdir="/etc/passwd")
    assert caught.value.errno == 20


def test_workdir_without_a_mount_namespace(shared_dir):
    """Without a mount namespace workdir= is a path of the host."""
    assert said(shell("pwd", namespaces=set(), workdir=shared_dir)) == str(shared_dir)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_umask(umask):
    """umask= is the payload's; the caller's neither matters nor changes."""
    before = os.umask(0o055)
    try:
        assert int(said(shell("umask", umask=umask)), 8) == umask
        assert os.umask(0o055) == 0o055
    finally:
        os.umask(before)


def test_umask_default_is_not_the_callers():
    """The default umask is 022 whatever the caller's is."""
    before = os.umask(0o077)
    try:
        assert said(shell("umask; stat -c %a /tmp /home/user")).split() == ["0022", "1777", "700"]
    finally:
        os.umask(before)


def test_caller_in_a_deleted_directory(tmp_path, monkeypatch):
    """A caller whose working directory is gone can still run a sandbox."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert said(shell("pwd")) == "/home/user"


def test_signal_mask_and_dispositions_are_fresh():
    """What the caller blocks or ignores, the payload does not."""
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        result = ramet.run(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"], text=True)
        assert said(result).split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]
        mine = Path("/proc/self/status").read_text(encoding="ascii")
        assert "SigBlk:\t0000000000000200" in mine
    finally:
        signal.signal(signal.SIGUSR2, old)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def test_descriptors_of_the_caller_do_not_leak(tmp_path):
    """The payload has 0, 1, 2 and nothing else, even where the caller holds inheritable descriptors."""
    with open(tmp_path / "leak", "w", encoding="ascii") as file:
        os.set_inheritable(file.fileno(), True)
        code = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
        assert said(python(code)) == "[0, 1, 2, 3]"  # 3 is the listing itself
        assert said(python(code, as_pid1=True)) == "[0, 1, 2, 3]"


def test_pass_fds(tmp_path):
    """pass_fds= hands on descriptors under their own numbers, and no others."""
    (tmp_path / "given").write_text("given")
    code = "import os, sys; print(os.read(int(sys.argv[1]), 99), sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    with open(tmp_path / "given", encoding="ascii") as file, open(tmp_path / "given", encoding="ascii") as other:
        number = file.fileno()
        argv = [sys.executable, "-I", "-S", "-c", code, str(number)]
        found = said(ramet.run(argv, pass_fds=[number], text=True))
        assert other.fileno() != number
    listing = next(n for n in range(3, 99) if n != number)
    assert found == f"b'given' {sorted([0, 1, 2, number, listing])}"


@pytest.mark.parametrize("number", [3, 7, 100, 4000])
def test_pass_fds_at_any_number(number):
    """A number that ramet would use for itself is passed on all the same, and so is a high one."""
    import fcntl
    import subprocess

    code = f"""
import os, ramet, sys
reader, writer = os.pipe()
os.write(writer, b"through"); os.close(writer)
if reader != {number}:
    os.dup2(reader, {number})
r = ramet.run([sys.executable, "-c", "import os; print(os.read({number}, 99).decode())"], pass_fds=[{number}], text=True)
print(r.stdout, r.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.strip() == "through", done.stderr
    assert fcntl.fcntl(0, fcntl.F_GETFD) >= 0


def test_standard_streams_can_be_opened_by_name():
    """/dev/stdin, /dev/stdout and /dev/stderr can be opened anew, by a root caller's payload too."""
    result = ramet.run(["sh", "-c", "cat /dev/stdin >/dev/stdout; echo err >/dev/stderr"], input="in", text=True)
    assert (result.stdout, result.stderr) == ("in", "err\n")


def test_python_in_the_sandbox_has_what_it_needs():
    """The running Python starts inside with its standard library, sees no network, and no host file of the caller."""
    code = "import json, ssl, sqlite3, socket, os; print(json.dumps(sorted(os.listdir(os.environ['HOME']))))"
    assert said(ramet.run([sys.executable, "-c", code], text=True)) == "[]"
