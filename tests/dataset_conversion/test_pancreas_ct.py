"""The conversion on a miniature of both forms of the source."""

import shutil

import numpy as np
import pytest
from dicom_makers import save_slices
from miniatures import described, messages_of, run

from autoseg.errors import DatasetError
from autoseg.io.image import read_labels, read_scan
from dataset_conversion import pancreas_ct
from dataset_conversion.pancreas_ct import find, main

SHAPE = (4, 6, 5)
RAMP = np.arange(120, dtype=np.int16).reshape(SHAPE)
PANCREAS = np.zeros(SHAPE, np.uint8)
PANCREAS[1, 2, 3:5] = 1
PANCREAS[1, 3, 3] = 1  # an L, so that no flip leaves it as it is
# where `save_slices` puts voxel (x, y, z), in RAS; the label maps of the source are often stored from the front on
AFFINE = np.array([[-2.0, 0, 0, 10], [0, -1, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
FROM_THE_BACK = np.array([[-2.0, 0, 0, 10], [0, 1, 0, 15], [0, 0, 4, 30], [0, 0, 0, 1]])


def add_case(source, save_scan, number, *, labels=PANCREAS[:, ::-1], affine=FROM_THE_BACK, numbers=None):
    """Write a DICOM scan and its label map, whose y axis runs the other way."""
    study = source / "Pancreas-CT" / f"PANCREAS_{number:04d}" / "11-24-2015-PANCREAS0001-Pancreas-18957"
    save_slices(study / "Pancreas-99667", RAMP, names=[f"1-{k:03d}.dcm" for k in range(1, 5)], numbers=numbers)
    save_scan(source / "TCIA_pancreas_labels-02-05-2017" / f"label{number:04d}.nii.gz", labels, affine=affine)


@pytest.fixture
def source(tmp_path, save_scan):
    for number in (1, 2):
        add_case(tmp_path / "source", save_scan, number)
    return tmp_path / "source"


def check_case(out, name):
    image = read_scan(out / "imagesTr" / f"{name}_0000.nii.gz")
    labels = read_labels(out / "labelsTr" / f"{name}.nii.gz")
    np.testing.assert_array_equal(image.array_zyx, RAMP)
    np.testing.assert_array_equal(labels.array_zyx, PANCREAS)
    assert image.geometry == labels.geometry


def test_label_maps_are_turned_onto_the_dicom_series(source, tmp_path):
    done = run(pancreas_ct, source, tmp_path / "out")
    reported = messages_of(done)
    assert done.cases == ("pancreas_0001", "pancreas_0002")
    check_case(tmp_path / "out", "pancreas_0001")
    content = described(tmp_path / "out")
    assert content["labels"] == {"background": 0, "pancreas": 1} and content["channel_names"] == {"0": "CT"}
    assert reported[""].startswith("78 of 80 cases are missing: pancreas_0003 to pancreas_0082. Download")
    assert set(reported) == {"", "pancreas_0001", "pancreas_0002"}  # the order of the voxels says otherwise here


def test_header_and_order_agree_where_voxels_are_stored_as_the_scan_has_them(source, tmp_path, save_scan):
    add_case(source, save_scan, 1, labels=PANCREAS, affine=AFFINE)
    reported = messages_of(run(pancreas_ct, source, tmp_path / "out"))
    check_case(tmp_path / "out", "pancreas_0001")
    assert "pancreas_0001" not in reported and "the header is used" in reported["pancreas_0002"]


def test_the_order_decides_where_the_header_lost_its_place(source, tmp_path, save_scan):
    lost = np.diag([2.0, 1.0, 4.0, 1.0])  # as of a program that writes spacing alone
    add_case(source, save_scan, 1, labels=PANCREAS[::-1], affine=lost, numbers=[4, 3, 2, 1])
    reported = messages_of(run(pancreas_ct, source, tmp_path / "out"))
    check_case(tmp_path / "out", "pancreas_0001")
    assert "the numbers are used" in reported["pancreas_0001"]


@pytest.mark.parametrize("shift_mm", [0.0, 55.0])
def test_scans_as_nifti_are_linked_and_their_label_maps_turned(tmp_path, save_scan, shift_mm):
    source = tmp_path / "source"
    save_scan(source / "data" / "PANCREAS_0001.nii.gz", RAMP, affine=AFFINE)
    moved = FROM_THE_BACK.copy()
    moved[2, 3] += shift_mm
    save_scan(source / "labels" / "label0001.nii.gz", PANCREAS[:, ::-1], affine=moved)
    done = run(pancreas_ct, source, tmp_path / "out")
    reported = messages_of(done)
    check_case(tmp_path / "out", "pancreas_0001")
    assert done.num_links == 1
    assert ("pancreas_0001" in reported) == (shift_mm > 0)


def test_cuts_of_another_scan_are_left_out(source, tmp_path, save_scan):
    add_case(source, save_scan, 25)
    done = run(pancreas_ct, source, tmp_path / "out")
    assert done.cases == ("pancreas_0001", "pancreas_0002")
    assert any("25 and 70 are cuts of scan 2" in problem.message for problem in done.problems)


def test_what_is_missing_is_named(source, tmp_path, capsys):
    (source / "TCIA_pancreas_labels-02-05-2017" / "label0002.nii.gz").unlink()
    next((source / "Pancreas-CT" / "PANCREAS_0001").rglob("1-002.dcm")).unlink()
    assert main([str(source), str(tmp_path / "out")]) == 4  # nothing is left
    reported = capsys.readouterr().err
    assert "pancreas_0002  label0002.nii.gz is missing. Download the label maps again." in reported
    assert "a slice is missing" in reported
    shutil.rmtree(source / "TCIA_pancreas_labels-02-05-2017")
    with pytest.raises(DatasetError, match="Download scans and label maps from") as caught:
        find(source)
    assert [problem.case_id for problem in caught.value.problems] == ["label0001.nii.gz .."]


def test_a_label_map_of_another_size_is_a_problem_of_its_case(source, tmp_path, save_scan):
    add_case(source, save_scan, 1, labels=np.ones((4, 6, 6), np.uint8))
    done = run(pancreas_ct, source, tmp_path / "out")
    reported = messages_of(done)
    assert done.cases == ("pancreas_0002",) and "shape_zyx" in reported["pancreas_0001"]


def test_two_series_of_one_patient_are_reported(source, tmp_path):
    save_slices(source / "Pancreas-CT" / "PANCREAS_0002" / "other", RAMP)
    reported = messages_of(run(pancreas_ct, source, tmp_path / "out"))
    assert reported["pancreas_0002"] == "expected one folder with DICOM files. Download the scan again."
