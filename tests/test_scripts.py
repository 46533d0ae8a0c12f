"""Scripts that no test runs, since they take minutes: what they import from the package is there."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for folder in ("tests/benchmarks", "tests/proofs", "docs", "tools") for path in (ROOT / folder).glob("*.py")
)
PACKAGES = ("autoseg", "dataset_conversion")


def file_of(module: str) -> Path | None:
    """Give the file of a module, or None where there is no such module."""
    path = ROOT.joinpath(*module.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file()), None)


@cache
def names_in(path: Path) -> frozenset[str]:
    """List what the top of a module defines or imports, also inside its `if` and `try`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = [node, *ast.walk(node)] if isinstance(node, (ast.If, ast.Try)) else [node]
        for one in inner:
            if isinstance(one, (ast.FunctionDef, ast.ClassDef)):
                found.add(one.name)
            elif isinstance(one, (ast.Import, ast.ImportFrom)):
                found.update((alias.asname or alias.name).split(".")[0] for alias in one.names)
            elif isinstance(one, (ast.Assign, ast.AnnAssign)):
                found.update(name.id for name in ast.walk(one) if isinstance(name, ast.Name))
    return frozenset(found)


def absent_imports(path: Path) -> Iterator[str]:
    """Yield what a script imports from our packages and nobody defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] not in PACKAGES:
            continue
        module = str(node.module)
        file = file_of(module)
        for alias in node.names:
            is_there = file is not None and alias.name in names_in(file)
            if not is_there and file_of(f"{module}.{alias.name}") is None:
                yield f"{module}.{alias.name}"


def test_scripts_are_found():
    names = {path.name for path in SCRIPTS}
    assert {"train_vs_monai.py", "kill_matrix.py", "write_reference_plans.py"} <= names


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(path):
    assert list(absent_imports(path)) == []


def test_an_import_of_what_is_gone_is_found(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from autoseg.errors import UsageError, NoSuchError\nfrom autoseg import errors, no_such_module\n"
    )
    assert list(absent_imports(script)) == ["autoseg.errors.NoSuchError", "autoseg.no_such_module"]
