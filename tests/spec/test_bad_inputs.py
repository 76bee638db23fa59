"""The answers to bad input: which exception, what it names; and nothing is started, nothing left."""

import os
import re
import socket

import pytest

import ramet
from ramet import (
    Bind,
    CommandError,
    Directory,
    Error,
    File,
    IdMapping,
    Join,
    Namespace,
    Overlay,
    Popen,
    Rootfs,
    Sandbox,
    SpecError,
    SpecTypeError,
    StepError,
    Symlink,
    TimeOffsets,
    Tmpfs,
    UnsupportedError,
)

pytestmark = pytest.mark.usefixtures("nothing_started")


def refused(call, *args, **fields):
    """The SpecError of a call."""
    with pytest.raises(SpecError) as caught:
        call(*args, **fields)
    return caught.value


# argv


@pytest.mark.parametrize("empty", [[], ()])
def test_empty_argv(empty):
    """No argument at all: there is nothing to run."""
    error = refused(ramet.run, empty)
    assert (error.field, isinstance(error, ValueError)) == ("argv", True)


@pytest.mark.parametrize("text", ["ls -l", b"ls", ""])
def test_one_text_as_argv(text):
    """One text is refused, not run by a shell: the error says how to split it."""
    error = refused(ramet.run, text)
    assert isinstance(error, TypeError)
    assert error.field == "argv"
    assert "shlex.split" in error.hint


@pytest.mark.parametrize("bad", [None, 5, {"a": 1}, {"a"}, (x for x in ["true"]), iter(["true"]), object()])
def test_argv_of_another_type(bad):
    """Generators, sets, numbers: no list of arguments, so a TypeError that says what it is."""
    error = refused(ramet.run, bad)
    assert isinstance(error, SpecTypeError)
    assert type(bad).__name__ in str(error)


@pytest.mark.parametrize("bad", [5, None, 1.5, ["nested"], True, object()])
@pytest.mark.parametrize("index", [0, 2])
def test_argument_of_another_type(bad, index):
    """An argument that is no text is named by its index."""
    argv = ["true", "a", "b"]
    argv[index] = bad
    error = refused(ramet.run, argv)
    assert isinstance(error, TypeError)
    assert error.field == f"argv[{index}]"


def test_empty_command():
    """An empty command is refused; an empty argument is not."""
    assert refused(ramet.run, [""]).field == "argv[0]"
    assert ramet.run(["printf", "<%s>", ""]).stdout == b"<>"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"argv": ["true", "a", "b", "x\0y"]}, "argv[3]"),
        ({"argv": ["tr\0ue"]}, "argv[0]"),
        ({"argv": [b"tr\0ue"]}, "argv[0]"),
        ({"env": {"A": "x\0"}}, "Sandbox.env['A']"),
        ({"env": {"A\0": "x"}}, "Sandbox.env name 'A\\x00'"),
        ({"workdir": "/a\0b"}, "Sandbox.workdir"),
        ({"hostname": "a\0b"}, "Sandbox.hostname"),
        ({"rootfs": "/a\0b"}, "Sandbox.rootfs"),
        ({"masked_paths": ["/a\0b"]}, "Sandbox.masked_paths[0]"),
    ],
)
def test_embedded_null_byte(fields, field):
    """A NUL byte anywhere is refused, and its place named."""
    argv = fields.pop("argv", ["true"])
    error = refused(ramet.run, argv, **fields)
    assert (error.field, error.message) == (field, "embedded null byte")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Bind("/a\0b"), "Bind.source"),
        (lambda: Bind("/a", "/a\0b"), "Bind.destination"),
        (lambda: Tmpfs("/a\0"), "Tmpfs.destination"),
        (lambda: Overlay("/a", ["/b\0"]), "Overlay.lower[0]"),
        (lambda: Symlink("/a", "b\0"), "Symlink.target"),
        (lambda: Rootfs("/a\0"), "Rootfs.path"),
        (lambda: Join("net", path="/a\0"), "Join.path"),
    ],
)
def test_embedded_null_byte_in_parts(make, field):
    """The same in the parts of a spec."""
    assert refused(make).field == field


def test_non_utf8_arguments():
    """Arguments that are no UTF-8 arrive byte for byte, given as bytes or as surrogates."""
    result = ramet.run(["printf", "%s|%s|%s", b"\xff\xfe", os.fsdecode(b"\x80"), "ü"])
    assert result.stdout == b"\xff\xfe|\x80|\xc3\xbc"


def test_lone_surrogate_is_refused():
    """A surrogate that stands for no byte can't be passed on: refused by index, not a UnicodeError from within."""
    error = refused(ramet.run, ["true", "\ud800"])
    assert error.field == "argv[1]"


