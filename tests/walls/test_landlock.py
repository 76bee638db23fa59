"""Landlock: the second wall behind the mounts, and the only one of a sandbox without namespaces."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import ramet
from needs import need
from ramet import Bind, Landlock, Namespace, Rootfs, Sandbox, SpecError, Tmpfs, UnsupportedError
from ramet.host.facts import facts
from ramet.plan.compile import compile
from ramet.plan.landlock import REFER, TRUNCATE
from ramet.spec import Command

ABI = facts().landlock


@pytest.fixture(autouse=True)
def landlock():
    need(ABI >= 6, "Landlock with ABI 6 (Linux 6.12), among the modules of lsm=")


@pytest.fixture
def place():
    """A directory of the host that anybody may write to."""
    with tempfile.TemporaryDirectory(prefix="walls-") as path:
        os.chmod(path, 0o777)
        yield Path(path)


def shell(script, sandbox=None, **fields):
    return ramet.run(["sh", "-c", script], sandbox, text=True, timeout=60, **fields)


def python(code, *words, sandbox=None, **fields):
    return ramet.run([sys.executable, "-I", "-S", "-c", code, *words], sandbox, text=True, timeout=60, **fields)


# Behind the mounts


def test_a_leaked_directory_leads_nowhere(place):
    """A directory of the host that the payload gets hold of, here as its stdin, lets it open nothing; without Landlock it does."""
    (place / "secret").write_text("host\n")
    os.chmod(place / "secret", 0o666)
    fd = os.open(place, os.O_RDONLY)
    try:
        assert "Permission denied" in shell("cat /proc/self/fd/0/secret", stdin=fd).stderr
        assert shell("cat /proc/self/fd/0/secret", stdin=fd, landlock=False).stdout == "host\n"
    finally:
        os.close(fd)


def test_stdout_cannot_be_opened_again(place):
    """A log that is the payload's stdout can't be opened again, so not truncated or read; it can be written to. Without Landlock it can."""
    for fields, left in (({}, "before\nsaid\n"), ({"landlock": False}, "said\n")):
        log = place / "log"
        log.write_text("before\n")
        os.chmod(log, 0o666)
        with (
            open(log, "ab") as file,
            ramet.Popen(["sh", "-c", "(: >/proc/self/fd/1) 2>&-; echo said"], stdout=file, **fields) as one,
        ):
            one.wait(60)
        assert log.read_text() == left


def test_what_is_passed_on_is_passed_on(place):
    """A directory and a file that are passed on by pass_fds can be used, and opened through."""
    (place / "file").write_text("x")
    os.chmod(place / "file", 0o666)
    code = """
import os, sys
there, file = map(int, sys.argv[1:])
os.close(os.open("new", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=there))
os.close(os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_TRUNC))
print(sorted(os.listdir(there)))
"""
    there, file = os.open(place, os.O_RDONLY), os.open(place / "file", os.O_RDWR)
    try:
        result = python(code, str(there), str(file), pass_fds=[there, file])
        assert (result.stdout, result.stderr) == ("['file', 'new']\n", "")
    finally:
        os.close(there), os.close(file)


EVERYDAY = """
set -e
cd $1
echo a >f; mkdir d; mv f d/f; ln d/f g; ln -s g h; mkfifo p; cat h; : >g; rm -r d g h p
"""


@pytest.mark.parametrize("where", ["/tmp", "/home/user", "/dev/shm", "/own", "/bound", "/layers"])
def test_writable_places_are_writable(where, place):
    """Where the sandbox mounts something writable everything works: making, moving between directories, linking, truncating."""
    mounts = [
        Tmpfs("/own", mode=0o777),
        Bind(str(place), "/bound", writable=True),
        ramet.Overlay("/layers", (str(place),)),
    ]
    result = ramet.run(["sh", "-c", EVERYDAY, "sh", where], mounts=mounts, text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("a\n", "")


@pytest.mark.parametrize("writes", ["discarded", "kept"])
def test_writable_roots_are_writable(writes, place):
    """A root whose writes are kept or discarded can be written to anywhere."""
    if writes == "kept" and os.geteuid() == 0:
        writes = "discarded"  # the host's directories are root's, and the payload is not
    for name in ("usr", "lib", "lib64", "bin", "proc", "dev", "tmp", "there"):
        (place / name).mkdir()
    os.chmod(place / "there", 0o777)
    mounts = [Bind(f"/{name}", f"/{name}") for name in ("usr", "lib", "lib64", "bin") if os.path.isdir(f"/{name}")]
    argv = ["sh", "-c", EVERYDAY, "sh", "/there"]
    result = ramet.run(argv, rootfs=Rootfs(str(place), writes), mounts=mounts, workdir="/", text=True, timeout=60)
    assert (result.stdout, result.stderr) == ("a\n", "")


@pytest.mark.parametrize("tty", [False, True])
def test_devices_and_proc(tty):
    """/dev/null and the like, terminals, /dev/stdin and the writable files of /proc/self work."""
    script = "echo x >/dev/null && head -c1 /dev/zero | wc -c && cat /dev/stdin </dev/null && echo 300 >/proc/self/oom_score_adj && : >/dev/stderr && script -qc 'tty' /dev/null"
    if not tty:
        assert shell(script).stdout.startswith("1\n/dev/pts/")
        return
    with ramet.Popen(["sh", "-c", script + " && stty size"], tty=True) as one:
        assert one.wait(60) == 0


def test_signals_end_at_the_sandbox():
    """With the caller's pid namespace the payload sees the caller's processes and can't signal them; without Landlock it can."""
    kept = Sandbox().namespaces - {Namespace.PID}
    with subprocess.Popen(["sleep", "60"], user=65533 if os.geteuid() == 0 else None, group=None) as other:
        try:
            code = f"import os; os.kill({other.pid}, 0); print('reached')"
            assert "PermissionError" in python(code, namespaces=kept).stderr
            assert python(code, namespaces=kept, landlock=False).stdout == "reached\n"
            assert (
                "reached"
                in python(
                    "import os, time; p = os.fork() or time.sleep(9); os.kill(p, 9); print('reached')", namespaces=kept
                ).stdout
            )
        finally:
            other.kill()


