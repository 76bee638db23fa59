"""The table of hints: each row has a case in which it speaks, and one in which it is silent."""

import errno as E
import os
import sys

import pytest

import ramet
from ramet.plan.steps import Step
from ramet.run import fork, hints
from ramet.run.planning import plan_for


def step(call, origin="Sandbox.mounts[0] = Bind('/a')"):
    return Step(call, (), None, origin, "test", (), None, False)


IN_A_SANDBOX = {"/proc/1/cmdline": "ramet-init\x002\x00/\x00"}
PLAN = plan_for(["/bin/true"], ramet.Sandbox())
#: One for each row of the table: call, errno, step, a word of the hint; then what in /proc (/proc/sys) the row asks for.
CASES = {
    ("clone3", E.ENOSPC, 0): (None, "max_user_namespaces=15000", {"user/max_user_namespaces": "0"}),
    ("clone3", E.ENOSPC, 1): (None, "32 levels", {"user/max_user_namespaces": "9"}),
    ("clone3", E.EPERM, 0): (None, "unprivileged_userns_clone=1", {"kernel/unprivileged_userns_clone": "0"}),
    ("clone3", E.EPERM, 1): (None, "nested_namespaces=True", IN_A_SANDBOX),
    ("clone3", E.EPERM, 2): (None, "ramet doctor", {}),
    ("clone3", E.EAGAIN, 0): (None, "RLIMIT_NPROC", {}),
    ("clone3", E.ENOMEM, 0): (None, "memory", {}),
    ("caller", E.ENOENT, 0): (None, "Bind(...)", IN_A_SANDBOX),
    ("caller", E.EMFILE, 0): (None, "RLIMIT_NOFILE", {}),
    ("caller", E.EINVAL, 0): (None, "RLIMIT_NOFILE", {}),
    ("caller", E.ENFILE, 0): (None, "file-max", {}),
    ("openat", E.EACCES, 0): (step("openat", "Sandbox.uid_mappings"), "dumpable", {}),
    ("write", E.EPERM, 0): (step("write"), "apparmor", {"kernel/apparmor_restrict_unprivileged_userns": "1"}),
    ("fsmount", E.EPERM, 0): (step("fsmount", "default Proc()"), "masked", {}),
    ("fsconfig", E.EINVAL, 0): (step("fsconfig", "Sandbox.mounts[0] = Overlay()"), "other mounts below", {}),
    ("openat2", E.ELOOP, 0): (step("openat2"), "symlink", {}),
    ("openat2", E.ENOENT, 0): (step("openat2"), "discarded", {}),
    ("openat2", E.ENOENT, 1): (step("openat2", "Sandbox.workdir"), "inside the sandbox", {}),
    ("mkdirat", E.EROFS, 0): (step("mkdirat"), "read-only", {}),
    ("symlinkat", E.EROFS, 0): (step("symlinkat"), "read-only", {}),
    ("move_mount", E.EINVAL, 0): (step("move_mount"), "directory", {}),
    ("execve", E.ENOENT, 0): (step("execve"), "exists outside", {}),
    ("execve", E.ENOENT, 1): (step("execve"), "does not exist inside", {}),
    ("execve", E.ENOEXEC, 0): (step("execve"), "#!", {}),
    ("execve", E.EACCES, 0): (step("execve"), "mode", {}),
    ("execve", E.E2BIG, 0): (step("execve"), "stdin or a file", {}),
    ("prlimit64", E.EPERM, 0): (step("prlimit64"), "hard limit", {}),
    ("read", E.EPROTO, 0): (step("read"), "gave up", {}),
}


@pytest.fixture
def sysctls(monkeypatch):
    """Values of /proc that hints read, in place of this host's; those not given are not there."""
    values = {}
    real = open

    def fake(path, *args, **more):
        if str(path).startswith("/proc/"):
            import io

            name = path.removeprefix("/proc/sys/")
            if name not in values:
                raise FileNotFoundError(path)
            return io.StringIO(values[name] + "\n")
        return real(path, *args, **more)

    monkeypatch.setattr(hints, "open", fake, raising=False)
    return values


