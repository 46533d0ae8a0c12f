import json

import numpy as np
import pytest

from autoseg.config.data import ChannelPlan, DataPlan, DatasetPlan, LabelPlan, OrganPlan, RegionPlan
from autoseg.evaluation import evaluate
from autoseg.evaluation.label_names import DatasetLabels, PlanNames, read_plan_names
from autoseg.evaluation.translation import find_translation, to_reference_values, translate
from autoseg.export.label_tables import write_label_tables
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map

NOTHING = PlanNames()


def find(predicted, reference, plan=NOTHING, dataset=None):
    return find_translation(predicted, reference, plan=plan, dataset=dataset)


def test_names_that_are_equal_or_of_one_organ_belong_together():
    predicted = {1: "spleen", 2: "LIVER", 3: "pancreas", 4: "Kidney_Left"}
    assert find(predicted, {7: "lien", 9: "liver", 1: "left kidney"}) == {1: (7,), 2: (9,), 3: (), 4: (1,)}


def test_vague_names_belong_together_only_where_they_are_the_very_same():
    assert find({1: "tumour", 2: "Label 1"}, {5: "tumor", 6: "label 1"}) == {1: (), 2: (6,)}


def test_a_synonym_of_two_labels_of_the_reference_is_neither():
    assert find({1: "spleens"}, {5: "spleen", 6: "lien"}) == {1: ()}
    assert find({1: "lien"}, {5: "spleen", 6: "lien"}) == {1: (6,)}


def test_sides_and_lesions_are_the_label_that_does_not_tell_them():
    predicted = {1: "left kidney", 2: "right kidney", 3: "liver", 4: "liver tumour", 5: "kidney tumour"}
    assert find(predicted, {8: "kidneys", 9: "liver"}) == {1: (8,), 2: (8,), 3: (9,), 4: (9,), 5: (8,)}


def test_a_lesion_without_side_may_be_in_either_organ():
    predicted = {1: "left kidney", 2: "right kidney", 3: "kidney tumour"}
    assert find(predicted, {4: "left kidney", 5: "right kidney"}) == {1: (4,), 2: (5,), 3: (4, 5)}


def test_what_the_plan_says_of_the_dataset_counts():
    plan = PlanNames(
        {"A": {"tumour": "tumour", "liver": "both"}, "B": {"tumour": "tumour (B)", "stent": None}},
        {"both": ["liver", "liver tumour"]},
    )
    predicted = {1: "tumour", 2: "tumour (B)", 3: "liver", 4: "liver tumour", 5: "stent"}
    assert find(predicted, {8: "liver", 9: "tumour"}, plan) == {1: (9,), 2: (), 3: (8,), 4: (8,), 5: ()}
    assert find(predicted, {8: "stent", 9: "tumour"}, plan) == {1: (), 2: (9,), 3: (), 4: (), 5: ()}


def test_of_two_datasets_with_the_same_labels_the_folder_tells_which():
    plan = PlanNames({"A": {"tumour": "tumour"}, "B": {"tumour": "tumour (B)"}}, {})
    predicted = {1: "tumour", 2: "tumour (B)"}
    assert find(predicted, {9: "tumour"}, plan, "B") == {1: (), 2: (9,)}
    assert find(predicted, {9: "tumour"}, plan, "elsewhere") == {1: (9,), 2: ()}, "then the names alone"


def test_translate_takes_what_may_be_several_for_what_the_reference_has_there():
    reference = np.array([[[4, 5, 0, 4, 0]]], np.uint8)
    prediction = np.array([[[3, 3, 3, 2, 200]]], np.uint8)
    translated = translate(prediction, reference, translation={1: (4,), 2: (5,), 3: (4, 5), 7: (300,)})
    assert translated.tolist() == [[[4, 5, 4, 5, 0]]]
    assert translate(prediction, reference, translation={200: (300,)}).max() == 300


def odd(names, known):
    array = np.zeros((1, 1, 1), np.uint8)
    same, told = to_reference_values(array, array, names=names, labels=DatasetLabels(known), plan=NOTHING)
    assert same.max() == 0
    return told


def test_translate_to_values_that_the_type_of_the_prediction_cannot_hold():
    prediction = np.array([[[0, 1, 255]]], np.uint8)
    translated = translate(prediction, np.zeros_like(prediction), translation={1: (300,)})
    assert translated.tolist() == [[[0, 300, 0]]] and translated.dtype == np.uint16


def test_to_reference_values_says_what_is_odd_about_the_names():
    assert odd({1: "liver"}, {1: "liver", 2: "spleen"}) is None
    assert odd({1: "liver", 9: "pancreas"}, {1: "liver"}) is None
    assert odd({}, {1: "liver"}) is None
    assert odd({1: "gizmo"}, {1: "liver"}).startswith("None of the names that the predictions carry")
    assert odd({1: "liver", 2: "pancreas"}, {1: "liver", 2: "spleen"}).endswith("count as background: pancreas.")


GEOMETRY = ImageGeometry.from_spacing((4, 6, 6), (2.0, 1.0, 1.0))


