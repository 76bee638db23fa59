"""`ramet lab container` on the screen: 80 columns, JSON, parts, and what it says where the host can't."""

import json
import os
import sys
from pathlib import Path

import pytest

import ramet
from ramet import Bind
from ramet.cli import lab_container
from ramet.errors import SpecError, UnsupportedError

SOURCES = str(Path(ramet.__file__).parent.parent)
RUN = "import sys; from ramet.cli.lab_container import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def page(capfd):
    """Exit code, stdout and stderr of `ramet lab container ARGS...`."""

    def show(*args):
        code = lab_container.main(list(args))
        return code, *capfd.readouterr()

    return show


def test_the_whole_page(page):
    """All parts, in 80 columns, and each has its conclusion."""
    code, out, err = page()
    assert (code, err) == (0, "")
    assert not [line for line in out.splitlines() if len(line) > 80]
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    for title in ("A container, step by step", "chroot beside pivot_root", "Two network namespaces, joined"):
        assert title in out
    assert "host -> own  the host's listener: ECONNREFUSED" in out
    assert "Beside a virtual machine" in out


def test_the_table_is_the_data(page):
    """Each row of the table says what the data says, cell by cell."""
    _, out, _ = page("steps")
    table = out.partition("All of it\n")[2]
    rows = {line[2:23].strip(): line[23:].split() for line in table.splitlines() if line.startswith("  ")}
    assert rows["reach 127.0.0.1"] == ["host"] * 5 + ["own"] * 5
    assert rows["a file you have open"] == ["host"] * 9 + ["-"]
    assert rows["reserve memory"] == ["1G+"] * 6 + ["128M"] * 4


def test_json(page):
    """--json is the same as data, for the parts that were asked for."""
    code, out, err = page("--json", "kernel", "escape")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == ["escape", "kernel"]
    assert found["kernel"]["rows"]["boot_id"]["same"] is True


def test_help(page):
    """--help names the parts, within 80 columns, and runs nothing."""
    code, out, _ = page("--help")
    assert code == 0
    assert all(part in out for part in ("steps", "escape", "veth", "kernel", "--json"))
    assert max(map(len, out.splitlines())) <= 80


def test_an_unknown_part():
    """A misspelled part is answered with the nearest one."""
    with pytest.raises(SpecError, match="did you mean escape"):
        lab_container.main(["escpe"])
    with pytest.raises(SpecError, match="the parts are steps, escape, veth, kernel"):
        lab_container.main(["9"])


def test_a_part_that_fails_leaves_the_others(page, monkeypatch):
    """Where one part can't be done, the error goes to stderr, the other parts are shown, and the exit code is 1."""
    import ramet.lab.container.veth as part

    def refuse():
        raise UnsupportedError("joining", fact="no pyroute2", needs="it", hint="get it")

    monkeypatch.setattr(part, "veth", refuse)
    code, out, err = page("veth", "kernel")
    assert code == 1
    assert "Not on this host." in out
    assert "boot id" in out
    assert "hint: get it" in err
    code, out, _ = page("--json", "veth", "kernel")
    assert code == 1
    assert json.loads(out)["veth"]["error"].startswith("joining: no pyroute2")


def in_a_sandbox(*mounts):
    """`ramet lab container steps` where there is little."""
    return ramet.run(
        [sys.executable, "-c", RUN, "steps"],
        mounts=[Bind(SOURCES), *mounts],
        env={"PYTHONPATH": SOURCES},
        seccomp="none",
        text=True,
        timeout=50,
    )


def test_without_user_namespaces():
    """Where no user namespace can be made, the steps before are shown, and it says which step can't be taken and why."""
    result = in_a_sandbox(ramet.Tmpfs("/var/tmp", mode=0o1777))
    assert result.exit_code == 1, result.stderr
    assert "0  A process, and nothing else" in result.stdout
    assert "Here it ends on this host: The clone flags." in result.stdout
    assert "ENOSPC" in result.stderr
    assert "hint:" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_place_for_files():
    """Where /var/tmp can't be written to, it says so, and no more."""
    result = in_a_sandbox()
    assert result.exit_code == 1
    assert "Not on this host." in result.stdout
    assert "/var/tmp" in result.stderr
    assert "Traceback" not in result.stderr


def test_progress_only_on_a_terminal(page, monkeypatch):
    """The bar is for people: not a byte of it where stderr is no terminal, and gone at the end where it is one."""
    assert page("steps")[2] == ""
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    _, _, err = page("steps")
    assert err.startswith("\r[#.........]")
    assert err.endswith("\r\033[K")
