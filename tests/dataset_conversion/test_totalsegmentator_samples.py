"""The conversion on a miniature of the source, and on the real one where it is."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.datasets.dataset import read_dataset
from autoseg.errors import DatasetError, UsageError
from autoseg.io.image import read_label_names, read_labels, read_scan
from dataset_conversion.totalsegmentator_samples import convert, find_scans, main

NAMES = {"ct": {"spleen": 1, "kidney": 2, "liver": 5}, "mr": {"liver": 1, "vertebrae": 2, "brain": 9}}
SHAPE = (3, 4, 5)  # z, y, x
MARKED = (2, 1, 3)  # the one organ voxel of the DICOM scan, in the order of the DICOM series
ORIGIN_LPS_MM = (-10.0, -20.0, 30.0)
SPACING_XYZ_MM = (1.0, 2.0, 4.0)


def save(path: Path, array_zyx: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array_zyx.transpose(), np.eye(4) if affine is None else affine), path)


@pytest.fixture
def source(tmp_path: Path, save_dicom: Callable[..., None]) -> Path:
    """Write a CT, an MR, a CT without labels, and a CT as DICOM whose label map has its y axis the other way."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "label_names.json").write_text(json.dumps(NAMES))
    ramp = np.arange(60, dtype=np.int16).reshape(SHAPE)
    for name, values in {"ct_small": (1, 5), "mr_small": (1, 2)}.items():
        labels = np.zeros(SHAPE, dtype=np.uint8)
        labels[1, 1, 1:3] = values
        save(folder / f"{name}.nii.gz", ramp)
        save(folder / f"{name}_labels.nii.gz", labels)
    save(folder / "ct_unlabelled.nii.gz", ramp)
    hot = np.zeros(SHAPE, dtype=np.int16)
    hot[MARKED] = 700
    save_dicom(folder / "dicom_series", hot, spacing_xyz_mm=SPACING_XYZ_MM, origin_lps_mm=ORIGIN_LPS_MM)
    labels = (hot == 700).astype(np.uint8)[:, ::-1] * 2
    x, y, z = ORIGIN_LPS_MM
    affine = np.array([[-1.0, 0, 0, -x], [0, 2.0, 0, -(y + 3 * 2.0)], [0, 0, 4.0, z], [0, 0, 0, 1]])
    save(folder / "dicom_series_labels.nii.gz", labels, affine)
    return folder


def test_convert_unites_the_tables_by_name(source: Path, tmp_path: Path) -> None:
    done = convert(source, tmp_path / "out")
    assert done.cases == ("ct_small", "dicom_series", "mr_small")
    assert done.unlabeled == ("ct_unlabelled",)
    assert done.problems == ()
    # liver keeps CT's 5 on MR; vertebrae, which CT does not know, comes after 5; brain occurs nowhere
    assert done.labels == {"spleen": 1, "kidney": 2, "liver": 5, "vertebrae": 6}
    labels = read_labels(tmp_path / "out" / "labelsTr" / "mr_small.nii.gz").array_zyx
    assert labels[1, 1, :4].tolist() == [0, 5, 6, 0]
    assert read_label_names(tmp_path / "out" / "labelsTr" / "mr_small.nii.gz") == {5: "liver", 6: "vertebrae"}


