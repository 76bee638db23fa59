"""@pytest.mark.ramet: the test runs in a sandbox, and its report is what it would have been without."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ramet
from needs import SLOW, need
from ramet import cgroups

pytestmark = pytest.mark.timeout(240)  # each starts pytest, some three times

SAMPLE = Path(__file__).parent / "sample.py"
IN_SANDBOX = """
    import os, socket, sys, pytest
    @pytest.mark.ramet(timeout=60)
    def test_it():
        assert (os.getuid(), os.path.exists(__file__), [name for _, name in socket.if_nameindex()]) == (1000, False, ["lo"])
"""


def plain(report):
    """A report but for its time; addresses within it aside."""
    keys = ("nodeid", "when", "outcome", "wasxfail", "text", "sections", "user_properties")
    aside = r"0x[0-9a-f]{6,}|\[gw\d\] linux -- Python .*\n*"
    return {key: re.sub(aside, "", str(report[key])).strip() for key in keys}


def test_it_runs_in_a_sandbox(run_pytest):
    """A marked test has another uid, no network and none of the project's files; with --ramet-off it fails for that."""
    assert run_pytest(IN_SANDBOX).outcomes() == {"test_it": "passed"}
    off = run_pytest(IN_SANDBOX, "--ramet-off")
    assert off.outcomes() == {"test_it": "failed"}
    assert "assert (" in off["test_it"]["text"]


OPTIONS = [[], ["-vv", "--showlocals", "--tb=long"], ["--tb=short", "--runxfail"]]


@pytest.mark.parametrize("options", OPTIONS if SLOW else OPTIONS[:2], ids=" ".join)
def test_reports_are_intact(run_pytest, options):
    """Every outcome, traceback, assertion, captured output, log section and property is the same as without a sandbox."""
    inside = run_pytest(SAMPLE.read_text(), *options, EVERY="1")
    outside = run_pytest(SAMPLE.read_text(), *options, "--ramet-off", EVERY="1")
    assert len(inside.all) == len(outside.all) > 90
    for one, other in zip(inside.all, outside.all, strict=True):
        assert plain(one) == plain(other)
    for name in ("test_capsys", "test_capfd", "test_caplog"):
        [told] = [one["text"] for one in inside.all if one["nodeid"].endswith(name) and one["when"] == "call"]
        assert "AssertionError: now" in told, "as far as its end"
    assert inside.status == outside.status == 1
    counts = [re.search(r"=+ (.*) in [0-9.]+s", run.stdout)[1] for run in (inside, outside)]
    assert counts[0] == counts[1]
    assert "for the summary" in inside.stdout.split("warnings summary")[1]


def test_limits(run_pytest):
    """A test that takes too long, too much memory, or ends its process, fails and says so; the others go on."""
    try:
        need(cgroups.find().facts["memory"].ok, "a control group that limits memory")
    finally:
        cgroups.forget()
    found = run_pytest("""
        import os, signal, time, pytest
        pytestmark = pytest.mark.ramet(timeout=60)

        @pytest.mark.ramet(timeout=0.3)
        def test_time():
            print("before")
            time.sleep(60)
        @pytest.mark.ramet(memory="48M")
        def test_memory():
            assert len(b"x" * (1 << 20))
            x = b"x" * (1 << 30)
        def test_exit():
            os._exit(0)
        def test_segv():
            os.kill(os.getpid(), signal.SIGSEGV)
        def test_kill_everybody():
            os.kill(-1, signal.SIGKILL)
        @pytest.mark.xfail(raises=TimeoutError, strict=True)
        @pytest.mark.ramet(timeout=0.3)
        def test_expected():
            time.sleep(60)
        def test_after():
            pass
    """)
    assert re.fullmatch(r"ramet: 'test_time' ran out of time after [\d.]+ s", found["test_time"]["text"])
    assert found["test_time"]["sections"] == [], "what was not flushed is lost, as of any program that is killed"
    assert found["test_memory"]["text"] == "ramet: 'test_memory' ran out of memory"
    assert found["test_exit"]["text"] == "ramet: 'test_exit' exited with 0"
    assert found["test_segv"]["text"] == "ramet: 'test_segv' was ended by SIGSEGV"
    assert "ProcessLookupError" in found["test_kill_everybody"]["text"]
    outcomes = found.outcomes()
    assert outcomes.pop("test_after") == "passed"
    assert outcomes.pop("test_expected") == "skipped"
    assert set(outcomes.values()) == {"failed"}
    assert found["test_time"]["duration"] >= 0.3


def test_markers_add_up(run_pytest):
    """Fields of the module's, the class's and the function's markers count together, the nearest first; a Sandbox replaces what is above."""
    found = run_pytest("""
        import os, pytest, ramet, socket
        pytestmark = pytest.mark.ramet(hostname="module", env={"A": "1"}, timeout=60)

        @pytest.mark.ramet(hostname="class")
        class TestIt:
            def test_class(self):
                assert (socket.gethostname(), os.environ["A"]) == ("class", "1")
            @pytest.mark.ramet(hostname="function")
            def test_function(self):
                assert (socket.gethostname(), os.environ["A"]) == ("function", "1")
        @pytest.mark.ramet(ramet.Sandbox(hostname="box"), timeout=60)
        def test_box():
            assert (socket.gethostname(), os.environ.get("A")) == ("box", None)
    """)
    assert set(found.outcomes().values()) == {"passed"}, found.stdout
    assert len(found.reports) == 3


