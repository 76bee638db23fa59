"""What an error says: what was being done, the call, the errno by name, where it came from, what to do."""

import errno
import pickle

import pytest

import ramet
from ramet.errors import CommandError, HelperError, StepError, errno_name


def test_step_error_answers_in_order():
    """A StepError's lines are: what could not be done and the errno by name; which step of which stage, and
    the call; the
    field it came from; a blank line; the hint."""
    error = StepError(
        "map the ids",
        errno=errno.EPERM,
        call='write(file1, "0 1000 1", 8)',
        origin="Sandbox.uid_mappings",
        stage="child",
        index=4,
        total=31,
        hint="look there",
    )
    assert str(error).splitlines() == [
        "cannot map the ids: EPERM (Operation not permitted)",
        '  child step 4 of 31: write(file1, "0 1000 1", 8)',
        "  from: Sandbox.uid_mappings",
        "",
        "hint: look there",
    ]
    assert isinstance(error, OSError) and error.errno == errno.EPERM


def test_step_error_without_step_or_hint_is_shorter():
    """Where the clone itself was refused there is no number, and without a hint no blank line."""
    error = StepError(
        "clone the child",
        errno=errno.ENOSPC,
        call="clone3({...})",
        origin="Sandbox.namespaces",
        stage="clone",
    )
    assert str(error).splitlines() == [
        "cannot clone the child: ENOSPC (No space left on device)",
        "  clone: clone3({...})",
        "  from: Sandbox.namespaces",
    ]


def test_a_real_failure_has_that_form():
    """A command that is not there is reported so by the kernel's own answer, with the step that `ramet
    plan` shows."""
    with pytest.raises(CommandError) as raised:
        ramet.run(["/nonexistent/program"])
    first, second, third = str(raised.value).splitlines()[:3]
    assert first == "cannot execute '/nonexistent/program': ENOENT (No such file or directory)"
    assert second.startswith("  payload step ") and 'execve("/nonexistent/program", ["/nonexistent/program"]' in second
    assert third == "  from: command"


def test_spec_error_names_the_field_first():
    """A SpecError is one line, "field: message", and its hint; it is a ValueError, and a TypeError for a
    wrong type."""
    with pytest.raises(ramet.SpecError) as raised:
        ramet.Sandbox(mounts=[ramet.Tmpfs("/a"), ramet.Tmpfs("/a")])
    assert raised.value.field == "Sandbox.mounts[1].destination"
    assert str(raised.value).startswith("Sandbox.mounts[1].destination: ")
    assert isinstance(raised.value, ValueError) and not isinstance(raised.value, TypeError)
    with pytest.raises(TypeError, match=r"^argv: .*\n\nhint: ") as wrong_type:
        ramet.run("ls -l")
    assert isinstance(wrong_type.value, ramet.SpecError)


def test_misspelled_field_is_answered_with_the_nearest():
    """An unknown field names the one that was probably meant."""
    with pytest.raises(ramet.SpecError, match="did you mean 'hostname'"):
        ramet.Sandbox(hostnam="x")


def test_unsupported_error_names_fact_and_need():
    """An UnsupportedError says what was found and what it would take."""
    error = ramet.UnsupportedError("x", fact="the kernel is 5.4", needs="Linux 5.14", hint="upgrade")
    assert str(error) == "x: the kernel is 5.4\n  needs: Linux 5.14\n\nhint: upgrade"


def test_helper_error_repeats_what_the_helper_said():
    """A HelperError shows how the helper was called, how it ended, and its own words."""
    error = HelperError("cannot map", argv=["newuidmap", "7"], exit_code=1, stderr="range not allowed\n", hint="h")
    assert str(error) == "cannot map: newuidmap 7 exited with 1\n  it said: range not allowed\n\nhint: h"


@pytest.mark.parametrize(
    ("argv", "number", "code"),
    [
        (["/nonexistent"], errno.ENOENT, 127),
        (["no-such-program-anywhere"], errno.ENOENT, 127),
        (["/bin/sh/x"], errno.ENOTDIR, 127),
        (["/usr"], errno.EACCES, 126),
        (["/etc/passwd"], errno.EACCES, 126),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
@pytest.mark.parametrize("as_pid1", [False, True])
def test_command_errors_have_the_shells_exit_codes(argv, number, code, as_pid1):
    """127 for a command that is not found, 126 for one that can't be executed."""
    with pytest.raises(CommandError) as raised:
        ramet.run(argv, as_pid1=as_pid1)
    assert (raised.value.errno, raised.value.exit_code) == (number, code)


def test_file_that_is_no_program_is_126():
    """ENOEXEC is reported with a hint, not run by a shell behind the user's back."""
    with pytest.raises(CommandError) as raised:
        ramet.run(["/x"], mounts=[ramet.File("/x", "echo no", mode=0o755)])
    assert (raised.value.errno, raised.value.exit_code) == (errno.ENOEXEC, 126)
    assert "#!" in raised.value.hint


def test_too_long_arguments_are_e2big_with_a_hint():
    """One argument above 128 KiB is the kernel's E2BIG, and the hint says what to do instead; below it
    works."""
    with pytest.raises(CommandError) as raised:
        ramet.run(["true", "x" * 200_000])
    assert raised.value.errno == errno.E2BIG and "stdin or a file" in raised.value.hint
    assert ramet.run(["true", "x" * 100_000]).ok


def test_errno_without_a_name_is_a_number():
    """An errno that has no name is shown as it is."""
    assert errno_name(1) == "EPERM (Operation not permitted)"
    assert errno_name(999).startswith("999 (")


def test_every_error_is_ramets_own():
    """One `except ramet.Error` catches all of them; StepError is an OSError too, TimeoutExpired a
    TimeoutError."""
    for name in (
        "SpecError",
        "StepError",
        "UnsupportedError",
        "HelperError",
        "TimeoutExpired",
        "ExitError",
        "CommandError",
    ):
        assert issubclass(getattr(ramet, name), ramet.Error)
    assert issubclass(ramet.TimeoutExpired, TimeoutError)


@pytest.mark.parametrize("argv", [["/nonexistent/program"]])
def test_errors_survive_pickling(argv):
    """An error that comes from a worker process is the same error there: multiprocessing pickles it."""
    with pytest.raises(CommandError) as raised:
        ramet.run(argv)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), str(copy), copy.errno) == (CommandError, str(raised.value), raised.value.errno)
    with pytest.raises(ramet.SpecError) as spec:
        ramet.Sandbox(umask=-1)
    copy = pickle.loads(pickle.dumps(spec.value))
    assert (str(copy), copy.field) == (str(spec.value), spec.value.field)
