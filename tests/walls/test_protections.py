"""What a result and a plan say of the walls, held against what the payload sees of them."""

import ctypes
import os
import subprocess
import sys

import pytest

import ramet
from needs import as_root, as_user, need, only
from ramet import Bind, Landlock, Namespace, Rootfs, Sandbox, Seccomp
from ramet.host.facts import facts


def shell(script, sandbox=None, **fields):
    return ramet.run(["sh", "-c", script], sandbox, text=True, timeout=60, **fields)


def found(source):
    return {one.name: one for one in source.protections}


def states(source):
    return {one.name: one.state for one in source.protections}


def test_the_default():
    """Everything is enforced by default, but what an ordinary user can't have; result and plan say the same."""
    need(facts().landlock >= 6, "Landlock with ABI 6 (Linux 6.12)")
    result = ramet.run(["true"])
    weak = {name for name, state in states(result).items() if state != "enforced"}
    assert weak == (set() if os.geteuid() == 0 else {"supplementary groups"})
    assert result.protections == Sandbox().plan(["true"]).protections
    with ramet.Popen(["true"]) as process:
        assert process.plan.protections == result.protections
    assert len(result.protections) == 17 and all(one.fact for one in result.protections)


@pytest.mark.parametrize("kind", [kind for kind in Namespace if kind is not Namespace.TIME])
def test_namespaces(kind):
    """A namespace is enforced exactly where the payload is in another one than the caller."""
    if kind is Namespace.USER:
        only(os.geteuid() == 0, "as root")
    link = f"/proc/self/ns/{kind.value}"
    for namespaces in (Sandbox().namespaces, Sandbox().namespaces - {kind}):
        result = shell(f"readlink {link}", namespaces=namespaces)
        inside = result.stdout.strip()
        assert (inside != os.readlink(link)) == (states(result)[f"{kind.value} namespace"] == "enforced"), result.stderr


@pytest.mark.parametrize(
    ("name", "fields", "state"),
    [
        ("seccomp", {}, "enforced"),
        ("seccomp", {"seccomp": "none"}, "absent"),
        ("seccomp", {"seccomp": Seccomp.default().allow("ptrace")}, "enforced"),
        ("landlock", {"landlock": False}, "absent"),
        ("capabilities", {"capabilities": {"NET_RAW"}}, "degraded"),
        ("no_new_privs", {"no_new_privs": False}, "absent"),
        ("nested user namespaces", {"nested_namespaces": True}, "absent"),
        ("keyrings", {"seccomp": "none"}, "degraded"),
        ("keyrings", {"seccomp": Seccomp.default()}, "enforced"),
        ("keyrings", {"seccomp": Seccomp.default().allow("keyctl")}, "degraded"),
        ("session", {"new_session": False}, "absent"),
        ("life", {"namespaces": Sandbox().namespaces - {Namespace.PID}}, "degraded"),
        ("files", {"mounts": [Bind("/var", writable=True)]}, "enforced"),
    ],
    ids=repr,
)
def test_states(name, fields, state):
    """Each protection that is given up is said to be."""
    plan = Sandbox(**fields).plan(["true"])
    assert states(plan)[name] == state
    if "mounts" in fields:
        assert "/var" in found(plan)[name].fact


def test_a_kept_root_is_said():
    """A root whose writes are kept is no protection of these files, and the fact names it."""
    one = found(Sandbox(rootfs=Rootfs("/usr", "kept")).plan(["true"]))["files"]
    assert one.state == "degraded" and "/usr" in one.fact


def test_they_are_printed():
    """`ramet plan`, and a plan as text and as data, end with them."""
    need(facts().landlock >= 6, "Landlock with ABI 6 (Linux 6.12)")
    plan = Sandbox(seccomp="none").plan(["true"])
    text = str(plan)
    assert text.index("protections:") > text.index("execve")
    assert '  absent    seccomp: seccomp="none"' in text and "  enforced  landlock: ABI" in text
    assert {one["name"] for one in plan.to_json()["protections"]} == set(found(plan))
    cli = subprocess.run(
        [sys.executable, "-m", "ramet", "plan", "--", "true"], capture_output=True, text=True, check=True
    )
    assert "  enforced  seccomp: the default profile" in cli.stdout


