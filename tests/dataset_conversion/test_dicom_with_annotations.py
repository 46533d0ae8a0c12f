"""The conversion of annotated DICOM, on patients that the test makes."""

import json
import shutil

import numpy as np
import pytest
from dicom_makers import ORIGIN_LPS_MM, SPACING_XYZ_MM, rectangle, save_rtstruct, save_seg, save_slices
from miniatures import described, labels_of, messages_of, run

from autoseg.datasets.dataset import read_dataset
from autoseg.io.image import read_scan
from dataset_conversion import dicom_with_annotations
from dataset_conversion.dicom_with_annotations import main

SHAPE = (5, 8, 10)
RAMP = np.arange(400, dtype=np.int16).reshape(SHAPE)
LIVER = [rectangle((-5.0, 1.0), (-17.5, -15.5), 38.0)]  # the voxels [2, 3:5, 3:6]
SPLEEN = [rectangle((3.0, 7.0), (-19.5, -17.5), 34.0)]  # the voxels [1, 1:3, 7:9]


@pytest.fixture
def source(tmp_path):
    """Write anna, contours in a folder of their own beside a localizer, and ben, all files in one folder, as SEG."""
    anna = tmp_path / "source" / "anna" / "2020-01-01 study"
    save_slices(anna / "CT thorax", RAMP, series="1.2.3")
    save_slices(anna / "scout", RAMP[:1], series="1.2.4")
    save_rtstruct(anna / "RTSTRUCT" / "rs.dcm", {"Liver": LIVER, "SPLEEN ": SPLEEN, "Heart": []})
    ben = tmp_path / "source" / "ben"
    slices = save_slices(ben, RAMP + 100, series="1.5.1", frame="1.5.9", names=[f"IM{n}" for n in (4, 2, 5, 1, 3)])
    save_slices(ben, RAMP, series="1.5.2", frame="1.5.10")
    mask = np.zeros(SHAPE, np.uint8)
    mask[4, 5, 2:4] = 1
    save_seg(ben / "seg.dcm", {"LIVER": mask}, slices=slices)
    (tmp_path / "source" / "notes.txt").write_text("none of these")
    return tmp_path / "source"


def test_contours_and_segments_become_label_maps_at_their_place(source, tmp_path):
    out = tmp_path / "out"
    done = run(dicom_with_annotations, source, out)
    assert done.cases == ("anna", "ben")
    expected = np.zeros(SHAPE, bool)
    expected[2, 3:5, 3:6] = True
    np.testing.assert_array_equal(labels_of(out, "anna") == 1, expected)
    assert [tuple(index) for index in np.argwhere(labels_of(out, "anna") == 2)] == [
        (1, 1, 7),
        (1, 1, 8),
        (1, 2, 7),
        (1, 2, 8),
    ]
    assert [tuple(index) for index in np.argwhere(labels_of(out, "ben") == 1)] == [(4, 5, 2), (4, 5, 3)]
    scan = read_scan(out / "imagesTr" / "ben_0000.nii.gz")
    np.testing.assert_array_equal(scan.array_zyx, RAMP + 100)
    place_ras = scan.geometry.affine_array @ [2, 5, 4, 1]
    expected_lps = np.array(ORIGIN_LPS_MM) + np.array([2, 5, 4]) * SPACING_XYZ_MM
    np.testing.assert_allclose(place_ras[:3], expected_lps * (-1, -1, 1))
    content = described(out)
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "LIVER": 1, "SPLEEN": 2}
    assert [(problem.case_id, problem.message[:46]) for problem in done.problems] == [
        ("", "1 of 2 cases lack 'SPLEEN': it counts as not t")
    ]
    assert [problem for problem in read_dataset(out).problems if problem.is_error] == []


def test_missing_is_unknown_says_what_was_drawn(source, tmp_path):
    run(dicom_with_annotations, source, tmp_path / "out", missing_is_unknown=True)
    content = described(tmp_path / "out")
    assert content["annotated_labels"] == {"ben": ["LIVER"]}


def test_a_file_of_labels_chooses_and_renames(source, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"abdomen": ["liver", "Spleen"]}))
    assert main([str(source), str(tmp_path / "out"), "--labels", str(tmp_path / "labels.json")]) == 0
    assert described(tmp_path / "out")["labels"] == {"background": 0, "abdomen": 1}
    assert (labels_of(tmp_path / "out", "anna") == 1).sum() == 10


def test_no_text_of_a_patient_is_written_or_printed(source, tmp_path, capsys):
    main([str(source), str(tmp_path / "out"), "--num-workers", "1"])
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 6
    assert not any(word in one for one in written for word in (b"JANE", b"secret"))
    printed = capsys.readouterr()
    assert "JANE" not in printed.out + printed.err


