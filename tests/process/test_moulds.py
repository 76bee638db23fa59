"""Roots that come from a mould: no different from those that a sandbox builds, the run's own where they can be written to, and
what the host has now."""

import os
import subprocess
import sys
import textwrap

import pytest

import ramet
from needs import need_mould
from ramet.run import ahead

VIEW = r"""
import os, stat
for line in open("/proc/self/mountinfo"):
    before, after = line.split(" - ")
    fields = before.split()
    print("mount", fields[4], fields[3] if fields[4] not in ("/dev/shm", "/tmp", "/home/user") else "", fields[5], after.split()[0])
for top in ("/", "/dev", "/etc", "/home", "/home/user", "/tmp", "/dev/shm", "/dev/pts", "/srv"):
    for name in sorted(os.listdir(top)) if os.path.isdir(top) else ():
        path = os.path.join(top, name)
        found = os.lstat(path)
        target = os.readlink(path) if stat.S_ISLNK(found.st_mode) and top != "/proc" else ""
        print(path, oct(found.st_mode), found.st_uid, found.st_gid, target)
for path in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts"):
    print(open(path).read())
print(os.getcwd(), sorted(name for name in os.listdir("/proc") if name.isdigit())[:1], open("/proc/keys").read())
"""


@pytest.fixture(autouse=True)
def nothing_kept():
    """Each test begins as in a new process, and leaves nothing."""
    need_mould()
    ahead.forget()
    ahead._used.clear()
    yield
    ahead.forget()


def run(argv, **fields):
    """Its output, and whether its root came from a mould."""
    with ramet.Popen(argv, stdout=ramet.PIPE, stderr=ramet.PIPE, text=True, **fields) as box:
        out, err = box.communicate()
        return out + err, box.plan.ahead is not None and box.plan.ahead.mould is not None


def warm(**fields):
    """So that the next one of the kind has a mould."""
    for _ in range(2):
        assert run(["true"], **fields) == ("", False)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"as_pid1": True},
        {"uid": 7, "gid": 8},
        {"mounts": [ramet.File("/etc/x", b"1"), ramet.Directory("/srv"), ramet.Symlink("/srv/y", "/etc/x")]},
    ],
    ids=["default", "as pid 1", "other ids", "own files"],
)
def test_the_view_is_that_of_a_root_of_its_own(fields):
    """Mounts, files, their modes, owners and contents are those that the first run saw, but for what is hidden below."""
    code = [sys.executable, "-I", "-c", VIEW]
    first, moulded = run(code, **fields)
    assert not moulded and "mount /usr" in first
    run(code, **fields)
    later, moulded = run(code, **fields)
    assert moulded
    left = later.splitlines()
    for line in first.splitlines():
        left.remove(line)
    # The store, below a part of itself, and the mould's own proc, below the run's.
    assert sorted(line.split()[1] for line in left) == ["/dev/shm", "/proc"]


def test_a_payload_leaves_nothing_to_the_next():
    """What one writes to every writable place is not there for the next; elsewhere nothing can be written, made or renamed;
    and what is hidden below can't be uncovered."""
    script = textwrap.dedent("""
        ls -A /tmp /dev/shm ~
        for place in /tmp /dev/shm ~; do echo left > $place/left && cat $place/left; done
        for place in / /etc /dev /dev/pts /home /usr /proc /proc/self; do
            (echo x > $place/left) 2>/dev/null && echo wrote $place
            mkdir $place/left.d 2>/dev/null && echo made $place
            touch -d 2001-01-01 $place 2>/dev/null && echo touched $place
            chmod 777 $place 2>/dev/null && echo changed $place
        done
        mv /etc/passwd /etc/other 2>/dev/null && echo moved
        umount /proc /dev/shm /tmp 2>/dev/null && echo unmounted
        echo end
    """)
    warm()
    for _ in range(3):
        out, moulded = run(["sh", "-c", script])
        assert (moulded, out.split()) == (True, ["/dev/shm:", "/home/user:", "/tmp:", *["left"] * 3, "end"])


def test_even_a_payload_that_is_root_inside_can_not_uncover_the_mould():
    """With every capability but CAP_SYS_ADMIN, as uid 0, nothing can be unmounted; who has that one gets no mould."""
    fields = {"uid": 0, "gid": 0, "capabilities": {"CAP_SYS_CHROOT", "CAP_DAC_OVERRIDE", "CAP_SYS_PTRACE"}}
    warm(**fields)
    out, moulded = run(["sh", "-c", "umount /proc; umount -l /dev/shm; ls /proc/1 > /dev/null && echo there"], **fields)
    assert moulded and "there" in out and out.count("umount:") == 2
    fields["capabilities"] = {"CAP_SYS_ADMIN"}
    for _ in range(3):
        assert run(["true"], **fields) == ("", False)


def test_one_disk_limits_every_place():
    """disk= is a run's own, not the mould's: it holds for all places together."""
    fill = (
        "for at in /tmp /dev/shm ~; do head -c 700000 /dev/zero > $at/x; done 2>&1; cat /tmp/x /dev/shm/x ~/x | wc -c"
    )
    fields = {"disk": "1M"}
    warm(**fields)
    out, moulded = run(["sh", "-c", fill], **fields)
    assert moulded and int(out.split()[-1]) < 1 << 20 and "No space left" in out
    small = run(["sh", "-c", "df -k /tmp | tail -n 1"], disk="1M")[0]
    large = run(["sh", "-c", "df -k /tmp | tail -n 1"])[0]  # of the same kit: the mould knows of no disk
    assert small.split()[1] == "1024" and large.split()[1] == "262144"