def test_path_like_arguments(tmp_path):
    """PathLike objects are taken where text is."""
    from pathlib import Path

    assert ramet.run([Path("/bin/echo"), Path("/x")]).stdout == b"/x\n"


# Environment


@pytest.mark.parametrize(
    ("env", "field"),
    [
        ({"": "x"}, "Sandbox.env['']"),
        ({"A=B": "x"}, "Sandbox.env['A=B']"),
        ({5: "x"}, "Sandbox.env name 5"),
        ({"A": 5}, "Sandbox.env['A']"),
        ({"A": True}, "Sandbox.env['A']"),
        ([("A", "b")], "Sandbox.env"),
        ("A=b", "Sandbox.env"),
        (None, "Sandbox.env"),
    ],
)
def test_bad_environment(env, field):
    """Names that the kernel can't keep apart, and values that are no text, are refused by name."""
    assert refused(ramet.run, ["true"], env=env).field == field


# Sizes


def test_one_argument_too_long():
    """An argument past 128 KiB is E2BIG, with the way out; just below, it runs."""
    with pytest.raises(StepError) as caught:
        ramet.run(["true", "x" * (128 << 10)])
    assert caught.value.errno == 7
    assert "stdin or a file" in caught.value.hint
    assert ramet.run(["true", "x" * ((128 << 10) - 1)]).ok


def test_arguments_too_long_together():
    """Arguments past the kernel's limit together are E2BIG; no message holds them all."""
    with pytest.raises(StepError) as caught:
        ramet.run(["true", *["x" * 1000] * 10_000])
    assert caught.value.errno == 7
    assert len(str(caught.value)) < 10_000


def test_environment_too_long():
    """So is an environment of 100 000 variables."""
    with pytest.raises(StepError) as caught:
        ramet.run(["true"], env={f"V{n}": "x" * 50 for n in range(100_000)})
    assert caught.value.errno == 7


def test_many_binds(tmp_path):
    """Hundreds of mounts are no problem."""
    mounts = [File(f"/f/{n}", str(n)) for n in range(500)] + [Bind("/etc/passwd", f"/b/{n}") for n in range(500)]
    assert ramet.run(["sh", "-c", "ls /f /b | wc -l; cat /f/499"], mounts=mounts, text=True).stdout.split() == [
        "1003",
        "499",
    ]


# Paths


@pytest.mark.parametrize(
    "make", [lambda p: Bind(p), lambda p: Tmpfs(p), lambda p: Rootfs(p), lambda p: Sandbox(workdir=p)]
)
def test_too_long_paths(make):
    """A path of 4096 bytes or more, and a component past 255, are ENAMETOOLONG before anything runs."""
    for path in ("/" + "a/" * 2048, "/" + "a" * 256, "/" + "ü" * 128):
        assert "ENAMETOOLONG" in refused(make, path).message


def test_loop_of_links(tmp_path):
    """A source that is a loop of symlinks is refused and named."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    error = refused(ramet.run, ["true"], mounts=[Bind(tmp_path / "a", "/in")])
    assert error.field == "Sandbox.mounts[0].source"
    assert str(tmp_path / "a") in error.message and "symbolic links" in error.message


@pytest.mark.parametrize(
    "kind",
    [
        lambda d: Bind("/etc", d),
        lambda d: Tmpfs(d),
        lambda d: File(d),
        lambda d: Directory(d),
        lambda d: Symlink(d, "x"),
        lambda d: Overlay(d, ["/etc"]),
    ],
)
@pytest.mark.parametrize("bad", ["relative", "/a/../b", "..", "/..", "/", "//", "/.", ""])
def test_bad_destinations(kind, bad):
    """A destination is absolute, without .., and not the root itself; an empty one is not taken for one."""
    if bad == "" and isinstance(_try(kind, "/x"), Bind):
        pytest.skip("only where a destination is required")
    assert refused(kind, bad).field.endswith(".destination")


def _try(kind, where):
    return kind(where)


def test_destinations_are_cleaned():
    """Double slashes, single dots and a slash at the end mean nothing."""
    assert Tmpfs("//a/./b//").destination == "/a/b"


@pytest.mark.parametrize("bad", [5, None, True, ["/a"], object()])
def test_paths_of_another_type(bad):
    """What is no path is a TypeError that names the field."""
    for make in (lambda: Tmpfs(bad), lambda: Bind(bad), lambda: Rootfs(bad)):
        assert isinstance(refused(make), SpecTypeError)


def swap_and_launch(tmp_path, make):
    """Plan with a bind of tmp_path/source, make it a symlink, launch: the StepError's errno must be ELOOP."""
    from ramet.host.facts import facts_for
    from ramet.plan.compile import compile
    from ramet.run.launch import launch
    from ramet.spec import Command

    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if above.stat().st_uid == os.geteuid():
            above.chmod(0o755)
    make(tmp_path / "source")
    make(tmp_path / "other")
    box = Sandbox(mounts=[Bind(tmp_path / "source", "/in")])
    plan = compile(box, facts_for(box), Command(("true",)))
    (tmp_path / "source").rename(tmp_path / "was")
    (tmp_path / "source").symlink_to(tmp_path / "other")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        with pytest.raises(StepError) as caught:
            launch(plan, (null, null, null))
    finally:
        os.close(null)
    assert caught.value.errno == 40
    assert caught.value.origin.startswith("Sandbox.mounts[0]")


