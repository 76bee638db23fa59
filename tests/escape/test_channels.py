"""Channels that namespaces leave open, each closed or named; and what must not stay behind."""

import ctypes
import fcntl
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from probed import GROUPS, probes_of

import ramet
from needs import as_root
from ramet import Bind, Sandbox

SECURITY = (Path(__file__).parents[2] / "SECURITY.md").read_text()
PYTHON = [sys.executable, "-I", "-c"]
LEFT = {name: probe for group in GROUPS for name, probe in probes_of(group).items() if probe.left}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_open_is_named(name):
    """What a probe gets through the default sandbox, SECURITY.md names."""
    assert LEFT[name].left in SECURITY


def test_every_group_has_probes():
    """There are at least sixty probes, each with a sentence, and few that get through."""
    assert sum(len(probes_of(group)) for group in GROUPS) >= 60
    assert all(probe.__doc__ for group in GROUPS for probe in probes_of(group).values())
    assert len(LEFT) <= 4


IPC = """
import ctypes
libc = ctypes.CDLL(None)
print(libc.shmget({key}, 4096, 0o1666), libc.semget({key}, 1, 0o1666), libc.msgget({key}, 0o1666))
"""


def test_system_v_objects_left_behind():
    """What a payload makes of System V goes with it; the next sandbox and the host have nothing of that key."""
    key = int.from_bytes(os.urandom(3), "little") + 1
    made = ramet.run([*PYTHON, IPC.format(key=key)], text=True, check=True)
    assert all(int(word) >= 0 for word in made.stdout.split())
    libc = ctypes.CDLL(None)
    assert (libc.shmget(key, 0, 0), libc.semget(key, 0, 0), libc.msgget(key, 0)) == (-1, -1, -1)
    again = ramet.run([*PYTHON, IPC.format(key=key).replace("0o1666", "0o666")], text=True, check=True)
    assert again.stdout.split() == ["-1", "-1", "-1"]


def test_zombies_left_behind():
    """Orphans that end are reaped: a payload with a thousand of them soon sees none, and can go on starting more; one of its own, for which
    it has not waited, it sees."""
    program = """
import os, time
for _ in range(1000):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
def state(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""
def zombies():
    return [state(pid) for pid in os.listdir("/proc") if pid.isdigit()].count("Z")
own = os.fork() or os._exit(0)
while state(own) != "Z":
    time.sleep(0.001)
while zombies() > 1:  # init has them, and needs a moment
    time.sleep(0.001)
os.wait()
print(zombies())
"""
    assert ramet.run([*PYTHON, program], text=True, timeout=50, check=True).stdout == "0\n"


@pytest.fixture
def terminal():
    """A terminal, as a caller has one: ours, and the end that programs get."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


TIOCSTI = 0x5412
TYPE = """
import fcntl
for fd in (0, 1, 2):
    for request in (0x5412, 0x5412 | 1 << 32):
        try:
            fcntl.ioctl(fd, request & 0xFFFFFFFF, b"#")
            print("typed", flush=True)
        except OSError as error:
            print(error.strerror, flush=True)