def test_the_environment(run_pytest):
    """What fixtures put into the environment is there, and what the marker says; nothing of what pytest was started with is."""
    found = run_pytest(
        """
        import os, pytest
        @pytest.fixture
        def prepared(monkeypatch):
            monkeypatch.setenv("OF_FIXTURE", "1")
            monkeypatch.setenv("BOTH", "fixture")
        @pytest.mark.ramet(timeout=60, env={"OF_MARKER": "2", "BOTH": "marker"})
        def test_it(prepared):
            assert [os.environ.get(name) for name in ("OF_FIXTURE", "OF_MARKER", "BOTH", "SECRET")] == ["1", "2", "marker", None]
        def test_control():
            assert os.environ["SECRET"] == "s"
        """,
        SECRET="s",
    )
    assert found.outcomes() == {"test_it": "passed", "test_control": "passed"}, found.stdout


def test_net_and_rootdir(run_pytest):
    """net=True shares the network, rootdir=True shows the project, read-only; without them there is neither."""
    found = run_pytest("""
        import os, pytest, socket
        HERE = os.readlink("/proc/self/ns/net")

        @pytest.mark.ramet(net=True, timeout=60)
        def test_net():
            assert os.readlink("/proc/self/ns/net") == HERE
        @pytest.mark.ramet(net=False, timeout=60)
        def test_no_net():
            assert os.readlink("/proc/self/ns/net") != HERE
        @pytest.mark.ramet(rootdir=True, timeout=60)
        def test_rootdir():
            assert "def test_rootdir" in open(__file__).read()
            with pytest.raises(OSError):
                open(__file__, "a")
        @pytest.mark.ramet(timeout=60)
        def test_no_rootdir():
            assert not os.path.exists(__file__)
    """, "--rootdir=.")  # fmt: skip
    assert set(found.outcomes().values()) == {"passed"}, found.stdout
    assert len(found.reports) == 4


WRONG = [
    ("memroy='1G'", "pytest.mark.ramet has no field 'memroy'\n\nhint: did you mean 'memory'?"),
    ("nett=True", "did you mean 'net'?"),
    ("rootdirs=True", "did you mean 'rootdir'?"),
    ("net=3", "pytest.mark.ramet.net"),
    ("memory='much'", "Sandbox.memory"),
    ("timeout=-1", "Sandbox.timeout"),
    ("5", "must be a Sandbox, not int"),
    ("None, None", "takes one Sandbox, not 2 values"),
]


def test_a_wrong_marker_is_an_error_of_its_test(run_pytest):
    """An option that is none, or a wrong value, is named before anything of the test runs, with the nearest name; other tests run."""
    head = """
import pytest
@pytest.fixture
def never():
    raise AssertionError("it ran")
def test_other():
    pass
"""
    tests = [f"@pytest.mark.ramet({marker})\ndef test_{n}(never):\n    pass\n" for n, (marker, _) in enumerate(WRONG)]
    found = run_pytest(head + "".join(tests))
    for number, (_, says) in enumerate(WRONG):
        told = found[f"test_{number}"]
        assert told["when"] == "setup"
        assert says in told["text"]
        assert "it ran" not in told["text"]
    assert found["test_other"]["outcome"] == "passed"


def test_what_cannot_be_isolated_is_refused(run_pytest):
    """A method of unittest.TestCase is not run at all, rather than unprotected."""
    found = run_pytest("""
        import pytest, unittest
        @pytest.mark.ramet
        class TestIt(unittest.TestCase):
            def test_unit(self):
                print("it ran")
    """)
    assert "only test functions and methods of plain classes can be isolated" in found["TestIt::test_unit"]["text"]
    assert "it ran" not in found.stdout


def test_another_plugin_that_calls_it(run_pytest):
    """Where another plugin calls the function before us, the test fails: it was not isolated."""
    found = run_pytest("""
        import pytest
        class Other:
            @pytest.hookimpl(tryfirst=True)
            def pytest_pyfunc_call(self, pyfuncitem):
                return True
        @pytest.fixture(scope="session", autouse=True)
        def other(request):
            request.config.pluginmanager.register(Other())
        @pytest.mark.ramet
        def test_it():
            pass
    """)
    assert "was not isolated, since another plugin has called it" in found["test_it"]["text"]


