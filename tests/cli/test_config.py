"""Files that describe a sandbox: what they may say, and what is said where they are wrong."""

import json

import pytest

from ramet.errors import SpecError, SpecTypeError
from ramet.spec import (
    Bind,
    File,
    IdMapping,
    IoLimit,
    Join,
    Namespace,
    Overlay,
    Rootfs,
    Sandbox,
    Symlink,
    TimeOffsets,
    Tmpfs,
)
from ramet.spec.config import decode, sandbox_from_mapping

EVERYTHING = {
    "namespaces": ["user", "mount", "pid", "uts", "time"],
    "join": [{"kind": "net", "path": "netns/blue"}, {"kind": "ipc", "pid": 1}],
    "time_offsets": {"monotonic": 3600},
    "uid": 7,
    "gid": 8,
    "groups": [9],
    "uid_mappings": [{"inside": 0, "outside": 1000, "size": 10}],
    "gid_mappings": "subordinate",
    "rootfs": {"path": "root", "writes": "discarded"},
    "mounts": [
        {"kind": "bind", "source": "data", "destination": "/data", "writable": True},
        {"kind": "tmpfs", "destination": "/t", "size": "64M", "mode": "1777"},
        {"kind": "overlay", "destination": "/o", "lower": ["a", "/b"], "upper": "u", "work": "w"},
        {"kind": "symlink", "destination": "/l", "target": "t"},
        {"kind": "file", "destination": "/f", "content": "text"},
    ],
    "masked_paths": ["/proc/kcore"],
    "readonly_paths": ["/proc/sys"],
    "disk": "1M",
    "umask": "077",
    "hostname": "box",
    "domainname": "d",
    "env": {"A": "1", "LANG": None, "TERM": False},
    "workdir": "/data",
    "loopback": False,
    "tty": True,
    "terminal_size": [24, 80],
    "new_session": True,
    "capabilities": ["net_raw"],
    "no_new_privs": False,
    "nested_namespaces": True,
    "rlimits": {"nofile": [64, 128], "AS": "1G", "CORE": "unlimited"},
    "as_pid1": True,
    "timeout": "1m30s",
    "output": 1024,
    "output_action": "kill",
    "memory": "64M",
    "memory_high": "32M",
    "swap": "16M",
    "processes": 5,
    "cpu_time": "1m",
    "cpus": 0.5,
    "cpuset": "0-1",
    "cpuset_mems": "0",
    "cpu_weight": 50,
    "io": [{"device": "disk", "write_bytes": "1M"}],
    "io_weight": 20,
    "file_size": "2M",
    "open_files": 64,
    "nice": 5,
    "idle": False,
    "seccomp": "kill",
    "landlock": False,
    "allow_degraded": ["cpus"],
}


def test_every_field_can_be_written():
    """A mapping with each of Sandbox's fields gives the Sandbox that Python would; relative paths are the file's."""
    assert set(EVERYTHING) == set(Sandbox._fields)
    expected = Sandbox(
        namespaces={Namespace.USER, Namespace.MOUNT, Namespace.PID, Namespace.UTS, Namespace.TIME},
        join=(Join(Namespace.NET, path="/base/netns/blue"), Join(Namespace.IPC, pid=1)),
        time_offsets=TimeOffsets(monotonic=3600),
        uid=7,
        gid=8,
        groups=(9,),
        uid_mappings=(IdMapping(0, 1000, 10),),
        gid_mappings="subordinate",
        rootfs=Rootfs("/base/root", "discarded"),
        mounts=(
            Bind("/base/data", "/data", writable=True),
            Tmpfs("/t", "64M", 0o1777),
            Overlay("/o", ("/base/a", "/b"), "/base/u", "/base/w"),
            Symlink("/l", "t"),
            File("/f", "text"),
        ),
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        disk="1M",
        umask=0o077,
        hostname="box",
        domainname="d",
        env={"A": "1", "LANG": None, "TERM": None},
        workdir="/data",
        loopback=False,
        tty=True,
        terminal_size=(24, 80),
        capabilities={"CAP_NET_RAW"},
        no_new_privs=False,
        nested_namespaces=True,
        rlimits={"NOFILE": (64, 128), "AS": 1 << 30, "CORE": None},
        as_pid1=True,
        timeout=90,
        output=1024,
        output_action="kill",
        memory=64 << 20,
        memory_high=32 << 20,
        swap=16 << 20,
        processes=5,
        cpu_time=60,
        cpus=0.5,
        cpuset="0-1",
        cpuset_mems="0",
        cpu_weight=50,
        io=(IoLimit("/base/disk", write_bytes=1 << 20),),
        io_weight=20,
        file_size=2 << 20,
        open_files=64,
        nice=5,
        idle=False,
        seccomp="kill",
        landlock=False,
        allow_degraded={"cpus"},
    )
    assert expected == sandbox_from_mapping(EVERYTHING, base="/base")


