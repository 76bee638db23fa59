"""ramet explain: what a process may do, two processes, the namespaces of an OCI config.json, and which is meant."""

import json
import os
import threading

import pytest

from ramet import lowlevel
from ramet.errors import SpecError
from ramet.explain import explain, explain_config, explain_json, explain_pair
from ramet.explain.process import standing_lines
from ramet.flags import CLONE
from ramet.host.kcmp import TYPES, Comparison
from ramet.host.namespaces import KINDS, Process, read_process
from ramet.host.standing import read_standing

READ, WRITE, PRCTL = (63, 64, 167) if os.uname().machine == "aarch64" else (0, 1, 157)


@pytest.fixture
def child(waiting):
    """The pid of a child made with these flags that waits until the test is over."""
    return lambda flags: waiting(flags).pid


# A process


def test_what_a_process_may_do(child):
    """In a new user namespace: no ids yet, all capabilities; outside of it what the caller has."""
    inside, beside = child(CLONE.NEWUSER | CLONE.NEWPID), child(CLONE(0))
    told, plain = explain_json(str(inside))["standing"], explain_json(str(beside))["standing"]
    assert told["uid_map"] == [] and plain["uid_map"] != []
    assert "CAP_SYS_ADMIN" in told["capabilities"]["effective"]
    assert ("CAP_SYS_ADMIN" in plain["capabilities"]["effective"]) == (os.geteuid() == 0)
    assert told["pids"] == [inside, 1] and plain["pids"] == [beside]
    text = str(explain(str(inside)))
    assert "not written yet" in text and f"{inside} here, 1 in its own pid namespace" in text
    assert "not written yet" not in str(explain(str(beside)))


def test_no_new_privs_and_seccomp_are_seen():
    """They are told of a process that has them, and not of one that has not."""
    told, tell = os.pipe()
    wait, go = os.pipe()
    set_no_new_privs, set_seccomp, strict_mode = 38, 22, 1
    calls = [
        lowlevel.Call(PRCTL, set_no_new_privs, 1, 0, 0, 0),
        lowlevel.Call(PRCTL, set_seccomp, strict_mode, 0, 0, 0),  # read, write and exit, and nothing else
        lowlevel.Call(WRITE, tell, b"x", 1),
        lowlevel.Call(READ, wait, lowlevel.Buffer(8), 1),
    ]
    made = lowlevel.clone3(CLONE(0), child=calls)
    try:
        os.read(told, 1)
        strict, ours = read_standing(made.pid), read_standing(os.getpid())
        assert (strict.no_new_privs, strict.seccomp) == (True, "strict")
        assert "no_new_privs  set" in "\n".join(standing_lines(strict))
        assert (ours.no_new_privs, ours.seccomp) != (strict.no_new_privs, strict.seccomp)
    finally:
        os.write(go, b"x")
        made.wait()
        for fd in (told, tell, wait, go):
            os.close(fd)


def test_standing_of_nobody_is_unknown():
    """Of a process that is gone, nothing is claimed."""
    gone = read_standing(2**22 + 1)
    assert (gone.uids, gone.uid_map, gone.cgroups, gone.seccomp, gone.capabilities) == (None, None, None, None, {})
    text = "\n".join(standing_lines(gone))
    assert text.count("?") >= 6 and "none" not in text


def test_ids_as_status_has_them(tmp_path):
    """Ids that differ, ranges, filters and cgroups of both versions are shown as they are."""
    base = tmp_path / "7"
    base.mkdir()
    (base / "status").write_text(
        "Uid:\t1000\t0\t0\t0\nGid:\t5\t5\t5\t5\nTgid:\t7\nThreads:\t3\nNSpid:\t7\t2\n"
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t0000000000000400\nCapBnd:\t000001fffeffffff\n"
        "CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t2\n"
    )
    (base / "uid_map").write_text("         0       1000          1\n         1     100000      65536\n")
    (base / "gid_map").write_text("         0          0 4294967295\n")
    (base / "cgroup").write_text("4:memory:/a\n2:cpu:/\n0::/user.slice/x\n")
    text = " ".join("\n".join(standing_lines(read_standing(7, proc=str(tmp_path)))).split())
    assert "uid 1000, effective 0, saved 0; gid 5" in text
    assert "0 is 1000 to you, 1..65536 are 100000..165535 to you" in text and "gid map every id is itself" in text
    assert "effective: CAP_NET_BIND_SERVICE" in text and "bounding: all but CAP_SYS_RESOURCE" in text
    assert "2 filters" in text and "/user.slice/x; version 1: memory /a" in text


# Two processes


