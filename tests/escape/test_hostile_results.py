"""What a payload writes, closes or becomes can't crash, block, fill or mislead the caller."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ramet
from needs import SLOW
from ramet.run import control

PYTHON = [sys.executable, "-I", "-c"]
FUZZ = 2000 if SLOW else 300


def payload(program, **more):
    more.setdefault("timeout", 30)
    return ramet.run([*PYTHON, program], **more)


def test_flood_of_both_streams():
    """A payload that writes without end into both streams gets as much room as `output` says, and the caller keeps no more."""
    flood = "import os, threading\nfor fd in (1, 2): threading.Thread(target=lambda fd=fd: [os.write(fd, b'x' * 65536) for _ in range(400)]).start()"
    result = payload(flood, output="1M")
    assert (len(result.stdout), len(result.stderr)) == (1 << 20, 1 << 20)
    assert sorted(result.truncated) == ["stderr", "stdout"]
    assert result.ok


def test_flood_can_end_the_payload():
    """With output_action="kill" the flood is its end, long before the time limit."""
    result = payload("import os\nwhile True: os.write(1, b'x' * 65536)", output="1M", output_action="kill")
    assert result.status == "output-limit" and len(result.stdout) == 1 << 20


def test_reads_no_input():
    """A payload that never reads its input does not block a caller that has much of it."""
    assert payload("import time; time.sleep(0.1)", input=b"x" * (8 << 20)).ok


def test_closes_every_descriptor_and_goes_on():
    """A payload that closes all its descriptors is still waited for, and its exit code is its own."""
    start = time.monotonic()
    result = payload("import os, time\nos.closerange(0, 1024)\ntime.sleep(0.4)\nos._exit(7)")
    assert result.exit_code == 7 and time.monotonic() - start >= 0.4


def test_leaves_children_that_hold_the_streams():
    """Children that outlive the payload and hold its stdout are ended with it, so nobody waits for them."""
    result = payload("import os, time\nif os.fork() == 0: time.sleep(1000)\nprint('done')")
    assert (result.stdout, result.status, result.exit_code) == (b"done\n", "exited", 0)


@pytest.mark.parametrize("output", [b"\xff\xfe\xe2\x82", b"half of a euro sign: \xe2\x82", b"\0\0\0", b"\xed\xa0\x80"])
def test_bytes_that_are_no_text(output):
    """With text=True, bytes that are no UTF-8 arrive replaced or escaped, and raise nothing; without it, as they are."""
    program = f"import os; os.write(1, {output!r}); os.write(2, {output!r})"
    assert payload(program).stdout == output
    told = payload(program, text=True)
    assert isinstance(told.stdout, str) and told.ok
    told.stdout.encode("utf-8", "surrogateescape")
    assert told.to_mapping()["stdout"] is not None


@pytest.mark.parametrize("code", [0, 1, 124, 125, 126, 127, 128 + 9, 255])
def test_exit_codes_that_mean_something_to_us(code):
    """A payload that exits with what ramet or a shell would say does not pass for that: the status says exited."""
    result = payload(f"import os; os._exit({code})")
    assert (result.status, result.exit_code, result.signal) == ("exited", code, None)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGXCPU", "SIGXFSZ", "SIGTERM", "SIGABRT"])
def test_signals_that_mean_something_to_us(name):
    """A payload that ends itself by the signal of a limit has not hit that limit."""
    result = payload(
        f"import os, signal; signal.signal(signal.{name}, 0) if '{name}' != 'SIGKILL' else 0; os.kill(os.getpid(), signal.{name})"
    )
    assert (result.status, result.limits_hit) == ("signaled", ())


#: Of init's report: its bytes, and the numbers behind the first two.
SIZE, COUNTS = control.MESSAGE.size, len(control.Message._fields) - 2


def test_says_that_it_was_out_of_memory():
    """Words on stderr are no verdict: "Killed", "out of memory", a report in init's form."""
    words = b"Killed\nramet: out of memory\n" + control.MESSAGE.pack(9, 1, *[2**62] * COUNTS)
    result = payload(f"import os; os.write(2, {words!r})")
    assert (result.status, result.limits_hit, result.ok) == ("exited", (), True)