# Known values


@pytest.mark.parametrize("uid", [0, 1000])
def test_securebits(uid):
    """uid 0 means nothing inside, and that is locked; the caller's own securebits stay."""
    code = "import ctypes; libc = ctypes.CDLL(None); print(libc.prctl(27), libc.prctl(28, 0))"
    before = ctypes.CDLL(None).prctl(27)
    result = ramet.run([sys.executable, "-I", "-S", "-c", code], uid=uid, gid=uid, text=True, timeout=60)
    assert result.stdout.split() == [str(1 | 2 | 8 | 32 | 64 | 128), "-1"], result.stderr
    assert ctypes.CDLL(None).prctl(27) == before


def test_securebits_leave_kept_capabilities():
    """Capabilities that are kept go through exec for uid 0 and others, and setuid(2) takes them from who was uid 0."""
    script = "grep CapEff /proc/self/status"
    for uid in (0, 1000):
        assert shell(script, uid=uid, gid=uid, capabilities={"NET_RAW"}).stdout.split()[1] == f"{1 << 13:016x}"
    code = """
import os
def effective():
    return int(next(line for line in open("/proc/self/status") if line.startswith("CapEff")).split()[1], 16)
before = effective()
os.setresuid(1, 1, 1)
print(before, effective())
"""
    maps = [ramet.IdMapping(0, 65533), ramet.IdMapping(1, 65532)]
    only(os.geteuid() == 0, "as root")
    result = ramet.run(
        [sys.executable, "-I", "-S", "-c", code],
        uid=0,
        gid=0,
        uid_mappings=maps,
        capabilities={"SETUID"},
        text=True,
        timeout=60,
    )
    assert result.stdout.split() == [str(1 << 7), "0"], result.stderr


def keyring(**fields):
    """The serial number of the session keyring inside."""
    code = "import ctypes; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(250, 0, -3, 0), ctypes.get_errno())"
    if os.uname().machine == "aarch64":
        code = code.replace("250", "219")
    result = ramet.run([sys.executable, "-I", "-S", "-c", code], text=True, timeout=60, **fields)
    assert result.ok, result.stderr
    return result.stdout.split()


def test_session_keyring():
    """The caller's session keyring is out of reach: keyctl(2) is refused; where it is not, the session keyring is another one."""
    assert keyring() == ["-1", "1"]
    libc = ctypes.CDLL(None, use_errno=True)
    number = 219 if os.uname().machine == "aarch64" else 250
    own = libc.syscall(number, 0, -3, 0)
    need(own > 0, "a session keyring of the caller's (CONFIG_KEYS)")
    for seccomp in ("none", Seccomp.default().allow("keyctl")):
        inside, error = keyring(seccomp=seccomp)
        assert int(inside) > 0 and int(inside) != own, error
    assert libc.syscall(number, 0, -3, 0) == own


