"""AbdomenCT-1K in miniature."""

import shutil

import pytest

from dataset_conversion import abdomenct1k

PARTS = {1: ("Case_00001", "Case_00002"), 2: ("Case_00500", "Case_00501"), 3: ("Case_01000",)}


@pytest.fixture
def source(tmp_path, save_image, save_labels, monkeypatch):
    monkeypatch.setattr(abdomenct1k, "NUM_MASKS", 4)
    folder = tmp_path / "AbdomenCT-1K"
    for part, names in PARTS.items():
        for name in names:
            save_image(folder / f"AbdomenCT-1K-ImagePart{part}" / f"{name}_0000.nii.gz")
            if name != "Case_00002":
                save_labels(folder / "Mask" / f"{name}.nii.gz", range(5))
    return folder


def test_three_parts_become_one_dataset(source, convert_here, read_back, read_values):
    (done,) = convert_here(abdomenct1k, source)
    assert done.cases == ("Case_00001", "Case_00500", "Case_00501", "Case_01000")
    assert (done.others, done.problems) == (("Case_00002",), ())
    assert [(organ.value, organ.name) for organ in read_back(done.folder).labels.organs] == [
        (1, "liver"),
        (2, "kidneys"),
        (3, "spleen"),
        (4, "pancreas"),
    ]
    assert read_values(done.folder / "labelsTr" / "Case_01000.nii.gz", 5) == list(range(5))


def test_a_part_that_is_missing_is_named_once_with_its_cases(source, convert_here):
    shutil.rmtree(source / "AbdomenCT-1K-ImagePart2")
    (done,) = convert_here(abdomenct1k, source)
    assert done.cases == ("Case_00001", "Case_01000")
    assert [problem.case_id for problem in done.problems] == ["AbdomenCT-1K-ImagePart2", ""]
    assert "the scans of 2 masks with it: Case_00500 to Case_00501. Download" in done.problems[0].message
    assert done.problems[1].message.startswith("2 cases with a mask are there; expected 4.")