def test_ports():
    """With the caller's network, TCP ports that are not listed are closed; those that are listed are open."""
    kept = Sandbox().namespaces - {Namespace.NET}
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [server.getsockname()[1] for server in (one, two)]
        code = f"""
import socket
for port in {ports}:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        print("reached")
    except OSError as error:
        print(error.strerror)
try:
    socket.socket().bind(("127.0.0.1", 0))
    print("bound")
except OSError as error:
    print(error.strerror)
"""
        fenced = python(code, namespaces=kept, landlock=Landlock(connect=ports[:1], bind=()))
        assert fenced.stdout.splitlines() == ["reached", "Permission denied", "Permission denied"], fenced.stderr
        assert python(code, namespaces=kept).stdout.splitlines() == ["reached", "reached", "bound"]


UNSEEN = """
import errno, socket
listener = socket.create_server(("127.0.0.1", 0))
where = listener.getsockname()
def plainly(): socket.create_connection(where)
def fast(): socket.socket().sendto(b"x", socket.MSG_FASTOPEN, where)
def fast_message(): socket.socket().sendmsg([b"x"], [], socket.MSG_FASTOPEN, where)
def by_paths(): socket.socket(proto=socket.IPPROTO_MPTCP).connect(where)
for way in (plainly, fast, fast_message, by_paths):
    try:
        way()
        print("reached")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


def test_ways_to_connect_that_landlock_does_not_see():
    """Beside ports that may be connected to, MSG_FASTOPEN and MPTCP lead to no other; with the filter off they do, past Landlock."""
    only_one = Landlock(connect=(1,))
    fenced, unfiltered = (python(UNSEEN, landlock=only_one, seccomp=name) for name in ("default", "none"))
    assert fenced.stdout.split() == ["EACCES", "ENOTSUP", "ENOTSUP", "EPERM"], fenced.stderr
    assert unfiltered.stdout.split()[0] == "EACCES"
    known = {"EACCES", "ENOTSUP", "ENOPROTOOPT", "EPROTONOSUPPORT"}  # a Landlock that sees it, or a kernel without it
    assert all(word == "reached" or word in known for word in unfiltered.stdout.split()[1:]), unfiltered.stdout
    assert python(UNSEEN).stdout.split()[:3] == ["reached"] * 3


def test_who_may_mount_may_mount():
    """With nested_namespaces the payload can mount in namespaces of its own, so there is no wall for files, and protections say so."""
    script = "unshare -Urm sh -c 'mount -t tmpfs none /tmp && echo mounted'"
    result = shell(script, nested_namespaces=True)
    assert result.stdout == "mounted\n", result.stderr
    found = next(one for one in result.protections if one.name == "landlock")
    assert found.state == "degraded" and "mount" in found.fact
    with pytest.raises(SpecError, match="exclude each other"):
        Sandbox(landlock=True, nested_namespaces=True)


# What a kernel lacks


def plan_with(abi, **fields):
    return compile(Sandbox(**fields), facts().replace(landlock=abi), Command(("true",)))


def calls(plan):
    return [step.call for step in plan]


def state(plan, name="landlock"):
    return next((one.state, one.fact) for one in plan.protections if one.name == name)


@pytest.mark.parametrize("abi", range(8))
def test_every_version(abi):
    """Each version of the interface gets what it knows, and no more; version 1, which forbids to move files, gets none for files."""
    plan = plan_with(abi)
    creating = [step for step in plan if step.call == "landlock_create_ruleset"]
    if abi < 2:
        assert not creating and state(plan)[0] == "absent"
        return
    (step,) = creating
    attributes, size, flags = step.args
    handled = int.from_bytes(attributes[0][:8], "little")
    assert (size, len(attributes[0]), flags) == ({2: 8, 3: 8, 4: 16, 5: 16}.get(abi, 24),) * 2 + (0,)
    assert handled & REFER and bool(handled & TRUNCATE) == (abi >= 3) and handled >> 15 == (abi >= 5)
    assert state(plan)[0] == ("enforced" if abi >= 6 else "degraded")
    assert calls(plan).index("landlock_restrict_self") > calls(plan).index("pivot_root")


def test_strictness():
    """What was asked for by name and can't be had is an error that names the version; allow_degraded goes on, and protections say so."""
    for abi, fields in ((0, {"landlock": True}), (1, {"landlock": True}), (3, {"landlock": Landlock(connect=())})):
        with pytest.raises(UnsupportedError) as caught:
            plan_with(abi, **fields)
        assert ("ABI" in str(caught.value)) and "lsm=" in str(caught.value)
        plan = plan_with(abi, **fields, allow_degraded={"landlock"})
        assert state(plan)[0] == ("absent" if abi < 2 else "degraded")
    assert state(plan_with(7, landlock=False)) == ("absent", "landlock=False")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Landlock(connect=(65536,)), "Landlock.connect[0]"),
        (lambda: Landlock(bind="80"), "Landlock.bind"),
        (lambda: Landlock(read=("",)), "Landlock.read[0]"),
        (lambda: Sandbox(landlock=Landlock(read=("/srv",))), "Sandbox.landlock"),
        (lambda: Sandbox(landlock=True, namespaces=()), "Sandbox.landlock"),
        (lambda: Sandbox(landlock="yes"), "Sandbox.landlock"),
    ],
)
def test_bad_values(make, field):
    """What makes no sense is refused, and the error names the field."""
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.field == field


