import nibabel as nib
import numpy as np
import pytest

from autoseg.datasets.dataset import read_dataset
from autoseg.errors import DatasetError
from autoseg.planning.fingerprint.fingerprint import Fingerprint, make_fingerprint
from autoseg.planning.fingerprint.measure_case import scan_case


def scan_first(root):
    dataset = read_dataset(root)
    return scan_case(dataset.cases[0], dataset=dataset)


def test_scan_case_measures_in_canonical_axes(make_dataset, save_nifti):
    root = make_dataset(1)
    image = np.zeros((6, 10, 12), dtype=np.float32)
    image[1:5, 2:9, 0:6] = np.arange(4 * 7 * 6).reshape(4, 7, 6) + 1
    label = (image > 100).astype(np.uint8)
    # file axes x, y, z hold the patient's y, x, z: spacing 0.5 along the file's x is along canonical y
    affine = np.array([[0, 2.0, 0, 0], [0.5, 0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1.0]])
    save_nifti(root / "imagesTr" / "case_000_0000.nii.gz", image, affine=affine)
    save_nifti(root / "labelsTr" / "case_000.nii.gz", label, affine=affine)
    result = scan_first(root)
    assert result.problems == ()
    facts = result.facts
    assert facts.spacing_zyx_mm == pytest.approx((3.0, 0.5, 2.0))
    assert facts.size_zyx == (6, 12, 10)
    assert facts.cropped_size_zyx == (4, 6, 7)
    assert facts.removed_fraction == pytest.approx(1 - 4 * 6 * 7 / 720)
    assert facts.channels[0].foreground.minimum == 101
    assert facts.channels[0].foreground.maximum == 168
    assert facts.organs[0].num_voxels == 68
    assert facts.organs[0].slices_zyx == (2, 6, 7)
    assert result.sample.shape == (1, 68)


def test_scan_case_leaves_ignored_voxels_out_of_the_foreground(make_dataset, save_nifti):
    root = make_dataset(1, labels={"background": 0, "liver": 1, "ignore": 2})
    image = np.arange(720, dtype=np.float32).reshape(6, 10, 12)
    label = np.where(image > 700, 2, np.where(image > 650, 1, 0)).astype(np.uint8)
    save_nifti(root / "imagesTr" / "case_000_0000.nii.gz", image)
    save_nifti(root / "labelsTr" / "case_000.nii.gz", label)
    facts = scan_first(root).facts
    assert facts.channels[0].foreground.maximum == 700
    assert [organ.name for organ in facts.organs] == ["liver"]


def test_scan_case_with_a_damaged_file_gives_a_problem_and_no_facts(make_dataset):
    root = make_dataset(1)
    path = root / "imagesTr" / "case_000_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    result = scan_first(root)
    assert result.facts is None
    assert [problem.is_error for problem in result.problems] == [True]
    assert result.problems[0].case_id == "case_000"


def test_scan_case_reports_several_faults_at_once(make_dataset, save_nifti):
    root = make_dataset(1)
    label = np.full((6, 10, 12), 9, dtype=np.uint8)
    save_nifti(root / "labelsTr" / "case_000.nii.gz", label, affine=np.diag([1, 1, 2.5, 1]))
    result = scan_first(root)
    assert result.facts is None
    messages = " ".join(problem.message for problem in result.problems)
    assert "spacing_zyx_mm" in messages and "9 (720 voxels)" in messages


def test_make_fingerprint_pools_the_foreground_of_all_cases(make_dataset):
    root = make_dataset(3)
    fingerprint, problems = make_fingerprint(read_dataset(root), num_workers=1)
    assert problems == ()
    parts = []
    for number in range(3):
        image = np.asarray(nib.load(root / "imagesTr" / f"case_{number:03d}_0000.nii.gz").dataobj)
        label = np.asarray(nib.load(root / "labelsTr" / f"case_{number:03d}.nii.gz").dataobj)
        parts.append(image[label > 0])
    pooled = np.concatenate(parts)
    assert fingerprint.foreground[0].num_voxels == pooled.size
    assert fingerprint.foreground[0].mean == pytest.approx(pooled.mean(dtype=np.float64))
    assert fingerprint.foreground[0].percentile_99_5 == pytest.approx(np.percentile(pooled, 99.5))


def test_make_fingerprint_is_the_same_with_one_and_two_workers_and_through_json(make_dataset):
    dataset = read_dataset(make_dataset(4))
    one, _ = make_fingerprint(dataset, num_workers=1)
    two, _ = make_fingerprint(dataset, num_workers=2)
    assert one == two
    assert Fingerprint.model_validate_json(one.model_dump_json()) == one


def test_make_fingerprint_warns_of_the_same_voxels_under_two_ids(make_dataset):
    root = make_dataset(3)
    image = (root / "imagesTr" / "case_000_0000.nii.gz").read_bytes()
    (root / "imagesTr" / "case_002_0000.nii.gz").write_bytes(image)
    fingerprint, (problem,) = make_fingerprint(read_dataset(root), num_workers=1)
    assert (problem.case_id, problem.is_error) == ("case_002", False)
    assert "case_000" in problem.message and "leak" in problem.message
    groups = fingerprint.patient_groups()
    assert groups["case_000"] == groups["case_002"] != groups["case_001"]


def test_make_fingerprint_refuses_an_organ_that_no_case_holds(make_dataset):
    root = make_dataset(2, labels={"background": 0, "liver": 1, "spleen": 2})
    _, (problem,) = make_fingerprint(read_dataset(root), num_workers=1)
    assert problem.case_id == "" and problem.is_error
    assert "spleen (value 2) is in none of 2 cases" in problem.message


def test_make_fingerprint_without_a_usable_case_carries_all_problems(make_dataset, save_nifti):
    root = make_dataset(2)
    for number in range(2):
        save_nifti(root / "labelsTr" / f"case_{number:03d}.nii.gz", np.full((6, 10, 12), 7, dtype=np.uint8))
    with pytest.raises(DatasetError) as caught:
        make_fingerprint(read_dataset(root), num_workers=1)
    assert [problem.case_id for problem in caught.value.problems] == ["case_000", "case_001"]


def test_organ_widths_and_extents_are_medians_over_the_cases_with_the_organ(make_fingerprint_of):
    fingerprint = make_fingerprint_of(spacing=(2.0, 1.0, 1.0), width_mm=7.0)
    assert fingerprint.organ_widths_mm("z") == {"liver": 7.0}
    assert fingerprint.organ_extents_mm("z") == {"liver": 20.0}
    assert fingerprint.organ_extents_mm("y") == {"liver": 20.0}


def test_organ_pieces_has_one_number_for_each_case_with_the_organ(make_fingerprint_of):
    assert make_fingerprint_of(num_cases=3).organ_components() == {"liver": [1, 1, 1]}
    without = make_fingerprint_of(num_cases=2)
    without = without.model_copy(update={"cases": (without.cases[0].model_copy(update={"organs": ()}),)})
    assert without.organ_components() == {"liver": []}


def test_patient_groups_joins_patients_through_a_shared_scan(make_fingerprint_of):
    fingerprint = make_fingerprint_of(num_cases=4)
    patients, digests = ("p", "q", "q", "r"), ("same", "same", "other", "")
    cases = tuple(
        case.model_copy(update={"patient_id": patient, "voxel_digest": digest})
        for case, patient, digest in zip(fingerprint.cases, patients, digests, strict=True)
    )
    groups = list(fingerprint.model_copy(update={"cases": cases}).patient_groups().values())
    assert groups == ["p", "p", "p", "r"]
