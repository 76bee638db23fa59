"""The filter in the kernel: each call is made inside, and once more under seccomp="none", which shows that the filter refuses it."""

import errno
import json
import os
import subprocess
import sys

import pytest

import ramet
from needs import need, only
from ramet import Namespace, Sandbox
from ramet.seccomp import library

PROBE = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def value(one):
    if one == "self":
        return os.getpid()
    return ctypes.create_string_buffer(bytes.fromhex(one)) if isinstance(one, str) else ctypes.c_ulong(one % 2**64)
for number, arguments in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    found = libc.syscall(ctypes.c_long(number), *map(value, arguments))
    print("ok" if found >= 0 else errno.errorcode[ctypes.get_errno()])
"""
KEYCTL_GET_KEYRING_ID, SESSION = 0, -3
#: Calls that succeed, or fail for another reason, where no filter is.
PROBES = {
    "keyctl": (KEYCTL_GET_KEYRING_ID, SESSION, 1),
    "add_key": (0, 0, 0, 0, 0),
    "io_uring_setup": (1, 0),
    "userfaultfd": (1,),
    "ptrace": (99, 0, 0, 0),
    "process_vm_readv": (1, 0, 0, 0, 0, 0),
    "kcmp": ("self", "self", 99, 0, 0),
    "pidfd_getfd": (-1, 0, 0),
    "name_to_handle_at": (-100, "2f00", 0, 0, 0),
    "personality": (0x0040000,),
    "unshare": (0,),
    "setns": (-1, 0),
    "get_mempolicy": (0, 0, 0, 0, 0),
    "fsopen": (0, 0xFFFF),
    "open_tree": (-1, "00", 0),
    "statmount": (0, 0, 0, 0xFFFF),
    "lsm_list_modules": (0, 0, 0xFFFF),
    "quotactl_fd": (-1, 0, 0, 0),
    "socket": (40, 1, 0),
    "socketpair": (40, 1, 0, 0),
    "ioctl": (0, 0x5412, 0),
    "clone": (0x20020000 | 0x200, 0, 0, 0, 0),
}


def inside(calls, sandbox=None, **fields):
    """What each of these calls, a list of (name, arguments), says inside."""
    words = json.dumps([(library.number(name), arguments) for name, arguments in calls])
    result = ramet.run([sys.executable, "-I", "-S", "-c", PROBE, words], sandbox, text=True, timeout=60, **fields)
    assert result.ok, result.stderr
    return result.stdout.split()


def test_refused_calls():
    """Each of these is EPERM under the default filter, and not so without one."""
    calls = list(PROBES.items())
    filtered, bare = inside(calls), inside(calls, seccomp="none")
    for (name, _), with_filter, without in zip(calls, filtered, bare, strict=True):
        if name == "get_mempolicy" or name.startswith(("lsm_", "statmount")):
            only(without != "ENOSYS", f"on a kernel that has {name}")
        assert with_filter == "EPERM", name
        if name in ("open_tree", "fsopen", "clone"):
            continue  # refused for want of a capability as well; tests/seccomp/test_profile.py has them
        assert without != "EPERM", f"{name} says EPERM without a filter too, so this shows nothing"


def test_clone3():
    """clone3 says ENOSYS, so that libc takes clone; without a filter it looks at its arguments."""
    calls = [("clone3", (0, 0))]
    assert inside(calls) == ["ENOSYS"]
    assert inside(calls, seccomp="none") == ["EINVAL"]


def test_kill():
    """With seccomp="kill" the first such call ends the process by SIGSYS, and the verdict says so; other calls go on."""
    script = (
        "import os; os.getpid(); print('here', flush=True)\nimport ctypes; ctypes.CDLL(None).unshare(0); print('there')"
    )
    killed = ramet.run([sys.executable, "-c", script], seccomp="kill", text=True, timeout=60)
    assert (killed.status, killed.stdout) == ("syscall-denied", "here\n")
    refused = ramet.run([sys.executable, "-c", script], text=True, timeout=60)
    assert (refused.status, refused.stdout) == ("exited", "here\nthere\n")


@pytest.mark.parametrize("fields", [{}, {"as_pid1": True}, {"no_new_privs": False}, {"tty": True}], ids=repr)
def test_in_force(fields):
    """However the sandbox is made, the payload and what it starts have the filter, and cannot take them off."""
    here = int(next(line for line in open("/proc/self/status") if "Seccomp_filters" in line).split()[1])
    script = "grep Seccomp_filters /proc/self/status; sh -c 'grep Seccomp_filters /proc/self/status'"
    where = {} if "tty" not in fields else {"stdin": ramet.DEVNULL}
    if "tty" in fields:
        with ramet.Popen(
            ["sh", "-c", f"({script}) >/tmp/out; test $(grep -c '[^0-9]{here + 1}$' /tmp/out) = 2"], tty=True, **where
        ) as one:
            assert one.wait(60) == 0
        return
    found = ramet.run(["sh", "-c", script], text=True, timeout=60, **fields)
    assert [int(line.split()[1]) for line in found.stdout.splitlines()] == [here + 1] * 2
    bare = ramet.run(["sh", "-c", script], text=True, seccomp="none", timeout=60, **fields)
    assert [int(line.split()[1]) for line in bare.stdout.splitlines()] == [here] * 2


def test_own_policy():
    """A policy of one's own is what the kernel holds the payload to."""
    policy = ramet.Seccomp.default().deny("getppid", errno="EDOM").allow("personality")
    assert inside([("getppid", ()), ("personality", (0x0040000,))], seccomp=policy) == ["EDOM", "ok"]
    assert inside([("getppid", ()), ("personality", (0x0040000,))]) == ["ok", "EPERM"]


