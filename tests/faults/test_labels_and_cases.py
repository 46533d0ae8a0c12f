"""Label values that are unusual, unknown or ignored, and label maps without an organ, are planned and predicted.

One dataset holds every such case; it is planned once. Names of organs, ids, few cases: `test_dataset_json.py`.
"""

import json

import nibabel as nib
import numpy as np
import pytest
from commands import TINY_OPTIONS, run_command
from small_data import draw_image, draw_labels, save

from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import read_json

LIVER, SPLEEN, IGNORE = 2, 300, 400
LABELS = {"background": 0, "liver": LIVER, "spleen": SPLEEN, "ignore": IGNORE}


def corner(value):
    """Put a value into five voxels of the background."""
    return lambda labels: np.where(np.arange(labels.size).reshape(labels.shape) < 5, value, labels)


# what is done to the label map, the type it is stored in, and what is said; None: nothing
USABLE = {
    "good": (lambda labels: labels, np.uint16, None),
    "float": (lambda labels: labels * (1 + 4.578e-5 * (labels == LIVER)), np.float32, "2.00009"),
    "empty": (
        lambda labels: 0 * labels,
        np.uint8,
        "label is empty: no organ has a voxel; kept as a case without organs",
    ),
    "only_ignored": (lambda labels: 0 * labels + IGNORE, np.uint16, "label is empty"),
    "no_spleen": (lambda labels: LIVER * (labels == LIVER), np.uint8, None),
    "ignored": (lambda labels: np.where(np.arange(24) >= 12, IGNORE, labels), np.uint16, None),
}
REFUSED = {
    "half": (corner(1.5), np.float32, ["holds 1.5 (and 5 such voxels", "nearest-neighbor interpolation"]),
    "not_a_number": (corner(np.nan), np.float32, ["NaN or infinite", "Set them to 0 or to their label"]),
    "unknown": (corner(9), np.uint16, ["9 (5 voxels), not in labels {0: background, 2: liver", "declare the value"]),
    "between": (corner(1), np.uint16, ["label holds 1 (5 voxels)", "Correct the label map"]),
    "negative": (corner(-1), np.int16, ["-1 (5 voxels)", "Negative values are never labels"]),
    "beyond": (corner(70_000), np.int32, ["70000 (5 voxels)", "Correct the label map"]),
    "far_beyond": (corner(1e12), np.float64, ["a label value of 1e+12; expected 0 to 65535"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels") / "data"
    for number, (name, (change, dtype, _words)) in enumerate({**USABLE, **REFUSED}.items()):
        labels = change(draw_labels(LIVER, SPLEEN, dtype=np.int32)).astype(dtype)
        for folder, array in (("images", draw_image(number)), ("labels", labels)):
            save(root / folder / f"{name}.nii.gz", array, np.diag([1, 1, 3, 1]))
    (root / "dataset.json").write_text(json.dumps({"channel_names": ["MRI"], "labels": LABELS}))
    return root


@pytest.fixture(scope="module")
def planned(root):
    run = root.parent / "run"
    arguments = ("plan", root, "-o", run, "--num-workers", 1, *TINY_OPTIONS, "--set", "training.steps_per_epoch=1")
    return run_command(*arguments), run_command(*arguments, "--on-bad", "skip"), run


@pytest.fixture(scope="module")
def report(planned):
    return read_json(planned[2] / "dataset_report.json")


def messages_of(report, name):
    return " ".join(problem["message"] for problem in report["problems"] if problem["case_id"] == name)


@pytest.mark.fault("unknown-label-value")
@pytest.mark.fault("label-values")
@pytest.mark.parametrize("name", REFUSED)
def test_plan_refuses_a_label_map_with_value_voxels_and_remedy(planned, report, name):
    refused, skipped, _run = planned
    assert (refused.code, skipped.code) == (4, 3)
    assert "7 of 13 cases cannot be used" in refused.text and "cases     6, 7 left out" in skipped.text
    for words in REFUSED[name][2]:
        assert words in messages_of(report, name) and words in refused.text
    assert report["cases"][name] == "error"


@pytest.mark.fault("label-values")
@pytest.mark.fault("empty-label")
@pytest.mark.parametrize("name", USABLE)
def test_plan_uses_empty_maps_gaps_and_nearly_whole_values(planned, report, name):
    words = USABLE[name][2]
    assert report["cases"][name] == ("good" if words is None else "warning")
    assert (words or "") in messages_of(report, name)
    store = CaseStore(planned[2] / "preprocessed")
    found = set(np.unique(store.open_labels(name)[:]))
    expected = {"empty": {0}, "only_ignored": {255}, "no_spleen": {0, 1}, "ignored": {0, 1, 255}}
    assert found == expected.get(name, {0, 1, 2})  # organ indices


@pytest.mark.fault("label-values")
def test_float_labels_are_reported(report):
    assert "192 label values are not integers, such as 2.00009155, and were rounded" in messages_of(report, "float")


@pytest.mark.fault("label-values")
def test_predict_gives_the_datasets_own_values_back(root, planned, make_model, tmp_path):
    organs = read_json(planned[2] / "plans.json")["data"]["organs"]
    assert [organ["value"] for organ in organs] == [LIVER, SPLEEN]
    swapped = [{**organ, "value": LIVER + SPLEEN - organ["value"]} for organ in organs]  # it says liver most
    model = make_model(2, data={"organs": swapped, "ignore_value": IGNORE})
    outcome = run_command("predict", "-m", model, "-i", root / "images" / "good.nii.gz", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.text
    made = np.asarray(nib.load(tmp_path / "out" / "good.nii.gz").dataobj)
    assert made.dtype == np.uint16 and {SPLEEN} <= set(np.unique(made)) <= {0, LIVER, SPLEEN}
    assert read_json(tmp_path / "out" / "labels.json")["labels"] == {"liver": SPLEEN, "spleen": LIVER}


@pytest.mark.fault("empty-label")
def test_train_takes_empty_and_ignored_cases_alone(planned):
    """A fold whose training cases hold no organ at all, and one that is ignored everywhere."""
    run = planned[2]
    folds = [
        {"train": ["empty", "only_ignored"], "validation": ["good"]},
        {"train": ["good"], "validation": ["only_ignored", "empty"]},
    ]
    (run / "splits.json").write_text(json.dumps(folds))
    for fold in (0, 1):
        outcome = run_command("train", run, "--epochs", 1, "--fold", fold)
        assert outcome.code == 0, outcome.text
    (record,) = [json.loads(line) for line in (run / "fold_0" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(record["losses"]["total"])
    cases = read_json(run / "fold_1" / "validation" / "summary.json")["cases"]
    assert cases["only_ignored"] == {"liver": None, "spleen": None}  # whatever is predicted there counts nowhere


@pytest.mark.fault("empty-label")
def test_an_organ_that_no_case_holds_is_an_error_also_with_skip(make_dataset, command, tmp_path):
    root = make_dataset(2, labels={"background": 0, "liver": 1, "spleen": 2, "kidney": 3})
    for more in ([], ["--on-bad", "skip"]):
        outcome = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, *more)
        assert outcome.code == 4
        assert "organ kidney (value 3) is in none of 2 cases. Remove it from labels." in outcome.text
    assert not (tmp_path / "run" / "plans.json").exists()


@pytest.mark.fault("ignore-and-regions")
def test_ignored_voxels_count_in_no_figure_of_the_dataset(planned, report):
    cases = {case["case_id"]: case for case in read_json(planned[2] / "fingerprint.json")["cases"]}
    assert cases["ignored"]["channels"][0]["foreground"]["num_voxels"] == 192  # the liver alone
    assert [(organ["name"], organ["num_voxels"]) for organ in cases["ignored"]["organs"]] == [("liver", 192)]
    assert cases["only_ignored"]["channels"][0]["foreground"] is None and cases["only_ignored"]["organs"] == []
    organs = report["facts"]["ignored"]["organs"]
    assert [(organ["name"], organ["volume_ml"]) for organ in organs] == [("liver", pytest.approx(192 * 3 / 1000))]


@pytest.mark.fault("ignore-and-regions")
def test_ignored_voxels_teach_nothing(planned):
    """What the network says there has no gradient, and no say on whether an organ is in the slice."""
    import torch
    from training_fixtures import compute_losses

    from autoseg.config.plans import read_plans
    from autoseg.network.build import build_network
    from autoseg.training.data.sampler import SliceSampler
    from autoseg.training.loss.targets import IGNORE as LEFT_OUT

    plans = read_plans(planned[2] / "plans.json")
    still = {"affine_probability": 0.0, "intensity_probability": 0.0}
    training = plans.training.model_copy(
        update={"augmentation": plans.training.augmentation.model_copy(update=still), "batch_slices": 4}
    )
    plans = plans.model_copy(update={"training": training})
    batch = SliceSampler(CaseStore(planned[2] / "preprocessed"), ["ignored"], plans=plans, cache_bytes=0).make_batch(0)
    is_ignored = batch.labels == LEFT_OUT
    assert 0.2 < is_ignored.float().mean() < 0.8
    torch.manual_seed(0)
    network = build_network(plans)
    output = network(batch.images, batch.organs)
    for part in (output.logits, output.object_score_logits):
        part.retain_grad()
    compute_losses(output, batch.labels, weights=plans.training.loss)["total"].backward()
    gradient = output.logits.grad.abs().amax(dim=1)
    assert gradient[is_ignored].eq(0).all() and gradient[~is_ignored].ne(0).any()


@pytest.mark.fault("ignore-and-regions")
def test_ignored_voxels_count_in_no_validation_and_no_evaluation(root, planned, monkeypatch, tmp_path):
    """A prediction that is right but for what is ignored, where it says liver, is perfect."""
    import torch

    from autoseg.training.validation import validate_case

    run = planned[2]
    store = CaseStore(run / "preprocessed")
    reference = np.asarray(store.open_labels("ignored")[:]).astype(np.int64)
    winners = torch.from_numpy(np.where(reference == 255, 1, reference))

    def right(*_arguments, **_facts):
        yield torch.nn.functional.one_hot(winners, 3).permute(0, 3, 1, 2).float()

    monkeypatch.setattr(validate_case, "predict_slices", right)
    (run / "splits.json").write_text(
        json.dumps([{"train": ["good"], "validation": []}, {"train": ["good"], "validation": ["ignored"]}])
    )
    outcome = run_command("train", run, "--epochs", 1, "--fold", 1)
    assert outcome.code == 0, outcome.text
    folder = run / "fold_1" / "validation"
    assert read_json(folder / "summary.json")["cases"]["ignored"] == {"liver": 1.0, "spleen": None}
    assert (np.asarray(nib.load(folder / "ignored.nii.gz").dataobj) == LIVER).sum() > 192  # it did say liver there

    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "ignored.nii.gz").write_bytes((root / "labels" / "ignored.nii.gz").read_bytes())
    names = ["--names", root / "dataset.json", "-o", tmp_path / "evaluation.json"]
    outcome = run_command("evaluate", folder, tmp_path / "references", *names)
    assert outcome.code == 0, outcome.text
    (case,) = read_json(tmp_path / "evaluation.json")["cases"]
    liver, spleen = case["organs"][str(LIVER)], case["organs"][str(SPLEEN)]
    assert (liver["dice"], liver["nsd"], spleen["outcome"]) == (1.0, 1.0, "absent")
    assert liver["prediction_ml"] == liver["reference_ml"] == pytest.approx(192 * 3 / 1000)
    assert str(IGNORE) not in case["organs"]


@pytest.mark.fault("ignore-and-regions")
def test_regions_that_nothing_tells_apart_are_refused_with_what_to_do(make_dataset, command, tmp_path):
    root = make_dataset(2, labels={"background": 0, "whole": [1, 2]})
    for more in ([], ["--on-bad", "skip"]):
        outcome = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, *more)
        assert outcome.code == 4
        assert "the values 1 and 2 lie in the same regions (whole), so nothing tells them apart" in outcome.text
        assert "Give them one value, or one of them a name of its own." in outcome.text