def save(path, rows, names):
    """Write a map of 4 x 6 x 6 voxels; `rows` has the value of each row."""
    array = np.broadcast_to(np.array(rows, np.uint8)[:, None], (4, 6, 6))
    write_label_map(path, np.ascontiguousarray(array), geometry=GEOMETRY, names=names)


@pytest.mark.parametrize("has_plan", [True, False])
def test_evaluate_a_model_over_several_datasets_with_the_labels_of_one(tmp_path, has_plan):
    """The model's 3 is the reference's 7 by synonym, its 1 and 2 together the 4."""
    organs = {1: "left kidney", 2: "right kidney", 3: "spleen", 4: "pancreas"}
    save(tmp_path / "out" / "a.nii.gz", [1, 1, 2, 0, 3, 4], organs)
    save(tmp_path / "ref" / "a.nii.gz", [4, 4, 4, 4, 7, 0], {})
    if has_plan:
        write_label_tables(tmp_path / "out", organs, plan=make_plan(organs))
        assert read_plan_names(tmp_path / "out").datasets["A"] == {"kidneys": "kidneys", "lien": "spleen"}
        assert (
            evaluate(tmp_path / "out", tmp_path / "ref").problems[-1].message.startswith("The model was planned over")
        )
    labels = DatasetLabels({4: "kidneys", 7: "lien"})
    evaluation = evaluate(tmp_path / "out", tmp_path / "ref", names=labels)
    dice = {organ.name: organ.metrics["dice"].mean for organ in evaluation.organs}
    assert dice == {"kidneys": pytest.approx(6 / 7), "lien": 1.0}
    assert [problem.message for problem in evaluation.problems] == [
        "Organs of the predictions that the reference does not name count as background: pancreas."
    ]


def test_evaluate_finds_the_validation_maps_of_a_joint_run_under_the_name_of_the_dataset(tmp_path):
    organs = {1: "liver"}
    for name in ("kits__a", "kits__b", "other__a", "b"):
        save(tmp_path / "validation" / f"{name}.nii.gz", [1, 0, 0, 0, 0, 0], organs)
    for name in ("a", "b"):
        save(tmp_path / "ref" / f"{name}.nii.gz", [7, 0, 0, 0, 0, 0], {})
    labels = DatasetLabels({7: "Liver"}, dataset="kits")
    evaluation = evaluate(tmp_path / "validation", tmp_path / "ref", names=labels)
    assert evaluation.mean_dice == 1.0 and [case.case_id for case in evaluation.cases] == ["a", "b"]
    assert evaluation.predictions_without_reference == ("kits__b", "other__a"), "b has its own name"


def make_plan(organs):
    channels = (ChannelPlan(name="CT", normalization="ct"),)
    labels = (LabelPlan(value=4, name="kidneys", maps_to="kidneys"), LabelPlan(value=7, name="lien", maps_to="spleen"))
    return DataPlan(
        channels=channels,
        modality="ct",
        organs=tuple(OrganPlan(name=name, value=value, sentences=("It.",)) for value, name in organs.items()),
        regions=(RegionPlan(name="kidneys", organs=("left kidney", "right kidney")),),
        datasets=(DatasetPlan(name="A", modality="ct", labels=labels),),
        target_spacing_zyx_mm=(1.0, 1.0, 1.0),
        slice_axis="z",
    )


def test_evaluate_regions_of_the_reference(tmp_path):
    """Whole is {1, 2, 3}: five rows of six in the reference, four of them found; no 1 is asked for by itself."""
    save(tmp_path / "out" / "a.nii.gz", [1, 2, 2, 3, 0, 0], {1: "whole without core", 2: "core without x", 3: "x"})
    save(tmp_path / "ref" / "a.nii.gz", [1, 1, 2, 3, 3, 0], {})
    labels = DatasetLabels({3: "x"}, regions={"whole": (1, 2, 3), "core": (2, 3)})
    evaluation = evaluate(tmp_path / "out", tmp_path / "ref", names=labels)
    dice = {organ.name: organ.metrics["dice"].mean for organ in evaluation.organs}
    assert dice == {"x": pytest.approx(2 / 3), "whole": pytest.approx(8 / 9), "core": pytest.approx(2 * 2 / 6)}
    assert [organ.value for organ in evaluation.organs] == [3, 65536, 65537]
    assert evaluation.problems == () and json.dumps(evaluation.to_json())
    (tmp_path / "out" / "a.nii.gz").unlink()
    save(tmp_path / "out" / "b.nii.gz", [0] * 6, {})
    save(tmp_path / "ref" / "b.nii.gz", [0] * 6, {})
    missed, _ = evaluate(tmp_path / "out", tmp_path / "ref", names=labels).cases
    assert missed.organs[65536].outcome == "missed" and missed.organs[65536].reference_ml == pytest.approx(0.24)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"datasets": 3}', '{"datasets": {"A": 1}}', '{"datasets": {"A": {"x": 1}}}', "{}"]
)
def test_read_plan_names_of_another_file_are_none(tmp_path, content):
    (tmp_path / "labels.json").write_text(content)
    assert read_plan_names(tmp_path) == read_plan_names(tmp_path / "a.nii.gz") == NOTHING
