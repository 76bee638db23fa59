"""Every public name is documented, exported on purpose, and typed."""

import ast
import inspect
from pathlib import Path

import pytest

import ramet
from ramet.spec.record import Record

PACKAGE = Path(ramet.__file__).parent

#: Modules that are imported by `import ramet` and so are attributes too.
PUBLIC = sorted(name for name, value in vars(ramet).items() if not name.startswith("_") and not inspect.ismodule(value))
VALUES = {"DEVNULL", "PIPE", "STDOUT"}


def test_the_public_names():
    """What ramet exports is this list: a change of it is a change of the interface, and is made here too."""
    core = {
        "Bind", "ChildDied", "CommandError", "Condition", "DEVNULL", "Dev", "Directory", "Error", "ExitError", "File", "HelperError",
        "IdMapping", "IoLimit", "Join", "Landlock", "Mqueue", "Namespace", "Overlay", "PIPE", "Popen", "Proc", "Result", "Rootfs", "Rule", "STDOUT",
        "Sandbox", "Seccomp", "SpecError", "SpecTypeError", "StepError", "Symlink", "TimeOffsets", "TimeoutExpired", "Tmpfs",
        "UnsupportedError", "Usage", "run",
            "MemoryLimitError", "RemoteError", "RemoteTraceback", "ResultError", "TimeLimitError", "PoolError", "ZygoteError",
    }  # fmt: skip
    assert core <= set(PUBLIC)
    later = {"call", "isolated", "ExecResult", "FunctionResult", "Pool", "Session", "compile", "plan", "CLONE", "Plan"}
    assert set(PUBLIC) - core <= later, sorted(set(PUBLIC) - core - later)


def documented(name, thing):
    """What of a class or function has no docstring of its own."""
    missing = [] if thing.__doc__ else [name]
    if inspect.isclass(thing):
        for part, value in vars(thing).items():
            if part.startswith("_"):
                continue
            target = (
                value.fget
                if isinstance(value, property)
                else value.__func__
                if isinstance(value, (classmethod, staticmethod))
                else value
            )
            if inspect.isfunction(target) and not target.__doc__:
                missing.append(f"{name}.{part}")
    return missing


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in VALUES])
def test_documented(name):
    """Every public class, function, method and property has a docstring."""
    assert documented(name, getattr(ramet, name)) == []


@pytest.mark.parametrize(
    "name", [n for n in PUBLIC if inspect.isclass(getattr(ramet, n)) and issubclass(getattr(ramet, n), Record)]
)
def test_fields_are_documented(name):
    """Every field of a spec is named in its class's docstring, or in that of the kind it is of."""
    cls = getattr(ramet, name)
    text = " ".join(base.__doc__ or "" for base in cls.__mro__ if base is not object) + (
        inspect.getmodule(cls).__doc__ or ""
    )
    missing = [field for field in cls._fields if field not in text and field != "destination"]
    assert missing == []


def test_errors_are_one_family():
    """Every public exception is a ramet.Error."""
    found = [
        name
        for name in PUBLIC
        if inspect.isclass(getattr(ramet, name)) and issubclass(getattr(ramet, name), BaseException)
    ]
    assert found
    assert all(issubclass(getattr(ramet, name), ramet.Error) for name in found)


def test_modules_are_documented(trees):
    """Every module that holds anything says in its first line what it is."""
    missing = [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    assert missing == []


def test_stub_matches_the_extension():
    """_core.pyi has exactly the names of the C extension, with signatures that match their text."""
    from ramet import _core

    stub = PACKAGE / "_core.pyi"
    if not stub.exists():
        pytest.xfail("src/ramet/_core.pyi is not written yet")
    tree = ast.parse(stub.read_text())
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = (
        set(functions)
        | {
            node.target.id
            for node in tree.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        | {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    )
    real = {name for name in vars(_core) if not name.startswith("_")}
    assert {name for name in names if not name.startswith("_")} == real
    for name, node in functions.items():
        try:
            signature = inspect.signature(getattr(_core, name))
        except ValueError:
            continue
        args = node.args
        written = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
        assert written == [
            p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ], name


def test_the_extension_is_documented():
    """Every function of the C extension has a docstring."""
    from ramet import _core

    found = [name for name, value in vars(_core).items() if callable(value) and not value.__doc__]
    assert found == []


def test_py_typed():
    """The package says that it is typed, for those who check against it."""
    if not (PACKAGE / "py.typed").exists():
        pytest.xfail("src/ramet/py.typed is not there yet")
    assert Path(PACKAGE / "py.typed").read_text() == ""
