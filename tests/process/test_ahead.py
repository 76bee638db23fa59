"""Namespaces made ahead of need: each used once, by who made it, and no different from those that a sandbox makes."""

import os
import subprocess
import sys
import textwrap

import pytest

import ramet
from needs import need_mould
from ramet import IdMapping, Namespace
from ramet.run import ahead, made

LOOK = """
import os, socket
for name in ("uid_map", "gid_map", "setgroups", "status"):
    for line in open(f"/proc/self/{name}"):
        if name != "status" or line.startswith(("Cap", "Uid", "Gid", "Groups", "NoNewPrivs", "Sig", "Shd", "Seccomp:")):
            print(name, line.split())
print(open("/proc/sys/user/max_user_namespaces").read())
print(socket.gethostname(), os.listdir("/proc/self/fd"), sorted(os.listdir("/proc/1/task")))
print([(line.split()[0], line.split()[1]) for line in open("/proc/net/route")], open("/proc/net/dev").read().count(":"))
flags = open("/sys/class/net/lo/flags").read() if os.path.exists("/sys/class/net/lo") else None
with socket.socket() as server, socket.socket() as client:
    server.bind(("127.0.0.1", 0))
    server.listen()
    client.connect(server.getsockname())
    print("lo is up", flags)
"""


@pytest.fixture(autouse=True)
def nothing_kept():
    """Each test begins as in a new process, and leaves nothing."""
    ahead.forget()
    ahead._used.clear()
    ahead._refused.clear()
    yield
    ahead.forget()
    ahead._refused.clear()


#: For programs of a test's own: net() runs once, and returns the network it was in.
NET = """
import os
import ramet
held = []  # while it is open, no other namespace gets its number
def net(_=None):
    with ramet.Popen(["cat"], stdin=ramet.PIPE, stdout=ramet.PIPE) as box:
        held.append(os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY))
        box.communicate()
        return os.readlink(f"/proc/self/fd/{held[-1]}")
"""


@pytest.fixture
def python():
    """Run Python code in a process of its own, after what it needs; its standard output."""

    def run(code, before=""):
        argv = [sys.executable, "-c", before + textwrap.dedent(code)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def kept():
    """Every pair that is kept."""
    return [pair for pairs in ahead._kept.values() for pair in pairs]


@pytest.fixture
def held():
    """Descriptors of namespaces that were seen: while one is open the kernel gives its number to no other."""
    fds = []
    yield fds
    for fd in fds:
        os.close(fd)


def network(held=None, **fields):
    """Run once; the network and the user namespace it was in, and whether they were made ahead."""
    with ramet.Popen(["cat"], stdin=ramet.PIPE, stdout=ramet.PIPE, **fields) as box:
        names = [os.readlink(f"/proc/{box.pid}/ns/{kind}") for kind in ("net", "user")]
        if held is not None:
            held += [os.open(f"/proc/{box.pid}/ns/{kind}", os.O_RDONLY) for kind in ("net", "user")]
        box.communicate()
        assert box.returncode == 0
        return *names, box.plan.ahead is not None


def test_nothing_is_kept_before_the_second_run():
    """The first run of a kind leaves nothing behind; the second makes a pair, and the third is in it."""
    need_mould()
    before = len(os.listdir("/proc/self/fd"))
    assert network()[2] is False
    assert kept() == [] and len(os.listdir("/proc/self/fd")) == before
    assert network()[2] is False
    (pair,) = kept()
    assert len(os.listdir("/proc/self/fd")) == before + len(pair.inputs) + len(pair.mould.inputs)
    inodes = [os.fstat(fd).st_ino for fd in pair.inputs.values()]
    net, user, was_ahead = network()
    assert was_ahead is True
    assert {net, user} == {f"net:[{inodes[1]}]", f"user:[{inodes[0]}]"}
    del pair
    ahead.forget()
    assert len(os.listdir("/proc/self/fd")) == before


def test_pair_is_used_once(held):
    """Of thirty runs no two have the same network or user namespace, though all but two are in namespaces made ahead."""
    found = [network(held) for _ in range(30)]
    assert [was_ahead for _, _, was_ahead in found] == [False] * 2 + [True] * 28
    assert len({net for net, _, _ in found}) == len({user for _, user, _ in found}) == 30


FIELDS = {
    "default": {},
    "other ids": {"uid": 7, "gid": 8},
    "capabilities": {"capabilities": {"CAP_NET_RAW", "CAP_KILL"}},
    "as pid 1": {"as_pid1": True},
    "no init": {"namespaces": {Namespace.USER, Namespace.NET, Namespace.MOUNT}},
    "nested": {"nested_namespaces": True},
    "rights": {"no_new_privs": False, "new_session": False},
    "every namespace": {"namespaces": set(Namespace)},
}
if os.geteuid() == 0:
    LINES = [IdMapping(0, 300000, 2000)]
    FIELDS["ranges"] = {"uid_mappings": LINES, "gid_mappings": LINES, "groups": (5,)}


@pytest.mark.parametrize("name", FIELDS)
def test_run_in_a_pair_is_as_one_without(name):
    """Ids, rights, signals, descriptors, names and network are seen to be the same from inside."""
    fields = FIELDS[name]

    def look():
        with ramet.Popen(
            [sys.executable, "-I", "-c", LOOK], stdout=ramet.PIPE, stderr=ramet.PIPE, text=True, **fields
        ) as box:
            out, err = box.communicate()
            assert box.returncode == 0, err
            return out, box.plan.ahead is not None

    (first, was_ahead), _, (later, is_ahead) = look(), look(), look()
    assert (was_ahead, is_ahead) == (False, True)
    assert "lo is up" in first
    assert later == first


def test_callers_loopback_is_out_of_reach():
    """A server on the caller's loopback can't be reached from a sandbox in a pair; without a network of its own it can."""
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5); print('reached')"
        argv = [sys.executable, "-I", "-c", code]
        for _ in range(4):
            done = ramet.run(argv, text=True)
            assert done.exit_code == 1 and "ConnectionRefusedError" in done.stderr
        shared = ramet.Sandbox().namespaces - {Namespace.NET}
        assert ramet.run(argv, text=True, namespaces=shared).stdout == "reached\n"


