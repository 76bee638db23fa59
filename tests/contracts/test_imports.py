"""Imports run one way, and `import ramet` is light."""

import ast
import subprocess
import sys

import ramet

#: Which parts each part may import. `errors` and `flags` are below all; `_core` is the C extension.
#: host sees spec's values (it looks up what a spec names), and plan gets facts as a value: for its annotations only.
#: lab's experiments are written as a reader would write them: with `import ramet`, which is "" here.
#: lowlevel, single system calls, is above flags and below whoever asks or changes the machine.
LOW = {"descriptors", "errors", "flags", "flag_facts", "left_status", "text"}
ALLOWED = {
    "descriptors": set(),
    "errors": set(),
    "flags": {"errors", "flag_facts"},  # its table, loaded when first asked for
    "flag_facts": {"errors", "flags"},
    "left_status": set(),
    "text": set(),
    "proc": set(),
    "bpf": set(),
    "rules": LOW,
    "lowlevel": LOW | {"_core", "rules"},
    "spec": LOW,
    "host": LOW | {"proc", "spec", "lowlevel", "_core"},
    "plan": LOW | {"spec"},
    "cgroups": LOW | {"proc", "spec", "lowlevel", "_core"},
    "seccomp": LOW | {"spec", "bpf"},
    "run": LOW | {"proc", "bpf", "spec", "plan", "host", "cgroups", "seccomp", "lowlevel", "_core"},
    "call": LOW | {"spec", "plan", "host", "cgroups", "run", "rules", "lowlevel", "_core"},
    "pool": LOW | {"proc", "spec", "plan", "host", "cgroups", "seccomp", "run", "call", "_core"},
    "trace": LOW | {"rules", "bpf", "_core"},
    "aio": LOW | {"spec", "plan", "host", "cgroups", "run"},
    "lab": LOW | {"", "proc", "bpf", "spec", "plan", "host", "cgroups", "run", "rules", "lowlevel", "call", "_core"},
}
#: Against the arrow, each with its reason; only inside a function, so that importing the module does not load it.
EXCEPTIONS = {
    ("ramet.spec.sandbox", "ramet.run.process"): "Sandbox.run is there for the reader's sake",
    ("ramet.spec.sandbox", "ramet.run.planning"): "so is Sandbox.plan",
    ("ramet.spec.sandbox", "ramet.seccomp.filters"): "and Sandbox.explain_call",
    ("ramet.spec.sandbox", "ramet.seccomp.profile"): "and Sandbox.without_namespaces",
    ("ramet.spec.seccomp", "ramet.seccomp.profile"): "and Seccomp.default",
    ("ramet.spec.seccomp", "ramet.seccomp.explain"): "and Seccomp.explain",
    ("ramet.spec.seccomp", "ramet.seccomp.oci"): "and Seccomp.from_oci",
}
#: At the top: may import anything.
TOP = {"", "cli", "explain", "__main__", "pytest_plugin", "pytest_inside"}


def part_of(module):
    """ "plan" for ramet.plan.tree; "" for ramet itself."""
    return module.split(".")[1] if "." in module else ""


def imported(tree, module):
    """(line, module, is it for type checkers only) of each import from this package."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            names = [f"ramet.{alias.name}" for alias in node.names] if node.module == "ramet" else [node.module]
        else:
            continue
        for name in names:
            if name == "ramet" or name.startswith("ramet."):
                yield node.lineno, name, id(node) in typing_only


def breaks(module, tree, known):
    """The lines of a module that import what is above it."""
    here = part_of(module)
    if here in TOP:
        return []
    found = []
    for line, name, typing_only in imported(tree, module):
        there = part_of(name)
        if there == here or typing_only:
            continue
        if (module, name) in EXCEPTIONS and line not in {node.lineno for node in tree.body}:
            continue
        if here not in ALLOWED:
            found.append(f"{module}:{line}: {here!r} has no place in the arrow; give it one in {__file__}")
        elif there not in ALLOWED[here]:
            found.append(f"{module}:{line}: {here} must not import {name}")
    return found


def test_the_import_arrow(trees):
    """errors, flags <- spec <- plan <- run <- call, lab <- cli; host gives facts and sees only spec's values."""
    found = [line for module, tree in trees.items() for line in breaks(module, tree, trees)]
    assert not found, "\n".join(found)