def test_directory_source_swapped_for_a_link(tmp_path):
    """A source that becomes a symlink after it was looked up is refused by the step that opens it, not followed."""
    swap_and_launch(tmp_path, lambda path: path.mkdir())


# Numbers


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        True,
        False,
        1.5,
        None,
        "",
        "0",
        "-5M",
        "1X",
        "M",
        "1..5G",
        "nan",
        "inf",
        "1e400",
        2**63,
        "9999999T",
        "0x10",
        "1 G G",
        "1_000",
        "\u0663M",
        [],
        b"1M",
    ],
)
def test_bad_sizes(bad):
    """Sizes are whole and positive, or text with a binary unit; what is not, or does not fit 63 bits, is refused."""
    assert refused(Tmpfs, "/t", size=bad).field == "Tmpfs.size"
    assert refused(Sandbox, output=bad).field == "Sandbox.output"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("2K", 2048),
        ("3M", 3 << 20),
        ("1.5G", 3 << 29),
        ("1T", 1 << 40),
        ("4MiB", 4 << 20),
        ("4MB", 4 << 20),
        ("5m", 5 << 20),
        ("6kB", 6 << 10),
        (" 7K ", 7168),
    ],
)
def test_good_sizes(text, value):
    """Units are binary."""
    assert Tmpfs("/t", size=text).size == value


@pytest.mark.parametrize(
    "bad",
    [
        0,
        -1,
        -0.0,
        True,
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "abc",
        "1x",
        "1m2",
        "-5s",
        "0",
        "nan",
        "inf",
        "1e999",
        [],
        b"1s",
        10**400,
    ],
)
def test_bad_timeouts(bad):
    """A timeout is positive and finite: 0 does not mean none, NaN and infinity mean nothing."""
    assert refused(Sandbox, timeout=bad).field == "Sandbox.timeout"
    assert refused(ramet.run, ["true"], timeout=bad).field == "Sandbox.timeout"


@pytest.mark.parametrize(
    ("text", "value"), [("1.5", 1.5), ("250ms", 0.25), ("1m30s", 90), ("2h", 7200), ("1d", 86400), (3, 3.0)]
)
def test_good_timeouts(text, value):
    """Durations are numbers of seconds, or text."""
    assert Sandbox(timeout=text).timeout == value


@pytest.mark.parametrize("timeout", [1e308, 2.0**40, "100000d"])
def test_huge_timeout(timeout):
    """A timeout past what poll(2) takes is simply long."""
    assert ramet.run(["true"], timeout=timeout).ok


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("bad", [-1, 2**32 - 1, 2**32, 2**64, True, 1.0, "0", "root"])
def test_bad_ids(field, bad):
    """An id is 0 to 4294967294: (uid_t) -1 is none, True is no number."""
    assert refused(Sandbox, **{field: bad}).field == f"Sandbox.{field}"


@pytest.mark.parametrize("bad", [-1, 0o1000, "022", True, 1.0, None])
def test_bad_umask(bad):
    """A umask has nine bits."""
    assert refused(Sandbox, umask=bad).field == "Sandbox.umask"


@pytest.mark.parametrize(
    "lines",
    [
        [IdMapping(0, 0, 10), IdMapping(5, 100, 10)],
        [IdMapping(0, 0, 10), IdMapping(100, 5, 10)],
        [IdMapping(n, n) for n in range(341)],
        [],
    ],
)
def test_bad_mappings(lines):
    """Ranges that overlap on either side, none, and more than 340 are refused as the kernel would refuse them."""
    assert refused(Sandbox, uid=0, uid_mappings=lines).field == "Sandbox.uid_mappings"


