"""Pages: help, version, plan, explain. What is printed, how wide, and where to."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--help"],
        ["run", "-h"],
        ["plan", "--help"],
        ["explain", "--help"],
        ["doctor", "--help"],
        ["ps", "--help"],
        ["tree", "--help"],
    ],
)
def test_help_fits_80_columns_and_goes_to_stdout(ramet, args):
    """Help was asked for, so it is data: stdout, exit code 0."""
    done = ramet(*args)
    assert done.stdout.startswith("usage: ramet ") and (done.stderr, done.returncode) == ("", 0)
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_help_of_run_names_every_option(ramet):
    """No option is undocumented."""
    from ramet.cli import run

    page = ramet("run", "--help").stdout
    assert all(name in page for option in run.TABLE for name in option.names.split())
    assert all(option.help for option in run.TABLE)


def test_help_wins_over_what_else_is_wrong(ramet):
    """--help after a bad value still helps."""
    assert ramet("run", "--timeout", "soon", "--help").returncode == 0


def test_version(ramet):
    """--version prints the package's."""
    import ramet as package

    assert f"ramet {package.__version__}\n" == ramet("--version").stdout


def test_module_is_the_command(ramet):
    """`python -m ramet` and ramet.cli.main() are the same."""
    from ramet.cli import main

    assert callable(main) and ramet("--version").returncode == 0


def test_plan_prints_and_runs_nothing(ramet, folder):
    """The plan ends in the execution of the command, which is not made."""
    folder.chmod(0o777)
    options = ["--bind", f"{folder}:/d:rw", "--hostname", "box"]
    command = ["touch", "/d/ran"]
    done = ramet("plan", *options, *command)
    assert done.stdout.startswith("clone3({flags=CLONE_VM|")
    assert 'sethostname("box", 3)' in done.stdout and 'execve("/usr/bin/touch"' in done.stdout
    assert not (folder / "ran").exists()
    assert ramet("run", *options, *command).returncode == 0 and (folder / "ran").exists()


def test_plan_as_json(ramet):
    """The same steps as data."""
    found = json.loads(ramet("plan", "--json", "true").stdout)
    assert {"clone", "sync", "stages", "notes"} <= set(found)
    assert found["stages"]["payload"][-1]["call"] == "execve"


def test_plan_of_what_cannot_be_is_the_same_error(ramet):
    """plan and run refuse alike."""
    args = ("--bind", "/nonexistent", "true")
    assert ramet("run", *args).stderr == ramet("plan", *args).stderr != ""


def test_explain_flags_and_processes(ramet):
    """By name, by number, by pid; JSON on request; an error for anything else."""
    assert "CLONE_NEWPID" in ramet("explain", "CLONE_THREAD|CLONE_NEWPID").stdout
    assert "CLONE_VM" in ramet("explain", "0x100").stdout
    assert "user" in ramet("explain", "self").stdout
    assert isinstance(json.loads(ramet("explain", "--json", "CLONE_VM").stdout), dict)
    done = ramet("explain", "CLONE_NEWPIDD")
    assert done.returncode == 125 and done.stderr.startswith("ramet: ") and "CLONE_NEWPID" in done.stderr


def test_gone_reader_of_a_page_is_quiet(works):
    """`ramet run --help | true` says nothing."""
    line = '"$0" -m ramet run --help | true'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


HEAVY = {
    "typing",
    "dataclasses",
    "inspect",
    "subprocess",
    "re",
    "argparse",
    "json",
    "asyncio",
    "threading",
    "tomllib",
}


def test_run_loads_no_heavy_module(works):
    """Start-up is import time: what `ramet run` loads stays small."""
    script = "import sys; from ramet.cli import main; main(['run', 'true']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert set() == HEAVY & set(done.stdout.split())
    assert "ramet.cli.run" in done.stdout
