"""ramet ps and ramet tree: what is printed, how wide, and that nobody's name steers the terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from ramet.flags import CLONE

RAMET = [sys.executable, "-m", "ramet"]
READ = 63 if os.uname().machine == "aarch64" else 0


@pytest.fixture
def child(waiting):
    """The pid of a child made with these flags that waits until the test is over."""
    return lambda flags: waiting(flags).pid


@pytest.fixture
def badly_named():
    """A process whose name would turn the terminal red, and go to the next line."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open("/proc/self/comm", "w") as file:
            file.write("a\033[31mb\nc")
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    yield pid
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


PAGES = [
    ("ps",),
    ("ps", "-a"),
    ("ps", "-t", "net,user"),
    ("ps", "self"),
    ("ps", "1"),
    ("tree",),
    ("tree", "--all"),
    ("tree", "--new"),
    ("tree", "--namespaces"),
    ("tree", "self"),
]


@pytest.mark.parametrize("args", PAGES)
def test_pages_fit_80_columns(ramet, child, badly_named, args):
    """No line is wider, nothing is left over at line ends, stderr is empty, and no colour goes into a pipe."""
    child(CLONE.NEWUSER | CLONE.NEWNET)
    done = ramet(*args)
    assert (done.stderr, done.returncode) == ("", 0) and done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80 or line != line.rstrip()] == []
    assert "\033" not in done.stdout


@pytest.mark.parametrize("args", PAGES)
def test_pages_as_json(ramet, args):
    """Each page as data."""
    assert isinstance(json.loads(ramet(*args, "--json").stdout), dict)


def test_ps_lists_what_is_new(ramet, child):
    """A child with namespaces of its own is listed with them; one without is not."""
    made, plain = child(CLONE.NEWUSER | CLONE.NEWNET | CLONE.NEWUTS), child(CLONE(0))
    page = ramet("ps").stdout
    own = page.partition("another namespace than their parent")[2]
    assert re.search(rf"^ *{made} .* user\+net\+uts$", own, re.MULTILINE)
    assert not re.search(rf"^ *{plain} ", own, re.MULTILINE)


def test_ps_of_a_process_and_of_a_namespace(ramet, child):
    """A pid lists its namespaces against its parent's; a namespace's number lists who is in it."""
    made = child(CLONE.NEWUSER | CLONE.NEWIPC)
    found = json.loads(ramet("ps", "--json", str(made)).stdout)
    assert found["own"] == ["user", "ipc"] and found["parent"] == os.getpid()
    page = ramet("ps", str(made)).stdout
    assert re.search(r"^ipc +\d+ own ", page, re.MULTILINE) and re.search(r"^net +\d+ shared ", page, re.MULTILINE)
    ipc = found["namespaces"]["ipc"]
    inside = ramet("ps", str(ipc)).stdout
    assert inside.startswith(f"ipc namespace {ipc}, 1 process\n") and re.search(rf"^ *{made} ", inside, re.MULTILINE)
    assert f"owned by user namespace {found['namespaces']['user']}" in inside


def test_ps_of_some_kinds(ramet):
    """Only these are listed, by the kernel's names or the others in use."""
    found = json.loads(ramet("ps", "--json", "-t", "network", "--type", "uts,ipc").stdout)["namespaces"]
    assert {each["type"] for each in found} == {"net", "uts", "ipc"}
    assert len({each["type"] for each in json.loads(ramet("ps", "--json").stdout)["namespaces"]}) >= 7


def test_tree_shows_what_is_new_where_it_is(ramet, child):
    """Below this process: the child with its own namespaces says so, the other is there with --all only."""
    made, plain = child(CLONE.NEWUSER | CLONE.NEWPID), child(CLONE(0))
    us = str(os.getpid())
    page = ramet("tree", us).stdout
    assert re.search(rf"─ {made} \S.*  user\+pid new$", page, re.MULTILINE)
    every = ramet("tree", "--all", us).stdout
    assert re.search(rf"─ {plain} ", every) and not re.search(rf"─ {plain} .* new", every)
    new = ramet("tree", "--new", us).stdout
    assert re.search(rf"\b{made}\b", new) and not re.search(rf"\b{plain}\b", new)