def test_bad_mapping_lines():
    """One line checks itself; what is no line is named by its index."""
    assert refused(IdMapping, 2**32 - 2, 0, 2).field == "IdMapping.size"
    assert refused(IdMapping, 0, 0, 0).field == "IdMapping.size"
    assert refused(IdMapping, -1, 0).field == "IdMapping.inside"
    assert refused(Sandbox, uid_mappings=[IdMapping(1000, 0), (0, 0, 1)]).field == "Sandbox.uid_mappings[1]"
    assert refused(Sandbox, uid_mappings="all").field == "Sandbox.uid_mappings"
    assert refused(Sandbox, uid_mappings=5).field == "Sandbox.uid_mappings"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300, True, "5", None, 10**400])
def test_bad_time_offsets(bad):
    """A clock offset is a finite number of seconds."""
    assert refused(TimeOffsets, monotonic=bad).field == "TimeOffsets.monotonic"
    assert refused(TimeOffsets, boottime=bad).field == "TimeOffsets.boottime"


def test_clock_below_zero():
    """An offset that would make a clock negative is refused by the kernel, and named."""
    with pytest.raises(StepError) as caught:
        ramet.run(["true"], namespaces=set(Namespace), time_offsets=TimeOffsets(boottime=-1e9))
    assert caught.value.origin == "Sandbox.time_offsets"


@pytest.mark.parametrize("bad", [[0], [1], [2], [-1], ["3"], [True], [2**40], 5, None])
def test_bad_pass_fds(bad):
    """Descriptors to pass on are numbers from 3."""
    assert refused(ramet.run, ["true"], pass_fds=bad).field.startswith("pass_fds")


def test_pass_fds_that_is_not_open():
    """A descriptor that is not open is refused before anything starts."""
    assert refused(ramet.run, ["true"], pass_fds=[987654]).field == "pass_fds"


def test_pass_fds_at_the_limit():
    """The highest number a process may have leaves no room for ramet's own: an error that says so, nothing started."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    os.dup2(0, 255, inheritable=False)
    try:
        with pytest.raises(UnsupportedError, match="RLIMIT_NOFILE"):
            ramet.run(["true"], pass_fds=[255])
    finally:
        os.close(255)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_file_source_swapped_for_a_link(tmp_path):
    """A file that becomes a symlink is refused too; the link itself is not mounted in its place."""
    swap_and_launch(tmp_path, lambda path: path.write_text("content"))


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "net"},
        {"kind": "net", "pid": 1, "pidfd": 2},
        {"kind": "nett", "pid": 1},
        {"kind": 5, "pid": 1},
        {"kind": "net", "pid": 0},
        {"kind": "net", "pid": -1},
        {"kind": "net", "pid": "1"},
        {"kind": "net", "pidfd": -1},
        {"kind": "net", "path": ""},
    ],
)
def test_bad_joins(bad):
    """A namespace to join is named in exactly one way."""
    assert refused(Join, **bad).field.startswith("Join.")


# Flags, sets, unknown names


@pytest.mark.parametrize("field", ["loopback", "tty", "new_session", "no_new_privs", "nested_namespaces", "as_pid1"])
@pytest.mark.parametrize("bad", [1, 0, "yes", None, []])
def test_flags_are_booleans(field, bad):
    """Yes-or-no fields take True and False, and nothing that merely counts as them."""
    if (field, bad) == ("nested_namespaces", None):
        assert Sandbox(nested_namespaces=None) == Sandbox()  # refused where it can be
        return
    error = refused(Sandbox, **{field: bad})
    assert (error.field, isinstance(error, TypeError)) == (f"Sandbox.{field}", True)


def test_nesting_refused_without_a_user_namespace():
    """nested_namespaces=False insists: without a user namespace of the sandbox's own it is an error."""
    error = refused(Sandbox, nested_namespaces=False, namespaces={Namespace.PID})
    assert error.field == "Sandbox.nested_namespaces"
    assert Sandbox(namespaces={Namespace.PID}).nested_namespaces is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [("hostnam", "hostname"), ("memory_limit", None), ("mount", "mounts"), ("envv", "env"), ("time_out", "timeout")],
)
def test_unknown_fields(name, meant):
    """A field that does not exist is a TypeError with the nearest name, for Sandbox, run and Popen."""
    for call in (
        lambda: Sandbox(**{name: 1}),
        lambda: ramet.run(["true"], **{name: 1}),
        lambda: Popen(["true"], **{name: 1}),
        lambda: Sandbox().replace(**{name: 1}),
    ):
        error = refused(call)
        assert isinstance(error, TypeError)
        assert (f"did you mean {meant!r}" in error.hint) if meant else error.hint


