"""WORD in miniature."""

import shutil

import pytest

from dataset_conversion import word

PARTS = {"Tr": ("word_0002", "word_0005"), "Val": ("word_0001",), "Ts": ("word_0014",)}


@pytest.fixture
def source(tmp_path, save_image, save_labels, monkeypatch):
    monkeypatch.setattr(word, "NUM_CASES", {part: len(names) for part, names in PARTS.items()})
    folder = tmp_path / "WORD-V0.1.0"
    for part, names in PARTS.items():
        for name in names:
            save_image(folder / f"images{part}" / f"{name}.nii.gz")
            save_labels(folder / f"labels{part}" / f"{name}.nii.gz", range(17))
    return folder


def test_parts_become_cases_to_train_on_and_to_test(source, convert_here, read_back, read_values):
    (done,) = convert_here(word, source)
    assert (done.cases, done.others, done.problems) == (("word_0002", "word_0005", "word_0001"), ("word_0014",), ())
    names = {organ.value: organ.name for organ in read_back(done.folder).labels.organs}
    assert (len(names), names[3], names[11], names[16]) == (16, "left kidney", "bowel", "right femoral head")
    assert read_values(done.folder / "labelsTs" / "word_0014.nii.gz", 17) == list(range(17))


def test_without_the_labels_of_the_test_part_its_scans_are_to_predict(source, convert_here):
    shutil.rmtree(source / "labelsTs")
    (done,) = convert_here(word, source)
    assert (done.others, done.problems) == (("word_0014",), ())
    assert not (done.folder / "labelsTs").exists()


def test_fewer_cases_than_published_are_reported(source, convert_here, monkeypatch):
    monkeypatch.setattr(word, "NUM_CASES", {"Tr": 100, "Val": 1, "Ts": 1})
    (done,) = convert_here(word, source)
    (problem,) = done.problems
    assert problem.message.startswith("2 cases of imagesTr are there; expected 100. Ask for it at https://github.com/")
