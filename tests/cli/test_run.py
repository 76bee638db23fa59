"""`ramet run`: what the options do, seen from inside."""

import json
import os

import pytest


def test_command_runs_and_its_output_is_ours(ramet):
    """The payload's stdout and stderr arrive on ours, and its exit code is ours."""
    done = ramet("run", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_options_after_the_command_are_the_commands(ramet):
    """The first word that is no option begins the payload's command line, with or without --."""
    for words in (["echo", "--json", "-t"], ["--", "echo", "--json", "-t"]):
        assert ramet("run", *words).stdout == "--json -t\n"


def test_payload_killed_by_a_signal_exits_with_128_and_the_number(ramet):
    """A payload that dies by SIGTERM makes 143, as in a shell."""
    assert ramet("run", "sh", "-c", "kill -TERM $$").returncode == 143


def test_timeout_kills_and_exits_with_124(ramet):
    """--timeout ends the sandbox; without it the same command goes on to its end."""
    assert ramet("run", "--timeout", "200ms", "sleep", "30").returncode == 124
    assert ramet("run", "--timeout", "30", "true").returncode == 0


def test_bind_shows_a_directory_readonly_unless_rw(ramet, folder):
    """--bind is read-only; :rw writes; without it the path is not there."""
    (folder / "data").write_text("x")
    folder.chmod(0o777)
    shown = f"{folder}:/data"
    assert ramet("run", "--bind", shown, "cat", "/data/data").stdout == "x"
    assert ramet("run", "--bind", shown, "sh", "-c", "echo y > /data/new").returncode != 0
    assert ramet("run", "--bind", shown + ":rw", "sh", "-c", "echo y > /data/new").returncode == 0
    assert (folder / "new").read_text() == "y\n"
    assert ramet("run", "ls", str(folder)).returncode != 0


def test_bind_takes_paths_with_colons_by_a_backslash(ramet, folder):
    r"""``\:`` is a colon of the path."""
    (folder / "a:b").write_text("colon")
    source = str(folder / "a:b").replace(":", "\\:")
    assert ramet("run", "--bind", f"{source}:/c\\:d", "cat", "/c:d").stdout == "colon"


def test_bind_takes_a_path_that_is_not_utf8(ramet, folder):
    """Bytes that are no text pass through as they are; JSON escapes them."""
    name = os.fsencode(folder) + b"/\xff"
    with open(name, "wb") as file:
        file.write(b"bytes")
    path = os.fsdecode(name)
    assert ramet("run", "--bind", path, "cat", path).stdout == "bytes"
    argv = json.loads(ramet("run", "--json", "true", "\udcff").stdout)["argv"]
    assert argv == ["true", "\\xff"]


def test_mounts_keep_the_order_they_are_written_in(ramet, folder):
    """A file put into a tmpfs is there if the tmpfs comes first, whatever the kinds; plan says so."""
    (folder / "f").write_text("seen")
    into = [
        "--tmpfs",
        "/place",
        "--bind",
        f"{folder}/f:/place/f",
        "--file",
        "/place/g=made",
        "--symlink",
        "/place/l=g",
    ]
    assert ramet("run", *into, "cat", "/place/f", "/place/l").stdout == "seenmade"
    steps = [line for line in ramet("plan", *into, "true").stdout.splitlines() if "Sandbox.mounts[" in line]
    assert steps == sorted(steps, key=lambda line: line.partition("Sandbox.mounts[")[2][0])
    covered = ["--bind", f"{folder}/f:/place/f", "--tmpfs", "/place"]
    assert "note: Sandbox.mounts[1] hides Sandbox.mounts[0]" in ramet("plan", *covered, "true").stdout
    assert ramet("run", *covered, "cat", "/place/f").returncode != 0


def test_tmpfs_size_and_mode(ramet):
    """size= limits it, mode= is its permissions; colons and commas both separate."""
    script = "stat -c %a /t; head -c 200000 /dev/zero > /t/f"
    for value in ("/t:size=64K:mode=1777", "/t:size=64K,mode=1777"):
        done = ramet("run", "--tmpfs", value, "sh", "-c", script)
        assert done.stdout == "1777\n" and "No space" in done.stderr


def test_file_can_have_the_content_of_another(ramet, folder):
    """--file DST=@FILE copies; = and : in the text are text."""
    (folder / "f").write_text("from @")
    assert ramet("run", "--file", f"/a=@{folder}/f", "cat", "/a").stdout == "from @"
    assert ramet("run", "--file", "/a=x=1:2", "cat", "/a").stdout == "x=1:2"


def test_overlay_throws_away_what_is_written(ramet, folder):
    """--overlay shows the lower directory, takes writes, and leaves it as it was."""
    (folder / "f").write_text("below")
    folder.chmod(0o777)
    done = ramet("run", "--overlay", f"/o:{folder}", "sh", "-c", "cat /o/f && echo new > /o/g && ls /o")
    assert done.stdout == "belowf\ng\n", done.stderr
    assert os.listdir(folder) == ["f"]


def test_environment_is_empty_but_for_what_is_named(ramet):
    """--env NAME=VALUE sets, --env NAME passes on what the caller has, and nothing else comes in."""
    env = os.environ | {"SECRET": "s", "WANTED": "w"}
    out = ramet("run", "--env", "A=1=2", "--env", "WANTED", "--env", "NOT_SET", "--unset-env", "LANG", "env", env=env)
    found = dict(line.split("=", 1) for line in out.stdout.splitlines())
    assert {"A": "1=2", "WANTED": "w"}.items() <= found.items()
    assert not {"SECRET", "NOT_SET", "LANG"} & set(found)


def test_identity_and_names(ramet):
    """--uid, --gid, --hostname, --workdir, --umask are what the payload finds."""
    done = ramet(
        *("run", "--uid", "7", "--gid", "8", "--hostname", "box", "--workdir", "/usr", "--umask", "077"),
        *("sh", "-c", "id -u; id -g; uname -n; pwd; umask"),
    )
    assert done.stdout == "7\n8\nbox\n/usr\n0077\n"


def test_network_is_a_loopback_unless_it_is_the_hosts(ramet):
    """--net none (the default) has lo alone; --net host is the caller's namespace."""
    show = ("readlink", "/proc/self/ns/net")
    ours = os.readlink("/proc/self/ns/net") + "\n"
    assert ours != ramet("run", *show).stdout
    assert ours != ramet("run", "--net", "none", *show).stdout
    assert ours == ramet("run", "--net", "host", *show).stdout
    assert ours == ramet("run", "--share", "network", *show).stdout


def test_time_namespace_by_unshare(ramet):
    """--unshare time makes one; the default shares the caller's."""
    ours = os.readlink("/proc/self/ns/time") + "\n"
    assert ours == ramet("run", "readlink", "/proc/self/ns/time").stdout
    assert ours != ramet("run", "--unshare", "time", "readlink", "/proc/self/ns/time").stdout


def test_rights_are_none_unless_named(ramet):
    """--cap-add keeps a capability; without it the payload has none."""
    show = ("sh", "-c", "grep CapEff /proc/self/status")
    assert int(ramet("run", *show).stdout.split()[1], 16) == 0
    assert int(ramet("run", "--cap-add", "net_raw", *show).stdout.split()[1], 16) == 1 << 13


def test_rlimits(ramet):
    """--rlimit sets soft and hard; sizes and unlimited are understood."""
    done = ramet(
        "run",
        "--rlimit",
        "nofile=64:128",
        "--rlimit",
        "AS=2G",
        "sh",
        "-c",
        "ulimit -Sn; ulimit -Hn; ulimit -v",
    )
    assert done.stdout == "64\n128\n2097152\n"


def test_as_pid1_has_no_init(ramet):
    """With --as-pid1 the payload is pid 1; without it, it is init's child."""
    assert ramet("run", "--as-pid1", "sh", "-c", "echo $$").stdout == "1\n"
    assert ramet("run", "sh", "-c", "echo $$").stdout != "1\n"


def test_rootfs_empty_has_nothing(ramet):
    """--rootfs empty holds only what is put there."""
    done = ramet(
        "run",
        "--rootfs",
        "empty",
        "--bind",
        "/usr",
        "--symlink",
        "/lib=usr/lib",
        "--symlink",
        "/lib64=usr/lib64",
        "/usr/bin/ls",
        "/",
    )
    assert done.stdout.split() == ["lib", "lib64", "usr"], done.stderr


def test_rootfs_with_discarded_writes(ramet, folder):
    """--rootfs DIR:discarded: the payload writes, the directory does not change."""
    for name in ("usr", "proc", "dev", "tmp"):
        (folder / name).mkdir()
    for name in ("bin", "lib", "lib64", "sbin"):
        if os.path.islink(f"/{name}"):
            (folder / name).symlink_to(os.readlink(f"/{name}"))
    before = sorted(os.listdir(folder))
    done = ramet("run", "--rootfs", f"{folder}:discarded", "--bind", "/usr", "sh", "-c", "echo x > /tmp/x; cat /tmp/x")
    assert done.stdout == "x\n", done.stderr
    assert before == sorted(os.listdir(folder))


def test_json_is_the_result(ramet):
    """--json prints how it ended and the captured output; the exit code stays the payload's."""
    done = ramet("run", "--json", "sh", "-c", "echo out; cat; exit 4", input="in")
    found = json.loads(done.stdout)
    assert tuple(found[k] for k in ("status", "exit_code", "stdout", "stderr")) == ("exited", 4, "out\nin", "")
    assert done.returncode == 4 and found["usage"]["memory_peak"] > 0


def test_json_keeps_at_most_what_is_asked(ramet):
    """--output limits what is kept of a stream, and the result says so."""
    found = json.loads(ramet("run", "--json", "--output", "1K", "head", "-c", "5000", "/dev/zero").stdout)
    assert len(found["stdout"]) == 1024 and found["truncated"] == ["stdout"]


def test_json_of_a_failure_says_what_failed(ramet):
    """When ramet itself fails, stdout still is JSON: status setup-failed, and the error's parts."""
    done = ramet("run", "--json", "--bind", "/nonexistent", "true")
    found = json.loads(done.stdout)
    assert (found["status"], found["error"], found["field"]) == ("setup-failed", "SpecError", "--bind /nonexistent")
    assert done.returncode == 125


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_descriptors(ramet, closed, start, folder):
    """With any of 0 to 2 closed in the caller, the payload runs, and finds its own three open."""
    folder.chmod(0o777)
    script = f"[ -e /proc/self/fd/0 ] && [ -e /proc/self/fd/1 ] && [ -e /proc/self/fd/2 ] && echo ran > {folder}/ran"
    import subprocess
    import sys

    line = f'"$0" -m ramet run --bind "$1:$1:rw" sh -c "$2" {closed}'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(folder), script], timeout=60)
    assert done.returncode == 0 and (folder / "ran").read_text() == "ran\n"


def test_caller_leaves_no_descriptor_open_inside(ramet):
    """The payload has 0 to 2 and they are pipes, never a file of the caller's."""
    done = ramet("run", "sh", "-c", "for n in 0 1 2; do readlink /proc/$$/fd/$n; done; ls /proc/$$/fd")
    kinds = done.stdout.split()
    assert all(kind.startswith("pipe:") for kind in kinds[:3]), kinds
    assert {"0", "1", "2"} == set(kinds[3:]) - {"10"}  # dash keeps the script on 10
