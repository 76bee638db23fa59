"""compile: pure, deterministic, and what it decides by the facts."""

import struct

import pytest
from plan_facts import (
    ARM_USER,
    CONTAINER_ROOT,
    HOSTS,
    NEW_USER,
    OLD_ROOT,
    OUT_OF_TREE_PYTHON,
    ROOT,
    USER,
    USER_WITH_RANGES,
    for_spec,
)

from ramet.errors import SpecError, UnsupportedError
from ramet.plan.check import check
from ramet.plan.compile import compile
from ramet.plan.steps import Block
from ramet.spec import Bind, Command, Directory, File, IdMapping, Join, Namespace, Rootfs, Sandbox, Symlink, Tmpfs

TRUE = Command(("/bin/true",))
CLONE_FILES = 0x400


def steps(plan, stage="child"):
    return plan.stages[stage].steps


def calls(plan, name):
    return [step for step in plan if step.call == name]


def texts(plan):
    return str(plan).splitlines()


@pytest.mark.parametrize("name", HOSTS)
def test_compile_is_deterministic(name):
    """Compiled twice from the same values, without the cache, the text and the programs are the same."""
    from ramet.plan.encode import encodings

    first, second = (compile.__wrapped__(Sandbox(), HOSTS[name], TRUE) for _ in range(2))
    assert first is not second
    assert str(first) == str(second)
    for stage in first.stages:
        assert getattr(encodings(first), stage).blob == getattr(encodings(second), stage).blob


def test_compile_does_not_ask_the_machine(monkeypatch):
    """compile touches neither files nor the process: every way to ask raises, and it still answers."""
    import builtins
    import os

    def refuse(*_args, **_kwargs):
        raise AssertionError("compile asked the machine")

    with monkeypatch.context() as patched:
        patched.setattr(builtins, "open", refuse)
        for name in (
            "open",
            "stat",
            "lstat",
            "listdir",
            "readlink",
            "getuid",
            "geteuid",
            "getpid",
            "uname",
            "getcwd",
            "access",
        ):
            patched.setattr(os, name, refuse)
        plan = compile.__wrapped__(Sandbox(mounts=[Tmpfs("/x")]), USER, TRUE)
        with pytest.raises(AssertionError, match="asked the machine"):
            os.stat("/")
    assert len(plan) > 50


def test_same_spec_is_compiled_once():
    """Equal specs, facts and commands get the same plan object; another command gets another."""
    assert compile(Sandbox(uid=7), USER, TRUE) is compile(Sandbox(uid=7), USER, Command(("/bin/true",)))
    assert compile(Sandbox(uid=7), USER, TRUE) is not compile(Sandbox(uid=7), USER, Command(("/bin/false",)))


def test_ordinary_user_writes_own_maps_without_sync():
    """One line to the caller's own ids is written by the child: no sync. Root's maps, and ranges, need the
    caller."""
    assert compile(Sandbox(), USER, TRUE).sync == ()
    assert "/proc/self/uid_map" in str(compile(Sandbox(), USER, TRUE))
    assert [step.action for step in compile(Sandbox(), ROOT, TRUE).sync] == ["write", "write"]
    ranges = compile(Sandbox(uid_mappings="subordinate", gid_mappings="subordinate"), USER_WITH_RANGES, TRUE)
    assert [step.args[0] for step in ranges.sync] == ["/usr/bin/newuidmap", "/usr/bin/newgidmap"]


def test_setgroups_is_denied_before_gid_map():
    """An unprivileged writer of gid_map must deny setgroups first (user_namespaces(7))."""
    opened = [step.args[1] for step in calls(compile(Sandbox(), USER, TRUE), "openat")]
    assert opened.index("/proc/self/setgroups") < opened.index("/proc/self/gid_map")


def test_root_payload_is_unprivileged_outside():
    """A root caller's payload is 65533 outside unless asked; asked for, it is what was asked."""
    default = compile(Sandbox(), ROOT, TRUE)
    assert [step.args[1] for step in default.sync] == ["1000 65533 1\n", "1000 65533 1\n"]
    asked = compile(Sandbox(uid=0, uid_mappings=[IdMapping(0, 0)]), ROOT, TRUE)
    assert asked.sync[0].args == ("uid_map", "0 0 1\n")


