"""`plans/reference` is what the rules make of its fingerprints: a rule that changes shows here, and in git."""

import difflib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from autoseg.planning.explain import flatten
from autoseg.planning.fingerprint.case_statistics import CaseStatistics, measure_organs
from autoseg.planning.fingerprint.fingerprint import Fingerprint, OrganEntry
from autoseg.planning.planner import make_plans
from autoseg.planning.rules import network as network_rules

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "plans" / "reference"
FOLDERS = sorted(path for path in REFERENCE.iterdir() if path.is_dir())
PUBLISHED = [folder for folder in FOLDERS if (folder / "published.json").exists()]
COMMAND = "python tools/write_reference_plans.py"
DEVICE_FIELDS = ("device.kind", "device.memory_gib")


@pytest.fixture(scope="module")
def tools() -> Iterator[dict[str, ModuleType]]:
    """Give the modules of `docs/`, which are no part of a package, by name."""
    names = ("compact_json", "reference_fingerprints", "reference_plans", "write_reference_plans")
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "tools"))
    yield {name: importlib.import_module(name) for name in names}
    sys.path[:] = before


def assert_is(text: str, path: Path) -> None:
    """Compare a text with a file; a failure shows the lines that differ, and how to write them."""
    recorded = path.read_text(encoding="utf-8")
    if text != recorded:
        lines = difflib.unified_diff(
            recorded.splitlines(),
            text.splitlines(),
            f"{path.relative_to(ROOT)}, recorded",
            "planned now",
            "",
            "",
            1,
            "",
        )
        pytest.fail("\n".join([*lines, "", f"If this is meant: {COMMAND}"]), pytrace=False)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_dataset_that_can_be_run_and_many_published_ones_are_there():
    runnable = {"brain_tumour_mri", "hippocampus_mri", "left_atrium_mri", "multi_organ", "phantoms"}
    runnable |= {"joined_three"}
    assert runnable == {folder.name for folder in FOLDERS} - {folder.name for folder in PUBLISHED}
    assert len(PUBLISHED) >= 14


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_recorded_plan_is_what_the_rules_make_of_the_recorded_fingerprint(folder: Path, tools):
    plans = tools["reference_plans"]
    fingerprint = tools["reference_fingerprints"].read_fingerprint(folder)
    devices = plans.read_devices(folder)
    assert {device.kind for device in devices} == {"cpu", "cuda"}
    assert_is(plans.make_text(fingerprint, devices=devices), folder / "plans.json")
    assert_is(plans.make_defaults_text(fingerprint), REFERENCE / "defaults.json")


@pytest.mark.parametrize("name", ["hippocampus_mri", "joined_three"])
def test_plans_and_defaults_together_hold_every_value_of_a_plan(name: str, tools):
    module, fingerprint = tools["reference_plans"], tools["reference_fingerprints"].read_fingerprint(REFERENCE / name)
    plans = make_plans(fingerprint, device=module.read_devices(REFERENCE / name)[0])
    recorded = {**read(REFERENCE / "defaults.json"), **read(REFERENCE / name / "plans.json")["cpu, 16 GiB"]["chosen"]}

    def is_there(field: str) -> bool:
        return any(f"{field}.".startswith(f"{one}.") or one.startswith(f"{field}.") for one in recorded)

    missing = {field: value for field, value in flatten(plans).items() if not is_there(field)}
    assert {field for field, value in missing.items() if value} == {"version", "dataset_name", *DEVICE_FIELDS}
    rest = (*module.BROUGHT_ALONG, "device.cores")  # the cores are those of no machine
    assert all(field.startswith(rest) for field, value in missing.items() if not value)


def test_joined_datasets_keep_their_cases_and_organs(tools):
    read_fingerprint = tools["reference_fingerprints"].read_fingerprint
    joined = read_fingerprint(REFERENCE / "joined_three")
    parts = [
        read_fingerprint(REFERENCE / name) for name in read(REFERENCE / "joined_three" / "joined.json")["datasets"]
    ]
    assert [entry.name for entry in joined.datasets] == ["hippocampus_mri", "left_atrium_mri", "multi_organ"]
    assert len(joined.cases) == sum(len(part.cases) for part in parts)
    assert [organ.name for organ in joined.organs] == [organ.name for part in parts for organ in part.organs]


def test_a_changed_rule_shows_as_the_lines_that_it_changes(monkeypatch, tools):
    monkeypatch.setattr(network_rules, "CPU_WINDOW_PX", 128)
    folder = REFERENCE / "left_atrium_mri"
    text = tools["reference_plans"].make_text(tools["reference_fingerprints"].read_fingerprint(folder))
    with pytest.raises(pytest.fail.Exception) as failure:
        assert_is(text, folder / "plans.json")
    lines = str(failure.value).splitlines()
    assert '-      "network.window_columns_px": 192,' in lines
    assert '+      "network.window_columns_px": 128,' in lines
    assert lines[-1] == f"If this is meant: {COMMAND}"
    assert len(lines) < 60


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_synthetic_fingerprint_is_what_the_published_figures_give(folder: Path, tools):
    facts, module = read(folder / "published.json"), tools["reference_fingerprints"]
    assert facts["name"] == folder.name
    assert facts["sources"]
    made, recorded = module.make_from_published(facts), module.read_fingerprint(folder)
    assert module.shorten(made) == recorded
    assert "synthetic" in recorded.dataset_name
    assert all(case.case_id.startswith("synthetic") for case in recorded.cases)
    spacings = recorded.spacings_zyx_mm
    assert np.median(spacings, axis=0) == pytest.approx(facts["median_spacing_zyx_mm"], rel=1e-4)
    assert np.median(recorded.cropped_sizes_zyx, axis=0).tolist() == facts["median_size_zyx"]
    low_mm = facts["slice_spacing_percentile_10_mm"] or facts["median_spacing_zyx_mm"][0]
    assert np.percentile(spacings[:, 0], 10) == pytest.approx(low_mm, rel=1e-4)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_target_spacing_and_clip_are_those_that_nnunet_chose(folder: Path):
    facts, chosen = read(folder / "published.json"), read(folder / "plans.json")["cpu, 16 GiB"]["chosen"]
    if facts["nnunet_spacing_zyx_mm"] is not None:
        assert chosen["data.target_spacing_zyx_mm"] == pytest.approx(facts["nnunet_spacing_zyx_mm"], rel=1e-3)
    channel = chosen["data.channels.0"]
    assert (channel["normalization"] == "ct") == (facts["channel_names"] == ["CT"])
    if channel["normalization"] == "ct":
        wanted = [facts["foreground"][name] for name in ("percentile_00_5", "percentile_99_5", "mean")]
        assert [channel["clip_low"], channel["clip_high"], channel["mean"]] == pytest.approx(wanted, rel=1e-4)