# The only wall


@pytest.fixture
def alone(place):
    return Sandbox.without_namespaces(place)


def test_programs_run(alone, place):
    """Without namespaces a program runs, works in its directory, and leaves what it wrote there."""
    result = shell("id -u; pwd; " + EVERYDAY.replace("$1", ".") + "echo done >left; python3 -c 'print(1)'", alone)
    assert result.ok, result.stderr
    assert result.stdout.split()[1:] == [str(place), "a", "1"]
    assert result.stdout.split()[0] != "0"
    assert (place / "left").read_text() == "done\n"


#: Nobody else's: others run these tests beside us, as another user.
IN_TMP, IN_SHM = (f"{place}/walls-here-{os.getpid()}" for place in ("/tmp", "/dev/shm"))
QUEUE = 0x77616C00 + os.getpid()
OUTSIDE = {
    "reads a file of the host": "print(open('/etc/hostname').read())",
    "lists a directory of the host": "print(os.listdir('/var'))",
    "writes to /tmp": f"open('{IN_TMP}', 'w')",
    "writes to shared memory": f"open('{IN_SHM}', 'w')",
    "signals the caller": "os.kill(os.getppid(), 0)",
    "reads the caller's environment": "print(open(f'/proc/{os.getppid()}/environ').read())",
    "changes the mode of its own user's file": "os.chmod(sys.argv[1], 0o777)",
    "changes times": "os.utime(sys.argv[1])",
    "connects by TCP": "socket.create_connection(('127.0.0.1', int(sys.argv[2])))",
    "sends by UDP": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "listens": "socket.create_server(('127.0.0.1', 0))",
    "sends by a pair of sockets": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', sys.argv[3])",
    # FS_IOC_GETFLAGS, then FS_IOC_SETFLAGS with FS_NODUMP_FL: to clear what ext4 has set there may be EOPNOTSUPP.
    "changes flags of its own user's file": """fd, flags = os.open(sys.argv[1], os.O_RDONLY), bytearray(8)
try:
    fcntl.ioctl(fd, 0x80086601, flags)
except OSError:
    flags[0] = 0  # it is the second that matters
flags[0] |= 0x40
fcntl.ioctl(fd, 0x40086602, bytes(flags))
""",
    "makes a unix socket": "socket.socket(socket.AF_UNIX)",
    "changes the caller's limits": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))",
    "changes the caller's priority": "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "makes a message queue": f"assert ctypes.CDLL(None, use_errno=True).msgget({QUEUE}, 0o1600) >= 0, os.strerror(ctypes.get_errno())",
    "makes a user namespace": "assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0, os.strerror(ctypes.get_errno())",
}