def test_nothing_is_the_default():
    """An empty mapping is Sandbox()."""
    assert Sandbox() == sandbox_from_mapping({})


@pytest.mark.parametrize(
    ("value", "says", "hint"),
    [
        ([], "must be a table, not a list", None),
        ({"hostnam": "x"}, "hostnam: no such key", "did you mean 'hostname'?"),
        ({"zzz": 1}, "zzz: no such key", "the keys are namespaces, "),
        ({"mounts": {}}, "mounts: must be a list, not a table", None),
        ({"mounts": [3]}, "mounts[0]: must be a table, not an integer", None),
        ({"mounts": [{}]}, "mounts[0].kind: is required", "one of bind, tmpfs"),
        ({"mounts": [{"kind": ["bind"]}]}, "mounts[0].kind: must be text, not a list", "one of bind"),
        ({"mounts": [{"kind": "bnd"}]}, "mounts[0].kind: unknown mount kind 'bnd'", "did you mean 'bind'?"),
        ({"mounts": [{"kind": "bind"}]}, "mounts[0].source: is required", None),
        ({"mounts": [{"kind": "bind", "source": 3}]}, "mounts[0].source: must be text", None),
        (
            {"mounts": [{"kind": "bind", "source": "/", "destination": "x"}]},
            "mounts[0].destination: must be an abs",
            None,
        ),
        (
            {"mounts": [{"kind": "bind", "sourc": "/"}]},
            "mounts[0].sourc: no such key",
            "did you mean 'source'?",
        ),
        (
            {"mounts": [{"kind": "tmpfs", "destination": "/t", "mode": "9"}]},
            "mounts[0].mode: '9' is no octal",
            None,
        ),
        (
            {"mounts": [{"kind": "overlay", "destination": "/o", "lower": "/a"}]},
            "mounts[0].lower: must be a list",
            None,
        ),
        ({"rootfs": {"writes": "kept"}}, "rootfs.path: is required", None),
        ({"rootfs": {"path": "/r", "write": "kept"}}, "rootfs.write: no such key", "did you mean 'writes'?"),
        ({"rootfs": "minimall"}, "rootfs: must be minimal, empty, host", None),
        ({"rootfs": 3}, "rootfs: must be text, not int", None),
        ({"uid": "0"}, "uid: must be an integer, not str", None),
        ({"uid": True}, "uid: must be an integer, not bool", None),
        ({"uid": [1]}, "uid: must be a single value, not a list", None),
        ({"groups": 5}, "groups: must be a list, not an integer", None),
        ({"groups": ["a"]}, "groups[0]: must be an integer", None),
        ({"uid_mappings": [{"inside": 0}]}, "uid_mappings[0].outside: is required", None),
        ({"uid_mappings": "all"}, "uid_mappings: must be lines or 'subordinate'", None),
        ({"env": ["A=1"]}, "env: must be a table, not a list", None),
        ({"env": {"A": 1}}, "env.A: must be text, not an integer", '"1", in quotation marks'),
        ({"env": {"A": True}}, "env.A: must be text, not true or false", "false leaves the variable out"),
        ({"rlimits": {"NOFILE": "many"}}, "rlimits.NOFILE: 'many' is no size", None),
        ({"rlimits": {"NOFILES": 3}}, "rlimits['NOFILES']: no such limit", "did you mean 'NOFILE'?"),
        ({"rlimits": {"NOFILE": -1}}, "rlimits.NOFILE: must be 0 to", None),
        ({"join": [{"kind": "net"}]}, "join[0].kind: takes exactly one of", None),
        ({"timeout": 0}, "timeout: must be more than 0", None),
        ({"tty": "yes"}, "tty: must be True or False", None),
        ({"terminal_size": [0, 80], "tty": True}, "terminal_size[0]: must be 1 to 65535", None),
        ({"terminal_size": [24, 80]}, "terminal_size: needs tty", None),
        ({"namespaces": ["nett"]}, "namespaces[0]: there is no namespace 'nett'", "did you mean 'net'?"),
        ({"hostname": "h", "namespaces": ["user"]}, "hostname: needs Namespace.UTS", None),
        ({"command": ["true"]}, "command: is not part of a Sandbox", None),
        ({"command": "true"}, "command: must be a list, not text", None),
        ({3: 1}, "a key must be text", None),
    ],
)
def test_wrong_value_is_named_by_its_path(value, says, hint):
    """The path of the key as the file has it, what is wrong, and the nearest name."""
    with pytest.raises(SpecError) as caught:
        sandbox_from_mapping(value, where="box.toml")
    assert str(caught.value).startswith("box.toml")
    assert says in str(caught.value)
    assert (hint or "") in (caught.value.hint or "")


