"""The years of BraTS in miniature."""

import dataclasses

import numpy as np
import pytest
from miniatures import described

from autoseg.errors import DatasetError
from autoseg.io.image import read_scan
from dataset_conversion import brats

OLD, NEW = ("_t1", "_t1ce", "_t2", "_flair", "_seg"), ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")


@pytest.fixture
def write_cases(tmp_path, save_image, save_labels, monkeypatch):
    """Give a writer of cases; channel k begins at 1000 k."""

    def write(release: str, names: tuple[str, ...], *, ending: str = ".nii.gz"):
        monkeypatch.setitem(brats.RELEASES, release, dataclasses.replace(brats.RELEASES[release], num_cases=len(names)))
        endings = NEW if release.startswith("brats2023") else OLD
        for name in names:
            folder = tmp_path / "TrainingData" / name
            for channel, one in enumerate(endings[:-1]):
                save_image(folder / f"{name}{one}{ending}", begin=1000 * channel)
            save_labels(folder / f"{name}{endings[-1]}{ending}", (0, 1, 2, 3 if endings is NEW else 4))
        (tmp_path / "TrainingData" / "name_mapping.csv").write_text("Grade")
        return tmp_path / "TrainingData"

    return write


@pytest.mark.parametrize(
    ("release", "name", "ending", "num_links"),
    [
        ("brats2020", "BraTS20_Training_001", ".nii", 0),
        ("brats2021", "BraTS2021_00000", ".nii.gz", 4),
        ("brats2023_gli", "BraTS-GLI-00000-000", ".nii.gz", 5),
        ("brats2023_ped", "BraTS-PED-00002-000", ".nii.gz", 5),
    ],
)
def test_every_year_becomes_the_same_channels_and_labels(
    release, name, ending, num_links, write_cases, convert_here, read_values
):
    (done,) = convert_here(brats, write_cases(release, (name,), ending=ending))
    assert (done.cases, done.problems, done.num_links) == ((name,), (), num_links)
    assert read_values(done.folder / "labelsTr" / f"{name}.nii.gz", 4) == [0, 1, 2, 3]
    for channel in range(4):
        scan = read_scan(done.folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(scan.array_zyx.reshape(-1), np.arange(480) + 1000 * channel)
    content = described(done.folder)
    assert content["name"] == release
    assert content["channel_names"] == {"0": "T1", "1": "T1 with contrast", "2": "T2", "3": "FLAIR"}
    assert content["labels"] == {
        "background": 0,
        "whole tumour": [1, 2, 3],
        "tumour core": [1, 3],
        "enhancing tumour": 3,
    }
    assert content["regions_class_order"] == [2, 1, 3]


def test_scans_of_one_patient_share_it(write_cases, convert_here):
    names = ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001", "BraTS-GLI-00006-000")
    (done,) = convert_here(brats, write_cases("brats2023_gli", names))
    patients = described(done.folder)["patients"]
    assert list(patients.values()) == ["BraTS-GLI-00005", "BraTS-GLI-00005", "BraTS-GLI-00006"]


def test_the_misnamed_segmentation_of_2020_is_found(write_cases, convert_here, read_values):
    name = "BraTS20_Training_355"
    source = write_cases("brats2020", (name,), ending=".nii")
    (source / name / f"{name}_seg.nii").rename(source / name / "W39_1998.09.19_Segm.nii")
    (done,) = convert_here(brats, source)
    assert (done.cases, done.problems) == ((name,), ())
    assert read_values(done.folder / "labelsTr" / f"{name}.nii.gz", 4) == [0, 1, 2, 3]


def test_a_missing_channel_and_fewer_cases_are_reported(write_cases, convert_here, monkeypatch):
    source = write_cases("brats2021", ("BraTS2021_00000", "BraTS2021_00002"))
    monkeypatch.setitem(brats.RELEASES, "brats2021", dataclasses.replace(brats.RELEASES["brats2021"], num_cases=1251))
    (source / "BraTS2021_00002" / "BraTS2021_00002_t1ce.nii.gz").unlink()
    (done,) = convert_here(brats, source)
    assert [(problem.case_id, problem.message[:50]) for problem in done.problems] == [
        ("BraTS2021_00002", "BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz is mis"),
        ("", "2 cases are there; expected 1251. Register for the"),
    ]


def test_two_releases_in_one_folder_and_the_folder_above_are_reported(write_cases, convert_here):
    source = write_cases("brats2021", ("BraTS2021_00000",))
    with pytest.raises(DatasetError, match=r"Did you mean the folder 'TrainingData' inside it\?"):
        convert_here(brats, source.parent)
    write_cases("brats2023_gli", ("BraTS-GLI-00000-000",))
    with pytest.raises(DatasetError) as caught:
        convert_here(brats, source)
    assert [problem.case_id for problem in caught.value.problems] == ["brats2021", "brats2023_gli"]


def test_a_value_of_another_year_is_refused(write_cases, convert_here, save_labels):
    source = write_cases("brats2023_gli", ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000"))
    save_labels(source / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz", (1, 2, 4))
    (done,) = convert_here(brats, source)
    assert done.cases == ("BraTS-GLI-00000-000",)
    assert "BraTS-GLI-00001-000-seg.nii.gz holds 4; expected only 0 and" in done.problems[0].message
