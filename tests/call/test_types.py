"""What a type checker sees of isolated functions: the signature and the value they had."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ramet
from needs import need

SAMPLE = Path(__file__).parent / "typed_sample.py"


@pytest.fixture(scope="module")
def checked():
    """mypy's errors on the sample: {line: code}."""
    try:
        import mypy  # noqa: F401
    except ImportError:
        need(False, "mypy")
    checkout = Path(ramet.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir=/dev/null", "--show-error-codes", str(SAMPLE)],
        capture_output=True,
        text=True,
        cwd="/",
        env={"MYPYPATH": str(checkout), "PATH": "/usr/bin:/bin"},
        timeout=300,
    )  # fmt: skip
    found = {}
    for line in done.stdout.splitlines():
        place = re.fullmatch(r"(.*?):(\d+): error: .*\[([a-z-]+)\]", line)
        if place and place[1].endswith(SAMPLE.name):
            found[int(place[2])] = place[3]
    assert done.returncode in (0, 1), done.stderr
    return found, done.stdout


@pytest.mark.timeout(300)
def test_signatures_and_values_are_kept(checked):
    """Called, run, bound, a coroutine or a function: mypy sees the arguments and the type of the value that the function has
    (assert_type), and refuses each wrong use in the sample, and no right one."""
    found, said = checked
    wanted = {
        number: line.split("# error: ")[1]
        for number, line in enumerate(SAMPLE.read_text().splitlines(), 1)
        if "# error: " in line
    }
    assert len(wanted) == 10
    assert found == wanted, said


def test_generic_at_run_time():
    """FunctionResult[int] can be written where annotations are evaluated, and is the class itself; typing is not loaded for it."""
    from ramet.call.isolated import Isolated

    assert ramet.FunctionResult[int] is ramet.FunctionResult
    assert Isolated[[int], str] is Isolated
    code = "import ramet, sys; had = 'typing' in sys.modules; ramet.isolated(int); print(had, 'typing' in sys.modules)"
    sees = subprocess.run([sys.executable, "-S", "-I", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True, text=True, check=True)  # fmt: skip
    assert sees.stdout == "False False\n"