@pytest.mark.parametrize("what", OUTSIDE)
def test_nothing_outside(what, place):
    """Without namespaces the payload reaches no file, socket or process of the host; each of these works as the same user outside."""
    uid = 65533 if os.geteuid() == 0 else os.geteuid()
    mine = place / "mine"
    mine.write_text("x")
    os.chmod(mine, 0o600)
    if os.geteuid() == 0:
        os.chown(mine, uid, uid)
    scratch = place / "scratch"
    scratch.mkdir()
    os.chmod(scratch, 0o777)
    log = place / "log"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        datagrams.bind(str(log))
        os.chmod(log, 0o777)
        code = "import ctypes, fcntl, os, resource, socket, sys\n" + OUTSIDE[what]
        words = [str(mine), str(server.getsockname()[1]), str(log)]
        inside = python(code, *words, sandbox=Sandbox.without_namespaces(scratch, read=[str(place)]))
        assert inside.exit_code == 1 and ("denied" in inside.stderr or "not permitted" in inside.stderr), inside
        # The control: the same user, a parent of the same user.
        both = f"import subprocess, sys\nsys.exit(subprocess.run([sys.executable, '-I', '-S', '-c', {code!r}, *sys.argv[1:]]).returncode)"
        try:
            control = subprocess.run(
                [sys.executable, "-I", "-S", "-c", both, *words], user=uid if os.geteuid() == 0 else None, group=uid if os.geteuid() == 0 else None,
                extra_groups=[] if os.geteuid() == 0 else None, capture_output=True, text=True,
            )  # fmt: skip
        finally:
            for path in (IN_TMP, IN_SHM):
                Path(path).unlink(missing_ok=True)
            if what == "makes a message queue":
                subprocess.run(["ipcrm", "-Q", str(QUEUE)], capture_output=True)
        assert control.returncode == 0, control.stderr


def test_the_kernel_must_have_it(place):
    """A kernel whose Landlock is too old for these walls is refused, with the version named; also what is missing from the view."""
    alone = Sandbox.without_namespaces(place)
    from ramet.host.facts import facts_for

    for abi in range(6):
        with pytest.raises(UnsupportedError, match=r"Linux 6\.12"):
            compile(alone, facts_for(alone).replace(landlock=abi), Command(("true",)))
    with pytest.raises(SpecError, match="does not exist"):
        shell("true", Sandbox.without_namespaces(place / "nowhere"))


def test_it_says_what_it_is(alone):
    """Its protections name what is not there: namespaces, and an end for what the payload has started."""
    found = {one.name: one.state for one in shell("true", alone).protections}
    assert found["net namespace"] == found["pid namespace"] == "absent"
    assert found["life"] == found["files"] == "degraded"
    assert found["landlock"] == found["seccomp"] == found["nested user namespaces"] == "enforced"


def test_in_a_configuration():
    """A configuration says landlock as Python does: true, false, or a table; an unknown key is refused with the nearest one."""
    from ramet.spec.config import sandbox_from_mapping

    assert sandbox_from_mapping({"landlock": True}).landlock is True
    assert sandbox_from_mapping({"landlock": {"connect": [443], "bind": []}}).landlock == Landlock(
        connect=(443,), bind=()
    )
    table = {"namespaces": [], "landlock": {"read": ["data"], "write": ["/tmp"]}}
    assert sandbox_from_mapping(table, base="/srv").landlock == Landlock(read=("/srv/data",), write=("/tmp",))
    with pytest.raises(SpecError, match="connect") as caught:
        sandbox_from_mapping({"landlock": {"conect": [443]}})
    assert caught.value.field == "landlock.conect"


def test_on_the_command_line(place):
    """`ramet run --seccomp default+CALL` allows that call; a policy that is none is refused in the user's words."""
    command = [sys.executable, "-m", "ramet", "run", "--seccomp"]
    argv = ["--", "python3", "-c", "import ctypes; print(ctypes.CDLL(None).personality(0x0040000))"]
    said = [
        subprocess.run([*command, policy, *argv], capture_output=True, text=True).stdout
        for policy in ("default", "default+personality")
    ]
    assert said == ["-1\n", "0\n"]
    wrong = subprocess.run([*command, "defaults", *argv], capture_output=True, text=True)
    assert wrong.returncode == 125 and "--seccomp defaults" in wrong.stderr