def test_contours_find_their_series_by_the_coordinate_system_alone(source, tmp_path):
    anna = source / "anna" / "2020-01-01 study"
    shutil.rmtree(anna / "scout")  # it has the same coordinate system
    save_rtstruct(anna / "RTSTRUCT" / "rs.dcm", {"Liver": LIVER}, series="")
    assert run(dicom_with_annotations, source, tmp_path / "out").cases == ("anna", "ben")


def test_a_patient_with_two_annotated_series_is_two_cases_of_one_patient(source, tmp_path):
    save_slices(source / "anna" / "z later", RAMP, series="1.2.5")
    save_rtstruct(source / "anna" / "z later" / "rs.dcm", {"Liver": LIVER}, series="1.2.5")
    assert run(dicom_with_annotations, source, tmp_path / "out").cases == ("anna_1", "anna_2", "ben")
    content = described(tmp_path / "out")
    assert content["patients"]["anna_1"] == content["patients"]["anna_2"] == "anna"


def test_contours_and_segments_of_one_series_are_put_together(source, tmp_path):
    study = source / "anna" / "2020-01-01 study"
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 4, 4:8] = 1  # two of these are the liver's, which is larger
    save_seg(study / "seg.dcm", {"Tumour": mask}, slices=sorted((study / "CT thorax").iterdir()))
    done = run(dicom_with_annotations, source, tmp_path / "out")
    assert (labels_of(tmp_path / "out", "anna") == 3).sum() == 4 and (
        labels_of(tmp_path / "out", "anna") == 1
    ).sum() == 4
    assert "go to the smaller one: LIVER and Tumour (2)." in done.problems[-1].message


def test_segments_of_another_grid_go_to_the_nearest_voxels_and_it_is_reported(source, tmp_path):
    study = source / "anna" / "2020-01-01 study"
    shutil.rmtree(study / "RTSTRUCT")
    shutil.rmtree(study / "scout")
    fine = save_slices(tmp_path / "fine", np.zeros((9, 16, 20)), series="1.2.8", spacing_xyz_mm=(1.0, 0.5, 2.0))
    mask = np.zeros((9, 16, 20), np.uint8)
    mask[4, 6:9, 6:11] = 1  # at 38 mm, from -17 to -16 mm and from -4 to 0 mm: the voxels [2, 3:5, 3:6]
    save_seg(study / "seg.dcm", {"Liver": mask}, slices=fine)
    done = run(dicom_with_annotations, source, tmp_path / "out")
    expected = np.zeros(SHAPE, bool)
    expected[2, 3:5, 3:6] = True
    np.testing.assert_array_equal(labels_of(tmp_path / "out", "anna") == 1, expected)
    assert ("anna", True) in [(one.case_id, "on another grid than the image" in one.message) for one in done.problems]


def test_what_fits_nowhere_is_reported_and_stops_no_other(source, tmp_path, capsys):
    save_slices(source / "cleo" / "ct", RAMP, series="1.7", frame="1.7.9")
    save_rtstruct(source / "dora" / "rs.dcm", {"Liver": LIVER}, series="1.8", frame="1.8.9")
    (source / "anna" / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    save_slices(source / "emil", RAMP, series="1.9", frame="1.9.9")
    save_rtstruct(source / "emil" / "a.dcm", {"Liver": LIVER}, series="1.9", frame="1.9.9")
    save_rtstruct(source / "emil" / "b.dcm", {"LIVER": LIVER}, series="1.9", frame="1.9.9")
    assert main([str(source), str(tmp_path / "out"), "--num-workers", "1"]) == 3
    reported = capsys.readouterr().err
    assert "no contours and no segmentation refer to its images." in reported and "cleo" in reported
    assert "dora/rs.dcm" in reported and "the image series that it was drawn on is not there." in reported
    assert "anna/broken.dcm" in reported
    assert "emil/a.dcm and emil/b.dcm both hold 'LIVER'. Keep one of them." in reported
    assert sorted(path.name for path in (tmp_path / "out" / "labelsTr").iterdir()) == ["anna.nii.gz", "ben.nii.gz"]


def test_contours_that_cannot_be_drawn_and_missing_slices_are_reported_by_case(source, tmp_path):
    study = source / "anna" / "2020-01-01 study"
    between = [rectangle((-5.0, 1.0), (-17.5, -15.5), 36.0)]
    save_rtstruct(study / "RTSTRUCT" / "rs.dcm", {"Liver": LIVER + between})
    (source / "ben" / "IM5").unlink()  # one from the middle
    done = run(dicom_with_annotations, source, tmp_path / "out")
    reported = messages_of(done)
    assert reported["anna"] == "Liver: 1 of 2 contours lie between the image's slices, and are left out."
    assert "a slice is missing" in reported["ben"] and done.cases == ("anna",)
