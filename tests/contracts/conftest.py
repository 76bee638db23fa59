"""What the project promises about itself."""

import ast
from pathlib import Path

import pytest

import ramet

PACKAGE = Path(ramet.__file__).parent


def modules():
    """Every module of the package: its dotted name and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@pytest.fixture(scope="session")
def trees():
    """Dotted name -> syntax tree."""
    return {name: ast.parse(path.read_text(), str(path)) for name, path in modules()}
