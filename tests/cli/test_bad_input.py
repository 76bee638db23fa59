"""What a user gets for a wrong command line: one clear message, the right exit code, and nothing run."""

import json
import os
import socket
import subprocess
import sys

import pytest

LONG = "x" * 300


@pytest.mark.parametrize(
    ("args", "says", "hint"),
    [
        (["--bnd", "/x", "true"], "--bnd: no such option", "did you mean --bind?"),
        (["--timout=3", "true"], "--timout: no such option", "did you mean --timeout?"),
        (["-it", "true"], "-it: no such option", ""),
        (["--bind"], "--bind: needs a value: --bind SRC[:DST][:rw]", ""),
        (["--bind", "--tty", "true"], "--bind: needs a value, and '--tty' is an option", "--bind=--tty"),
        (["--tty=yes", "true"], "--tty: takes no value", ""),
        ([], "COMMAND: there is nothing to run", "ramet run -- python3 job.py"),
        ([""], "argv[0]: is empty", ""),
        (["--bind", "/nonexistent", "true"], "--bind /nonexistent: '/nonexistent' does not exist", ""),
        (["--bind", "/usr:relative", "true"], "--bind /usr:relative: must be an absolute path", ""),
        (["--bind", "/usr:/a/../b", "true"], "--bind /usr:/a/../b: must not contain '..'", ""),
        (["--bind", "/usr:/", "true"], "--bind /usr:/: can't be the root itself", "use rootfs="),
        (["--bind", "/usr:/u:rx", "true"], "--bind /usr:/u:rx: 'rx' is not one of", ""),
        (["--bind", "/usr:/u:optionl", "true"], "'optionl' is not one of", "did you mean 'optional'?"),
        (["--bind", ":/u", "true"], "--bind :/u: SRC is empty", ""),
        (["--bind", "/usr:/u", "--tmpfs", "/u", "true"], "--tmpfs /u: '/u' is already the destination", ""),
        (["--bind", f"/{LONG}", "true"], "has a component longer than 255 bytes (ENAMETOOLONG)", ""),
        (["--bind", "/" + "d/" * 2100, "true"], "the kernel takes 4095 (ENAMETOOLONG)", ""),
        (["--tmpfs", "/t:size=0", "true"], "--tmpfs /t:size=0: must be more than 0", "None for none"),
        (["--tmpfs", "/t:size=-1", "true"], "must be more than 0", ""),
        (["--tmpfs", "/t:size=1X", "true"], "'1X' is no size", "a number and one of K, M, G, T"),
        (["--tmpfs", "/t:size=nan", "true"], "is no size", ""),
        (["--tmpfs", "/t:size=99999999999T", "true"], "does not fit 63 bits", ""),
        (
            ["--tmpfs", "/t:sice=1M", "true"],
            "'sice' is not one of size, mode, inodes",
            "did you mean 'size'?",
        ),
        (["--tmpfs", "/t:mode=9", "true"], "'9' is no octal number", ""),
        (["--overlay", "/o", "true"], "--overlay /o: is empty", ""),
        (["--overlay", "/o:/usr:upper=/tmp", "true"], "and work go together", ""),
        (["--symlink", "/a", "true"], "--symlink /a: must be DST=TARGET", ""),
        (["--file", "/a=@/nonexistent", "true"], "'/nonexistent' can't be read: No such file", ""),
        (["--rootfs", "/nonexistent", "true"], "--rootfs /nonexistent: '/nonexistent' does not exist", ""),
        (["--rootfs", "/usr:keep", "true"], "'keep' is not one of refused, discarded, kept", "'kept'"),
        (["--timeout", "0", "true"], "--timeout 0: must be more than 0", ""),
        (["--timeout", "-1", "true"], "--timeout -1: must be more than 0", ""),
        (["--timeout", "inf", "true"], "--timeout inf: 'inf' is no duration", ""),
        (["--timeout", "nan", "true"], "'nan' is no duration", ""),
        (["--timeout", "soon", "true"], "'soon' is no duration", "'1m30s'"),
        (["--uid", "-1", "true"], "--uid -1: must be a number", ""),
        (["--uid", "4294967295", "true"], "--uid 4294967295: must be 0 to 4294967294", ""),
        (["--uid", "99999999999999999999", "true"], "must be 0 to 4294967294", ""),
        (["--uid-map", "0:5000", "true"], "1000 is not mapped by Sandbox.uid_mappings", ""),
        (["--rlimit", "NOFILES=3", "true"], "'NOFILES' is not one of", "did you mean 'NOFILE'?"),
        (["--rlimit", "NOFILE=9:3", "true"], "the soft limit 9 is above the hard one 3", ""),
        (["--rlimit", "NOFILE=18446744073709551616", "true"], "must be 0 to 18446744073709551615", ""),
        (["--cap-add", "NET_ROW", "true"], "there is no capability 'NET_ROW'", "did you mean CAP_NET_RAW?"),
        (["--net", "hots", "true"], "'hots' is not one of host, none", "did you mean 'host'?"),
        (["--share", "nett", "true"], "there is no namespace 'nett'", "did you mean 'net'?"),
        (["--share", "uts", "--hostname", "h", "true"], "--hostname h: needs Namespace.UTS", ""),
        (["--join", "net", "true"], "must be KIND=PID or KIND=PATH", ""),
        (["--hostname", LONG, "true"], "is longer than 64 bytes", ""),
        (["--env", "=x", "true"], "a name must not be empty", ""),
        (["--umask", "1777", "true"], "--umask 1777: must be 0 to 511", ""),
        (["--json", "-t", "true"], "--json: can't go with --tty", ""),
    ],
)
def test_wrong_option_is_named_with_the_reason(ramet, args, says, hint):
    """The message begins with what the user wrote, says why and what to do; exit code 125, stdout empty."""
    done = ramet("run", *args)
    assert done.stderr.startswith("ramet: ") and says in done.stderr, done.stderr
    assert hint in done.stderr.partition("\n\nhint: ")[2]
    assert (done.stdout, done.returncode) == ("", 125)
    assert "Traceback" not in done.stderr