def test_capability_opens_its_call():
    """With CAP_SYS_CHROOT chroot works through the filter; CAP_NET_RAW opens a packet socket."""
    calls = [("chroot", ("2f00",)), ("socket", (17, 3, 0))]
    assert inside(calls, capabilities={"SYS_CHROOT", "NET_RAW"}) == ["ok", "ok"]
    assert inside(calls) == ["EPERM", "EPERM"]


def test_shared_namespaces_are_filtered_too():
    """The filter does not hang on namespaces: with the host's network shared, AF_VSOCK is still refused."""
    kept = Sandbox().namespaces - {Namespace.NET}
    assert inside([("socket", (40, 1, 0))], namespaces=kept) == ["EPERM"]
    assert inside([("socket", (40, 1, 0))], namespaces=kept, seccomp="none") != ["EPERM"]


ENTRY_32 = r"""
#include <stdio.h>
#include <signal.h>
#include <unistd.h>
static void none(int n) { (void)n; puts("SIGSEGV"); fflush(stdout); _exit(0); }
int main(void) {
    long found;
    signal(SIGSEGV, none);
    __asm__ volatile("int $0x80" : "=a"(found) : "0"(20L) : "memory", "r8", "r9", "r10", "r11"); /* getpid there */
    printf("%d\n", (int)found);
    __asm__ volatile("syscall" : "=a"(found) : "0"(39L | 0x40000000) : "rcx", "r11", "memory"); /* getpid of x32 */
    printf("%d\n", (int)found);
    return 0;
}
"""


def test_32_bit_entry(tmp_path_factory):
    """The 32-bit entry (int 0x80) says ENOSYS to everything; without a filter it works."""
    only(os.uname().machine == "x86_64", "on x86-64")
    place = tmp_path_factory.mktemp("entry")
    (place / "entry.c").write_text(ENTRY_32)
    subprocess.run(["gcc", "-O1", "-static", "-o", place / "entry", place / "entry.c"], check=True)
    program = ramet.File("/entry", (place / "entry").read_bytes(), mode=0o755)
    filtered = ramet.run(["/entry"], mounts=[program], text=True, timeout=60).stdout.split()
    bare = ramet.run(["/entry"], mounts=[program], text=True, timeout=60, seccomp="none").stdout.split()
    need(bare[0] != "SIGSEGV", "a kernel with the 32-bit entry (CONFIG_IA32_EMULATION)")
    assert int(bare[0]) > 0
    assert filtered == [str(-errno.ENOSYS)] * 2


# What programs do


def works(argv, **fields):
    """It does with the filter what it does without one."""
    fields.setdefault("env", {"HOME": "/tmp"})
    bare = ramet.run(argv, text=True, timeout=60, seccomp="none", **fields)
    assert bare.ok, f"it fails without a filter: {bare.stderr}"
    found = ramet.run(argv, text=True, timeout=60, **fields)
    assert found.ok, f"{found}: {found.stderr}"
    return found.stdout