def test_convert_gives_a_dataset_without_problems(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    dataset = read_dataset(tmp_path / "out")
    assert dataset.channel_names == ("CT/MRI",)
    assert [case.case_id for case in dataset.cases] == ["ct_small", "dicom_series", "mr_small"]
    assert [(organ.name, organ.value) for organ in dataset.labels.organs] == [
        ("spleen", 1),
        ("kidney", 2),
        ("liver", 5),
        ("vertebrae", 6),
    ]
    assert [problem for problem in dataset.problems if problem.is_error] == []


def test_convert_puts_the_dicom_series_on_the_grid_of_its_labels(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    image = read_scan(tmp_path / "out" / "imagesTr" / "dicom_series_0000.nii.gz")
    labels = read_labels(tmp_path / "out" / "labelsTr" / "dicom_series.nii.gz")
    assert image.geometry == labels.geometry == read_labels(source / "dicom_series_labels.nii.gz").geometry
    np.testing.assert_array_equal(image.array_zyx == 700, labels.array_zyx == 2)
    assert (labels.array_zyx == 2).sum() == 1
    z, y, x = np.argwhere(image.array_zyx == 700)[0]
    place_ras_mm = image.geometry.affine_array @ [x, y, z, 1]
    expected_lps_mm = np.array(ORIGIN_LPS_MM) + np.array(MARKED[::-1]) * SPACING_XYZ_MM
    np.testing.assert_allclose(place_ras_mm[:3], expected_lps_mm * [-1, -1, 1])


def test_convert_writes_no_patient_text(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 8
    for path in written:
        content = nib.load(path).header.binaryblock if path.name.endswith(".gz") else path.read_bytes()
        assert b"JANE" not in content


def test_convert_says_what_is_missing_and_goes_on(source: Path, tmp_path: Path, capsys) -> None:
    (source / "mr_small.nii.gz").unlink()
    assert main([str(source), str(tmp_path / "out")]) == 3
    printed = capsys.readouterr()
    assert "2 cases (ct_small, dicom_series) with 3 organs" in printed.out
    assert "mr_small  is missing" in printed.err


def test_convert_value_without_a_name_is_a_problem_of_its_case(source: Path, tmp_path: Path) -> None:
    save(source / "mr_small_labels.nii.gz", np.full(SHAPE, 7, dtype=np.uint8))
    done = convert(source, tmp_path / "out")
    assert done.cases == ("ct_small", "dicom_series")
    assert [(problem.case_id, "holds 7" in problem.message) for problem in done.problems] == [("mr_small", True)]
    assert not (tmp_path / "out" / "imagesTr" / "mr_small_0000.nii.gz").exists()


def test_convert_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "label_names.json").write_text(json.dumps(NAMES))
    with pytest.raises(DatasetError, match="no usable case") as caught:
        convert(tmp_path / "source", tmp_path / "out")
    assert {problem.case_id for problem in caught.value.problems} == {"ct_small", "dicom_series", "mr_small"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "table", ["{}", "[]", '{"ct": {"a": 1, "b": 1}, "mr": {}}', '{"ct": {"a": 0}, "mr": {}}', '{"ct": {}, "mr": 3}']
)
def test_convert_bad_table_is_a_usage_error(source: Path, tmp_path: Path, table: str) -> None:
    (source / "label_names.json").write_text(table)
    with pytest.raises(UsageError, match=r"expected|different numbers"):
        convert(source, tmp_path / "out")


def test_convert_never_writes_to_the_source(source: Path) -> None:
    with pytest.raises(UsageError, match="never written to"):
        convert(source, source / "out")


def test_find_scans_leaves_label_maps_and_other_files_out(source: Path) -> None:
    assert list(find_scans(source)) == ["ct_small", "ct_unlabelled", "dicom_series", "mr_small"]


@pytest.mark.data
def test_convert_real_samples(real_data: Path, tmp_path: Path) -> None:
    done = convert(real_data / "multi_organ_ct", tmp_path / "out")
    assert done.cases == ("ct_small", "dicom_series", "mr_small")
    assert done.unlabeled == ("ct_unlabelled",)
    assert done.problems == ()
    assert done.labels["spleen"] == 1
    assert done.labels["vertebrae"] > 117  # only MR names it
    for case in ("ct_small", "dicom_series"):  # were an axis flipped, bone would not be brighter than liver
        image = read_scan(tmp_path / "out" / "imagesTr" / f"{case}_0000.nii.gz").array_zyx
        labels = read_labels(tmp_path / "out" / "labelsTr" / f"{case}.nii.gz").array_zyx
        bone = [value for name, value in done.labels.items() if name.startswith(("vertebrae ", "hip", "sacrum", "rib"))]
        muscle = [value for name, value in done.labels.items() if name.startswith(("autochthon", "iliopsoas"))]
        assert np.median(image[np.isin(labels, bone)]) > 120
        assert 0 < np.median(image[np.isin(labels, muscle)]) < 80
    assert [problem for problem in read_dataset(tmp_path / "out").problems if problem.is_error] == []
