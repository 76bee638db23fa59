"""`ramet trace` as its users meet it: where the tree goes, exit codes, signals, a terminal."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from needs import as_user, need

RAMET = [sys.executable, "-m", "ramet", "trace"]
UTF8 = {**os.environ, "LC_ALL": "C.UTF-8"}


def read_until(fd, text, seconds=50):
    """What a terminal shows until this text is there, or it is closed."""
    seen, deadline = b"", time.monotonic() + seconds
    while text.encode() not in seen:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], f"{text!r} never came: {seen!r}"
        try:
            data = os.read(fd, 4096)
        except OSError:
            break  # the other side is closed
        if not data:
            break
        seen += data
    return seen.decode()


# Where to


def test_the_tree_is_on_stderr_and_the_streams_are_the_command_s(ramet_trace):
    """stdin, stdout and stderr are the command's own; the tree comes after them, on stderr."""
    done = subprocess.run(
        [*RAMET, "--", "sh", "-c", "cat; echo err >&2"],
        input="in",
        capture_output=True,
        text=True,
        timeout=30,
        env=UTF8,
    )
    assert done.stdout == "in" and done.stderr.startswith("err\nprocess ") and done.returncode == 0
    assert "└─ process " in done.stderr and done.stderr.endswith("2 processes\n")


def test_into_a_file(ramet_trace, tmp_path):
    """-o FILE has the tree, and stderr is the command's alone; - is stdout."""
    path = tmp_path / "tree"
    done = ramet_trace("-o", str(path), "--", "sh", "-c", "echo err >&2")
    assert (done.stdout, done.stderr) == ("", "err\n") and path.read_text().startswith("process ")
    done = ramet_trace("-o", "-", "true")
    assert done.stdout.startswith("process ") and done.stderr == ""


def test_json(ramet_trace):
    """--json is one object: the command, how it ended, and every task."""
    done = ramet_trace("--json", "-o", "-", "--", "sh", "-c", "exit 4")
    found = json.loads(done.stdout)
    assert (found["command"], found["exit_code"], done.returncode) == (["sh", "-c", "exit 4"], 4, 4)
    assert [call["call"] for call in found["tasks"][0]["calls"]] == ["execve"]


def test_the_descriptors_of_the_trace_are_not_the_command_s(ramet_trace, tmp_path):
    """The command has 0, 1 and 2, and none of ramet's own."""
    done = ramet_trace("-o", str(tmp_path / "tree"), "--", "ls", "/proc/self/fd")
    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is ls's own


@pytest.mark.parametrize(("locale", "line"), [({"LC_ALL": "C.UTF-8"}, "└─ "), ({"LC_ALL": "C"}, "`- "), ({}, "`- ")])
def test_ascii_where_the_locale_has_no_other(ramet_trace, locale, line):
    """The tree is drawn with what the locale can show."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))} | locale
    assert f"\n{line}execve(" in ramet_trace("true", env=env).stderr


def test_a_path_that_cannot_be_written_is_found_before_the_command_runs(ramet_trace, tmp_path):
    """-o into nowhere: an error, and nothing has run."""
    done = ramet_trace("-o", str(tmp_path / "no" / "tree"), "--", "touch", str(tmp_path / "ran"))
    assert done.returncode == 125 and "ENOENT" in done.stderr and not (tmp_path / "ran").exists()
    assert ramet_trace("--", "touch", str(tmp_path / "ran")).returncode == 0 and (tmp_path / "ran").exists()


def test_a_full_disk_and_a_gone_reader(ramet_trace):
    """What can't be written is said; a reader that has gone is not."""
    done = ramet_trace("-o", "/dev/full", "true")
    assert (done.returncode, done.stderr) == (
        125,
        "ramet: cannot write to /dev/full: ENOSPC (No space left on device)\n",
    )
    line = '"$0" -m ramet trace -o - true | true; echo ${PIPESTATUS[0]}'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=30)
    assert done.stderr == "" and done.stdout.strip() in ("141", "0")


