"""The three years of KiTS in miniature."""

import dataclasses

import pytest
from miniatures import described

from dataset_conversion import kits

REGIONS = {"kidney": [1, 2, 3], "kidney tumour or cyst": [2, 3], "kidney tumour": 2}


@pytest.fixture
def write_year(tmp_path, save_image, save_labels, monkeypatch):
    """Give a writer of two labeled cases of a year."""

    def write(year: str, *, folder: str = "data"):
        numbers = {"19": (0, 209), "21": (0, 299), "23": (0, 588)}[year]
        monkeypatch.setitem(kits.YEARS, year, dataclasses.replace(kits.YEARS[year], numbers=numbers))
        for number in numbers:
            place = tmp_path / "kits" / folder / f"case_{number:05d}"
            save_image(place / "imaging.nii.gz", begin=number)
            name = "aggregated_MAJ_seg" if year == "21" else "segmentation"
            save_labels(place / f"{name}.nii.gz", (0, 1, 2) if year == "19" else (0, 1, 2, 3))
        return tmp_path / "kits"

    return write


def test_kits19_has_kidney_and_tumour_and_scans_without_labels(write_year, convert_here, save_image):
    source = write_year("19")
    save_image(source / "data" / "case_00210" / "imaging.nii.gz")
    (done,) = convert_here(kits, source)
    assert (done.cases, done.others, done.problems) == (("case_00000", "case_00209"), ("case_00210",), ())
    content = described(done.folder)
    assert (content["name"], content["channel_names"]) == ("kits19", {"0": "CT"})
    assert content["labels"] == {"background": 0, "kidney": [1, 2], "kidney tumour": 2}
    assert content["regions_class_order"] == [1, 2]


@pytest.mark.parametrize(("year", "folder"), [("21", "kits21/data"), ("23", "dataset"), ("23", "")])
def test_kits21_and_kits23_have_the_challenges_regions(write_year, convert_here, read_values, year, folder):
    (done,) = convert_here(kits, write_year(year, folder=folder))
    assert (len(done.cases), done.others, done.problems) == (2, (), ())
    content = described(done.folder)
    assert (content["name"], content["labels"]) == (f"kits{year}", {"background": 0, **REGIONS})
    assert content["regions_class_order"] == [1, 3, 2]
    assert read_values(done.folder / "labelsTr" / "case_00000.nii.gz", 4) == [0, 1, 2, 3]
    assert done.num_links == 4


def test_regions_written_over_each_other_in_order_give_the_labels_back(write_year, convert_here):
    (done,) = convert_here(kits, write_year("23"))
    content = described(done.folder)
    regions = [one for name, one in content["labels"].items() if name != "background"]
    for value in (1, 2, 3):
        written = 0
        for region, code in zip(regions, content["regions_class_order"], strict=True):
            if value in (region if isinstance(region, list) else [region]):
                written = code
        assert written == value


def test_the_year_can_be_said(write_year, convert_here, tmp_path):
    source = write_year("23")
    (source / "data" / "case_00588").rename(tmp_path / "elsewhere")
    (done,) = convert_here(kits, source, year="23")
    assert done.cases == ("case_00000",)
    assert [problem.message[:42] for problem in done.problems] == ["1 of 2 cases are missing: case_00588. Get "]


def test_a_cyst_in_kits19_is_refused_by_name(write_year, convert_here, save_labels):
    source = write_year("19")
    save_labels(source / "data" / "case_00000" / "segmentation.nii.gz", (1, 3))
    (done,) = convert_here(kits, source)
    assert done.cases == ("case_00209",)
    assert "case_00000/segmentation.nii.gz holds 3; expected only 0 and 1 kidney, 2" in done.problems[0].message


def test_scans_that_were_never_downloaded_are_named(write_year, convert_here):
    source = write_year("23")
    (source / "data" / "case_00588" / "imaging.nii.gz").unlink()
    (done,) = convert_here(kits, source)
    assert [(problem.case_id, problem.message[:36]) for problem in done.problems] == [
        ("case_00588", "case_00588/imaging.nii.gz is missing")
    ]