INSIDE = """
import os, subprocess, sys
import ramet
from ramet.run import ahead
def run(*argv):
    with ramet.Popen(argv, stdout=ramet.PIPE, text=True) as box:
        out, _ = box.communicate()
        return out, box.plan.ahead is not None and box.plan.ahead.mould is not None
"""


def in_own_mounts(code, tmp_path):
    """Run Python code where it may mount as it likes."""
    flags = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--mount"]
    argv = ["unshare", *flags, sys.executable, "-c", INSIDE + textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sees_what_is_mounted(tmp_path, after):
    """Three runs; then, after this code, something is mounted below /usr; three more see it, and a mould of before is not used."""
    out = in_own_mounts(
        f"""
        from ramet import _core
        from ramet.plan.calls import numbers
        seen = [run("ls", "/usr/local/share") for _ in range(3)]
        {after}
        subprocess.run(["mount", "-t", "tmpfs", "x", "/usr/local/share"], check=True)
        open("/usr/local/share/new", "w").close()
        seen += [run("ls", "/usr/local/share") for _ in range(3)]
        print([moulded for _, moulded in seen], ["new" in out for out, _ in seen])
        """,
        tmp_path,
    )
    moulded, new = (eval(part + "]") for part in out.strip().rstrip("]").split("] "))
    assert new == [False] * 3 + [True] * 3
    assert moulded[2] is True and moulded[3] is False and moulded[5] is True


def test_what_is_mounted_later_is_seen(tmp_path):
    """A file system mounted below /usr between two runs is there in the next one, though a mould was ready."""
    sees_what_is_mounted(tmp_path, "(kept,), = ahead._kept.values()")


def test_a_caller_that_has_entered_other_mounts_gets_those(tmp_path):
    """After the caller has made a mount namespace of its own, in which something is mounted, the next run sees that, though nothing
    has changed in the one that a mould was made of."""
    sees_what_is_mounted(tmp_path, '_core.syscall("unshare", numbers(os.uname().machine)["unshare"], 0x20000)')


def test_a_replaced_file_is_seen(tmp_path):
    """A file of /etc that was replaced by another of the same name, as ldconfig does, is the new one in the next run."""
    out = in_own_mounts(
        """
        import shutil
        etc = sys.argv[1] + "/etc"
        shutil.copytree("/etc", etc, symlinks=True, ignore=lambda top, names: [n for n in names if top != "/etc" or n not in ("ld.so.cache", "alternatives")] )
        cache = etc + "/ld.so.cache"
        shutil.copy("/etc/ld.so.cache", cache)
        subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
        seen = [run("tail", "-c", "9", "/etc/ld.so.cache") for _ in range(3)]
        with open(cache + "~", "wb") as new:
            new.write(open(cache, "rb").read() + b"\\0" * 8 + b"replaced")
        os.rename(cache + "~", cache)
        seen += [run("tail", "-c", "9", "/etc/ld.so.cache") for _ in range(3)]
        print([moulded for _, moulded in seen], ["replaced" in out for out, _ in seen])
        """,
        tmp_path,
    )
    moulded, new = (eval(part + "]") for part in out.strip().rstrip("]").split("] "))
    assert new == [False] * 3 + [True] * 3
    assert moulded[2] is True and moulded[3] is False and moulded[5] is True


def test_a_change_is_told_to_every_thread(tmp_path):
    """The kernel tells of a change of the mounts once; of sixteen threads that come at the same time none gets what is out of
    date."""
    out = in_own_mounts(
        """
        import threading
        place = "/usr/local/share"
        for _ in range(3):
            run("true")
        wrong, old = [], 0
        for turn in range(5):
            subprocess.run(["mount", "-t", "tmpfs", "x", place], check=True)
            open(f"{place}/{turn}", "w").close()
            gate = threading.Barrier(16)
            def look():
                gate.wait()
                out, _ = run("ls", place)
                if out.split() != [str(turn)]:
                    wrong.append((turn, out))
            threads = [threading.Thread(target=look) for _ in range(16)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        print(wrong, len(ahead._kept) > 0)
        """,
        tmp_path,
    )
    assert out == "[] True\n"


def test_a_mould_that_can_not_be_made_is_no_error(monkeypatch):
    """Where making it fails, runs go on in pairs without one."""
    from ramet.run import moulds

    def refuse(*_args, **_kwargs):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(moulds, "Making", refuse)
        assert [run(["echo", "ran"]) for _ in range(4)] == [("ran\n", False)] * 4
        assert [kit.mould for kit in ahead._kept] == [None]
    ahead._refused.clear()


def test_every_step_of_making_it_may_fail(monkeypatch):
    """Whichever step of a mould or of a copy fails, the run goes on with a root of its own, and nothing is left."""
    from ramet.plan import encode
    from ramet.plan.ahead import making
    from ramet.run import moulds

    kit = need_mould()
    fds = len(os.listdir("/proc/self/fd"))
    made_of = ahead._making
    for stage, patch in (
        (kit.mould.making(), lambda program: patched.setattr(moulds, "_program", lambda _mould: program)),
        (making(kit), lambda program: patched.setattr(ahead, "_making", lambda kit: (program, made_of(kit)[1]))),
    ):
        for number in range(0, len(stage.steps), 3):
            with monkeypatch.context() as patched:
                patch(encode.encode(stage, kit.machine, fail={number: 54}))
                begun = ahead.begin(kit)
                assert begun is None or not begun.finish()
                assert ahead.take(kit) is None
                del begun
                ahead._refused.clear()
                ahead.forget()
        assert len(os.listdir("/proc/self/fd")) == fds
    ahead.begin(kit).finish()
    assert ahead.take(kit) is not None