def test_the_environment_is_the_caller_s(ramet_trace):
    """What the interpreter adds to its own environment, where there is no locale, the command does not get."""
    env = {"PATH": os.environ["PATH"], "A": "b"}
    done = ramet_trace("env", env=env)
    assert sorted(done.stdout.split()) == sorted(f"{key}={value}" for key, value in env.items())
    assert "LC_CTYPE=C.UTF-8" in ramet_trace("env", env={**env, "LC_CTYPE": "C.UTF-8"}).stdout


# Bad input


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["nonexistent-command"], 127, "cannot execute 'nonexistent-command': ENOENT"),
        (["/nonexistent/x"], 127, "cannot execute '/nonexistent/x': ENOENT"),
        (["/etc/passwd"], 126, "cannot execute '/etc/passwd': EACCES"),
        (["/etc"], 126, "cannot execute '/etc': EACCES"),
        ([], 125, "trace: needs a command"),
        (["--jsn", "true"], 125, "did you mean --json?"),
        (["-o"], 125, "needs a value"),
    ],
)
def test_what_cannot_be_done_is_said_and_has_its_exit_code(ramet_trace, args, code, text):
    """127 not found, 126 not executable, 125 a mistake in our own options; no tree in any case."""
    done = ramet_trace(*args)
    assert done.returncode == code and text in done.stderr and done.stderr.startswith("ramet: ")
    assert "process " not in done.stderr and done.stdout == ""


def test_a_file_of_no_known_format(ramet_trace, tmp_path):
    """Executable, but no program: 126, as a shell has it."""
    path = tmp_path / "text"
    path.write_text("hello")
    path.chmod(0o755)
    done = ramet_trace(str(path))
    assert done.returncode == 126 and "ENOEXEC" in done.stderr