PYTHON = {
    "threads": "import threading\nt = [threading.Thread(target=print, args=(1,)) for _ in range(4)]\nfor x in t: x.start()\nfor x in t: x.join()",
    "asyncio": """
import asyncio
async def main():
    child = await asyncio.create_subprocess_exec("echo", "hi")
    await child.wait()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await reader.read() == b""
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)
asyncio.run(main())""",
    "subprocess": "import subprocess\nprint(subprocess.run('echo a | cat', shell=True, capture_output=True, check=True))",
    "multiprocessing": """
import multiprocessing
for kind in ("fork", "spawn", "forkserver"):
    with multiprocessing.get_context(kind).Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]""",
    "shared memory": "from multiprocessing import shared_memory as s\nm = s.SharedMemory(create=True, size=9)\nm.close()\nm.unlink()",
    "sqlite": "import sqlite3\nc = sqlite3.connect('/tmp/x')\nc.execute('pragma journal_mode=wal')\nc.execute('create table a(b)')\nc.commit()",
    "a terminal": "import pty\nassert pty.spawn(['stty', 'size']) == 0",
}


@pytest.mark.parametrize("what", PYTHON)
def test_python(what):
    """Python's own ways to run things at once, and to talk, work under the default filter."""
    works([sys.executable, "-c", PYTHON[what]])


def test_numpy():
    """numpy, with its threads, can be imported and multiplies."""
    pytest.importorskip("numpy", reason="only where numpy is installed")
    code = "import numpy\nprint((numpy.ones((300, 300)) @ numpy.ones((300, 300)))[0, 0])"
    assert works([sys.executable, "-c", code]) == "300.0\n"


SCRIPTS = {
    "gcc": "cd /tmp; printf 'int main(void) { return 0; }' >a.c; gcc -O2 -o a a.c && ./a",
    "git": "cd /tmp; git init -q r; cd r; git config user.email a@b; git config user.name a; echo x >f; git add f; git commit -qm x; git gc -q; git clone -q . ../s",
    "curl": "cd /tmp; echo hello >f; python3 -m http.server 8000 --bind 127.0.0.1 2>/dev/null & curl -sf --retry 40 --retry-delay 0 --retry-max-time 20 --retry-all-errors http://localhost:8000/f",
    "bash": "exec bash -c 'set -eo pipefail; seq 100 | sort -n | tail -1; cat <(echo sub); coproc cat; echo $!'",
    "perl": "perl -e 'use Socket; $p = fork; exit 0 unless $p; waitpid $p, 0; socketpair(A, B, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; print qx(echo ok)'",
    "make": "cd /tmp; printf 'a:\\n\\techo a >a\\nb: a\\n\\tcat a\\n' >Makefile; make -j4 b",
    "tar": "cd /tmp; mkdir d; echo x >d/f; tar czf d.tgz d; rm -r d; tar xzf d.tgz; cat d/f",
    "node": 'node -e \'const cp = require("child_process"); cp.execSync("echo hi"); new (require("worker_threads").Worker)("1", {eval: true}); require("http").createServer().listen(0, "127.0.0.1", function() { this.close() })\'',
    "java": "java -Xmx64m -version",
    "ps": "ps ax; df /; id; free; nproc; ionice true; nice true; flock /tmp/l true; mkfifo /tmp/p; setsid true; script -qc 'echo pty' /dev/null",
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_programs(what):
    """Compilers, version control, network tools, shells and language runtimes work under the default filter."""
    from shutil import which

    only(which(what), f"where {what} is installed")
    works(["sh", "-c", SCRIPTS[what]])


def test_debuggers_need_one_more_rule():
    """What looks into other processes takes a rule: LeakSanitizer, strace, gdb work with ptrace allowed, and not without."""
    probe = [("ptrace", (0, 0, 0, 0))]
    assert inside(probe) == ["EPERM"]
    assert inside(probe, seccomp=ramet.Seccomp.default().allow("ptrace", "process_vm_readv")) == ["ok"]


def test_usage_of_a_payload_that_is_traced():
    """One that asks to be traced, and stops, is seen by init twice; what it used is counted once."""
    code = (
        "import ctypes, os\nlarge = b'x' * (20 << 20)\nctypes.CDLL(None).ptrace(0, 0, 0, 0)\nos.kill(os.getpid(), {})"
    )

    def faults(signal):
        argv = [sys.executable, "-I", "-S", "-c", code.format(signal)]
        return ramet.run(argv, seccomp="none", timeout=60).usage.minor_faults

    ended, stopped = faults(9), faults(19)
    assert ended > 5000
    assert abs(stopped - ended) < ended / 4
