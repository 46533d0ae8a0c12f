"""The conversion of any folder of masks, on a folder that the test makes."""

import json

import numpy as np
import pytest
from miniatures import described, labels_of, messages_of, run

from autoseg.datasets.dataset import read_dataset
from autoseg.errors import DatasetError, UsageError
from autoseg.io.image import read_label_names
from dataset_conversion import one_file_per_organ
from dataset_conversion.one_file_per_organ import main

SHAPE = (3, 4, 5)
RAMP = np.arange(60, dtype=np.int16).reshape(SHAPE)


def mask(*voxels: int) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.uint8)
    array.reshape(-1)[list(voxels)] = 1
    return array


@pytest.fixture
def source(tmp_path, save_scan):
    organs = {"a": {"liver": mask(1, 2, 3), "tumour": mask(3)}, "b": {"liver": mask(7), "spleen": mask(8, 9) * 255}}
    for case, masks in organs.items():
        save_scan(tmp_path / "source" / case / "ct.nii.gz", RAMP)
        for name, array in masks.items():
            save_scan(tmp_path / "source" / case / "segmentations" / f"{name}.nii.gz", array)
    return tmp_path / "source"


def test_masks_become_one_label_map(source, tmp_path):
    done = run(one_file_per_organ, source, tmp_path / "out")
    assert done.cases == ("a", "b") and done.num_links == 2
    assert labels_of(tmp_path / "out", "a").ravel()[:5].tolist() == [0, 1, 1, 3, 0]  # liver 1, spleen 2, tumour 3
    assert labels_of(tmp_path / "out", "b").ravel()[6:11].tolist() == [0, 1, 2, 2, 0]
    assert read_label_names(tmp_path / "out" / "labelsTr" / "a.nii.gz") == {1: "liver", 2: "spleen", 3: "tumour"}
    assert [(problem.case_id, problem.message[:50], problem.is_error) for problem in done.problems] == [
        ("", "1 of 2 cases lack 'spleen': it counts as not there", False),
        ("", "1 of 2 cases lack 'tumour': it counts as not there", False),
        ("a", "voxels that two organs hold go to the smaller one:", False),
    ]
    assert "annotated_labels" not in described(tmp_path / "out")
    assert [problem for problem in read_dataset(tmp_path / "out").problems if problem.is_error] == []


def test_missing_is_unknown_says_what_was_looked_for(source, tmp_path):
    done = run(one_file_per_organ, source, tmp_path / "out", missing_is_unknown=True)
    content = described(tmp_path / "out")
    assert content["annotated_labels"] == {"a": ["liver", "tumour"], "b": ["liver", "spleen"]}
    assert [problem.case_id for problem in done.problems] == ["a"]


def test_a_file_of_labels_chooses_and_unites(source, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"abdomen": ["Spleen", "liver"]}))
    done = run(one_file_per_organ, source, tmp_path / "out", labels=tmp_path / "labels.json")
    assert labels_of(tmp_path / "out", "a").ravel()[:5].tolist() == [0, 1, 1, 1, 0]
    assert labels_of(tmp_path / "out", "b").ravel()[6:11].tolist() == [0, 1, 1, 1, 0]
    assert [problem.message for problem in done.problems] == ["left out, since no label takes them: tumour."]
    (tmp_path / "labels.json").write_text(json.dumps({"abdomen": ["Spleen", "tumour"]}))  # another choice
    assert run(one_file_per_organ, source, tmp_path / "out", labels=tmp_path / "labels.json").num_kept == 0
    assert labels_of(tmp_path / "out", "a").ravel()[:5].tolist() == [0, 0, 0, 1, 0]


def test_other_places_and_several_channels(tmp_path, save_scan):
    source = tmp_path / "source"
    for channel in ("t1", "t2"):
        save_scan(source / "scans" / f"p1_{channel}.nii.gz", RAMP)
    save_scan(source / "masks" / "p1" / "brain.nii", mask(4))
    options = ["--image", "scans/{case}_t1.nii.gz", "scans/{case}_t2.nii.gz", "--channel", "T1", "T2"]
    assert main([str(source), str(tmp_path / "out"), *options, "--masks", "masks/{case}"]) == 0
    assert described(tmp_path / "out")["channel_names"] == {"0": "T1", "1": "T2"}
    assert labels_of(tmp_path / "out", "p1").ravel()[4] == 1


def test_the_image_beside_its_masks_is_no_mask(tmp_path, save_scan):
    save_scan(tmp_path / "source" / "p1" / "ct.nii.gz", RAMP)
    save_scan(tmp_path / "source" / "p1" / "brain.nii.gz", mask(4))
    assert run(one_file_per_organ, tmp_path / "source", tmp_path / "out", masks="{case}").num_organs == 1


def test_a_mask_whose_axes_run_otherwise_is_turned(source, tmp_path, save_scan):
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = 4.0
    save_scan(source / "a" / "segmentations" / "liver.nii.gz", mask(0)[:, :, ::-1], affine=flipped)
    run(one_file_per_organ, source, tmp_path / "out")
    assert np.flatnonzero(labels_of(tmp_path / "out", "a").ravel() == 1).tolist() == [0]


@pytest.mark.parametrize(
    ("array", "words"),
    [(np.ones((3, 4, 6), np.uint8), "segmentations/liver.nii.gz: image and label differ in shape"),
     (mask(1) + mask(1, 2), "holds more than one value beside 0")],
)  # fmt: skip
def test_what_is_no_mask_of_the_image_is_a_problem_of_its_case(source, tmp_path, save_scan, array, words):
    save_scan(source / "a" / "segmentations" / "liver.nii.gz", array)
    done = run(one_file_per_organ, source, tmp_path / "out")
    assert done.cases == ("b",)
    assert any(problem.case_id == "a" and words in problem.message for problem in done.problems)


def test_incomplete_and_foreign_sources_are_reported(source, tmp_path, save_scan):
    save_scan(source / "c" / "ct.nii.gz", RAMP)
    (source / "d" / "segmentations").mkdir(parents=True)
    save_scan(source / "d" / "ct.nii.gz", RAMP)
    done = run(one_file_per_organ, source, tmp_path / "out")
    reported = messages_of(done)
    assert reported["c"] == "c/segmentations is missing. Copy or download it again."
    assert reported["d"].startswith("its folder holds no mask of an organ.")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected <case>/ct.nii.gz and .*Name the places with --image and --masks"):
        run(one_file_per_organ, tmp_path / "empty", tmp_path / "out2")


@pytest.mark.parametrize("options", [{"masks": "seg"}, {"image": ["ct.nii.gz"]}, {"channel": ["T1", "T2"]}])
def test_templates_and_channels_must_fit(source, tmp_path, options):
    with pytest.raises(UsageError, match="expected"):
        run(one_file_per_organ, source, tmp_path / "out", **options)
