"""Builds of Python that functions don't run in: refused by name, and in C too."""

import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import ramet
from needs import need, only

FREE_THREADED = """
    import sys
    sys.abiflags = "t"
    {gil}
    import ramet
    ran = []
    pool, session = lambda fn: ramet.Pool(size=1).shutdown(), lambda fn: ramet.Session().close()
    for way in (ramet.call, lambda fn: ramet.isolated(fn)(), pool, session):
        try:
            way(lambda: ran.append(1))
        except ramet.UnsupportedError as error:
            print(error.fact)
    print(ran, ramet.run(["/bin/echo", "still"]).stdout)
"""


def said(code):
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("enabled", [True, False])
def test_a_free_threaded_build_is_refused(enabled):
    """On a free-threaded build all ways to run a function are refused before anything runs, and the error says what it is
    and whether its GIL is on; programs run."""
    fact = f"it is a free-threaded build, its GIL {'enabled' if enabled else 'disabled'}"
    found = said(FREE_THREADED.format(gil=f"sys._is_gil_enabled = lambda: {enabled}"))
    assert found == f"{fact}\n" * 4 + "[] b'still\\n'\n"


def test_this_build_is_not():
    """The control: with the flags that this build has, all run."""
    assert said(FREE_THREADED.format(gil='sys.abiflags = ""')) == "[1] b'still\\n'\n"


def test_the_core_builds_without_the_gil():
    """The extension's source compiles for a free-threaded build, so that such a one can say so, and `call` is left out there."""
    only(sys.version_info >= (3, 13), "on Python 3.13 and later")
    checkout = Path(ramet.__file__).parents[2]
    need((checkout / "csrc").is_dir(), "the source")
    include = sysconfig.get_path("include")
    for file in sorted((checkout / "csrc").glob("*.c")):
        if '#include "core.h"' not in file.read_text():
            continue
        argv = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Wno-cast-function-type", "-DPy_GIL_DISABLED=1"]
        subprocess.run([*argv, f"-I{include}", "-fsyntax-only", str(file)], check=True, timeout=60)


def test_no_warning_of_the_fork():
    """A caller with threads is not warned of the fork that functions make; os.fork in its place warns since Python 3.12."""
    code = """
        import os, threading, time, warnings
        import ramet
        warnings.simplefilter("error", DeprecationWarning)
        go = threading.Event()
        threading.Thread(target=go.wait).start()
        print(ramet.isolated(int)())
        go.set()
    """
    assert said(code) == "0\n"
    control = """
        import os, threading, warnings
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            if (pid := os.fork()) == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        print(len(heard))
    """
    assert said(control) == f"{int(sys.version_info >= (3, 12))}\n"