def test_nothing_of_a_run_is_left_for_the_next():
    """What a payload leaves in its network, an address on lo, is not found by the next run."""
    script = (
        "cat /proc/net/tcp | wc -l; exec python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 4444))'"
    )
    for _ in range(4):
        assert ramet.run(["sh", "-c", script], text=True).stdout == "1\n"


def test_message_queues_are_a_runs_own(held):
    """A System V segment that one run leaves is not there for the next, which is in another IPC namespace made ahead; without one of
    its own a run has the caller's."""
    leave = (
        "import ctypes; print(ctypes.CDLL(None).shmget(4711, 4096, 0o1600))"  # IPC_CREAT: there is none, or one of ours
    )
    show = "print(len(open('/proc/sysvipc/shm').readlines()), end=''); import os; print('', os.readlink('/proc/self/ns/ipc'))"

    def look(**fields):
        with ramet.Popen(
            [sys.executable, "-I", "-c", f"{show}; {leave}"], stdout=ramet.PIPE, text=True, **fields
        ) as box:
            held.append(os.open(f"/proc/{box.pid}/ns/ipc", os.O_RDONLY))
            out, _ = box.communicate()
            return *out.split()[:2], int(out.split()[2]) >= 0, box.plan.ahead is not None

    own = os.readlink("/proc/self/ns/ipc")
    found = [look() for _ in range(5)]
    assert [(lines, left, was_ahead) for lines, _, left, was_ahead in found] == [("1", True, n > 1) for n in range(5)]
    assert len({name for _, name, _, _ in found} | {own}) == 6
    shared = ramet.Sandbox().namespaces - {Namespace.IPC}
    for n in range(3):
        with ramet.Popen(["readlink", "/proc/self/ns/ipc"], stdout=ramet.PIPE, text=True, namespaces=shared) as box:
            assert box.communicate()[0] == f"{own}\n"
            assert (box.plan.ahead is not None) == (n == 2)


def test_kits_do_not_stand_for_each_other():
    """A run of another kit makes its own namespaces while a pair of the first is kept, and leaves that alone."""
    network()
    network()
    (pair,) = kept()
    assert network(uid=7)[2] is False
    assert network(loopback=False)[2] is False
    assert (
        network(namespaces={Namespace.NET, Namespace.USER, Namespace.PID, Namespace.MOUNT}, nested_namespaces=True)[2]
        is False
    )
    assert kept() == [pair] and pair.is_whole()
    assert network()[2] is True


def test_no_more_than_so_many_are_kept():
    """With more kits than MOST no more than MOST pairs are kept, the one used last among them."""
    for uid in range(1, ahead.MOST + 4):
        network(uid=uid)
        network(uid=uid)
        assert len(kept()) == min(uid, ahead.MOST)
    assert network(uid=ahead.MOST + 3)[2] is True
    assert network(uid=1)[2] is False