#: What a new proc has beside the processes' own directories that a payload may read: of the machine, and of nobody.
READABLE = {
    *(
        "buddyinfo",
        "cgroups",
        "cmdline",
        "consoles",
        "mounts",
        "cpuinfo",
        "crypto",
        "devices",
        "diskstats",
        "dma",
        "execdomains",
    ),
    *(
        "fb",
        "filesystems",
        "interrupts",
        "iomem",
        "ioports",
        "kallsyms",
        "key-users",
        "keys",
        "loadavg",
        "locks",
        "mdstat",
    ),
    *(
        "meminfo",
        "misc",
        "modules",
        "mtrr",
        "partitions",
        "schedstat",
        "slabinfo",
        "softirqs",
        "stat",
        "swaps",
        "uptime",
    ),
    *(
        "version",
        "vmstat",
        "zoneinfo",
        "timer_list",
        "latency_stats",
        "bootconfig",
        "allocinfo",
        "sched_debug",
        "config.gz",
    ),
}
#: Of a pid and an IPC namespace.
OWN_SYSCTLS = {
    *(f"sys/fs/mqueue/{name}" for name in ("msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max")),
    *(f"sys/kernel/{name}" for name in ("auto_msgmni", "msgmax", "msgmnb", "msgmni", "ns_last_pid", "pid_max", "sem")),
    *(f"sys/kernel/{name}" for name in ("shm_rmid_forced", "shmall", "shmmax", "shmmni", "msg_next_id", "sem_next_id")),
    "sys/kernel/shm_next_id",
}
WALK = """
import os
for place, directories, files in os.walk("/proc"):
    if place == "/proc":
        directories[:] = [one for one in directories if not one.isdigit() and one not in ("self", "thread-self")]
    for name in files:
        path = os.path.join(place, name)
        for mode, word in ((os.O_WRONLY, "written"), (os.O_RDONLY, "read")):
            try:
                os.close(os.open(path, mode | os.O_NONBLOCK))
            except OSError:
                continue
            print(word, path[6:])
"""


@pytest.mark.parametrize("uid", [0, 1000])
def test_proc(uid):
    """Of /proc nothing but the payload's own can be written to, uid 0 inside or not; what can be read is of the machine, not of others."""
    result = ramet.run([sys.executable, "-I", "-S", "-c", WALK], uid=uid, gid=uid, text=True, timeout=60)
    assert result.ok, result.stderr
    seen = [line.split(" ", 1) for line in result.stdout.splitlines()]
    # keys is /dev/null here; who is uid 0 owns the sysctls of its own IPC and pid namespace.
    written = {path for word, path in seen if word == "written"} - OWN_SYSCTLS
    assert written <= {"keys"}
    read = {path for word, path in seen if word == "read" and "/" not in path}
    assert read <= READABLE, sorted(read - READABLE)
    for name in ("kcore", "kmsg", "sysrq-trigger", "kpagecount", "kpageflags", "vmallocinfo", "pagetypeinfo"):
        assert name not in read | written


def test_keys_are_hidden():
    """/proc/keys, which tells of the user's keyrings, is empty inside and not so outside."""
    with open("/proc/keys", encoding="utf-8") as file:
        need(file.read(), "keys (CONFIG_KEYS)")
    assert shell("cat /proc/keys").stdout == ""


@pytest.mark.parametrize(
    "value", ["user.max_user_namespaces", "kernel.core_pattern", "kernel.randomize_va_space", "vm.overcommit_memory"]
)
def test_sysctls(value):
    """The sysctls that lead to the host, or to more rights, can't be changed from inside, by uid 0 there neither."""
    path = "/proc/sys/" + value.replace(".", "/")
    for uid in (0, 1000):
        result = shell(f"cat {path} >/tmp/old; cat /tmp/old >{path} && echo changed", uid=uid, gid=uid)
        assert "changed" not in result.stdout and "denied" in result.stderr


@as_user
def test_groups_of_an_ordinary_user():
    """That supplementary groups stay is said where they do."""
    assert states(ramet.run(["true"]))["supplementary groups"] == "degraded"


@as_root
def test_groups_of_root():
    """A root caller's payload has the groups that are asked for and no others."""
    result = shell("id -G")
    assert (result.stdout, found(result)["supplementary groups"].fact) == ("1000\n", "none")


def test_ports_are_said():
    """Landlock's fact names what it holds."""
    need(facts().landlock >= 6, "Landlock with ABI 6 (Linux 6.12)")
    fact = found(Sandbox(landlock=Landlock(connect=(443,))).plan(["true"]))["landlock"].fact
    assert "files" in fact and "TCP ports" in fact and "signals" in fact
