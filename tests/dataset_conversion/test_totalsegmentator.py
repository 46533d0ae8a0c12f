"""The conversion on a miniature with all classes of both datasets."""

import shutil

import numpy as np
import pytest
from miniatures import described, run_all

from autoseg.errors import DatasetError
from autoseg.io.image import read_labels, read_scan
from autoseg.organs import describe_organ
from dataset_conversion import totalsegmentator
from dataset_conversion.totalsegmentator import CT_CLASSES, MRI_CLASSES, find, main

SHAPE = (3, 4, 5)
RAMP = np.arange(60, dtype=np.int16).reshape(SHAPE)


@pytest.fixture
def make(tmp_path, save_scan):
    """Give a maker of a source: cases with their splits, the image's name and the classes; most masks are empty."""

    def write(cases, *, image="ct.nii.gz", classes=CT_CLASSES):
        source = tmp_path / "Totalsegmentator_dataset_v201"
        empty = save_scan(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
        for case in cases:
            save_scan(source / case / image, RAMP)
            (source / case / "segmentations").mkdir()
            for name in classes:
                shutil.copyfile(empty, source / case / "segmentations" / f"{name}.nii.gz")
            for name, voxel in {"spleen": 3, "brain": 17}.items():
                mask = np.zeros(SHAPE, np.uint8)
                mask.reshape(-1)[voxel] = 1
                save_scan(source / case / "segmentations" / f"{name}.nii.gz", mask)
        rows = [f"{case};57;m;A;ct abdomen;{split};siemens;X;120;none;none" for case, split in cases.items()]
        head = (
            "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"
        )
        (source / "meta.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8-sig")
        return source

    return write


def test_ct_is_converted_with_its_split(make, tmp_path):
    source = make({"s0000": "train", "s0011": "test", "s0029": "val"})
    (done,) = run_all(totalsegmentator, source, tmp_path / "out")
    assert (done.cases, done.others) == (("s0000", "s0029"), ("s0011",))
    assert [problem for problem in done.problems if problem.is_error] == []
    content = described(tmp_path / "out")
    assert content["channel_names"] == {"0": "CT"} and content["numTraining"] == 2
    assert len(content["labels"]) == 118 and content["labels"]["costal_cartilages"] == 117
    for place, case in (("labelsTr", "s0000"), ("labelsTs", "s0011")):
        labels = read_labels(tmp_path / "out" / place / f"{case}.nii.gz").array_zyx.reshape(-1)
        assert {int(index): int(labels[index]) for index in np.flatnonzero(labels)} == {3: 1, 17: 90}
    np.testing.assert_array_equal(read_scan(tmp_path / "out" / "imagesTs" / "s0011_0000.nii.gz").array_zyx, RAMP)


def test_mri_has_its_own_classes(make, tmp_path):
    source = make({"s0001": "train"}, image="mri.nii.gz", classes=MRI_CLASSES)
    (done,) = run_all(totalsegmentator, source, tmp_path / "out")
    content = described(tmp_path / "out")
    assert done.cases == ("s0001",) and content["channel_names"] == {"0": "MRI"}
    assert len(content["labels"]) == 51 and content["labels"]["brain"] == 50


def test_what_is_missing_is_named(make, tmp_path, capsys):
    source = make({"s0000": "train", "s0001": "train", "s0002": "train", "s0003": "train"})
    (source / "s0000" / "segmentations" / "heart.nii.gz").unlink()
    (source / "s0001" / "ct.nii.gz").unlink()
    shutil.rmtree(source / "s0002" / "segmentations")
    assert main([str(source), str(tmp_path / "out")]) == 3
    reported = capsys.readouterr().err
    assert "s0000  segmentations/ lacks heart. Unpack the download again." in reported
    assert "s0002  s0002/segmentations is missing." in reported
    assert "1 of 4 cases are missing: s0001. Download it from Zenodo" in reported


def test_a_folder_without_meta_csv_is_not_the_source(make, tmp_path):
    source = make({"s0000": "train"})
    with pytest.raises(DatasetError, match="Did you mean the folder 'Totalsegmentator_dataset_v201' inside it"):
        find(tmp_path)
    (source / "meta.csv").write_text("image_id,split\ns0000,train\n")
    with pytest.raises(DatasetError, match=r"meta\.csv is no table with the columns image_id and split"):
        run_all(totalsegmentator, source, tmp_path / "out")


def test_ct_and_mri_in_one_folder_become_two_datasets(make, tmp_path):
    make({"s0000": "train"})
    source = make({"s0001": "train"}, image="mri.nii.gz", classes=MRI_CLASSES)
    done = run_all(totalsegmentator, source, tmp_path / "out")
    assert [(one.folder.name, one.cases) for one in done] == [
        ("totalsegmentator_ct", ("s0000",)),
        ("totalsegmentator_mri", ("s0001",)),
    ]


def test_classes_are_those_of_the_published_class_maps():
    assert (len(CT_CLASSES), len(set(CT_CLASSES)), len(MRI_CLASSES), len(set(MRI_CLASSES))) == (117, 117, 50, 50)
    ct = {value: CT_CLASSES[value - 1] for value in (2, 9, 14, 26, 50, 55, 59, 61, 79, 92, 115)}
    assert ct == {
        2: "kidney_right",
        9: "adrenal_gland_left",
        14: "lung_lower_lobe_right",
        26: "vertebrae_S1",
        50: "vertebrae_C1",
        55: "subclavian_artery_right",
        59: "brachiocephalic_vein_left",
        61: "atrial_appendage_left",
        79: "spinal_cord",
        92: "rib_left_1",
        115: "rib_right_12",
    }
    assert {value: MRI_CLASSES[value - 1] for value in (10, 20, 30)} == {
        10: "lung_left",
        20: "intervertebral_discs",
        30: "humerus_left",
    }
    assert all(describe_organ(name, modality="ct").is_known for name in CT_CLASSES)