def test_wrong_type_is_a_type_error_too():
    """Who catches TypeError is told as well."""
    with pytest.raises(SpecTypeError):
        sandbox_from_mapping({"groups": 5})


def test_command_is_kept_apart():
    """`command` is no field of Sandbox; decode hands it over beside them."""
    box = decode({"command": ["echo", "hi"], "uid": 5})
    assert (box.command, box.fields) == (("echo", "hi"), {"uid": 5})


def test_run_takes_a_file(ramet, folder):
    """--config: its mounts by paths of its own directory, its command; options add to it and win."""
    (folder / "data").mkdir()
    (folder / "data" / "f").write_text("from data\n")
    (folder / "box.toml").write_text(
        'hostname = "filed"\ncommand = ["sh", "-c", "uname -n; cat /data/f; echo $A$B"]\n'
        '[env]\nA = "a"\nB = "b"\n'
        '[[mounts]]\nkind = "bind"\nsource = "data"\ndestination = "/data"\n'
    )
    box = str(folder / "box.toml")
    assert ramet("run", "--config", box).stdout == "filed\nfrom data\nab\n"
    done = ramet("run", "--hostname", "option", "--env", "B=c", "--config", box, "--tmpfs", "/t")
    assert done.stdout == "option\nfrom data\nac\n"
    assert ramet("run", "--config", box, "echo", "mine").stdout == "mine\n"


def test_run_takes_json_too(ramet, folder):
    """A file whose name ends in .json is JSON."""
    (folder / "box.json").write_text(json.dumps({"uid": 4242, "command": ["id", "-u"]}))
    assert ramet("run", "--config", str(folder / "box.json")).stdout == "4242\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('hostnam = "x"', "box.toml: hostnam: no such key\n\nhint: did you mean 'hostname'?"),
        ("uid = -1", "box.toml: uid: must be 0 to 4294967294, not -1"),
        ("hostname = ", "box.toml: is no TOML: "),
        (b"\xff", "box.toml: is no TOML: "),
        ('[[mounts]]\nkind = "bind"\nsource = "nowhere"\n', "box.toml: mounts[0].source: '"),
        (
            '[[mounts]]\nkind = "tmpfs"\ndestination = "/a"\n' * 2,
            "box.toml: mounts[1].destination: '/a' is already",
        ),
    ],
)
def test_fault_in_a_file_names_the_file_and_the_key(ramet, folder, content, says):
    """Exit code 125, nothing run, and the place."""
    path = folder / "box.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = ramet("run", "--config", str(path), "echo", "ran")
    assert f"{folder}/{says}" in done.stderr, done.stderr
    assert (done.stdout, done.returncode) == ("", 125)


def test_file_that_cannot_be_read(ramet, folder):
    """Missing, or a directory; given twice."""
    assert "can't be read: No such file" in ramet("run", "--config", "/nonexistent", "true").stderr
    assert "can't be read: Is a directory" in ramet("run", "--config", str(folder), "true").stderr
    (folder / "a.toml").write_text("uid = 5")
    twice = ["--config", str(folder / "a.toml")] * 2
    assert "--config: is given twice" in ramet("run", *twice, "true").stderr