@pytest.mark.parametrize("bad", ["net", b"net", ["nett"], [5], [None], 5, None])
def test_bad_namespaces(bad):
    """Namespaces are a set of kinds; one text is no set, an unknown name is answered with the nearest."""
    assert refused(Sandbox, namespaces=bad).field.startswith("Sandbox.namespaces")


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("mounts", Tmpfs("/a")), ("mounts", "/a"), ("mounts", ["/a"]), ("mounts", 5), ("mounts", None),
        ("groups", 5), ("groups", ["a"]), ("groups", "12"), ("groups", [-1]),
        ("join", 5), ("join", ["net"]), ("join", None),
        ("masked_paths", "/a"), ("masked_paths", 5), ("readonly_paths", b"/a"),
        ("capabilities", "ALL"), ("capabilities", 5), ("capabilities", None), ("capabilities", [5]),
        ("rootfs", "minimall"), ("rootfs", "relative/path"), ("rootfs", 5), ("rootfs", "/a/../b"),
        ("time_offsets", 5), ("hostname", 5), ("hostname", b"\xff"[:0] or 7), ("workdir", "relative"), ("workdir", "/a/../b"), ("workdir", ""),
        ("rlimits", None), ("rlimits", 5),
    ],
)  # fmt: skip
def test_bad_fields(field, bad):
    """Every field of Sandbox answers a value of another kind with a SpecError that names it."""
    assert refused(Sandbox, **{field: bad}).field.startswith(f"Sandbox.{field}")


def test_sandbox_of_another_type():
    """sandbox= takes a Sandbox, no mapping of its fields."""
    assert refused(ramet.run, ["true"], {"hostname": "x"}).field == "sandbox"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"namespaces": {Namespace.USER}, "hostname": "x"}, "UTS"),
        ({"namespaces": {Namespace.USER}, "mounts": [Tmpfs("/a")]}, "MOUNT"),
        ({"namespaces": {Namespace.USER}, "rootfs": "/"}, "MOUNT"),
        ({"namespaces": {Namespace.USER}, "as_pid1": True}, "PID"),
        ({"namespaces": set(), "uid_mappings": [IdMapping(1000, 0)]}, "USER"),
        ({"time_offsets": TimeOffsets()}, "TIME"),
        ({"tty": True, "new_session": False}, "new_session"),
        ({"uid": 5, "uid_mappings": [IdMapping(0, 0)]}, "uid_mappings"),
    ],
)
def test_contradictions(fields, names):
    """Options that contradict each other are refused, and the error names both."""
    error = refused(Sandbox, **fields)
    assert names in str(error)
    assert re.match(r"Sandbox\.\w+", error.field)


def test_every_error_is_of_the_family():
    """SpecErrors are ValueErrors, type errors are TypeErrors too, StepErrors are OSErrors: all are ramet.Error."""
    assert issubclass(SpecError, Error) and issubclass(SpecError, ValueError)
    assert issubclass(SpecTypeError, SpecError) and issubclass(SpecTypeError, TypeError)
    assert issubclass(CommandError, StepError) and issubclass(StepError, Error) and issubclass(StepError, OSError)


def test_step_error_reads_as_promised():
    """A StepError says what was being done, the call, the errno by name, where it came from, and what to do."""
    with pytest.raises(StepError) as caught:
        ramet.run(["true"], workdir="/nope")
    first, step, origin, blank, hint = str(caught.value).split("\n")
    assert first == "cannot enter the working directory '/nope': ENOENT (No such file or directory)"
    assert re.match(r"  payload step \d+ of \d+: openat2\(", step)
    assert (origin, blank) == ("  from: Sandbox.workdir", "")
    assert hint.startswith("hint: ")


def test_errors_can_be_pickled():
    """Errors survive pickling, as when they come out of a pool's worker."""
    import pickle

    found = []
    for call in (
        lambda: ramet.run([]),
        lambda: ramet.run(["true"], workdir="/nope"),
        lambda: ramet.run(["nope"]),
        lambda: ramet.run(["false"], check=True),
    ):
        with pytest.raises(Error) as caught:
            call()
        found.append(caught.value)
    for error in found:
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))


def test_source_kinds(tmp_path):
    """A dangling symlink as a source is refused; a source without permission on the way says so."""
    (tmp_path / "dangling").symlink_to("/nonexistent")
    assert "does not exist" in refused(ramet.run, ["true"], mounts=[Bind(tmp_path / "dangling", "/in")]).message
    with socket.socket(socket.AF_UNIX):
        if os.geteuid() != 0:
            assert "Permission denied" in refused(ramet.run, ["true"], mounts=[Bind("/root/x", "/in")]).message