def test_tree_counts_what_has_nothing_new(ramet, child):
    """Equal leaves are one line, with their number; --all has a line for each."""
    made = [child(CLONE(0)) for _ in range(3)]
    us = str(os.getpid())
    folded, every = ramet("tree", us).stdout, ramet("tree", "--all", us).stdout
    assert re.search(r"─ [34] x ", folded) and not any(f"─ {pid} " in folded for pid in made)
    assert all(f"─ {pid} " in every for pid in made)


def test_tree_of_namespaces(ramet, child):
    """A new user namespace hangs from ours, with what it owns below it, and the pid namespaces nest."""
    made = child(CLONE.NEWUSER | CLONE.NEWPID | CLONE.NEWUTS)
    data = json.loads(ramet("tree", "--namespaces", "--json").stdout)
    ids = json.loads(ramet("ps", "--json", str(made)).stdout)["namespaces"]

    def find(nodes, id):
        for node in nodes:
            if node["ns"] == id:
                return node
            if found := find(node["children"], id):
                return found
        return None

    user = find(data["namespaces"], ids["user"])
    assert {each["ns"] for each in user["children"]} == {ids["pid"], ids["uts"]}
    ours = os.stat("/proc/self/ns/user").st_ino
    assert ids["user"] in [each["ns"] for each in find(data["namespaces"], ours)["children"]]
    above = find(data["pid_namespaces"], os.stat("/proc/self/ns/pid").st_ino)
    assert ids["pid"] in [each["ns"] for each in above["children"]]
    assert (
        f"└─ user {ids['user']}" in (page := ramet("tree", "--namespaces").stdout) or f"├─ user {ids['user']}" in page
    )


def test_names_do_not_steer_the_terminal(badly_named):
    """A process's name with colours and a line feed in it is shown, not obeyed; on a terminal too."""
    for args in (["ps", str(badly_named)], ["tree", str(os.getpid())]):
        shown = on_a_terminal(*args)
        assert "a\\x1b[31mb\\nc" in shown and "\033[31m" not in shown


def test_colours_on_a_terminal(ramet, child):
    """What is new is green on a terminal; not with NO_COLOR; and the words are the same."""
    child(CLONE.NEWUSER | CLONE.NEWNET)
    us = str(os.getpid())
    assert "\033[32muser+net new\033[0m" in on_a_terminal("tree", us)
    plain = on_a_terminal("tree", us, NO_COLOR="1")
    assert "user+net new" in plain and "\033" not in plain
    assert "\033[32mok" in on_a_terminal("doctor") and "\\x1b" not in on_a_terminal("doctor")


def on_a_terminal(*args, **environment):
    """What a page prints to a terminal."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    env |= {"TERM": "xterm", **environment}
    process = subprocess.Popen([*RAMET, *args], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:
        pass  # EIO: whoever had the other end is gone
    os.close(ours)
    assert process.wait() in (0, 1), text
    return text.decode()


def test_others_processes_are_counted_as_hidden(ramet):
    """To an ordinary user most are hidden, and the page says how many of how many, and what it would need."""
    run = {} if os.geteuid() else {"user": 65000, "group": 65000, "extra_groups": []}
    page = ramet("ps", **run)
    if page.returncode:
        pytest.skip(f"only where {RAMET[0]} can be read by everybody")
    assert re.search(r"^\d+ of \d+ processes are hidden: looking needs the right to ptrace", page.stdout, re.MULTILINE)
    assert "  ?" in ramet("tree", **run).stdout
    assert json.loads(ramet("ps", "--json", **run).stdout)["hidden"]


def test_a_deep_tree_is_drawn():
    """Processes nested deeper than Python's calls can be, and many beside each other: neither is a problem."""
    from ramet.cli.branches import Style
    from ramet.cli.tree import ProcessTree
    from ramet.host.census import Census
    from ramet.host.namespaces import KINDS, Process

    ids = dict.fromkeys(KINDS, 1)
    chain = {n: Process(n, parent=n - 1, command="deep", ids=dict(ids), children={}) for n in range(1, 5001)}
    chain[5000].ids["net"] = 2
    tree = ProcessTree(Census(chain, {}), None)
    for only_new in (False, True):
        lines = tree.lines(Style(), folded=True, only_new=only_new)
        assert len(lines) == 5000 and "net new" in lines[-1]
        assert max(map(len, lines)) <= 80 and lines[-1].startswith("4999 deep")
    assert [each["pid"] for each in json.loads(json.dumps(tree.as_dict()))["processes"]] == [*range(1, 5001)]
