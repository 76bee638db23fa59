"""pytest run by these tests, as anybody would run it, and what it reported."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

#: In the conftest.py of what is run: one line of JSON for each report.
REPORTER = """
import json, os

def pytest_runtest_logreport(report):
    if not report.passed or report.when == "call" or os.environ.get("EVERY"):
        told = {name: getattr(report, name, None) for name in ("nodeid", "when", "outcome", "wasxfail", "duration", "user_properties")}
        told.update(text=report.longreprtext, sections=report.sections)
        if isinstance(report.longrepr, tuple):
            told["text"] = list(report.longrepr)
        with open(os.environ["REPORTS"], "a") as file:
            file.write(json.dumps(told) + "\\n")
"""


class Run:
    """status, stdout of pytest; reports: of the call, or of what failed, by the test's name."""

    def __init__(self, done, reports):
        self.status, self.stdout = done.returncode, done.stdout
        self.all = reports
        self.reports = {one["nodeid"].split("::", 1)[-1]: one for one in reports}

    def __getitem__(self, name):
        return self.reports[name]

    def outcomes(self):
        return {name: one["outcome"] for name, one in self.reports.items()}


@pytest.fixture
def run_pytest(tmp_path):
    """run_pytest(source, *options): a project of one file of tests, run by pytest in a process of its own."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "conftest.py").write_text(REPORTER)
    reports = tmp_path / "reports"
    environment = {
        **os.environ,
        "REPORTS": str(reports),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    environment.pop("PYTEST_CURRENT_TEST", None)
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
        "1"  # what others have installed takes longer to load than these take to run
    )
    environment["PYTHONHASHSEED"] = "0"  # sets are shown in the same order each time

    def run(source, *options, plugin=True, **env):
        (directory / "test_it.py").write_text(textwrap.dedent(source))
        reports.write_text("")
        base = str(tmp_path / "base")
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", base, "-o", "addopts="]
        argv += ["-p", "ramet.pytest_plugin"] if plugin else []
        done = subprocess.run(
            [*argv, *options, "test_it.py"],
            cwd=directory,
            env=environment | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        return Run(done, [json.loads(line) for line in reports.read_text().splitlines()])

    return run
