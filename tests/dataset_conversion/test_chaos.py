"""The conversion on a miniature with CT, both phases of T1 and T2."""

import shutil

import numpy as np
import pytest
from dicom_makers import save_slices
from miniatures import described, image_of, labels_of, messages_of, run_all
from PIL import Image

from dataset_conversion import chaos
from dataset_conversion.chaos import main

SHAPE = (5, 6, 7)
LIVER = np.zeros(SHAPE, bool)
LIVER[0:2, 1, 2:5] = True
LIVER[0, 2, 2] = True  # in the two lowest slices, an L, so that no flip leaves it as it is
MR_GREYS = {1: 63, 2: 126, 3: 189, 4: 252}
MR_LABELS = np.zeros(SHAPE, np.uint8)
MR_LABELS[4, 1, 1:5] = (1, 2, 3, 4)
CT = np.where(LIVER, 100, np.arange(210).reshape(SHAPE) * 7 - 900).astype(np.int16)


def save_pngs(folder, pictures, names):
    folder.mkdir(parents=True, exist_ok=True)
    for picture, name in zip(pictures, names, strict=True):
        Image.fromarray(picture).save(folder / name)


def add_ct(train, number, *, downwards=True, with_labels=True, form="i"):
    """Write a CT whose files run from the head down, as the source's do, or upwards."""
    order = range(SHAPE[0])[::-1] if downwards else range(SHAPE[0])
    names = [f"i{k:04d},0000b.dcm" if form == "i" else f"IMG-0003-{k + 1:05d}.dcm" for k in order]
    save_slices(train / "CT" / str(number) / "DICOM_anon", CT, names=names, own_series=True)
    if with_labels:
        pictures = LIVER[::-1] if downwards else LIVER
        pngs = [f"liver_GT_{k:03d}.png" for k in range(SHAPE[0])]
        save_pngs(train / "CT" / str(number) / "Ground", pictures, pngs)


def add_mr(train, number, *, with_labels=True):
    greys = np.zeros(256, np.uint8)
    greys[list(MR_GREYS)] = list(MR_GREYS.values())
    pictures = greys[MR_LABELS]
    folder = train / "MR" / str(number)
    evens, odds = ([f"IMG-0004-{2 * k + first:05d}" for k in range(SHAPE[0])] for first in (2, 1))
    t2 = [f"IMG-0002-{k + 1:05d}" for k in range(SHAPE[0])]
    for place, names, begin in (
        ("T1DUAL/DICOM_anon/InPhase", evens, 0),
        ("T1DUAL/DICOM_anon/OutPhase", odds, 1000),
        ("T2SPIR/DICOM_anon", t2, 2000),
    ):
        array = np.arange(210).reshape(SHAPE) + begin
        save_slices(folder / place, array, modality="MR", own_series=True, names=[f"{name}.dcm" for name in names])
    if with_labels:
        save_pngs(folder / "T1DUAL" / "Ground", pictures, [f"{name}.png" for name in evens])
        save_pngs(folder / "T2SPIR" / "Ground", pictures, [f"{name}.png" for name in t2])


@pytest.fixture
def source(tmp_path):
    train = tmp_path / "source" / "Train_Sets"
    add_ct(train, 1)
    add_ct(train, 21, form="IMG")
    add_mr(train, 3)
    add_ct(tmp_path / "source" / "Test_Sets", 4, with_labels=False)
    return tmp_path / "source"


def test_pictures_of_ct_go_to_the_slices_of_their_files(source, tmp_path):
    ct, mr = run_all(chaos, source, tmp_path / "out")
    reported = messages_of(ct, mr)
    assert (ct.cases, ct.others) == (("ct_1", "ct_21"), ("ct_4",))
    for case in ct.cases:
        np.testing.assert_array_equal(image_of(ct.folder, case), CT)
        np.testing.assert_array_equal(labels_of(ct.folder, case), LIVER)
    content = described(tmp_path / "out" / "ct")
    assert content["labels"] == {"background": 0, "liver": 1} and content["channel_names"] == {"0": "CT"}
    assert set(reported) == {""}


def test_mr_has_four_organs_and_three_cases_a_patient(source, tmp_path):
    _, mr = run_all(chaos, source, tmp_path / "out")
    assert mr.cases == ("mr_3_t1_in", "mr_3_t1_out", "mr_3_t2")
    for case, begin in zip(mr.cases, (0, 1000, 2000), strict=True):
        assert image_of(mr.folder, case).min() == begin
        np.testing.assert_array_equal(labels_of(mr.folder, case), MR_LABELS)
    content = described(tmp_path / "out" / "mr")
    assert content["labels"] == {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
    assert set(content["patients"].values()) == {"mr_3"} and content["channel_names"] == {"0": "MRI"}


def test_files_that_run_upwards_are_paired_by_their_names_too(tmp_path):
    add_ct(tmp_path / "source", 1, downwards=False)
    run_all(chaos, tmp_path / "source", tmp_path / "out")
    np.testing.assert_array_equal(labels_of(tmp_path / "out", "ct_1"), LIVER)


def test_a_case_that_would_fit_better_the_other_way_round_is_reported(source, tmp_path):
    folder = source / "Train_Sets" / "CT" / "1" / "Ground"
    shutil.rmtree(folder)
    save_pngs(folder, LIVER, [f"liver_GT_{k:03d}.png" for k in range(SHAPE[0])])
    reported = messages_of(*run_all(chaos, source, tmp_path / "out"))
    assert reported["ct_1"].startswith("its labels would fit better in the opposite order of slices (a spread of 0 in")


def test_what_is_missing_or_unusual_is_reported_by_case(source, tmp_path, capsys):
    train = source / "Train_Sets"
    (train / "CT" / "1" / "Ground" / "liver_GT_002.png").unlink()
    shutil.rmtree(train / "CT" / "21" / "Ground")
    ground = train / "MR" / "3" / "T2SPIR" / "Ground"
    (ground / "IMG-0002-00003.png").rename(ground / "IMG-0002-00009.png")
    save_pngs(train / "MR" / "3" / "T1DUAL" / "Ground", [np.full((6, 7), 30, np.uint8)], ["IMG-0004-00002.png"])
    assert main([str(source), str(tmp_path / "out")]) == 3
    reported = capsys.readouterr().err
    assert "ct_1 " in reported and "1/Ground holds 4 pictures for 5 slices. Download the case again." in reported
    assert "Ground holds no PNG picture. Download it again." in reported
    assert "Ground/IMG-0002-00004.png has no slice of its name." in reported
    assert "T1DUAL/Ground: 42 of 46 pixels have a grey that stands for no organ, such as 30." in reported
    assert "2 patients of Train_Sets/CT are there; expected 20. Download it from https://chaos" in reported


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:40]), "cannot be read as a PNG picture"),
        (lambda path: path.write_bytes(b"<html>"), "cannot be read as a PNG picture"),
        (lambda path: Image.new("L", (4000, 4000)).save(path), "has 4000 x 4000 pixels; expected 7 x 6"),
    ],
)
def test_a_damaged_picture_is_a_problem_of_its_case(source, tmp_path, damage, message):
    damage(source / "Train_Sets" / "CT" / "1" / "Ground" / "liver_GT_002.png")
    ct, mr = run_all(chaos, source, tmp_path / "out")
    reported = messages_of(ct, mr)
    assert message in reported["ct_1"] and ct.cases == ("ct_21",)