def test_subordinate_ids_without_a_range_are_unsupported():
    """Without a line in /etc/subuid, or without newuidmap, the error names what is missing and how to get
    it."""
    spec = Sandbox(uid_mappings="subordinate", gid_mappings="subordinate")
    with pytest.raises(UnsupportedError, match="/etc/subuid has no line for uid 1001") as no_range:
        compile(spec, USER, TRUE)
    with pytest.raises(UnsupportedError, match="newuidmap") as no_helper:
        compile(spec, USER_WITH_RANGES.replace(newuidmap=None), TRUE)
    assert "usermod" in no_range.value.hint
    assert "uidmap" in no_helper.value.hint


def test_namespaces_without_user_need_privilege():
    """New namespaces without a user namespace: a SpecError for those who can't, a plan for root."""
    spec = Sandbox(namespaces={Namespace.MOUNT, Namespace.PID})
    for host in (USER, CONTAINER_ROOT):
        with pytest.raises(SpecError, match="CAP_SYS_ADMIN") as refused:
            compile(spec, host, TRUE)
        assert refused.value.field == "Sandbox.namespaces"
    assert "CLONE_NEWUSER" not in str(compile(spec, ROOT, TRUE))


def test_time_namespace_as_pid1_needs_linux_6_3():
    """Before Linux 6.3 exec stays in the old time namespace: refused there without init, whether by as_pid1 or for want of a
    pid namespace, and only there."""
    spec = Sandbox(namespaces=set(Namespace), as_pid1=True)
    for alone in (spec, Sandbox(namespaces=set(Namespace) - {Namespace.PID})):
        with pytest.raises(UnsupportedError, match=r"5\.14"):
            compile(alone, OLD_ROOT, TRUE)
        compile(alone, ROOT, TRUE)
    compile(spec.replace(as_pid1=False), OLD_ROOT, TRUE)


def test_capability_the_kernel_does_not_know_is_unsupported():
    """A capability above the kernel's last one is refused, not dropped in silence."""
    with pytest.raises(UnsupportedError, match="CAP_CHECKPOINT_RESTORE"):
        compile(Sandbox(capabilities={"CAP_CHECKPOINT_RESTORE"}), ROOT.replace(last_cap=39), TRUE)


def test_every_capability_not_kept_is_dropped():
    """The bounding set loses every capability of the kernel's but those named."""
    plan = compile(Sandbox(capabilities={"CAP_NET_RAW"}), USER, TRUE)
    dropped = {step.args[1] for step in calls(plan, "prctl") if step.args[0] == 24}
    assert dropped == set(range(41)) - {13}


def test_kernel_kills_with_the_pidfd_where_it_can():
    """CLONE_PIDFD_AUTOKILL and CLONE_AUTOREAP are used where facts have them, and only there."""
    new = str(compile(Sandbox(), NEW_USER, TRUE)).split("\n\n")[0]
    assert "CLONE_AUTOREAP" in new and "CLONE_PIDFD_AUTOKILL" in new
    assert "AUTO" not in str(compile(Sandbox(), USER, TRUE))


def test_as_pid1_leaves_init_out():
    """as_pid1=True has one stage, ending in the payload's exec; the default has one for init beside."""
    alone, default = compile(Sandbox(as_pid1=True), USER, TRUE), compile(Sandbox(), USER, TRUE)
    assert set(alone.stages) == {"child"}
    assert not alone.init
    assert list(default.stages) == ["child", "init", "payload"]
    assert steps(alone)[-1].call == steps(default, "payload")[-1].call == "execve"
    assert steps(default, "init")[-1].call == "execveat"


def test_bare_name_is_tried_along_path():
    """A command without a slash is tried in each directory of the payload's PATH; with one, as it is."""
    spec = Sandbox(env={"PATH": "/a:/b:"})
    tried = [step.args[0] for step in calls(compile(spec, USER, Command(("prog",))), "execve")]
    assert tried == ["/a/prog", "/b/prog", "./prog"]
    assert [step.args[0] for step in calls(compile(spec, USER, Command(("x/prog",))), "execve")] == ["x/prog"]


def test_passed_descriptors_keep_their_numbers_and_init_gets_others():
    """pass_fds are placed under their own numbers, and init has its own and no others, each in a process of its own."""
    plan = compile(Sandbox(), USER, Command(("/bin/true",), pass_fds=(3, 5)))
    placed = {
        stage: {step.args[1]: str(step.args[0]) for step in steps(plan, stage) if step.call == "dup3"}
        for stage in ("init", "payload")
    }
    assert placed["payload"] == {0: "stdin", 1: "stdout", 2: "stderr", 3: "fd3", 5: "fd5"}
    assert placed["init"] == {0: "control", 1: "caller", 3: "init"}
    (signals,) = calls(plan, "signalfd4")
    assert signals.expect == 2
    closed = {s: [step.args[:2] for step in steps(plan, s) if step.call == "close_range"] for s in placed}
    assert closed == {"init": [(2, 2), (4, 2**32 - 1)], "payload": [(4, 4), (6, 2**32 - 1)]}


