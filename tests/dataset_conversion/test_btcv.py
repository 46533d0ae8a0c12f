"""BTCV in miniature."""

import pytest

from dataset_conversion import btcv


@pytest.fixture
def source(tmp_path, save_image, save_labels, monkeypatch):
    assert (len(btcv.NUMBERS), btcv.NUMBERS[9], btcv.NUMBERS[10], btcv.NUMBERS[29]) == (30, "0010", "0021", "0040")
    monkeypatch.setattr(btcv, "NUMBERS", ("0003", "0010", "0021", "0040"))
    folder = tmp_path / "RawData"
    for number in btcv.NUMBERS:
        save_image(folder / "Training" / "img" / f"img{number}.nii.gz")
        save_labels(folder / "Training" / "label" / f"label{number}.nii.gz", range(14))
    save_image(folder / "Testing" / "img" / "img0061.nii.gz")
    return folder


def test_labeled_cases_and_the_test_scans(source, convert_here, read_back, read_values):
    (done,) = convert_here(btcv, source)
    assert (len(done.cases), done.others, done.problems) == (4, ("btcv_0061",), ())
    assert done.cases[1:3] == ("btcv_0010", "btcv_0021")
    names = {organ.value: organ.name for organ in read_back(done.folder).labels.organs}
    assert (len(names), names[2], names[10]) == (13, "right kidney", "portal vein and splenic vein")
    assert read_values(done.folder / "labelsTr" / "btcv_0040.nii.gz", 14) == list(range(14))


def test_missing_files_are_named(source, convert_here):
    (source / "Training" / "label" / "label0003.nii.gz").unlink()
    for part, name in (("img", "img0021"), ("label", "label0021")):
        (source / "Training" / part / f"{name}.nii.gz").unlink()
    (done,) = convert_here(btcv, source)
    assert len(done.cases) == 2
    assert [problem.message[:40] for problem in done.problems] == [
        "Training/label/label0003.nii.gz is missi",
        "1 of 4 cases are missing: 0021. Download",
    ]
