"""Tests that end in every way there is, each marked; run in sandboxes and without by test_marker.py, which compares the reports."""

import logging
import os
import subprocess
import sys
import warnings

import pytest

pytestmark = pytest.mark.ramet(timeout=60)
events = []


class Own(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)
        self.second = second


@pytest.fixture
def prepared(request):
    """Set up before the test and torn down after it, in the process that pytest runs in."""
    request.node.user_properties.append(("pid at set-up", os.getpid() == PID))
    print("set up")
    value = {"key": "value"}
    yield value
    print("torn down")
    assert os.getpid() == PID
    assert value == {"key": "value"}


PID = os.getpid()


def helper(numbers):
    assert numbers == [1, 2, 4], "as the helper says"


def test_passes():
    assert 1 + 1 == 2


def test_assertion_in_a_helper(prepared):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("sample").warning("logged %s", 1)
    numbers = [1, 2, 3]
    helper(numbers)


def test_long_comparison():
    assert {"a": list(range(30)), "b": "x" * 90} == {"a": [*range(29), 0], "b": "x" * 89 + "y"}


def test_raises_with_a_cause():
    try:
        [][1]
    except IndexError as error:
        raise Own("first", 2) from error


def test_raises_in_the_library():
    subprocess.run([1], check=True)


def test_skips():
    pytest.skip("as the test says")


def test_expects_to_fail():
    pytest.xfail("as the test says")


def test_fails_in_words():
    pytest.fail("in words")


def test_fails_in_words_alone():
    pytest.fail("in words", pytrace=False)


def test_importorskip():
    pytest.importorskip("nothing_like_that")


@pytest.mark.xfail(raises=Own)
def test_marked_to_raise_its_own():
    raise Own(1, 2)


@pytest.mark.xfail(raises=KeyError, reason="another one")
def test_marked_to_raise_another():
    raise Own(1, 2)


@pytest.mark.xfail(strict=True, reason="it does not")
def test_marked_to_fail_and_passes():
    pass


@pytest.mark.skip(reason="marked")
def test_marked_to_be_skipped():
    raise AssertionError


def test_leaves_by_sys_exit():
    sys.exit(3)


def test_exception_group():
    raise ExceptionGroup("both", [ValueError(1), Own(1, 2)])


def test_capsys(capsys, prepared):
    assert capsys.readouterr().out == "set up\n"
    print("read")
    assert capsys.readouterr().out == "read\n"
    print("left")
    raise AssertionError("now")


def test_capfd(capfd):
    subprocess.run(["echo", "of a program"], check=True)
    assert capfd.readouterr().out == "of a program\n"
    os.write(2, b"left\n")
    raise AssertionError("now")


def test_capfdbinary(capfdbinary):
    os.write(1, b"\xff\n")
    assert capfdbinary.readouterr().out == b"\xff\n"


def test_caplog(caplog):
    with caplog.at_level(logging.INFO, "sample"):
        logging.getLogger("sample").info("for caplog")
    assert caplog.messages == ["for caplog"]
    raise AssertionError("now")


def test_own_handler():
    heard = []

    class Handler(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    handler = Handler()
    logging.getLogger("sample").addHandler(handler)
    logging.getLogger("sample").error("for a handler")
    logging.getLogger("sample").removeHandler(handler)
    assert heard == ["for a handler"]


def test_recwarn(recwarn):
    warnings.warn("for recwarn", RuntimeWarning, stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["for recwarn"]


def test_pytest_warns():
    with pytest.warns(DeprecationWarning, match="for pytest"):
        warnings.warn("for pytest.warns", DeprecationWarning, stacklevel=1)


def test_a_warning_for_the_summary():
    warnings.warn("for the summary", RuntimeWarning, stacklevel=1)


def test_tmp_path(tmp_path):
    (tmp_path / "made").write_text("here")
    assert os.listdir(tmp_path) == ["made"]


def test_monkeypatch(monkeypatch):
    monkeypatch.setenv("SAMPLE", "set")
    assert os.environ["SAMPLE"] == "set"


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("OF_FIXTURE", "set")


def test_environment_of_a_fixture(environment):
    assert os.environ["OF_FIXTURE"] == "set"


def test_properties(record_property):
    record_property("plain", [1, "a"])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("text", ["a", "b"])
def test_parametrized(number, text):
    assert (number, text) != (2, "b")


class TestClass:
    @pytest.fixture(autouse=True)
    def filled(self):
        self.value = 5
        yield
        assert self.value == 5

    def setup_method(self):
        self.made = [1]

    def test_method(self):
        assert self.value == len(self.made), "in a method"
