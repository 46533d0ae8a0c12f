"""FLARE22 in miniature."""

import pytest

from dataset_conversion import flare22


@pytest.fixture
def source(tmp_path, save_image, save_labels, monkeypatch):
    assert (len(flare22.CASES), flare22.CASES[0], flare22.CASES[-1]) == (50, "FLARE22_Tr_0001", "FLARE22_Tr_0050")
    monkeypatch.setattr(flare22, "CASES", flare22.CASES[:5])
    folder = tmp_path / "FLARE22Train"
    for name in flare22.CASES:
        save_image(folder / "images" / f"{name}_0000.nii.gz")
        save_labels(folder / "labels" / f"{name}.nii.gz", range(14))
    return folder


def test_cases_become_a_dataset(source, convert_here, read_back, read_values):
    (done,) = convert_here(flare22, source)
    assert (len(done.cases), done.cases[0], done.num_links, done.problems) == (5, "FLARE22_Tr_0001", 10, ())
    dataset = read_back(done.folder)
    assert {organ.value: organ.name for organ in dataset.labels.organs if organ.value in (1, 2, 8, 13)} == {
        1: "liver",
        2: "right kidney",
        8: "left adrenal gland",
        13: "left kidney",
    }
    assert read_values(done.folder / "labelsTr" / "FLARE22_Tr_0005.nii.gz", 14) == list(range(14))


def test_absent_damaged_and_incomplete_cases_are_named(source, convert_here):
    for number in (1, 2, 3):
        (source / "images" / f"FLARE22_Tr_000{number}_0000.nii.gz").unlink()
        if number != 3:
            (source / "labels" / f"FLARE22_Tr_000{number}.nii.gz").unlink()
    path = source / "images" / "FLARE22_Tr_0004_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:300])
    (done,) = convert_here(flare22, source)
    assert len(done.cases) == 1
    assert [problem.case_id for problem in done.problems] == ["FLARE22_Tr_0003", "", "FLARE22_Tr_0004"]
    reported = [problem.message for problem in done.problems]
    assert reported[0].startswith("images/FLARE22_Tr_0003_0000.nii.gz is missing.")
    assert reported[1].startswith("2 of 5 cases are missing: FLARE22_Tr_0001 to FLARE22_Tr_0002.")
    assert "images/FLARE22_Tr_0004_0000.nii.gz" in reported[2]