def rows():
    seen = {}
    for call, errno, _applies, _text in hints.TABLE:
        seen[call, errno] = seen.get((call, errno), -1) + 1
        yield (call, errno, seen[call, errno])


@pytest.mark.parametrize("row", CASES, ids=lambda row: f"{row[0]}-{E.errorcode[row[1]]}-{row[2]}")
def test_row_speaks(row, sysctls, monkeypatch):
    """In the case it was written for, this row's hint is the one given."""
    about, word, needed = CASES[row]
    sysctls.update(needed)
    if row[:2] == ("openat", E.EACCES):
        monkeypatch.setattr(hints.os, "geteuid", lambda: 12345)  # the files of /proc/self are not this user's
    plan = plan_for(["/nonexistent"], ramet.Sandbox()) if row == ("execve", E.ENOENT, 1) else PLAN
    assert word in hints.hint_for(row[0], row[1], about, plan)


def test_every_row_has_its_case():
    """No row of the table is without a case above."""
    assert set(rows()) == set(CASES)


def test_a_row_is_silent_where_its_fact_is_not_so(sysctls):
    """A hint states only what the facts show: with other values, or for another step, another hint or none
    is given."""
    assert "32 levels" in hints.hint_for("clone3", E.ENOSPC, None, PLAN)
    assert hints.hint_for("write", E.EPERM, step("write"), PLAN) is None
    assert hints.hint_for("fsmount", E.EPERM, step("fsmount", "default Tmpfs('/tmp')"), PLAN) is None
    assert hints.hint_for("openat", E.EACCES, step("openat", "Sandbox.uid_mappings"), PLAN) is None
    assert hints.hint_for("openat2", E.ELOOP, step("openat2", "Sandbox.workdir"), PLAN) is None
    gone = plan_for(["no-such-name"], ramet.Sandbox())
    assert hints.hint_for("execve", E.ENOENT, step("execve"), gone) is None
    assert hints.hint_for("nosuchcall", E.EPERM, None, PLAN) is None


@pytest.mark.parametrize("row", [("caller", E.ENOENT), ("clone3", E.EPERM)], ids=lambda row: row[0])
def test_a_function_whose_init_is_not_started_yet(row, sysctls, monkeypatch):
    """A function may be called before there is the init by which a program knows a sandbox."""
    sysctls["/proc/1/cmdline"] = "python3\0"
    outside = hints.hint_for(*row, None, PLAN)
    monkeypatch.setattr(fork, "settled", True)
    inside = hints.hint_for(*row, None, PLAN)
    assert "inside of a sandbox" in inside and "inside of a sandbox" not in (outside or "")


NESTED = """if 1:
    import sys
    sys.path[:0] = sys.argv[1:]
    import ramet
    try:
        print(ramet.run(["/bin/echo", "inner"], text=True).stdout)
    except ramet.StepError as error:
        print("hint:", error.hint)
"""


def test_a_sandbox_in_a_sandbox():
    """It works where the outer one allows it and shows ramet's files; where it does not, the hint says what that takes."""
    seen = {name: ramet.Bind(os.path.realpath(name)) for name in sys.path if os.path.isdir(name)}
    inside = [sys.executable, "-c", NESTED, *seen]

    def said(**fields):
        return ramet.run(inside, mounts=list(seen.values()), text=True, check=True, **fields).stdout

    assert said(nested_namespaces=True) == "inner\n\n"
    assert "nested_namespaces=True" in said()


def test_a_function_that_wants_a_sandbox_of_its_own():
    """An isolated function's view holds no ramet: the hint says so."""
    with pytest.raises(ramet.RemoteError, match=r"mounts=\[Bind\(\.\.\.\)\]"):
        ramet.isolated(lambda: ramet.run(["/bin/true"]))()


def test_hint_for_a_command_that_is_only_outside():
    """A command that exists outside and is not visible inside is named with where it really is."""
    with pytest.raises(ramet.CommandError) as raised:
        ramet.run(["sh"], rootfs="empty")
    assert (
        "exists outside" in raised.value.hint and "/sh" not in raised.value.hint.split(" ")[0]
    ) or "dash" in raised.value.hint