def test_init_can_not_be_signalled():
    """No signal from inside ends, stops or confuses pid 1: each of them is sent, and the report comes."""
    program = """
import os
refused = 0
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        refused += 1
print("alive", flush=True)
os._exit(3)
"""
    result = payload(program)
    assert (result.stdout, result.exit_code, result.status) == (b"alive\n", 3, "exited")


def test_control_socket_is_out_of_reach():
    """init's control socket is not among the payload's descriptors, nor to be had by /proc, pidfd_getfd or ptrace."""
    program = """
import os, stat
print([fd for fd in range(64) if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISSOCK(os.fstat(fd).st_mode)])
try:
    print(os.listdir("/proc/1/fd"))
except OSError as error:
    print(type(error).__name__)
"""
    assert payload(program).stdout == b"[]\nPermissionError\n"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert payload(program, stdin=theirs).stdout.startswith(b"[0]\n")  # the control: a socket would be seen


def reports(seed):
    """Messages that init would never send: short, long, empty, random, and with numbers at every edge."""
    chance = random.Random(seed)
    edges = [0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]
    for _ in range(FUZZ):
        if chance.random() < 0.5:
            yield chance.randbytes(chance.choice([0, 1, 4, 8, SIZE - 1, SIZE, SIZE + 1, 200]))
        else:
            small = [max(-(2**31), min(2**31 - 1, chance.choice(edges))) for _ in range(2)]
            yield control.MESSAGE.pack(*small, *(chance.choice(edges) for _ in range(COUNTS)))


def test_any_message_on_the_control_socket():
    """If a payload could write to the control socket: whatever it sends is a report or none, and raises nothing."""
    from ramet.run.result import Ending, usage_of

    seed = random.randrange(2**32)
    understood = 0
    for message in reports(seed):
        ours, theirs = control.pair()
        try:
            control.send(theirs, message)
            os.close(theirs)
            found = control.receive(ours)
        finally:
            os.close(ours)
        if found is None:
            continue
        understood += 1
        ending = Ending.from_init(found)
        code = ending.exit_code if ending.exit_code is not None else -ending.signal
        assert -127 <= code <= 255, f"seed {seed}"
        assert usage_of(found, None, 1.0).to_mapping(), f"seed {seed}"
    assert FUZZ / 4 < understood < FUZZ


STEER = "\x1b]0;owned\x07\x1b[2J\x1b[31mroot\x1b[0m\rfine\x9b31m\u202eevil\n"


@pytest.fixture
def ramet_says(tmp_path):
    def ramet_says(*argv, **more):
        done = subprocess.run(
            [sys.executable, "-m", "ramet", *argv], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, **more
        )
        return done.returncode, done.stdout, done.stderr

    return ramet_says


def steers(said):
    """Is there anything in it that a terminal would obey, but for newlines?"""
    text = said.decode("utf-8", "replace")
    return [c for c in text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c == "\u202e")]


@pytest.mark.parametrize("where", ["command", "option", "bind", "workdir", "subject", "config"])
def test_names_in_messages_are_shown_escaped(ramet_says, where):
    """Whatever name a message of the command quotes, no terminal is steered by it, and no line is forged."""
    words = {
        "command": ["run", STEER],
        "option": ["run", f"--{STEER}", "true"],
        "bind": ["run", "--bind", f"/{STEER}", "true"],
        "workdir": ["run", "--workdir", f"/{STEER}", "true"],
        "subject": ["explain", STEER],
        "config": ["run", "--config", STEER, "true"],
    }[where]
    code, out, err = ramet_says(*words)
    assert code in (125, 126, 127)
    assert b"owned" in err, "the message quotes the name"
    assert steers(out) == steers(err) == []


def test_names_in_a_plan_are_shown_escaped(ramet_says):
    """A plan shows names of files and arguments escaped, as strace does."""
    code, out, err = ramet_says("plan", "--env", f"A={STEER}", "true", STEER)
    assert code == 0 and b"owned" in out
    assert steers(out) == steers(err) == []


