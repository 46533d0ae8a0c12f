"""Faults of dataset.json: names of organs and channels, ids, and too few cases."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from autoseg.system.atomic_files import read_json

PLAN = ("--num-workers", 1)


def problems_of(run):
    return read_json(run / "dataset_report.json")["problems"]


@pytest.mark.fault("bad-organ-names")
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"liver": 1, "Liver": 2}, "the organ name 'Liver' occurs twice; give each label its own."),
        ({"1": "liver", "2": "liver"}, "the organ name 'liver' occurs twice; give each label its own."),
        ({"liver": 1, " ": 2}, "the label of value 2 has the name ' '; give it a name."),
        ({"liver": 1, "spleen": 1}, "'liver' and 'spleen' share the value 1; give each its own."),
        ({"liver": 1, "ignore": 7, "Ignore": 8}, "the values 7 and 8 are both called ignore; keep one."),
    ],
)
def test_double_and_empty_names_are_errors_also_with_skip(make_dataset, command, tmp_path, labels, words):
    root = make_dataset(2, labels=labels)
    for more in ([], ["--on-bad", "skip"]):
        outcome = command("plan", root, "-o", tmp_path / "run", *PLAN, *more)
        assert outcome.code == 4 and words in outcome.text
        assert "dataset.json" in outcome.text
    assert not (tmp_path / "run" / "plans.json").exists()


@pytest.mark.fault("bad-organ-names")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("left kidney", "kidney_left"), "'left kidney' and 'kidney_left' read as the same organ"),
        (("spleen", "lien"), "organs spleen and lien have the same description"),
        (("liver", "x" * 300), "has 300 characters; it is cut after 200"),
    ],
)
def test_synonyms_and_long_names_are_warnings(make_dataset, command, tmp_path, names, words):
    root = make_dataset(2, labels={names[0]: 1, names[1]: 2})
    outcome = command("plan", root, "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 0 and words in outcome.text
    organs = read_json(tmp_path / "run" / "plans.json")["data"]["organs"]
    assert [organ["name"] for organ in organs] == [names[0], names[1][:200]]
    assert words in " ".join(problem["message"] for problem in problems_of(tmp_path / "run"))


def copy_case(root, source, target):
    """Copy image and label map of a case under another id."""
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(root / folder / f"{source}{ending}", root / folder / f"{target}{ending}")


@pytest.mark.fault("channels-and-ids")
def test_a_missing_channel_and_ids_that_differ_by_case_are_left_out_by_name(
    make_dataset, command, make_model, tmp_path, save_scan
):
    root = make_dataset(4, channel_names={"0": "T1", "1": "T2"})
    for number in (0, 1, 3):
        save_scan(root / "imagesTr" / f"good_{number}_0001.nii.gz", np.random.default_rng(number).random((6, 20, 24)))
    (root / "imagesTr" / "good_3_0000.nii.gz").unlink()
    for ending in ("_0000.nii.gz", "_0001.nii.gz"):
        shutil.copy(root / "imagesTr" / f"good_1{ending}", root / "imagesTr" / f"GOOD_1{ending}")
    shutil.copy(root / "labelsTr" / "good_1.nii.gz", root / "labelsTr" / "GOOD_1.nii.gz")
    said = {
        "good_2": "channel 0001 (T2) is missing. Add it, or take it out of channel_names.",
        "good_3": "channel 0000 (T1) is missing. Add it, or take it out of channel_names.",
        "good_1": "its id differs from 'GOOD_1' only in upper and lower case. Rename one.",
        "GOOD_1": "its id differs from 'good_1' only in upper and lower case. Rename one.",
    }
    refused = command("plan", root, "-o", tmp_path / "run", *PLAN)
    skipped = command("plan", root, "-o", tmp_path / "run", *PLAN, "--on-bad", "skip")
    assert (refused.code, skipped.code) == (4, 3)
    assert "4 of 5 cases cannot be used" in refused.text and "cases     1, 4 left out" in skipped.text
    assert {problem["case_id"]: problem["message"] for problem in problems_of(tmp_path / "run")} == said
    for name, words in said.items():
        assert f"{name}  {words}" in refused.text
    model = make_model(2, data={"channels": [{"name": name, "normalization": "zscore"} for name in ("T1", "T2")]})
    outcome = command("predict", "-m", model, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert outcome.code == 3
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good_0.nii.gz"]
    reported = {entry["case_id"]: entry["message"] for entry in read_json(tmp_path / "out" / "run.json")["cases"]}
    assert {name: reported[name] for name in said} == said


@pytest.mark.fault("channels-and-ids")
def test_the_same_voxels_under_two_ids_are_reported_and_stay_in_one_fold(make_dataset, command, tmp_path, save_scan):
    """A copy, and the same scan stored with another order of its axes."""
    root = make_dataset(4)
    copy_case(root, "good_0", "copy")
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        turned = nib.load(root / folder / f"good_1{ending}").as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
        nib.save(turned, root / folder / f"turned{ending}")
    outcome = command("plan", root, "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 0, outcome.text
    for one, other in (("good_0", "copy"), ("turned", "good_1")):
        words = (
            f"{one}  (warning) holds the same voxels as {other}: a leak between folds; both go to one fold. Remove one."
        )
        assert words in outcome.text
    folds = read_json(tmp_path / "run" / "splits.json")
    assert len(folds) == 4
    for pair in ({"copy", "good_0"}, {"good_1", "turned"}):
        assert all(len(pair & set(fold["validation"])) in (0, 2) for fold in folds)
        assert all(not pair & set(fold["train"]) or not pair & set(fold["validation"]) for fold in folds)


@pytest.mark.fault("channels-and-ids")
def test_cases_of_one_patient_stay_in_one_fold(make_dataset, command, tmp_path):
    root = make_dataset(6, patients={"good_0": "anna", "good_3": "anna", "good_5": "anna", "nobody": "x"})
    outcome = command("plan", root, "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 0 and "patients names 1 cases that are not there, as 'nobody'" in outcome.text
    folds = read_json(tmp_path / "run" / "splits.json")
    assert len(folds) == 4  # anna, and three others
    anna = {"good_0", "good_3", "good_5"}
    assert sorted(len(anna & set(fold["validation"])) for fold in folds) == [0, 0, 0, 3]
    assert sorted(name for fold in folds for name in fold["validation"]) == [f"good_{k}" for k in range(6)]


@pytest.mark.fault("channels-and-ids")
def test_a_case_that_ends_in_seg_is_measured_like_any_other(make_dataset, command, tmp_path):
    labels = make_dataset(1) / "labelsTr"
    (labels / "good_0.seg.nii.gz").write_bytes((labels / "good_0.nii.gz").read_bytes())
    command("evaluate", labels, labels, "-o", tmp_path / "evaluation.json")
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["cases"]) == 2


@pytest.mark.fault("few-cases")
def test_one_case_trains_without_validation_and_says_so(make_dataset, command, tmp_path):
    run = tmp_path / "run"
    settings = ("training.steps_per_epoch=1", "network.feature_channels=16", "network.refiner_channels=[4,16]")
    words = [word for setting in settings for word in ("--set", setting)]
    planned = command("plan", make_dataset(1), "-o", run, *PLAN, *words)
    assert planned.code == 0
    assert "1 case(s) of one fold: training goes without validation." in planned.text and "folds: 1" in planned.text
    assert read_json(run / "splits.json") == [{"train": ["good_0"], "validation": []}]
    for fold in ("all", "0"):
        trained = command("train", run, "--epochs", 1, "--fold", fold)
        assert trained.code == 0, trained.text
        words = "every case was trained on, so there is none to validate on: the run has a single case"
        assert words in trained.text
        assert (run / f"fold_{fold}" / "model.safetensors").is_file()
        assert not (run / f"fold_{fold}" / "validation").exists()
    assert command("train", run, "--fold", "1").code == 2


@pytest.mark.fault("few-cases")
def test_fewer_patients_than_folds_get_fewer_folds(make_dataset, command, tmp_path):
    root = make_dataset(3, patients={"good_0": "a", "good_1": "a"})
    outcome = command("plan", root, "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 0 and "cases     3; folds: 2" in outcome.text
    folds = read_json(tmp_path / "run" / "splits.json")
    assert len(folds) == 2 and all(fold["train"] and fold["validation"] for fold in folds)
    assert read_json(tmp_path / "run" / "plans.json")["training"]["num_folds"] == 2
