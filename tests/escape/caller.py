"""A caller with everything wrong: forgotten descriptors, a terminal, a key, groups, signals blocked and ignored, umask 0. It runs
probes, one for each line of its stdin: [where, probe, fields].
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import ramet

PROBES = Path(__file__).parent / "probes"
KEYCTL_JOIN_SESSION_KEYRING, SESSION = 1, -3
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
TIOCSCTTY = 0x540E
world = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)

#: One program for all probes; argv: their text, and a name; stdin: the world, which would be seen among the arguments.
PROGRAM = """
import json, sys, types
sources, name, world = json.loads(sys.argv[1]), sys.argv[2], json.load(sys.stdin)
probing = types.ModuleType("probing")
sys.modules["probing"] = probing
exec(sources[0], probing.__dict__)
exec(sources[1], {"__name__": "probes"})
probing.main(name, world)
"""
FILES = {
    name: [(PROBES / "probing.py").read_text(), path.read_text()]
    for path in sorted(PROBES.glob("*.py"))
    for name in [line[4:].split("(")[0] for line in path.read_text().splitlines() if line.startswith("def ")]
}


def get_dirty():
    """Everything that a payload could inherit, and should not."""
    if os.geteuid() == 0:
        os.setgroups([world["group"]])
    fcntl.ioctl(2, TIOCSCTTY, 0)
    for path in ("/", world["secret_file"], os.path.dirname(world["secret_file"])):
        os.set_inheritable(os.open(path, os.O_RDONLY), True)
    libc.syscall(KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)
    secret = world["secret"].encode()
    if libc.syscall(ADD_KEY, b"user", world["key"].encode(), secret, len(secret), SESSION) < 0:
        raise OSError(ctypes.get_errno(), "add_key")
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.umask(0)
    world["session"] = os.getsid(0)
    with open("/proc/self/cgroup") as file:
        world["cgroup"] = next((line for line in file.read().split("\n") if line and not line.endswith(":/")), "0::/")


def command(python, probe):
    return [python, "-I", "-c", PROGRAM, json.dumps(FILES[probe]), probe]


def outside(argv, **more):
    """As a plain child: what the caller has, it has. stdout is a log that others have written to."""
    with tempfile.TemporaryFile() as log:
        log.write(world["secret"].encode() + b"\n")
        log.flush()
        try:
            done = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, close_fds=False)
            done.communicate(json.dumps({**world, **more}).encode(), 30)
        except OSError as error:
            return str(error)
        except subprocess.TimeoutExpired:
            done.kill()
            return "it has not ended in 30 s"
        log.seek(0)
        return log.read().decode(errors="replace")


def in_ramet(argv, fields):
    result = ramet.run(argv, timeout=60, text=True, input=json.dumps(world), **fields)
    return f"{result.stdout}\n{result}: {result.stderr[-300:]}"


#: As its manual and its users have it.
BUBBLEWRAP = [
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
    "--setenv",
    "PATH",
    "/usr/bin:/bin",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/sbin",
    "/sbin",
    "--ro-bind",
    "/etc/ld.so.cache",
    "/etc/ld.so.cache",
    "--ro-bind-try",
    "/etc/alternatives",
    "/etc/alternatives",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--chdir",
    "/",
]


def bubblewrap(probe):
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    prefix = [] if python.startswith("/usr/") else ["--ro-bind", sys.base_prefix, sys.base_prefix]
    # With SIGCHLD ignored it would wait for ever (bubblewrap#705).
    return outside(["env", "--default-signal=CHLD", "bwrap", *BUBBLEWRAP, *prefix, "--", *command(python, probe)])


def run(where, probe, fields):
    if where == "outside":
        said = outside(command(sys.executable, probe), init=world["pid"])
    elif where == "bubblewrap":
        said = bubblewrap(probe)
    else:
        said = in_ramet(command(sys.executable, probe), fields)
    for line in said.splitlines():
        if line.startswith("probe says "):
            return json.loads(line.removeprefix("probe says "))
    return {"could": None, "how": "no answer: " + said[-600:]}


get_dirty()
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(run(*json.loads(line))), flush=True)