@pytest.mark.parametrize("option", ["--pdb", "--trace"])
def test_debuggers_are_refused(run_pytest, option):
    """--pdb and --trace need the test where the terminal is: a marked test is refused and says how to go on; unmarked ones run."""
    source = """
        import pytest
        @pytest.mark.ramet
        def test_it():
            raise AssertionError("it ran")
    """
    found = run_pytest(source, option)
    assert f"{option} needs the test in pytest's own process" in found["test_it"]["text"]
    assert "--ramet-off" in found["test_it"]["text"]
    assert "it ran" not in found["test_it"]["text"]
    off = run_pytest(source, option, "--ramet-off")
    assert "it ran" in off.stdout or "(Pdb)" in off.stdout


def test_breakpoint(run_pytest):
    """breakpoint() in a marked test fails and says what to do, and does not end the session."""
    found = run_pytest("""
        import pytest
        @pytest.mark.ramet(timeout=60)
        def test_it():
            breakpoint()
        @pytest.mark.ramet(timeout=60)
        def test_pdb():
            import pdb
            pdb.set_trace()
        def test_after():
            pass
    """)
    assert "no terminal in a sandbox" in found["test_it"]["text"]
    assert "no terminal in a sandbox" in found["test_pdb"]["text"]
    assert found["test_after"]["outcome"] == "passed"


def test_coroutines(run_pytest):
    """A coroutine function is run to its end in its sandbox."""
    found = run_pytest("""
        import asyncio, os, pytest
        @pytest.mark.ramet(timeout=60)
        async def test_it():
            await asyncio.sleep(0)
            assert os.getuid() == 0
    """)
    assert "assert 1000 == 0" in found["test_it"]["text"]


def test_what_the_sandbox_says_is_not_trusted(run_pytest):
    """A test that puts nonsense in place of its report fails, and its text is shown as text."""
    found = run_pytest("""
        import pytest, ramet.pytest_inside
        @pytest.mark.ramet(timeout=60)
        @pytest.mark.parametrize("told", [None, 5, {"kind": "error"}, {"kind": "error", "properties": [], "longrepr": {"chain": 1}},
            {"kind": "error", "properties": [], "message": "", "module": "builtins", "name": "print", "args": [], "longrepr":
                {"reprcrash": None, "reprtraceback": {"reprentries": [5]}, "sections": [], "chain": None}}], ids=range(5))
        def test_it(told):
            ramet.pytest_inside.Inside._told = lambda self, call: told
    """)
    assert len(found.reports) == 5
    for one in found.reports.values():
        assert one["outcome"] == "failed"
        assert one["text"].startswith("ramet: the sandbox sent what is no report")


def test_pytest_exit_ends_the_session(run_pytest):
    """pytest.exit in a marked test does what it does in any."""
    found = run_pytest("""
        import pytest
        @pytest.mark.ramet(timeout=60)
        def test_it():
            pytest.exit("enough", returncode=7)
        def test_after():
            pass
    """)
    assert found.status == 7
    assert "enough" in found.stdout
    assert "test_after" not in found.reports


def test_with_pytest_timeout(run_pytest):
    """pytest-timeout's own limit ends a marked test too, and its sandbox with it."""
    need(importlib.util.find_spec("pytest_timeout"), "pytest-timeout")
    found = run_pytest("""
        import pytest, time
        @pytest.mark.timeout(1)
        @pytest.mark.ramet
        def test_it():
            time.sleep(600)
        def test_after():
            pass
    """, "-p", "pytest_timeout")  # fmt: skip
    assert "Timeout (>1.0s)" in found["test_it"]["text"]
    assert found["test_after"]["outcome"] == "passed"


def test_with_xdist(run_pytest):
    """In xdist's workers marked tests run in sandboxes as well, and their reports come through whole."""
    need(importlib.util.find_spec("xdist"), "pytest-xdist")
    alone = run_pytest(SAMPLE.read_text())
    spread = run_pytest(SAMPLE.read_text(), "-p", "xdist", "-n", "2")
    assert set(spread.reports) == set(alone.reports)
    for name, one in spread.reports.items():
        assert plain(one) == plain(alone[name])


def test_light():
    """The plugin alone loads nothing of functions, nor msgspec: that waits for the first marked test."""
    code = "import sys, pytest; import ramet.pytest_plugin; print(sorted(name for name in sys.modules if name.startswith(('ramet.call.', 'ramet.pytest', 'msgspec', 'asyncio', 'ramet.host.census'))))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    )  # fmt: skip
    assert done.stdout.strip() == "['ramet.call.build', 'ramet.call.shared', 'ramet.pytest_plugin']"


def test_entry_point():
    """pyproject.toml names the plugin for pytest, by a module that is there and has the hooks."""
    project = tomllib.loads((Path(ramet.__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"ramet": "ramet.pytest_plugin"}
    assert hasattr(importlib.import_module("ramet.pytest_plugin"), "pytest_runtest_makereport")


def test_without_the_mark(run_pytest):
    """Tests that are not marked are not touched; the marker is listed, and known under --strict-markers."""
    found = run_pytest("def test_it():\n    assert 0", "--strict-markers")
    assert found["test_it"]["text"].startswith("def test_it():")
    assert "ramet(sandbox=None" in run_pytest("", "--markers").stdout