def test_fork_forgets_the_parents_pair(python):
    """A forked process closes its copies, has networks of its own, and leaves the parent's pair as it was."""
    out = python(
        """
        from ramet.run import ahead
        def names():
            found = []
            for fd in os.listdir("/proc/self/fd"):
                try: found.append(os.readlink(f"/proc/self/fd/{fd}"))
                except OSError: pass
            own = [os.readlink(f"/proc/self/fd/{fd}") for fd in held]
            return [name for name in found if name.startswith(("net:", "user:")) and name not in own]
        seen = [net(), net(), net()]
        before = sorted(names())
        assert len(before) >= 2  # an ordinary user's mould has a user namespace too
        read, write = os.pipe()
        if os.fork() == 0:
            assert names() == []
            os.write(write, " ".join(net() for _ in range(4)).encode())
            os._exit(0)
        _, status = os.wait()
        assert status == 0
        theirs = os.read(read, 999).decode().split()
        assert sorted(names()) == before
        ours = net()
        assert ours in before
        print(len({*seen, *theirs, ours}))
    """,
        NET,
    )
    assert out == "8\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_has_networks_of_its_own(method, tmp_path):
    """Workers of multiprocessing, forked from a caller with a pair, and the caller itself never share a network."""
    code = tmp_path / "workers.py"
    code.write_text(
        NET
        + textwrap.dedent("""
        import multiprocessing, os, sys
        if __name__ == "__main__":
            seen = [net(0) for _ in range(3)]
            with multiprocessing.get_context(sys.argv[1]).Pool(3) as pool:
                seen += pool.map(net, range(15), chunksize=1)
                seen += [net(0) for _ in range(2)]
            print(len(seen), len(set(seen)))
        """)
    )
    done = subprocess.run([sys.executable, str(code), method], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "20 20\n", done.stderr


def test_function_in_a_clone_vm_child_leaves_the_pair_alone(python):
    """A function that ramet.call runs in the caller's memory finds the list and neither uses nor closes what is in it."""
    out = python(
        """
        from ramet import CLONE
        from ramet.run import ahead
        def inside():
            kit, = ahead._kept
            ahead.forget()
            return ahead.take(kit) is None
        seen = [net(), net()]
        (pairs,) = ahead._kept.values()
        whole = [pair.is_whole() for pair in pairs]
        print(whole, ramet.call(inside, flags=CLONE.VM), [pair.is_whole() for pair in pairs])
        wanted = os.fstat(list(pairs[0].inputs.values())[1]).st_ino
        print(net() == f"net:[{wanted}]")
    """,
        NET,
    )
    assert out == "[True] True [True]\nTrue\n"


def test_caller_that_closes_everything_goes_on(python):
    """After closerange, with the numbers reused, the next runs work, and no stranger's descriptor is closed or entered."""
    out = python(
        """
        from ramet.run import ahead
        for close in ("all", "user", "net"):
            ahead.forget()
            for _ in range(3):
                assert ramet.run(["true"]).ok
            (pair,), = ahead._kept.values()
            fds = dict(zip(("user", "net"), pair.inputs.values()))
            if close == "all":
                os.closerange(3, 512)
                strangers = [os.open("/bin/false", os.O_RDONLY) for _ in range(100)]
            else:
                os.close(fds[close])
                stranger = os.open("/proc/self/ns/" + close, os.O_RDONLY)
                if stranger != fds[close]:  # another namespace under its number
                    os.dup2(stranger, fds[close])
                    os.close(stranger)
                strangers = [fds[close]]
            was = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in strangers}
            own = os.readlink("/proc/self/ns/net")
            held = []
            nets = [net() for _ in range(3)]
            del pair
            assert {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in strangers} == was
            for fd in strangers:
                os.close(fd)
            print(close, len(set(nets)), own in nets)
    """,
        NET,
    )
    assert out == "all 3 False\nuser 3 False\nnet 3 False\n"


def test_forget_closes_no_stranger(python):
    """forget, and a fork, close what is kept and nothing that has its numbers meanwhile."""
    need_mould()
    out = python("""
        import os
        import ramet
        from ramet.run import ahead
        for _ in range(3):
            ramet.run(["true"])
        (pair,), = ahead._kept.values()
        fds = [*pair.inputs.values(), *pair.mould.inputs.values()]
        del pair
        for fd in fds:
            os.dup2(0, fd)
        if os.fork() == 0:
            print(len(fds) > 4, all(os.path.exists(f"/proc/self/fd/{fd}") for fd in fds), flush=True)
            os._exit(0)
        os.wait()
        ahead.forget()
        print(all(os.path.exists(f"/proc/self/fd/{fd}") for fd in fds))
    """)
    assert out == "True True\nTrue\n"


def test_sixteen_threads(python):
    """16 threads with 20 runs each: no two in one network, every result its own, most in namespaces made ahead, and few
    are kept."""
    out = python("""
        import os, threading
        import ramet
        from ramet.run import ahead
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        seen, wrong, entered, held = [], [], [], []
        def work(number):
            for n in range(20):
                with ramet.Popen(["sh", "-c", f"cat; exit {n}"], stdin=ramet.PIPE, stdout=ramet.PIPE) as box:
                    held.append(os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY))
                    seen.append(os.fstat(held[-1]).st_ino)
                    if box.communicate(b"%d" % n)[0] != b"%d" % n:
                        wrong.append((number, n, box))
                    entered.append(box.plan.ahead is not None)
                    if box.returncode != n:
                        wrong.append((number, n, box))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        for fd in held: os.close(fd)
        held = sum(map(len, ahead._kept.values()))
        names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
        nets = [name for name in names if name.startswith("net:")]
        print(wrong, len(seen), len(set(seen)), any(entered), held <= ahead.MOST, len(nets) == held)
    """)
    assert out == "[] 320 320 True True True\n"


REFUSED = """
import ctypes, errno, os, struct
from ramet import _core
from ramet.plan.calls import numbers
NUMBERS = numbers(os.uname().machine)
def refuse(call):
    code = b"".join(struct.pack("<HBBI", *one) for one in (
        (0x20, 0, 0, 0),                 # load the call's number
        (0x15, 0, 1, NUMBERS[call]),
        (0x06, 0, 0, 0x50000 | errno.EPERM),
        (0x06, 0, 0, 0x7FFF0000),
    ))
    held = ctypes.create_string_buffer(code)
    program = struct.pack("<H6xQ", len(code) // 8, ctypes.addressof(held))
    _core.syscall("prctl", NUMBERS["prctl"], 38, 1, 0, 0, 0)
    _core.syscall("prctl", NUMBERS["prctl"], 22, 2, program, 0, 0)
import ramet
from ramet.run import ahead
def run():
    with ramet.Popen(["cat"], stdin=ramet.PIPE, stdout=ramet.PIPE) as box:
        held.append(os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY))
        box.communicate()
        return os.readlink(f"/proc/self/fd/{held[-1]}"), box.plan.ahead is not None
held = []
"""


def test_what_one_thread_has_in_hand_another_does_not_keep(held):
    """A thread that is about to take a pair, when another keeps a new one, takes it from all: it is in no second list."""
    network(held)
    network(held)
    ((kit, kept),) = ahead._kept.items()
    in_hand = len(kept)
    making = ahead.begin(kit)
    making.finish()
    assert ahead._kept[kit] is kept
    assert len(kept) == in_hand + 1
    kept.pop()


def test_run_makes_its_own_where_setns_is_refused(python):
    """Under a filter that refuses setns a run with a pair works all the same, in namespaces of its own; then no more are
    made. Without the filter it is in the pair."""
    out = python(
        REFUSED
        + textwrap.dedent("""
        nets = [run() for _ in range(3)]
        print(nets[-1][1], sum(map(len, ahead._kept.values())))
        refuse("setns")
        try:
            os.setns(os.open("/proc/self/ns/net", os.O_RDONLY)) if hasattr(os, "setns") else _core.syscall("setns", NUMBERS["setns"], -1, 0)
        except OSError as error:
            print(error.errno)
        nets += [run() for _ in range(3)]
        print([was for _, was in nets[3:]], len({net for net, _ in nets}), sum(map(len, ahead._kept.values())))
    """)
    )
    assert out == "True 1\n1\n[False, False, False] 6 0\n"


def test_error_in_a_pair_names_the_step(nothing_kept):
    """A run in a pair that fails later is told as any other, and not tried twice; the pair is gone."""
    network()
    network()
    held, own = len(os.listdir("/proc/self/fd")), len(kept()[0].inputs)
    with pytest.raises(ramet.StepError) as refused:
        ramet.run(["true"], workdir="/nope")
    assert refused.value.origin == "Sandbox.workdir" and refused.value.stage == "payload"
    assert kept() == [] and len(os.listdir("/proc/self/fd")) == held - own
    with pytest.raises(ramet.CommandError):
        ramet.run(["/nope"])


def test_namespaces_that_cannot_be_made_ahead_are_no_error(monkeypatch):
    """Where making a pair fails, nothing is kept, nothing is raised, and runs go on making their own."""

    def refuse(*_args, **_kwargs):
        raise OSError(24, "Too many open files")

    network()
    with monkeypatch.context() as patched:
        patched.setattr(made, "serve", refuse)
        assert network()[2] is network()[2] is False
        assert kept() == []
    assert network()[2] is False and network()[2] is True