def test_loop_of_symlinks_as_a_source(ramet, folder):
    """ELOOP, and the path."""
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    done = ramet("run", "--bind", f"{folder}/a", "true")
    assert done.returncode == 125
    assert f"--bind {folder}/a:" in done.stderr and "symbolic links" in done.stderr


def test_directory_on_a_file_is_refused(ramet, folder):
    """A directory can't be bound where a file is: the step, the call and the reason are named."""
    (folder / "f").write_text("")
    done = ramet("run", "--bind", f"{folder}:/x", "--bind", f"{folder}:/x/f", "true")
    assert done.returncode == 125
    assert "from: Sandbox.mounts[1] = Bind(" in done.stderr, done.stderr
    assert "a directory can't be mounted on a file" in done.stderr, done.stderr


def test_fifo_and_socket_can_be_bound(ramet, folder):
    """They are files like others; binding one does not open it."""
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "socket"))
        done = ramet("run", "--bind", f"{folder}:/d", "sh", "-c", "[ -p /d/fifo ] && [ -S /d/socket ]")
    assert done.returncode == 0, done.stderr


def test_missing_command_is_127(ramet):
    """Not found, by name or by path."""
    for name in ("no-such-command", "/no/such/command"):
        done = ramet("run", name)
        assert done.returncode == 127 and "ENOENT" in done.stderr
        assert done.stderr.startswith(f"ramet: cannot execute {name!r}")


def test_command_that_exists_only_outside_is_explained(ramet, folder):
    """127, and the hint says that it exists outside."""
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = ramet("run", str(program))
    assert done.returncode == 127 and "exists outside" in done.stderr


@pytest.mark.parametrize(
    ("content", "mode", "errno"),
    [(b"#!/bin/sh\n", 0o644, "EACCES"), (b"\x7fELF garbage", 0o755, "ENOEXEC"), (None, 0o755, "EACCES")],
    ids=["not-executable", "no-program", "directory"],
)
def test_command_that_cannot_be_executed_is_126(ramet, folder, content, mode, errno):
    """A file without x, one that is no program, a directory: 126 and the errno."""
    path = folder / "thing"
    path.mkdir() if content is None else path.write_bytes(content)
    path.chmod(mode)
    done = ramet("run", "--bind", str(folder), str(path))
    assert done.returncode == 126 and errno in done.stderr, done.stderr


def test_missing_interpreter_is_127(ramet, folder):
    """A script whose #! names nothing: ENOENT, and the hint speaks of the interpreter."""
    path = folder / "script"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    done = ramet("run", "--bind", str(folder), str(path))
    assert done.returncode == 127 and "interpreter" in done.stderr


