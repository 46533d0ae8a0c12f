import nibabel
import numpy as np
import pytest

from autoseg.errors import DatasetError, UsageError
from autoseg.evaluation import evaluate
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map

NAMES = {1: "liver", 2: "spleen"}


def labels(*, rows=4, value=1):
    """Fill `rows` rows of every plane of a 6x8x8 map."""
    array = np.zeros((6, 8, 8), dtype=np.uint8)
    array[:, :rows, :] = value
    return array


def save(path, array, *, spacing_mm=2.0):
    """Write with nibabel alone, without names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    nibabel.save(nibabel.Nifti1Image(array.T.copy(), affine), path)


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "references").mkdir()
    return tmp_path / "predictions", tmp_path / "references"


def messages(evaluation, case_id):
    return " ".join(problem.message for problem in evaluation.problems if problem.case_id == case_id)


def test_evaluate_cases_by_hand(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels(rows=4))
    save(predictions / "a.nii.gz", labels(rows=4))
    save(references / "b.nii.gz", labels(rows=3))
    save(predictions / "b.nii", labels(rows=4))
    evaluation = evaluate(predictions, references, names=NAMES, tolerance_mm=1.0)
    assert [case.case_id for case in evaluation.cases] == ["a", "b"]
    assert evaluation.cases[1].organs[1].dice == pytest.approx(6 / 7)
    assert evaluation.cases[1].organs[1].hd95_mm == pytest.approx(2.0)
    assert evaluation.cases[1].organs[1].reference_ml == pytest.approx(6 * 3 * 8 * 8 / 1000)
    assert evaluation.mean_dice == pytest.approx((1 + 6 / 7) / 2)
    assert not evaluation.problems


def test_evaluate_missing_prediction_counts_as_a_miss(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels())
    save(predictions / "a.nii.gz", labels())
    save(references / "b.nii.gz", labels())
    evaluation = evaluate(predictions, references, names=NAMES)
    assert evaluation.mean_dice == pytest.approx(0.5)
    assert not evaluation.cases[1].has_prediction
    assert evaluation.cases[1].organs[1].outcome == "missed"
    assert "no prediction" in messages(evaluation, "b")
    assert evaluation.has_errors


@pytest.mark.parametrize(
    ("array", "spacing_mm", "message"),
    [(labels()[:5], 2.0, "shape_zyx"), (labels(), 2.5, "spacing_zyx_mm")],
)
def test_evaluate_other_grid_is_a_problem_and_a_miss(folders, array, spacing_mm, message):
    predictions, references = folders
    for name in ("a", "b"):
        save(references / f"{name}.nii.gz", labels())
    save(predictions / "a.nii.gz", labels())
    save(predictions / "b.nii.gz", array, spacing_mm=spacing_mm)
    evaluation = evaluate(predictions, references, names=NAMES)
    assert message in messages(evaluation, "b")
    assert evaluation.cases[1].organs[1].dice == 0.0


def test_evaluate_truncated_prediction_is_a_problem_and_a_miss(folders):
    predictions, references = folders
    for name in ("a", "b"):
        save(references / f"{name}.nii.gz", labels())
        save(predictions / f"{name}.nii.gz", labels())
    whole = (predictions / "b.nii.gz").read_bytes()
    (predictions / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    evaluation = evaluate(predictions, references, names=NAMES)
    assert "b.nii.gz" in messages(evaluation, "b")
    assert evaluation.mean_dice == pytest.approx(0.5)


def test_evaluate_damaged_reference_is_left_out(folders):
    predictions, references = folders
    for name in ("a", "b"):
        save(predictions / f"{name}.nii.gz", labels())
    save(references / "a.nii.gz", labels())
    (references / "b.nii.gz").write_bytes(b"")
    evaluation = evaluate(predictions, references, names=NAMES)
    assert [case.case_id for case in evaluation.cases] == ["a"]
    assert "left out" in messages(evaluation, "b")
    assert evaluation.has_errors


def test_evaluate_prediction_without_reference_is_listed_not_counted(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels())
    for name in ("a", "stray"):
        save(predictions / f"{name}.nii.gz", labels())
    (predictions / "labels.json").write_text("{}")
    (predictions / "._a.nii.gz").write_bytes(b"mac")
    evaluation = evaluate(predictions, references, names=NAMES)
    assert evaluation.predictions_without_reference == ("stray",)
    assert (evaluation.mean_dice, evaluation.has_errors) == (1.0, False)


def test_evaluate_without_names_takes_those_of_the_predictions(folders):
    predictions, references = folders
    reference = labels(rows=4, value=1)
    reference[:, 6:, :] = 5
    save(references / "a.nii.gz", reference)
    geometry = ImageGeometry.from_spacing((6, 8, 8), (2.0, 2.0, 2.0))
    write_label_map(predictions / "a.nii.gz", labels(rows=4, value=1), geometry=geometry, names=NAMES)
    evaluation = evaluate(predictions, references)
    assert evaluation.names == {1: "liver", 5: "label 5"}
    assert [organ.metrics["dice"].mean for organ in evaluation.organs] == [1.0, 0.0]


def test_evaluate_predictions_that_disagree_on_names_are_reported(folders):
    predictions, references = folders
    geometry = ImageGeometry.from_spacing((6, 8, 8), (2.0, 2.0, 2.0))
    for name, organ in (("a", "liver"), ("b", "spleen")):
        save(references / f"{name}.nii.gz", labels())
        write_label_map(predictions / f"{name}.nii.gz", labels(), geometry=geometry, names={1: organ})
    evaluation = evaluate(predictions, references)
    assert "'liver' and 'spleen'" in messages(evaluation, "")
    assert not evaluation.has_errors


def test_evaluate_values_without_a_name_are_a_warning(folders):
    predictions, references = folders
    reference = labels()
    reference[:, 7, :] = 9
    save(references / "a.nii.gz", reference)
    save(predictions / "a.nii.gz", labels())
    evaluation = evaluate(predictions, references, names=NAMES)
    assert "hold 9" in messages(evaluation, "a")
    assert (evaluation.mean_dice, evaluation.has_errors) == (1.0, False)


def test_evaluate_negative_and_huge_values_are_a_warning_without_names(folders):
    predictions, references = folders
    reference = labels().astype(np.int32)
    reference[:, 7, 0], reference[:, 7, 1] = -3, 2_000_000_000
    save(references / "a.nii.gz", reference)
    save(predictions / "a.nii.gz", labels())
    evaluation = evaluate(predictions, references)
    assert "-3, 2000000000" in messages(evaluation, "a")
    assert list(evaluation.names) == [1]


def test_evaluate_ignored_voxels_count_nowhere(folders):
    predictions, references = folders
    reference = labels(rows=3)
    reference[:, 3, :] = 7
    save(references / "a.nii.gz", reference)
    save(predictions / "a.nii.gz", labels(rows=4))
    assert evaluate(predictions, references, ignore_value=7).mean_dice == 1.0
    assert evaluate(predictions, references, names=NAMES).mean_dice == pytest.approx(6 / 7)


def test_evaluate_two_files_work(folders):
    predictions, references = folders
    save(references / "truth.nii.gz", labels())
    save(predictions / "guess.nii.gz", labels())
    evaluation = evaluate(predictions / "guess.nii.gz", references / "truth.nii.gz")
    assert evaluation.cases[0].case_id == "truth"
    assert evaluation.mean_dice == 1.0


def test_evaluate_any_number_of_workers_agrees(folders):
    predictions, references = folders
    for rows in range(1, 7):
        save(references / f"case {rows}.nii.gz", labels(rows=rows))
        save(predictions / f"case {rows}.nii.gz", labels(rows=4))
    one = evaluate(predictions, references, num_workers=1)
    assert one.to_json() == evaluate(predictions, references, num_workers=3).to_json()
    assert len({case.organs[1].dice for case in one.cases}) == 6


def test_evaluate_twice_the_same_case_is_a_problem(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels())
    save(predictions / "a.nii", labels())
    save(predictions / "a.nii.gz", labels())
    assert "both a.nii and a.nii.gz" in messages(evaluate(predictions, references), "a")


def test_evaluate_nothing_in_common_raises(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels())
    save(predictions / "b.nii.gz", labels())
    with pytest.raises(DatasetError, match="nothing to evaluate") as caught:
        evaluate(predictions, references)
    assert [problem.case_id for problem in caught.value.problems] == ["a"]


def test_evaluate_paths_that_cannot_be_compared_raise(folders):
    predictions, references = folders
    save(references / "a.nii.gz", labels())
    with pytest.raises(UsageError, match="does not exist"):
        evaluate(predictions / "nowhere", references)
    with pytest.raises(UsageError, match="two folders or two files"):
        evaluate(predictions, references / "a.nii.gz")


@pytest.mark.parametrize("tolerance_mm", [-1.0, float("nan"), float("inf")])
def test_evaluate_impossible_tolerance_raises(folders, tolerance_mm):
    with pytest.raises(UsageError, match="tolerance"):
        evaluate(*folders, tolerance_mm=tolerance_mm)
