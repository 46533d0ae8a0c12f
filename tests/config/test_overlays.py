"""Every shipped overlay fits the plans of real datasets, says why it is there, and really changes something."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoseg.config.overrides import read_overlay
from autoseg.config.plans import Device, Plans
from autoseg.errors import PlanError
from autoseg.planning.explain import flatten
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.planner import make_plans

PLANS = Path(__file__).parents[2] / "plans"
CPU, CUDA = Device(kind="cpu", memory_gib=16), Device(kind="cuda", memory_gib=24)
# of plans/reference: small windows; large ones on a GPU; several datasets, more organs than a step asks for
DATASETS = {"hippocampus_mri": CPU, "msd_spleen": CUDA, "joined_three": CPU}
LAST_RESORT = "joined_three"  # which takes longest
OVERLAYS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (PLANS / "overlays").glob("*.json")}
ABLATIONS = json.loads((PLANS.parent / "tests" / "benchmarks" / "ablations.json").read_text(encoding="utf-8"))
ALL = sorted({**OVERLAYS, **ABLATIONS}.items())
MOST_LETTERS = 1000  # of a reason, in the plan's `overrides`
IS_KNOWN, IS_UNKNOWN = "docs/benchmarks.md", "not measured"


@pytest.fixture(scope="module")
def planned() -> dict[str, tuple[Fingerprint, Device, Plans]]:
    """Give fingerprint, device and plan of some datasets."""
    before = list(sys.path)
    sys.path.insert(0, str(PLANS.parent / "tools"))
    read_fingerprint = importlib.import_module("reference_fingerprints").read_fingerprint
    sys.path[:] = before
    made = {}
    for name, device in DATASETS.items():
        fingerprint = read_fingerprint(PLANS / "reference" / name)
        made[name] = (fingerprint, device, make_plans(fingerprint, device=device))
    return made


def leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the full name and value of everything that a partial plan sets."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, values


def each_overlay(function):
    return pytest.mark.parametrize(("name", "overlay"), ALL, ids=[name for name, _ in ALL])(function)


def test_overlays_for_users_are_found_by_name():
    assert set(OVERLAYS) == {"fast", "accurate", "cpu", "little_memory", "point_prompts", "memory"}
    for name, overlay in OVERLAYS.items():
        assert read_overlay(name) == (name, overlay)


def test_overlays_are_part_of_the_installed_package():
    text = (PLANS.parent / "pyproject.toml").read_text(encoding="utf-8")
    [line] = [line for line in text.splitlines() if line.startswith("autoseg = [") and "py.typed" in line]
    assert '"overlays/*.json"' in line and (PLANS.parent / "autoseg" / "overlays").samefile(PLANS / "overlays")


def test_an_overlay_may_be_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"training": {"epochs": 2}}')
    assert read_overlay(path) == ("mine.json", {"training": {"epochs": 2}})


@pytest.mark.parametrize(("name", "place"), [("fats", "fast"), ("no_such_thing", "accurate")])
def test_an_unknown_overlay_is_an_error_that_shows_known_ones(name, place):
    with pytest.raises(PlanError, match=place):
        read_overlay(name)


@each_overlay
def test_overlay_says_why_and_what_is_known(name, overlay):
    why = overlay["why"]
    assert 40 < len(why) <= MOST_LETTERS
    assert IS_KNOWN in why or IS_UNKNOWN in why.lower()
    assert why.endswith(".")


@each_overlay
def test_overlay_fits_the_plans_of_real_datasets_and_changes_each_value_that_it_sets(name, overlay, planned, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(overlay))
    wanted = dict(leaves({part: values for part, values in overlay.items() if part != "why"}))
    assert wanted
    changed: set[str] = set()
    for dataset, (fingerprint, device, before) in planned.items():
        if dataset == LAST_RESORT and changed == wanted.keys():
            continue
        after = make_plans(fingerprint, device=device, overlays=[path])
        assert after.overrides == (f"{path.name}: {overlay['why']}",)
        old, new = flatten(before), flatten(after)
        assert {field: new[field] for field in wanted} == wanted
        changed |= {field for field in wanted if old[field] != new[field]}
    assert changed == wanted.keys()


def test_ablation_measures_every_ablation_that_needs_neither_weights_nor_several_datasets():
    text = (PLANS.parent / "tests" / "benchmarks" / "ablation.py").read_text(encoding="utf-8")
    assert {name for name in ABLATIONS if f'"{name}"' in text} == set(ABLATIONS) - {
        "frozen_encoder",
        "no_small_windows",
        "shares_by_cases",
    }


def test_readme_lists_every_overlay_and_every_reference():
    text = (PLANS / "README.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")}
    folders = {path.name for path in (PLANS / "reference").iterdir() if path.is_dir()}
    assert rows == set(OVERLAYS) | folders


def test_folder_holds_json_and_its_readme_alone():
    files = {path.relative_to(PLANS).as_posix() for path in PLANS.rglob("*") if path.is_file()}
    assert {file for file in files if not file.endswith(".json")} == {"README.md"}