GATED, ENTERED_BY_FORK = {}, {"namespaces": set(Namespace)}


@pytest.mark.parametrize(
    ("host", "fields", "gated"),
    [
        (USER, GATED, True),
        (ROOT, GATED, True),
        (ROOT, ENTERED_BY_FORK, True),
        (OLD_ROOT, GATED, True),
        (OLD_ROOT, ENTERED_BY_FORK, False),
        (USER, {"namespaces": {Namespace.PID}, "join": [Join(Namespace.USER, pid=5)]}, False),
        (ROOT, {"namespaces": {Namespace.PID}, "join": [Join(Namespace.NET, pid=5)]}, False),
        (ROOT, {"namespaces": {Namespace.PID, Namespace.USER}, "join": [Join(Namespace.NET, pid=5)]}, True),
    ],
)
def test_payload_waits_for_init_where_they_share_memory(host, fields, gated):
    """The payload's exec waits for init's where both have the caller's memory. Where they have a copy of it, or where the
    child must make a time namespace before it clones, it does not, and the memory is hidden before the clone."""
    plan = compile(Sandbox(**fields), host, TRUE)
    assert plan.gated == gated
    assert [step.args[1] for step in calls(plan, "futex")] == ([0] if gated else [])
    assert (steps(plan)[-1].args[:2] == (4, 0)) != gated
    assert check(plan) == []


@pytest.mark.parametrize("host", [USER, ROOT, OLD_ROOT, ARM_USER])
def test_namespaces_made_ahead_are_entered_and_not_made(host):
    """With user, network and IPC namespaces ready the clone makes none of the three, nobody maps ids or brings up lo, and the
    rest of the plan is the same."""
    own = compile(Sandbox(), host, TRUE)
    entering = compile(Sandbox(), host, TRUE, ahead=own.kit.plain)
    assert (own.clone_flags ^ entering.clone_flags) & ~CLONE_FILES == 0x10000000 | 0x40000000 | 0x8000000
    assert entering.clone_flags & CLONE_FILES  # nobody maps ids while it waits
    assert [(step.call, str(step.args[0])) for step in steps(entering, "join")] == [
        ("setns", "ahead_user"),
        ("setns", "ahead_net"),
        ("setns", "ahead_ipc"),
    ]
    assert entering.sync == () and "uid_map" not in str(entering)
    assert calls(own, "ioctl") and not calls(entering, "ioctl")
    left_out = {step.doing for step in own} - {step.doing for step in entering}
    assert all(doing in ("bring lo up", "forbid user namespaces inside") or " ids" in doing for doing in left_out)
    order = [step.doing for step in own if step.doing not in left_out]
    assert [step.doing for step in entering if step.origin == "Sandbox.namespaces" or step.doing in order][3:] == order
    assert check(own) == check(entering) == []


@pytest.mark.parametrize("host", [USER, ROOT, OLD_ROOT, ARM_USER])
def test_root_from_a_mould_is_entered_and_not_built(host):
    """With a copy of a mould ready the clone makes no mount namespace, nothing of the host is bound, and after that the
    plan is the same; only /proc, /dev/pts and what may be written to are the run's own."""
    own = compile(Sandbox(), host, TRUE)
    entering = compile(Sandbox(), host, TRUE, ahead=own.kit)
    assert (own.clone_flags ^ entering.clone_flags) & ~CLONE_FILES == 0x10000000 | 0x40000000 | 0x8000000 | 0x20000
    assert [str(step.args[0]) for step in steps(entering, "join")] == [
        "ahead_user",
        "ahead_net",
        "ahead_ipc",
        "ahead_mnt",
    ]
    building = {"pivot_root", "umount2", "mknodat", "symlinkat"}
    assert building <= {step.call for step in own} and not building & {step.call for step in entering}
    covered = [step.args[3] for step in calls(entering, "move_mount")]
    assert covered == ["/dev/shm", "/tmp", "/home/user", "/dev/shm", "/dev/pts", "/proc", "keys", "pressure"]
    later = [step.call for step in own if step.doing == "limit capabilities" or step.origin == "Sandbox.landlock"]
    assert (
        [step.call for step in entering if step.doing == "limit capabilities" or step.origin == "Sandbox.landlock"]
        == later
        != []
    )
    assert len(entering) < len(own) - 60
    assert check(entering) == []


