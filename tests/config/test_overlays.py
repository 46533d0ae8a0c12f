"""Every shipped overlay fits the plans of real datasets, says why it is there, and really changes something."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoseg.config.plans import Device, Plans
from autoseg.planning.explain import flatten
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.overrides import plan_with_changes
from autoseg.planning.planner import make_plans

PLANS = Path(__file__).parents[2] / "plans"
OVERLAYS = sorted((PLANS / "overlays").glob("*.json"))
CPU, CUDA = Device(kind="cpu", memory_gib=16), Device(kind="cuda", memory_gib=24)
# of plans/reference: small windows; large ones on a GPU; several datasets, more organs than a step asks for
DATASETS = {"hippocampus_mri": CPU, "msd_spleen": CUDA, "joined_three": CPU}
LAST_RESORT = "joined_three"  # which takes longest
GENERAL = {"fast", "accurate", "cpu", "little_memory", "clicks"}
ABLATIONS = {
    *("no_text", "no_text_injection", "no_interaction", "clip_tokens", "one_prompt_token"),
    *("no_semantic_decoder", "no_semantic_loss", "no_alignment", "no_mask_loss", "no_deep_supervision"),
    *("no_quality_loss", "no_presence_loss", "memory", "fifo_memory", "similar_next_memory", "no_memory_gradients"),
    *("no_refiner", "refiner_on_blocks", "one_neighbor", "more_neighbors", "adamw", "no_averaging"),
    *("no_organ_draw", "no_augmentation", "no_mirroring", "no_mirrored_prediction", "no_cleaning", "frozen_encoder"),
    *("no_small_windows", "shares_by_cases"),
}
MOST_LETTERS = 1000  # of a reason, in the plan's `changes`
IS_KNOWN, IS_UNKNOWN = "docs/benchmarks.md", "not measured"


@pytest.fixture(scope="module")
def planned() -> dict[str, tuple[Fingerprint, Device, Plans]]:
    """Give fingerprint, device and plan of some datasets."""
    before = list(sys.path)
    sys.path.insert(0, str(PLANS.parent / "docs"))
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


def test_there_is_an_overlay_for_each_need_and_each_ablation():
    assert {path.stem for path in OVERLAYS} == GENERAL | ABLATIONS


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_says_why_and_what_is_known(path: Path):
    why = json.loads(path.read_text(encoding="utf-8"))["why"]
    assert 40 < len(why) <= MOST_LETTERS
    assert IS_KNOWN in why or IS_UNKNOWN in why.lower()
    assert why.endswith(".")


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_fits_the_plans_of_real_datasets_and_changes_each_value_that_it_sets(path: Path, planned):
    overlay = json.loads(path.read_text(encoding="utf-8"))
    wanted = dict(leaves({part: values for part, values in overlay.items() if part != "why"}))
    assert wanted
    changed: set[str] = set()
    for name, (fingerprint, device, before) in planned.items():
        if name == LAST_RESORT and changed == wanted.keys():
            continue
        after = plan_with_changes(fingerprint, device=device, overlays=[path])
        assert after.changes == (f"{path.name}: {overlay['why']}",)
        old, new = flatten(before), flatten(after)
        assert {field: new[field] for field in wanted} == wanted
        changed |= {field for field in wanted if old[field] != new[field]}
    assert changed == wanted.keys()


def test_ablation_measures_every_ablation_that_needs_neither_weights_nor_several_datasets():
    text = (PLANS.parent / "tests" / "benchmarks" / "ablation.py").read_text(encoding="utf-8")
    assert {name for name in ABLATIONS if f'"{name}"' in text} == ABLATIONS - {
        "frozen_encoder",
        "no_small_windows",
        "shares_by_cases",
    }


def test_readme_lists_every_overlay_and_every_reference():
    text = (PLANS / "README.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `") for line in text.splitlines() if line.startswith("| `")}
    folders = {path.name for path in (PLANS / "reference").iterdir() if path.is_dir()}
    assert rows == {path.stem for path in OVERLAYS} | folders


def test_folder_holds_json_and_its_readme_alone():
    files = {path.relative_to(PLANS).as_posix() for path in PLANS.rglob("*") if path.is_file()}
    assert {file for file in files if not file.endswith(".json")} == {"README.md"}