"""


def waiting(fd):
    """How many bytes of input wait in a terminal that is in raw mode."""
    buffer = bytearray(4)
    fcntl.ioctl(fd, termios.FIONREAD, buffer)
    return int.from_bytes(buffer, sys.byteorder)


def test_cve_2017_5226_into_a_terminal_that_was_given(terminal):
    """A terminal that the caller gives as stdin can't be typed into by the payload: it is not its controlling terminal, and
    the filter refuses TIOCSTI even so. Typed into by who may, it has the byte."""
    _, theirs = terminal
    attributes = termios.tcgetattr(theirs)
    attributes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    for box in (Sandbox(), Sandbox(tty=False, seccomp="none")):
        assert "typed" not in ramet.run([*PYTHON, TYPE], box, stdin=theirs, text=True).stdout
        assert waiting(theirs) == 0
    if os.geteuid() == 0:
        fcntl.ioctl(theirs, TIOCSTI, b"#")
    else:
        control = "import fcntl, os; fcntl.ioctl(0, 0x540E, 0); fcntl.ioctl(0, 0x5412, b'#')"
        subprocess.run([*PYTHON, control], stdin=theirs, start_new_session=True, check=True)
    assert waiting(theirs) == 1


def test_a_terminal_of_its_own_can_not_be_typed_into(tmp_path):
    """With tty=True too, the filter refuses to type into the sandbox's own terminal, whose other end the caller reads;
    without the filter it can."""
    program = "import fcntl, os\ntry: fcntl.ioctl(0, 0x5412, b'#'); os._exit(5)\nexcept OSError: os._exit(6)"
    codes = []
    for seccomp in ("default", "none"):
        process = ramet.Popen([*PYTHON, program], tty=True, seccomp=seccomp)
        codes.append(process.wait(30))
        process.close()
    assert codes == [6, 5]


TOUCH = "import os\nfor n in ('null', 'zero', 'full', 'urandom'):\n  try: os.utime('/dev/' + n); print('touched', n)\n  except OSError as e: print(e.strerror)"


def test_devices_of_the_host_can_not_be_touched():
    """The host's /dev/null and its like can't be touched and keep their times, and can still be written to."""
    names = ("zero", "full", "urandom")  # /dev/null itself everybody may touch meanwhile, as probes do outside
    before = [os.stat(f"/dev/{name}").st_mtime_ns for name in names]
    said = ramet.run([*PYTHON, TOUCH], text=True, check=True).stdout.splitlines()
    assert said == ["Read-only file system"] * 4
    assert [os.stat(f"/dev/{name}").st_mtime_ns for name in names] == before
    wrote = "open('/dev/null', 'w').write('x'); open('/dev/zero', 'r+b', 0).write(b'x'); print(open('/dev/zero', 'rb').read(2))"
    assert ramet.run([*PYTHON, wrote], text=True, check=True).stdout == "b'\\x00\\x00'\n"


@pytest.fixture
def shared(tmp_path_factory):
    """A file in a directory that others may enter."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="escape-shared-", dir="/var/tmp"))
    folder.chmod(0o755)
    (folder / "file").write_text("shared")
    (folder / "file").chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def test_access_times_of_shared_files(shared):
    """Reading a file that is bound read-only leaves no trace in its access time; bound writable, it does."""
    file = shared / "file"
    os.utime(file, (1, 2))  # relatime: older than the last change, so any read would set it
    ramet.run(["cat", str(file)], mounts=[Bind(shared)], check=True)
    assert os.stat(file).st_atime == 1
    ramet.run(["cat", str(file)], mounts=[Bind(shared, writable=True)], check=True)
    assert os.stat(file).st_atime > 2


def test_the_control_locks_on_shared_files(shared):
    """flock(2) on a file that is bound read-only does block others, as SECURITY.md says; nobody who does not share it."""
    program = f"import fcntl, os\nf = open('{shared}/file')\nfcntl.flock(f, fcntl.LOCK_EX)\nprint('locked', flush=True)\ninput()"
    box = ramet.Popen([*PYTHON, program], mounts=[Bind(shared)], stdin=ramet.PIPE, stdout=ramet.PIPE)
    try:
        assert box.stdout.readline() == b"locked\n"
        with open(shared / "file") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        box.kill()
        box.wait()
        box.close()
    with open(shared / "file") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@as_root
def test_file_capabilities(shared):
    """A program with file capabilities in a directory that is bound gives none; outside, an ordinary user gets them."""
    program = shared / "program"
    program.write_bytes(Path(os.path.realpath("/usr/bin/cat")).read_bytes())
    program.chmod(0o755)
    # struct vfs_cap_data, revision 2, effective: CAP_NET_RAW permitted
    os.setxattr(
        program, "security.capability", (0x02000001).to_bytes(4, "little") + (1 << 13).to_bytes(4, "little") + bytes(12)
    )
    inside = ramet.run([str(program), "/proc/self/status"], mounts=[Bind(shared)], text=True)
    assert status_lines(inside.stdout) == ["0000000000000000"] * 2
    outside = subprocess.run(
        [program, "/proc/self/status"], user=65000, group=65000, extra_groups=[], capture_output=True, text=True
    )
    assert status_lines(outside.stdout) == ["0000000000002000"] * 2


def status_lines(text):
    return [line.split()[1] for line in text.splitlines() if line.startswith(("CapPrm", "CapEff"))]


@as_root
def test_set_uid_program_in_a_bind(shared):
    """A set-uid root program in a directory that is bound stays the payload; outside it becomes root."""
    program = shared / "program"
    program.write_bytes(Path(os.path.realpath("/usr/bin/id")).read_bytes())
    program.chmod(0o4755)
    inside = ramet.run([str(program), "-u"], mounts=[Bind(shared)], text=True, check=True)
    assert inside.stdout == "1000\n"
    outside = subprocess.run([program, "-u"], user=65000, group=65000, extra_groups=[], capture_output=True, text=True)
    assert outside.stdout == "0\n"