def test_what_comes_from_no_mould():
    """A mould is for the default view, and what only adds files of the sandbox's own to it."""

    def mould(host=USER, **fields):
        kit = compile(Sandbox(**fields), host, TRUE).kit
        return kit and kit.mould

    assert mould() is mould(hostname="other", memory="1G", allow_degraded={"memory"}) is not None
    assert mould(mounts=[File("/etc/x", b"1")]) is mould(mounts=[File("/etc/x", b"1")]) is not mould()
    assert len({mould(), mould(uid=7), mould(ROOT), mould(ARM_USER), mould(mounts=[Directory("/srv")])} - {None}) == 5
    for fields in (
        {"mounts": [Bind("/usr", "/srv")]},
        {"mounts": [Tmpfs("/srv")]},
        {"mounts": [File("/tmp/x", b"1")]},
        {"mounts": [Directory("/home")]},
        {"mounts": [Symlink("/dev/x", "null")]},
        {"rootfs": "empty"},
        {"capabilities": {"CAP_SYS_ADMIN"}},
        {"nested_namespaces": True},
        {"masked_paths": ["/usr/share"]},
        {"readonly_paths": ["/tmp"]},
        {"tty": True},
        {"namespaces": {Namespace.USER, Namespace.NET, Namespace.MOUNT}},
        {"namespaces": set(Namespace)},
    ):
        assert mould(**fields) is None, fields
    assert mould(ROOT.replace(capabilities=ROOT.capabilities & ~(1 << 21))) is None


def test_what_a_mould_looks_at_is_what_it_shows():
    """Each source of a mould is bound by its steps, and nothing else of the host is but devices: a file that it does not show
    may change."""
    mould = compile(Sandbox(), USER, TRUE).kit.mould
    steps = mould.making().steps
    bound = {step.args[1] for step in steps if step.call == "open_tree" and step.args[0] == -100}
    assert {path for path in bound if not path.startswith("/dev/")} == set(mould.sources) != set()


def test_what_can_be_made_ahead():
    """Equal kits stand for each other: what differs in the ids, lo or user namespaces inside has another; and none is there
    without both namespaces, with a join, with a helper that maps ids, or where the kernel ends the child by itself."""

    def kit(host=USER, **fields):
        return compile(Sandbox(**fields), host, TRUE).kit

    assert kit() == kit(hostname="other") != None  # noqa: E711
    assert kit().plain == kit(mounts=[Tmpfs("/x")]) != kit()
    assert len({kit(), kit(loopback=False), kit(uid=7), kit(nested_namespaces=True), kit(ROOT), kit(ARM_USER)}) == 6
    assert kit(namespaces={Namespace.USER}) is None
    assert kit(namespaces={Namespace.PID}, join=[Join(Namespace.USER, pid=5)]) is None
    assert kit(USER_WITH_RANGES, uid_mappings="subordinate", gid_mappings="subordinate") is None
    assert kit(NEW_USER) is None


def test_init_keeps_the_right_to_signal_and_no_other():
    """Before its exec init drops all rights but CAP_KILL, which is ambient; without that right it drops them all; and it
    is tied to no thread any more."""
    for host, fields, ambient in (
        (USER, {}, 1),
        (ROOT, {"namespaces": {Namespace.PID}}, 1),
        (USER, {"namespaces": {Namespace.PID}, "join": [Join(Namespace.USER, pid=5)]}, 1),
        (ROOT.replace(capabilities=ROOT.capabilities & ~(1 << 5)), {"namespaces": {Namespace.PID}}, 0),
    ):
        own = steps(compile(Sandbox(**fields), host, TRUE), "init")
        (dropped,) = (step for step in own if step.call == "capset")
        assert struct.unpack("<6I", b"".join(dropped.args[1]))[:3] == (0x20 * ambient,) * 3
        raised = [step.args[2] for step in own if step.call == "prctl" and step.args[:2] == (47, 2)]
        assert raised == [5] * ambient
        assert any(step.call == "prctl" and step.args[:2] == (1, 0) for step in own)