def test_a_name_is_looked_for_along_the_path(ramet_trace, tmp_path):
    """The first that can be executed is; one that can't be is the reason if there is no other."""
    for folder, mode in (("a", 0o644), ("b", 0o755)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tool").write_text("#!/bin/sh\necho $0\n")
        (tmp_path / folder / "tool").chmod(mode)
    both = {**os.environ, "PATH": f"{tmp_path}/a:{tmp_path}/b:/usr/bin:/bin"}
    assert ramet_trace("tool", env=both).stdout == f"{tmp_path}/b/tool\n"
    one = {**os.environ, "PATH": f"{tmp_path}/a:/usr/bin:/bin"}
    assert ramet_trace("tool", env=one).returncode == 126


def test_help_fits_80_columns_and_names_every_option(ramet_trace):
    """Help is data: stdout, exit code 0."""
    from ramet.cli.trace import TABLE

    done = ramet_trace("--help")
    assert done.returncode == 0 and done.stderr == "" and max(map(len, done.stdout.splitlines())) <= 80
    assert all(name in done.stdout for option in TABLE for name in option.names.split())


# How it ends


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 77", 77), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_code_is_the_command_s(ramet_trace, script, code):
    """0 to 255 as they are, 128+n for a signal; the tree is printed all the same."""
    done = ramet_trace("--", "sh", "-c", script)
    assert done.returncode == code and done.stderr.startswith("process ")


def test_what_the_command_leaves_running_is_waited_for(ramet_trace):
    """The tree has what a process in the background did after the command had ended."""
    done = ramet_trace("--", "sh", "-c", "{ sleep 0.2; exec true last; } & exit 6")
    assert done.returncode == 6 and '["true", "last"]' in done.stderr


# Signals


@pytest.fixture
def running(tmp_path):
    """Start `ramet trace -o FILE -- sh -c SCRIPT`, whose first line says that it runs: the process and FILE."""
    started = []

    def start(script, **more):
        process = subprocess.Popen(
            [*RAMET, "-o", str(tmp_path / "tree"), "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True, **more
        )
        started.append(process)
        assert process.stdout.readline() == "runs\n"
        return process, tmp_path / "tree"

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_ramet_is_handed_on_and_the_tree_printed(running, number):
    """Who ends ramet ends the command, by the same signal, and has the tree."""
    process, tree = running("echo runs; exec sleep 100", start_new_session=True)
    process.send_signal(number)
    assert process.wait(50) == 128 + number
    assert f"killed by {number.name}" in tree.read_text()


def test_a_command_that_handles_the_signal_goes_on(running):
    """The signal is the command's to answer."""
    process, tree = running("trap 'exit 9' TERM; echo runs; while :; do sleep 0.05; done")
    process.terminate()
    assert process.wait(50) == 9 and "exited with 9" in tree.read_text()


def test_a_second_signal_ends_what_the_command_left(running):
    """The command has ended, something of it runs on: a signal ends that, and the exit code is still the command's."""
    process, tree = running("sleep 100 & echo runs; echo $$; exit 5", start_new_session=True)
    await_end(int(process.stdout.readline()))
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(50) == 5
    assert "killed by SIGKILL" in tree.read_text() and "exited with 5" in tree.read_text()


def await_end(pid):
    """Until this process, nobody else's than the one that traces it, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # it has, and was waited for
    try:
        assert select.select([fd], [], [], 50)[0]
    finally:
        os.close(fd)


def in_a_terminal(argv):
    """Start a command in a terminal of its own; its pid and our side."""
    pid, fd = pty.fork()
    if pid == 0:
        try:
            os.execvpe(argv[0], argv, UTF8)
        finally:
            os._exit(127)
    return pid, fd


def test_the_interrupt_key(tmp_path):
    """Ctrl-C reaches the command once, and the tree is printed when that has ended."""
    script = "trap 'echo caught; exit 8' INT; echo runs; while :; do sleep 0.05; done"
    pid, fd = in_a_terminal([*RAMET, "--", "sh", "-c", script])
    try:
        read_until(fd, "runs")
        os.write(fd, b"\x03")
        shown = read_until(fd, "exited with 8")
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 8 and shown.count("caught\r\n") == 1 and "├─ execve(" in shown


def test_the_stop_key(tmp_path):
    """Ctrl-Z stops ramet and the command, as the shell expects; both go on after fg."""
    pid, fd = in_a_terminal(["bash", "--norc", "-i"])
    script = f"echo ru''ns; until test -e {tmp_path}/go; do sleep 0.05; done; echo do''ne; exit 3"
    line = f"{sys.executable} -m ramet trace -o {tmp_path}/tree -- sh -c '{script}'\n"
    try:
        os.write(fd, line.encode())
        read_until(fd, "runs")
        os.write(fd, b"\x1a")
        read_until(fd, "Stopped")
        (tmp_path / "go").touch()  # it can't go on before it is told to
        os.write(fd, b"fg\n")
        read_until(fd, "done")
        os.write(fd, b"echo code $?; exit\n")
        assert "code 3" in read_until(fd, "code 3")
    finally:
        os.kill(pid, signal.SIGHUP)
        os.waitpid(pid, 0)
        os.close(fd)
    assert "exited with 3" in (tmp_path / "tree").read_text()


@as_user
@pytest.mark.parametrize("options", [[], ["--no-seccomp"]])
def test_set_user_id_programs_have_no_privilege(ramet_trace, options):
    """Traced by an ordinary user, a set-user-ID program runs as that user; untraced, as its owner."""
    program = shutil.which("passwd") or shutil.which("su")
    need(program and os.stat(program).st_mode & 0o4000 and os.stat(program).st_uid == 0, "a set-user-ID program")
    # Without a terminal it asks on stdin, and its ids are looked at while it waits for the answer, or nobody has waited for its end.
    code = f"""
import os, subprocess
reads, writes = os.pipe()
process = subprocess.Popen([{program!r}], stdin=reads, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
os.read(process.stdout.fileno(), 1)  # it asks, or has ended: before that, the kernel may not be done with the exec
print(open(f"/proc/{{process.pid}}/status").read().split("Uid:")[1].split()[1])
process.kill()
process.wait()
"""
    done = ramet_trace(*options, "--", sys.executable, "-c", code)
    assert done.stdout == f"{os.geteuid()}\n"
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    if "1" in open("/proc/self/status").read().split("NoNewPrivs:")[1].split()[0]:
        pytest.skip("only where no_new_privs is not set already")
    assert bare.stdout == "0\n"