def test_two_processes_share_what_they_were_cloned_with(child):
    """Of caller and child, explain finds the very flags of the clone."""
    for flags in (CLONE(0), CLONE.VM | CLONE.FILES, CLONE.FS | CLONE.FILES, CLONE.NEWUSER | CLONE.NEWNET | CLONE.VM):
        found = explain(str(os.getpid()), str(child(flags)))
        assert found.flags == flags
        assert all((found.tables[name] == "shared") == bool(flags & CLONE[name]) for name in ("VM", "FS", "FILES"))
        assert "is a child of" in str(found)


def test_two_threads():
    """Threads are told from processes, and share all that threads share."""
    done, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: (ready.set(), done.wait()))
    thread.start()
    ready.wait()
    try:
        found = explain(str(os.getpid()), str(thread.native_id))
        assert found.thread and found.flags & CLONE.THREAD and found.flags & (CLONE.VM | CLONE.SIGHAND)
        assert "threads of one process" in str(found)
    finally:
        done.set()
        thread.join()


def test_two_kernel_threads_share_no_memory():
    """kcmp finds their memory equal, since neither has any."""

    def kernel_thread(pid):
        return Process(pid, parent=2, command="k", ids=dict.fromkeys(KINDS, 1), children={}, kernel_thread=True)

    def equal(*_):
        return Comparison(dict.fromkeys(TYPES, "shared"))

    found = explain_pair(3, 4, read=kernel_thread, compare=equal, thread_group=lambda pid: pid)
    assert found.tables["VM"] == "neither" and found.tables["FS"] == "shared"


def test_two_of_which_one_is_hidden():
    """What may not be looked at is "?", what it would need is said, and no flags are guessed."""
    hidden = Process(9, parent=1, command="h", ids=dict.fromkeys(KINDS), children={})
    ours = read_process(os.getpid())
    found = explain_pair(
        9,
        ours.pid,
        read={9: hidden, ours.pid: ours}.__getitem__,
        compare=lambda *_: Comparison(dict.fromkeys(TYPES, "?"), 1),
        thread_group=lambda pid: pid,
    )
    text = str(found)
    assert found.flags is None and "right to ptrace" in text and "CAP_SYS_PTRACE" in text and "EPERM" in text
    assert set(found.namespaces.values()) == {"?"} and max(map(len, text.splitlines())) <= 80
    assert found.as_dict()["kcmp"]["KCMP_VM"] == "?" and found.as_dict()["flags"] is None


def test_a_real_process_of_somebody_else():
    """As an ordinary user: pid 1 and oneself can't be compared, and that is what is said."""
    if os.geteuid() == 0:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65000, 65000, 65000)
            os._exit(explain("self", str(os.getppid())).comparison.why)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    else:
        assert explain("self", "1").comparison.why == 1


# An OCI config.json


def config(*namespaces, **linux):
    entries = [dict(zip(("type", "path"), each.split("=", 1), strict=False)) for each in namespaces]
    return json.dumps({"ociVersion": "1.2.0", "linux": {"namespaces": entries, **linux}})


def explained(text, **more):
    return explain_config(text, path="config.json", identify=lambda path: 42 if path == "/there" else None, **more)


def test_namespaces_of_a_config():
    """Without a path: new; with one: joined; not named: the host's."""
    found = explained(config("pid", "network=/there", "mount", "uts=/gone", "user"))
    assert found.new == ["pid", "mnt", "user"] and found.joined == {"net": "/there", "uts": "/gone"}
    assert found.shared == ["ipc", "cgroup", "time"]
    assert found.flags.flags == CLONE.NEWPID | CLONE.NEWNS | CLONE.NEWUSER and found.flags.exit_signal == 17
    text = str(found)
    assert "/there (42)" in text and "/gone (which is not there, or hidden)" in text
    assert 'setns(open("/there"), CLONE_NEWNET)' in text
    assert max(map(len, text.splitlines())) <= 80
    assert found.as_dict()["joined"]["net"] == {"path": "/there", "id": 42}


def test_an_empty_config_shares_everything():
    """No namespace at all: the text says what that gives away; with all of them there is nothing to say."""
    nothing = explained(config())
    every = explained(config("pid", "network", "mount", "uts", "user", "ipc", "cgroup"))
    assert "host's processes" in str(nothing) and nothing.new == []
    assert "Shared with the host" not in str(every)