def test_join_hides_memory_first_and_user_namespace_goes_first():
    """Joining: not dumpable before the first setns, and the user namespace gives the rights for the rest."""
    spec = Sandbox(
        namespaces={Namespace.MOUNT},
        join=[Join(Namespace.NET, pid=5), Join(Namespace.USER, pid=5)],
    )
    joined = steps(compile(spec, USER, TRUE), "join")
    assert joined[0].args[:2] == (4, 0)
    assert [step.args[0] for step in joined[1:]] == ["ns_user", "ns_net"]


def test_running_python_comes_with_the_minimal_view_only():
    """A Python outside the system's trees is shown in the minimal view and heads PATH; an empty root has
    neither."""
    minimal = str(compile(Sandbox(), OUT_OF_TREE_PYTHON, TRUE))
    assert '"/opt/python-3.12"' in minimal
    assert "PATH=/opt/python/bin:" in minimal
    assert "python" not in str(compile(Sandbox(rootfs="empty"), OUT_OF_TREE_PYTHON, TRUE))


def test_network_files_only_with_the_hosts_network():
    """resolv.conf is shown where the network is the host's; with one's own there is only a made
    /etc/hosts."""
    own, shared = Sandbox(), Sandbox(namespaces=Sandbox().namespaces - {Namespace.NET})
    assert "resolv.conf" not in str(compile(own, USER, TRUE))
    assert "resolv.conf" in str(compile(shared, USER, TRUE))


def test_bind_uses_the_resolved_source():
    """A source that is a symlink is opened by where it led when the plan was made; a symlink there now is
    refused."""
    spec = Sandbox(mounts=[Bind("/srv/link", "/data")])
    opened = [
        step
        for step in calls(compile(spec, for_spec(USER, spec), TRUE), "openat2")
        if step.origin.startswith("Sandbox.mounts")
    ]
    assert opened[0].args[1] == "/mnt/disk/target"
    assert "RESOLVE_NO_SYMLINKS" in opened[0].args[2].text


def test_destination_in_a_rootfs_is_resolved_in_root():
    """On ground that is not the sandbox's own, every path is opened with RESOLVE_IN_ROOT; on its own, none
    needs to be."""
    foreign = Sandbox(rootfs=Rootfs("/srv/rootfs"), mounts=[Tmpfs("/a/b")])
    plan = compile(foreign, for_spec(USER, foreign), TRUE)
    inside = [step for step in calls(plan, "openat2") if step.origin.startswith("Sandbox.mounts")]
    assert len(inside) == 2
    assert all("RESOLVE_IN_ROOT" in step.args[2].text for step in inside)
    own = compile(Sandbox(mounts=[Tmpfs("/a/b")]), USER, TRUE)
    assert not [step for step in calls(own, "openat2") if step.origin.startswith("Sandbox.mounts")]


def test_later_mount_that_hides_an_earlier_one_is_noted():
    """A mount above an earlier destination keeps the user's order and is noted; in the other order nothing
    is."""
    hides = Sandbox(mounts=[Directory("/a/b"), Tmpfs("/a")])
    assert "note: Sandbox.mounts[1] hides Sandbox.mounts[0]" in str(compile(hides, USER, TRUE))
    assert compile(Sandbox(mounts=[Tmpfs("/a"), Directory("/a/b")]), USER, TRUE).notes == ()


def test_no_new_privs_and_session_follow_the_spec():
    """Options that are off leave their step out, and nothing else."""
    default, off = (
        compile(Sandbox(**extra), USER, TRUE) for extra in ({}, {"no_new_privs": False, "new_session": False})
    )
    assert len(default) - len(off) == 3  # a session each for init and the payload
    assert not calls(off, "setsid")


@pytest.mark.parametrize("field", ["hostname", "domainname"])
def test_names_that_are_bytes_or_not_utf8_arrive_byte_for_byte(field):
    """Host and domain names may be bytes, and need not be UTF-8."""
    call = f"set{field}"
    for given, length in ((b"abc", 3), ("h\udcffx", 3), ("é", 2)):
        (step,) = calls(compile(Sandbox(**{field: given}), USER, TRUE), call)
        assert step.args[1] == length


def test_umask_of_set_up_is_neutral_until_the_payloads():
    """Nothing that is made depends on the caller's umask: 0 first, the payload's last."""
    masks = [step.args[0] for step in calls(compile(Sandbox(umask=0o077), USER, TRUE), "umask")]
    assert masks == [0, 0o077]


def test_structures_have_a_text():
    """Every structure in a default plan shows its content: no bare bytes for the reader."""
    for host in (ROOT, USER):
        for step in compile(Sandbox(), host, TRUE):
            for arg in step.args:
                assert not isinstance(arg, Block) or arg.text, step