#: A process names itself by these two: 15 bytes that `ps` shows by default, and a whole command line.
SHORT, LONG = "\x1b[2J\nowned", STEER.replace("\n", "\n4026531840 net forged\n")
NAMED = """
import ctypes, os, sys, time
if len(sys.argv) < 3:
    os.execv(sys.executable, [sys.argv[1], "-I", "-c", os.environ["PROGRAM"], "again", "again"])
ctypes.CDLL(None).prctl(15, os.environb[b"SHORT"], 0, 0, 0)
print("named", flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def named():
    """The pid of a process in a sandbox that has named itself so."""
    env = {"PROGRAM": NAMED, "SHORT": SHORT}
    box = ramet.Popen([*PYTHON, NAMED, LONG], stdin=ramet.DEVNULL, stdout=ramet.PIPE, env=env)
    assert box.stdout.readline() == b"named\n"
    children = Path(f"/proc/{box.pid}/task/{box.pid}/children").read_text().split()
    yield next(int(pid) for pid in [str(box.pid), *children] if "owned" in Path(f"/proc/{pid}/comm").read_text())
    box.kill()
    box.wait()
    box.close()


@pytest.mark.parametrize(
    "words",
    [
        *(["ps", "{net}"], ["ps", "-l", "{net}"], ["ps", "{pid}"], ["tree"], ["tree", "-l"], ["explain", "{pid}"]),
        *(["explain", "{pid}", "self"], ["ps", "--json", "{net}"], ["tree", "--json"]),
    ],
    ids=" ".join,
)
def test_names_of_processes_are_shown_escaped(ramet_says, named, words):
    """`ramet ps`, tree and explain show a process that named itself after a terminal's commands, and are not steered; nor
    does its name make a line of its own."""
    net = os.stat(f"/proc/{named}/ns/net").st_ino
    code, out, _ = ramet_says(*(word.format(pid=named, net=net) for word in words))
    assert code == 0 and b"owned" in out
    assert steers(out) == []
    assert not [line for line in out.decode().splitlines() if line.startswith(("owned", "4026531840 net forged"))]


def test_output_goes_through_as_it_is(ramet_says):
    """The control: what the payload itself prints is passed on byte for byte; it is data."""
    _, out, _ = ramet_says("run", "printf", r"\033[31m")
    assert out == b"\x1b[31m"


def test_results_quote_the_command(launch):
    """str() of a result and of an error quote the command's name."""
    with pytest.raises(ramet.CommandError) as caught:
        launch([STEER])
    assert steers(str(caught.value).encode()) == []
    result = launch(["bash", "-c", "exit 1"])
    assert steers(str(result).encode()) == []


def hands_over_a_socket_that_lingers(seconds):
    """A function's work: put a connected TCP socket with unsent bytes into every unix socket that it has, set to linger."""
    import array
    import os
    import socket
    import struct

    server = socket.create_server(("127.0.0.1", 0))
    lingering = socket.create_connection(server.getsockname())
    peer = server.accept()[0]
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    said = struct.unpack("ii", lingering.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    lingering.setblocking(False)
    try:
        while True:
            lingering.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    if not seconds:
        return said
    for fd in range(3, 64):
        try:
            end = socket.socket(fileno=os.dup(fd))
        except OSError:
            continue
        if end.family == socket.AF_UNIX:
            for one in (peer, lingering):  # the other end closes last, so what is unsent stays so
                end.sendmsg([b"j"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))])
    os._exit(3)


def test_hands_over_a_socket_that_lingers():
    """A function can't make the caller wait for an hour by sending it a socket with SO_LINGER, which whoever closes it last waits
    for: the filter keeps the option from being set. Without the filter it is."""
    with pytest.raises((ramet.ResultError, ramet.ExitError)):
        ramet.isolated(hands_over_a_socket_that_lingers, timeout=60)(3600)
    set_to = [ramet.isolated(hands_over_a_socket_that_lingers, seccomp=name)(0) for name in ("default", "none")]
    assert [on for on, _ in set_to] == [0, 1]