@as_root
def test_supplementary_groups():
    """A root caller's supplementary groups are dropped, so what only they may read stays closed; a plain child keeps them."""
    program = """
import os, sys, ramet
os.setgroups([64123])
look = [sys.executable, "-I", "-c", "import os; print(64123 in os.getgroups(), 65534 in os.getgroups())"]
print(ramet.run(look, text=True).stdout.strip(), flush=True)
os.execv(look[0], look)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False False", "True False"]


def test_output_in_a_file_can_not_be_read_back(shared):
    """A file given as stdout can't be opened again by the payload, to read or cut what others wrote, where Landlock stands;
    with a pipe, as run gives it, there is nothing to open."""
    program = "import os\nfor flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC):\n  try: os.open('/proc/self/fd/1', flags); os.write(2, b'opened ')\n  except OSError as e: os.write(2, b'refused ')"
    path = shared / "log"
    said = {}
    for landlock in (None, False):
        path.write_text("what others wrote\n")
        path.chmod(0o666)
        with open(path, "a") as log:
            said[landlock] = ramet.run([*PYTHON, program], stdout=log, text=True, landlock=landlock).stderr.split()
        if landlock is None:
            assert path.read_text() == "what others wrote\n"
    assert said == {None: ["refused", "refused"], False: ["opened", "opened"]}


GIVEN = """
import fcntl, os
acts = {
    "cut": lambda: os.ftruncate(1, 0),
    "flags": lambda: fcntl.fcntl(1, fcntl.F_SETFL, os.O_NONBLOCK),
    "mode": lambda: os.fchmod(1, 0o640),
    "times": lambda: os.utime(1, (1, 1)),
}
for name, act in acts.items():
    try:
        act()
        os.write(2, name.encode() + b" ")
    except OSError:
        pass
"""


def test_a_file_that_is_given_is_the_payloads(shared):
    """SECURITY.md says so: by a file given as stdout the payload cuts it short, whatever O_APPEND was for, sets the flags that the caller's
    own descriptor shares, and the mode and times of a file whose owner it is outside. Where the caller has a pipe and writes what
    comes into the file, it does none of that."""
    path = shared / "log"
    if os.geteuid() == 0:
        path.touch()
        os.chown(path, 65533, 65533)
    for given in (True, False):
        path.write_text("what others wrote\n")
        os.chmod(path, 0o600)
        with open(path, "ab", buffering=0) as log:
            result = ramet.run([*PYTHON, GIVEN], stdout=log if given else ramet.PIPE, check=True)
            log.write(result.stdout or b"")
            found = (path.read_text(), os.stat(path).st_mode & 0o777, fcntl.fcntl(log, fcntl.F_GETFL) & os.O_NONBLOCK)
        if given:
            assert result.stderr.split() == [b"cut", b"flags", b"mode", b"times"]
            assert found == ("", 0o640, os.O_NONBLOCK)
        else:
            assert found == ("what others wrote\n", 0o600, 0)
    assert "its length, mode, times, flags and locks" in SECURITY


def test_set_uid_files_in_a_writable_bind(shared):
    """SECURITY.md says so: what the payload makes set-uid in a writable bind is set-uid its owner outside, who is the caller where that is no
    root; in a bind that is not writable it makes nothing."""
    place = shared / "place"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, 65533, 65533)
    make = ["sh", "-c", f"cp /bin/true {place}/made && chmod 4755 {place}/made"]
    assert not ramet.run(make, mounts=[Bind(place)]).ok
    assert list(place.iterdir()) == []
    ramet.run(make, mounts=[Bind(place, writable=True)], check=True)
    found = os.stat(place / "made")
    assert (found.st_mode & 0o7777, found.st_uid) == (0o4755, os.geteuid() or 65533)
    assert "set-uid is set-uid its owner" in SECURITY


def test_the_callers_null_device():
    """SECURITY.md says so: /dev/null as stdin is the caller's own descriptor, in whose mount everybody may set its times; what the payload
    opens as /dev/null lies in a mount that is read-only."""
    program = "import os\nprint(*(bool(os.statvfs(what).f_flag & os.ST_RDONLY) for what in (0, '/dev/null')))"
    assert ramet.run([*PYTHON, program], text=True, check=True).stdout == "False True\n"
    assert "times of the caller's /dev/null" in SECURITY
