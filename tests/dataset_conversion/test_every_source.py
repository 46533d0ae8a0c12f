"""What holds of the command of every public source."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import dataset_conversion

ROOT = Path(__file__).parents[2]
MODULES = [
    importlib.import_module(f"dataset_conversion.{one.name}")
    for one in pkgutil.iter_modules(dataset_conversion.__path__)
]
SOURCES = [module for module in MODULES if hasattr(module, "ORIGIN")]


def name_of(module: ModuleType) -> str:
    return module.ORIGIN.name


def test_sources_are_found():
    names = {name_of(module) for module in SOURCES}
    assert names >= {"msd", "amos22", "flare22", "btcv", "word", "abdomenct1k", "kits", "acdc", "brats"}
    assert all(module.__name__ == f"dataset_conversion.{name_of(module)}" for module in SOURCES)


@pytest.mark.parametrize("module", SOURCES, ids=name_of)
def test_another_folder_ends_with_what_was_expected_and_how_to_get_it(module, tmp_path, capsys):
    (tmp_path / "source" / "holiday").mkdir(parents=True)
    assert module.main([str(tmp_path / "source"), str(tmp_path / "out")]) == 4
    reported = capsys.readouterr().err
    assert module.ORIGIN.layout in reported and module.ORIGIN.get_it in reported
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", SOURCES, ids=name_of)
def test_help_says_what_the_source_holds(module, capsys):
    assert module.main(["--help"]) == 0
    reported = capsys.readouterr().out
    assert f"python -m dataset_conversion.{name_of(module)} " in reported and "example:" in reported
    assert module.ORIGIN.get_it in reported


@pytest.mark.parametrize("module", SOURCES, ids=name_of)
def test_the_table_of_sources_has_it_with_its_licence(module):
    table = (ROOT / "docs" / "dataset_conversions.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in table if line.startswith(f"| `{name_of(module)}` |")]
    assert module.ORIGIN.licence.replace("|", "\\|") in row