def test_the_arrow_would_be_seen_broken():
    """The control: a plan that imports run, or a spec that imports os-asking host, is named with its line."""
    tree = ast.parse("import os\nfrom ramet.run import process\nfrom ramet.errors import Error\n")
    assert breaks("ramet.plan.bad", tree, {}) == ["ramet.plan.bad:2: plan must not import ramet.run"]
    assert breaks("ramet.spec.bad", ast.parse("import ramet.host.facts"), {}) == [
        "ramet.spec.bad:1: spec must not import ramet.host.facts"
    ]
    assert breaks("ramet.newpart", ast.parse("from ramet import errors"), {})
    at_the_top = ast.parse("from ramet.run.process import run")
    assert breaks("ramet.spec.sandbox", at_the_top, {})
    assert not breaks("ramet.spec.sandbox", ast.parse("def run():\n    from ramet.run.process import run"), {})


def test_spec_and_plan_ask_nothing(trees):
    """spec and plan are pure: no call that asks or changes the machine, so no open, and of os only names and text."""
    pure = {"fspath", "fsencode", "fsdecode", "PathLike", "path", "strerror"}
    asking = {
        "exists",
        "isdir",
        "isfile",
        "islink",
        "lexists",
        "realpath",
        "getsize",
        "stat",
        "expanduser",
        "samefile",
        "ismount",
    }
    found = []
    for module, tree in trees.items():
        if part_of(module) not in ("spec", "plan"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                found.append(f"{module}:{node.lineno}: open()")
            of_os = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
            if of_os and node.attr not in pure and not node.attr.isupper():
                found.append(f"{module}:{node.lineno}: os.{node.attr}")
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os.path" and node.attr in asking:
                found.append(f"{module}:{node.lineno}: os.path.{node.attr}")
    assert not found, "\n".join(found)


HEAVY = {"typing", "dataclasses", "inspect", "subprocess", "asyncio", "socket", "threading", "selectors", "tempfile",
         "logging", "json", "ctypes", "argparse", "shutil", "difflib", "msgspec", "rich", "pyroute2", "re", "signal",
         "pathlib", "random", "traceback", "ast", "tokenize", "urllib", "ssl", "importlib.metadata", "concurrent"}  # fmt: skip


def loaded(code):
    """The modules that a fresh interpreter has after this code and had not before; without site, which loads its own."""
    script = f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_import_is_light():
    """`import ramet` loads none of the heavy modules of the standard library, and nothing of anybody else's."""
    found = loaded("import ramet")
    assert not found & HEAVY, sorted(found & HEAVY)
    foreign = {
        name for name in found if name.split(".")[0] not in sys.stdlib_module_names and name.split(".")[0] != "ramet"
    }
    assert foreign == set()
    assert {"ramet", "ramet._core", "ramet.spec.sandbox"} <= found
    assert len(found) < 100


def test_the_probe_sees_heavy_modules():
    """The control: importing one of them is seen."""
    assert "subprocess" in loaded("import subprocess") & HEAVY


def test_a_first_run_is_light_too():
    """Running a command needs none of the big ones either."""
    found = loaded("import ramet; ramet.run(['/bin/true'])")
    big = {
        "asyncio",
        "subprocess",
        "socket",
        "inspect",
        "dataclasses",
        "typing",
        "msgspec",
        "rich",
        "pyroute2",
        "ctypes",
        "threading",
    }
    assert not found & big, sorted(found & big)


def test_cold_parts_are_not_loaded():
    """The command line, the lab and the asyncio part are loaded when asked for."""
    found = loaded("import ramet")
    assert not {name for name in found if part_of(name) in ("cli", "lab", "aio", "trace")}


def test_version():
    """The version in the package is the one in pyproject.toml."""
    import tomllib
    from pathlib import Path

    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == ramet.__version__