def test_maps_of_a_config():
    """They are shown, and what an ordinary user can't map is said."""
    one, many = {"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 65536}
    found = explained(config("user", uidMappings=[one, many], gidMappings=[one]))
    assert found.uid_map == [(0, 1000, 1), (1, 100000, 65536)]
    assert any("newuidmap" in note for note in found.notes()) and not any("newgidmap" in note for note in found.notes())
    assert any("without a user namespace" in note for note in explained(config("pid", uidMappings=[one])).notes())
    assert any("nobody" in note for note in explained(config("user")).notes())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ("[]", 'no object "linux"'),
        ('{"linux": 3}', 'no object "linux"'),
        ('{"linux": {"namespaces": {}}}', "must be a list of objects"),
        ('{"linux": {"namespaces": [3]}}', "must be a list of objects"),
        ('{"linux": {"namespaces": [{}]}}', 'needs a string "type"'),
        (config("mnt"), "did you mean 'mount'"),
        (config("netwrok"), "did you mean 'network'"),
        (config("pid", "pid"), "a second time"),
        (config("pid=relative"), "must be an absolute path"),
        (config(uidMappings=[{"containerID": 0, "hostID": 0, "size": 0}]), "must be at least 1"),
        (config(uidMappings=[{"containerID": 0, "hostID": -1, "size": 1}]), "hostID: must be a number"),
        (config(gidMappings=[{"containerID": 0, "hostID": 4294967295, "size": 2}]), "go beyond"),
        (config(uidMappings=[{"containerID": n, "hostID": 5, "size": 2} for n in (0, 1)]), "overlaps"),
    ],
)
def test_a_bad_config_is_a_spec_error(text, said):
    """With the path of the field that is wrong, and the nearest name."""
    with pytest.raises(SpecError, match=said):
        explained(text)


def test_a_bundle_is_its_config(tmp_path):
    """A directory is taken for a bundle, a path for a file; one that isn't there is named."""
    (tmp_path / "config.json").write_text(config("uts=/proc/self/ns/uts"))
    for path in (tmp_path, tmp_path / "config.json"):
        found = explain(str(path))
        assert found.ids == {"uts": read_process(os.getpid()).ids["uts"]}
    with pytest.raises(SpecError, match="No such file"):
        explain(str(tmp_path / "nothing.json"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="no UTF-8"):
        explain(str(tmp_path / "binary.json"))


# Which is meant


def test_which_kind_a_subject_is(tmp_path):
    """Each is told by its form; a kind, or a prefix, says otherwise."""
    us = str(os.getpid())
    kinds = {
        ("CLONE_VM",): "flags",
        ("0x100",): "flags",
        (us,): "process",
        ("self",): "process",
        (us, "self"): "pair",
        ("fork() = 3",): "call",
        ("unshare(CLONE_FS)", "=", "0"): "call",
        ("CLONE_VM", "FILES", "0x200"): "flags",
        ("flags:256", "CLONE_FS"): "flags",
    }
    assert {words: explain_json(*words)["kind"] for words in kinds} == kinds
    assert explain_json("256", kind="flags")["names"] == "CLONE_VM"
    assert explain_json("CLONE_VM", "CLONE_FILES")["value"] == 0x500
    (tmp_path / "a(1).json").write_text(config())
    assert explain_json(str(tmp_path / "a(1).json"))["kind"] == "config"


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ((), None, "nothing to explain"),
        (("CLONE_VM", "1"), None, "can't be explained together"),
        (("1", "2", "3"), None, "one process or two"),
        (("CLONE_VM",), "pid", "is no pid"),
        (("CLONE_VM",), "flagz", "did you mean 'flags'"),
        (("1",), "call", "is no line of strace"),
        (("/a", "/b"), None, "takes one config"),
    ],
)
def test_what_can_not_be_meant(words, kind, said):
    """Mixed subjects, too many, or of another kind than said are refused with the reason."""
    with pytest.raises(SpecError, match=said):
        explain(*words, kind=kind)


def test_a_bundle_by_its_bare_name(tmp_path, monkeypatch):
    """The name of a directory with a config.json is that bundle's; without that file it is taken for flags."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    with pytest.raises(SpecError, match="there is no flag 'bundle'"):
        explain("bundle")
    (tmp_path / "bundle" / "config.json").write_text('{"linux": {"namespaces": [{"type": "pid"}]}}')
    assert explain("bundle").new == ["pid"]
    monkeypatch.chdir(tmp_path / "bundle")
    assert explain(".").new == ["pid"]


def test_a_file_without_end_is_refused(tmp_path):
    """Of a file that has no end, or is far too long, no more is read than a config.json may have."""
    (tmp_path / "config.json").write_text(" " * (1 << 24) + "{}")
    for path in ("/dev/zero", str(tmp_path)):
        with pytest.raises(SpecError, match="is too long for a config"):
            explain(path)
    (tmp_path / "config.json").write_text(" " * (1 << 20) + '{"linux": {}}')
    assert explain(str(tmp_path)).new == []


def test_the_number_has_the_signal_in_it():
    """The number of flags and a signal is the word that clone takes: the one that was asked about."""
    assert str(explain("0x1200011")).splitlines()[1] == "0x1200011"
    assert str(explain("CLONE_VM")).splitlines()[1] == "0x100"
