"""A test in a sandbox: ``@pytest.mark.ramet(memory="256M", timeout=5)``. docs/how-to/pytest.md.

Fixtures are set up before, and torn down after, in pytest's own process; only the test function runs in the sandbox, as an isolated
function. There its report is made (ramet.pytest_inside), since only there are the frames; here an exception of the same class
is raised, so that xfail and other plugins go on as ever, and the report that came is put in.

Loaded with pytest, wherever ramet is installed: so nothing but ramet itself is imported before a marked test is met.
"""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from ramet.spec import Sandbox

MARK = "pytest.mark.ramet"
#: Options of the marker that are no fields of Sandbox.
OWN = ("net", "rootdir")
#: Variables that pytest itself goes by.
ASKED = ("CI", "BUILD_NUMBER", "COLUMNS")
RESULTS_MAX = 64 << 20


class _Kept:
    """What is known of a marked test. box: its Sandbox; ran: was it in one?; error, longrepr: what it raised, and what is shown of that."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        self.ran = False
        self.error: BaseException | None = None
        self.longrepr: Any = None


_KEPT = pytest.StashKey[_Kept]()
_ENVIRONMENT = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """--ramet-off."""
    group = parser.getgroup("ramet", "tests in sandboxes")
    group.addoption(
        "--ramet-off", action="store_true", help=f"run tests marked with {MARK} in this process, unprotected"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    text = "run the test in a sandbox: any field of ramet.Sandbox; net=True shares the network, rootdir=True shows the project, read-only"
    config.stash[_ENVIRONMENT] = dict(os.environ)
    config.addinivalue_line("markers", f"ramet(sandbox=None, *, net=False, rootdir=False, **fields): {text}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: is the marker right, and can this test be isolated?"""
    marks = list(item.iter_markers("ramet"))
    if not marks or item.config.getoption("ramet_off"):
        return
    from ramet.errors import Error

    why = _why_not(item)
    try:
        item.stash[_KEPT] = _Kept(_sandbox(marks, item.config))
    except Error as error:
        why = str(error)
    if why is not None:
        pytest.fail(why, pytrace=False)


def _why_not(item: pytest.Item) -> str | None:
    for option in ("usepdb", "trace"):
        if item.config.getoption(option, False):
            flag = "--pdb" if option == "usepdb" else "--trace"
            return (
                f"{MARK}: {flag} needs the test in pytest's own process, and it runs in a sandbox\n\n"
                "hint: --ramet-off runs it unprotected"
            )
    if not isinstance(item, pytest.Function) or type(item).runtest is not pytest.Function.runtest:
        kind = f"{type(item).__module__}.{type(item).__name__}"
        return f"{MARK}: only test functions and methods of plain classes can be isolated, and this is a {kind}"
    return None


def _sandbox(marks: list[pytest.Mark], config: pytest.Config) -> Sandbox:
    """What the markers say together: of module, class and function, the nearer one counts."""
    from ramet.errors import SpecTypeError
    from ramet.run.planning import sandbox_with
    from ramet.spec import Bind, Sandbox
    from ramet.spec.namespaces import Namespace
    from ramet.spec.record import unknown_field

    base: Any = None
    fields: dict[str, Any] = {}
    for mark in reversed(marks):
        if len(mark.args) > 1:
            raise SpecTypeError(f"takes one Sandbox, not {len(mark.args)} values", field=MARK)
        if mark.args:
            base, fields = mark.args[0], {}
        fields.update(mark.kwargs)
    for name in fields:
        if name not in (*OWN, *Sandbox._fields):
            raise unknown_field(MARK, name, (*OWN, *Sandbox._fields))
    net, rootdir = (_flag(fields.pop(name, False), name) for name in OWN)
    box = sandbox_with(base, fields)
    if net:
        box = box.replace(namespaces=box.namespaces - {Namespace.NET})
    if rootdir:
        box = box.replace(mounts=(*box.mounts, Bind(str(config.rootpath))))
    return box


def _flag(value: object, name: str) -> bool:
    from ramet.spec import values

    values.flag(value, f"{MARK}.{name}")
    return bool(value)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """In place of calling the function: call it in its sandbox."""
    kept = pyfuncitem.stash.get(_KEPT, None)
    if kept is None:
        return None
    kept.ran = True
    _call(pyfuncitem, kept)
    return True


def _call(item: pytest.Function, kept: _Kept) -> None:
    from ramet.call.isolated import isolated
    from ramet.errors import Error
    from ramet.pytest_inside import Inside
    from ramet.spec import Bind

    __tracebackhide__ = True
    inside, tmp_path = Inside(item), item.funcargs.get("tmp_path") or item.funcargs.get("tmpdir")
    box = kept.box.replace(env={**_environment(item.config), **kept.box.env})
    if tmp_path is not None:
        box = box.replace(mounts=(*box.mounts, Bind(str(tmp_path), writable=True)))
    try:
        with _lent(tmp_path):
            result = isolated(inside, sandbox=box, results_max=RESULTS_MAX)._run((), {}, relay=True)
        told: Any = result.value
        error = result.exception
    except Error as failure:
        told, error = None, failure
    finally:
        inside.close()
    if error is not None:
        kept.error, kept.longrepr = error, f"ramet: {error}"
    else:
        _take(item, kept, told)
    if kept.error is not None:
        raise kept.error


def _environment(config: pytest.Config) -> dict[str, str]:
    """What fixtures have set, and what pytest looks at when it shortens an explanation; nothing else of ours."""
    before = config.stash[_ENVIRONMENT]
    return {name: value for name, value in os.environ.items() if name in ASKED or before.get(name) != value}


@contextmanager
def _lent(directory: Any) -> Generator[None, None, None]:
    """The test's own directory, which the sandbox shows: a root caller's payload is somebody else, and where the file system has no
    idmapped mounts it could write to nothing of root's. Nobody else comes that far: what is above is root's alone."""
    if directory is None or os.geteuid() != 0:
        yield
        return
    mode = os.stat(directory).st_mode
    os.chmod(directory, 0o777)
    try:
        yield
    finally:
        os.chmod(directory, mode & 0o7777)


def _take(item: pytest.Function, kept: _Kept, told: Any) -> None:
    """What the sandbox told, trusted in nothing."""
    from ramet.pytest_inside import Malformed, rebuilt

    try:
        kept.error, kept.longrepr, properties = rebuilt(told)
        item.user_properties[:] = properties
    except Malformed as error:
        kept.error = error
        kept.longrepr = f"ramet: the sandbox sent what is no report: {error}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A marked test that was not isolated has not passed."""
    result = yield
    kept = item.stash.get(_KEPT, None)
    if kept is not None and not kept.ran:
        pytest.fail(f"{MARK}: the test was not isolated, since another plugin has called it", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
    """The report as ever, but for what is shown of the exception: that was made where its frames are."""
    kept = item.stash.get(_KEPT, None)
    if kept is None or call.when != "call" or call.excinfo is None or call.excinfo.value is not kept.error:
        return None
    report = pytest.TestReport.from_item_and_call(item, call)
    report.longrepr = kept.longrepr
    return report