def test_ball_of_a_published_volume_is_like_a_measured_ball(tools):
    facts = read(REFERENCE / "msd_heart" / "published.json")
    facts |= {"median_spacing_zyx_mm": [2.0, 1.0, 1.0], "median_size_zyx": [40, 80, 80]}
    z, y, x = np.ogrid[:40, :80, :80]
    ball = ((z - 20) * 2) ** 2 + (y - 40) ** 2 + (x - 40) ** 2 <= 30**2  # of 30 mm radius
    [measured] = measure_organs(
        ball.astype(np.uint8), names={1: "b"}, spacing_zyx_mm=(2.0, 1.0, 1.0), cropped_size_zyx=(40, 80, 80)
    )
    facts["organs"] = [{"name": "b", "value": 1, "volume_ml": measured.volume_ml}]
    [made] = tools["reference_fingerprints"].make_from_published(facts).cases[-1].organs
    assert made.volume_ml == pytest.approx(4 / 3 * np.pi * 3**3, rel=0.02)  # cm3
    assert made.slices_zyx == pytest.approx(measured.slices_zyx, abs=1)
    assert made.width_zyx_mm == pytest.approx(measured.width_zyx_mm, rel=0.03)
    assert made.slice_fraction_zyx == pytest.approx(measured.slice_fraction_zyx, rel=0.05)


def test_chosen_cases_are_the_fewest_spread_over_all_sizes_that_keep_the_plan(tools):
    cases = tuple(
        CaseStatistics(
            case_id=f"c{number:02d}",
            patient_id="p" if number < 2 else f"p{number}",
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            size_zyx=(10, 10, 10 + number),
            cropped_size_zyx=(10, 10, 10 + number),
            removed_fraction=0.123456789,
            slice_correlation_zyx=(0.5, 0.5, 0.5),
            channels=(),
            organs=(),
            voxel_digest="same" if number in (5, 7) else f"d{number}",
        )
        for number in range(30)
    )
    organs = (OrganEntry(name="liver", value=1, description=None),)
    fingerprint = Fingerprint(
        dataset_name="d", channel_names=("MRI",), organs=organs, ignore_value=None, foreground=(None,), cases=cases
    )
    module = tools["reference_fingerprints"]
    short = module.shorten(fingerprint)
    assert [short.cases[number].patient_id for number in (0, 1, 5, 7)] == ["p", "p", "p5", "p5"]
    assert {case.removed_fraction for case in short.cases} == {0.12346}
    asked = []

    def plan_of(some: Fingerprint) -> bool:
        asked.append(len(some.cases))
        return len(some.cases) >= 12

    chosen = module.choose_cases(short, plan_of=plan_of)
    assert asked == [30, 9, 10, 11, 12]
    widths = [case.size_zyx[2] for case in chosen.cases]
    assert (widths[0], widths[-1]) == (10, 39)
    assert set(np.diff(widths)) == {2, 3}
    assert module.choose_cases(short, plan_of=lambda some: len(some.cases)) == short


def test_json_is_laid_out_on_as_few_lines_as_fit(tools):
    lay_out = tools["compact_json"].lay_out
    content = {"name": "liver", "sizes": [1, 22, 333], "parts": [{"a": 1}, {"b": [2.5, None]}]}
    assert lay_out(content, width=23) == (
        '{\n  "name": "liver",\n  "sizes": [\n    1, 22, 333\n  ],\n'
        '  "parts": [\n    {"a": 1},\n    {"b": [2.5, null]}\n  ]\n}\n'
    )
    assert lay_out(content, width=32, fills_objects=True) == (
        '{\n  "name": "liver",\n  "sizes": [1, 22, 333],\n  "parts": [\n    {"a": 1},\n    {"b": [2.5, null]}\n  ]\n}\n'
    )
    assert (
        lay_out({"a": 1, "b": [], "c": "long" * 5}, width=20, fills_objects=True).splitlines()[1]
        == '  "a": 1, "b": [],'
    )
    for folder in FOLDERS:
        plan = read(folder / "plans.json")
        assert json.loads(lay_out(plan, width=80)) == plan


@pytest.mark.data
def test_recorded_fingerprint_is_what_the_scans_give(real_data: Path, tools):
    measured = tools["write_reference_plans"].measure("hippocampus_mri", scans=real_data)
    assert measured == tools["reference_fingerprints"].read_fingerprint(REFERENCE / "hippocampus_mri")