def test_too_big_arguments_say_so(ramet, folder):
    """One argument of 128 KiB: E2BIG, the sizes, and what to do instead."""
    done = ramet("run", "echo", "x" * (127 << 10))
    assert done.returncode == 0  # the control: just below, it runs
    # Through a file, since our own command line has the same limit.
    (folder / "box.json").write_text(json.dumps({"command": ["echo", "x" * (128 << 10)]}))
    done = ramet("run", "--config", str(folder / "box.json"))
    assert done.returncode == 126
    assert "E2BIG" in done.stderr and "by stdin or a file" in done.stderr
    assert len(done.stderr) < 4000


def test_workdir_that_is_not_inside(ramet):
    """The step that entered it fails; exit code 125, not the payload's."""
    done = ramet("run", "--workdir", "/no/such/place", "true")
    assert done.returncode == 125
    assert "cannot enter the working directory '/no/such/place': ENOENT" in done.stderr
    assert "from: Sandbox.workdir" in done.stderr


def test_callers_deleted_working_directory_is_no_matter(works, tmp_path):
    """The sandbox has its own."""
    gone = tmp_path / "gone"
    gone.mkdir()
    line = 'cd "$1" && rmdir "$1" && exec "$0" -m ramet run pwd'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(gone)], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.returncode) == ("/home/user\n", 0), done.stderr


def test_messages_steer_no_terminal(ramet):
    """Control characters in what the user wrote are escaped in the message."""
    done = ramet("run", "--bind", "/no\x1b[31m\udcff", "true")
    assert "\x1b" not in done.stderr and "\\x1b[31m\\xff" in done.stderr


def test_debug_shows_the_traceback_and_its_absence_does_not(ramet):
    """--debug before or after the subcommand; the payload's own --debug is not ours."""
    assert "Traceback" in ramet("run", "--debug", "--bind", "/nonexistent", "true").stderr
    assert "Traceback" in ramet("--debug", "run", "--bind", "/nonexistent", "true").stderr
    assert "Traceback" in ramet("run", "--debug", "--bnd", "/x", "true").stderr
    assert "Traceback" in ramet("ps", "-t", "net", "nobody", "--debug").stderr
    assert "Traceback" not in ramet("ps", "-t", "net", "nobody").stderr
    for words in (["true", "--debug"], ["--", "true", "--debug"]):
        assert "Traceback" not in ramet("run", "--bind", "/nonexistent", *words).stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["rnu"], "rnu: no such subcommand\n\nhint: did you mean run?"),
        (["python3"], "python3: no such subcommand\n\nhint: ramet run -- python3 ... runs a command"),
        (["--verson"], "--verson: no such option\n\nhint: did you mean --version?"),
        (["explain"], "explain: takes flags, a call, a process or two, or a file"),
        (["explain", "CLONE_VM", "1"], "explain: can't be explained together: 'CLONE_VM' is flags and '1' is a pid"),
        (
            ["explain", "CLONE_VM,CLONE_FS"],
            "flags: there is no flag 'CLONE_VM,CLONE_FS' in CLONE_*\n\nhint: flags are joined by |: CLONE_VM|CLONE_FS",
        ),
        (["explain", "--as", "flasg", "1"], "--as: there is no kind of subject 'flasg'\n\nhint: did you mean 'flags'?"),
        (["explain", "1", "2", "3"], "explain: takes one process or two, not 3"),
        (["ps", "-t", "nte"], "-t: there is no namespace 'nte'\n\nhint: did you mean 'net'?"),
        (["ps", "bash"], "ps: 'bash' is neither a pid nor the number of a namespace"),
        (["ps", "1", "2"], "ps: takes one process or namespace, not 2"),
        (["ps", "4194305"], "ps: there is no process 4194305"),
        (["ps", "4294967295"], "ps: there is no namespace 4294967295 to be seen"),
        (["tree", "x"], "tree: 'x' is no pid"),
        (["tree", "1", "2"], "tree: takes one process, not 2"),
        (["tree", "--namespace"], "--namespace: no such option\n\nhint: did you mean --namespaces?"),
        (["tree", "--namespaces", "1"], "--namespaces: goes with neither a process nor --new or --all"),
        (["doctor", "who"], "doctor who: takes no argument"),
        (["plan", "--output", "1K", "true"], "--output: no such option"),
    ],
)
def test_wrong_subcommand(ramet, args, says):
    """The nearest name; exit code 125."""
    done = ramet(*args)
    assert f"ramet: {says}" in done.stderr and (done.stdout, done.returncode) == ("", 125)
