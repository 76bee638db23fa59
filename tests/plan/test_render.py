"""render: a plan as a reader meets it, in text and as plain data."""

import json
import re

from plan_facts import ROOT, USER, for_spec

from ramet.plan.compile import compile
from ramet.plan.render import quoted, step_text
from ramet.spec import Bind, Command, File, Sandbox

TRUE = Command(("/bin/true",))


def test_every_step_is_shown_under_the_number_that_errors_use():
    """The numbers of a stage cover its steps without gap, runs of the same call included."""
    plan = compile(Sandbox(), ROOT, TRUE)
    titles = {
        "child": "the child, sharing",
        "init": "then the child clones",
        "payload": "the payload's process, meanwhile",
    }
    for stage, title in titles.items():
        shown = str(plan).split(title)[1].split("\n\n")[0]
        covered = []
        for first, last in re.findall(r"^ *(\d+)(?:-(\d+))?  ", shown, re.M):
            covered += range(int(first), int(last or first) + 1)
        assert covered == list(range(len(plan.stages[stage].steps)))


def test_runs_of_dropped_capabilities_are_one_line():
    """Forty-one prctl calls that differ in the capability are one line that says so."""
    (line,) = (line for line in str(compile(Sandbox(), USER, TRUE)).splitlines() if "CAPBSET" in line)
    assert "CAP_CHOWN .. CAP_CHECKPOINT_RESTORE" in line and "41 calls" in line


def test_lines_fit_a_screen():
    """Four lines in five of a default plan fit 80 columns, and none passes 300: long content is cut or
    short."""
    lengths = [len(line) for line in str(compile(Sandbox(), USER, TRUE)).splitlines()]
    assert sum(length <= 80 for length in lengths) > 0.8 * len(lengths)
    assert max(lengths) < 300


def test_long_content_is_cut():
    """A file of a megabyte does not fill the screen: its text is cut and marked, its origin shortened."""
    plan = compile(Sandbox(mounts=[File("/big", b"x" * 10**6)]), USER, TRUE)
    shown = [line for line in str(plan).splitlines() if "xxx" in line]
    assert shown
    assert all(len(line) < 500 for line in shown)
    assert any('"...' in line for line in shown)


def test_text_is_quoted_as_c_does():
    """Quotes, newlines, and bytes that are no text are escaped."""
    assert quoted('a"b\n') == '"a\\"b\\n"'
    assert quoted(b"it's") == '"it\'s"'
    assert "\n" not in quoted("\udcff\x1b[31m") and "\x1b" not in quoted("\x1b[31m")


def test_flags_have_their_kernel_names():
    """Flags, commands and resources are shown by name."""
    text = str(compile(Sandbox(rlimits={"NOFILE": 9}), USER, TRUE))
    for name in (
        "CLONE_NEWUSER|CLONE_NEWNS",
        "MS_REC|MS_PRIVATE",
        "MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV",
        "FSCONFIG_CMD_CREATE",
        "PR_SET_NO_NEW_PRIVS",
        "SIOCSIFFLAGS",
        "RLIMIT_NOFILE, {9, 9}",
        "AT_FDCWD",
        "MNT_DETACH",
    ):
        assert name in text


def test_plan_says_whether_the_caller_is_stopped():
    """What is said of the clone tells vfork-style from waiting, and agrees with the flags."""

    def first(host, **fields):
        return str(compile(Sandbox(**fields), host, TRUE)).split("\n\n")[0]

    def entering(kit):
        return str(compile(Sandbox(), USER, TRUE, ahead=kit)).split("\n\n")[0]

    alone, user, root = first(USER, as_pid1=True), first(USER), first(ROOT)
    kit = compile(Sandbox(), USER, TRUE).kit
    ahead, copied = entering(kit.plain), entering(kit)
    assert "CLONE_VFORK" in alone and alone.endswith("no sync: vfork-style")
    assert user.endswith("the caller goes on when it has left our memory")
    assert root.endswith("the caller maps ids while the child waits")
    assert ahead.endswith("in namespaces that were made ahead of need: user, net and ipc")
    assert copied.endswith("in namespaces that were made ahead of need: user, net, ipc and mnt")
    for text in (user, root, ahead, copied):
        assert "CLONE_VFORK" not in text and "CLONE_CHILD_CLEARTID" in text


def test_json_is_plain_data_with_every_step():
    """to_json survives json.dumps, holds every step, and each has its text and where it comes from."""
    spec = Sandbox(mounts=[Bind("/srv/data", "/data")])
    plan = compile(spec, for_spec(USER, spec), Command(("sh", "\udcff")))
    plain = json.loads(json.dumps(plan.to_json()))
    assert sum(len(steps) for steps in plain["stages"].values()) == len(plan)
    for stage, steps in plain["stages"].items():
        for shown, step in zip(steps, plan.stages[stage].steps, strict=True):
            assert shown["text"] == step_text(step)
            assert shown["from"] and shown["for"]
