import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from autoseg.datasets.dataset import Organ, read_channels, read_dataset
from autoseg.errors import DatasetError, Problem

VOLUME = np.zeros((2, 3, 4), dtype=np.uint8)
LABELS = {"background": 0, "liver": 1, "spleen": 2}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, save_scan: Callable[..., Path]) -> Make:
    """Give a maker of datasets: scan paths, and the content of dataset.json (None: no such file)."""

    def make_dataset(*scans: str, content: Any = None, file: str = "dataset.json") -> Path:
        for name in scans:
            save_scan(tmp_path / name, VOLUME)
        if content is not None:
            (tmp_path / file).write_text(json.dumps(content))
        return tmp_path

    return make_dataset


def nnunet(**more: Any) -> dict[str, Any]:
    return {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", **more}


def messages(problems: tuple[Problem, ...], case_id: str) -> str:
    return " | ".join(problem.message for problem in problems if problem.case_id == case_id)


# layouts


def test_read_dataset_nnunet_layout(make: Make) -> None:
    root = make(
        *("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/b_0000.nii.gz"),
        *("labelsTr/a.nii.gz", "labelsTr/b.nii.gz"),
        content=nnunet(name="two", channel_names={"1": "T2", "0": "T1"}, patients={"a": "p", "b": "p"}),
    )
    dataset = read_dataset(root)
    assert (dataset.name, dataset.root, dataset.channel_names) == ("two", root, ("T1", "T2"))
    assert dataset.labels.organs == (Organ("liver", 1), Organ("spleen", 2))
    assert dataset.problems == ()
    assert [case.case_id for case in dataset.cases] == ["a", "b"]
    assert [path.name for path in dataset.cases[1].image_paths] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert dataset.cases[1].label_path == root / "labelsTr/b.nii.gz"
    assert [case.patient_id for case in dataset.cases] == ["p", "p"]


def test_read_dataset_msd_layout_with_old_names(make: Make) -> None:
    training = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"]
    root = make(
        *(f"{folder}/{name}.nii.gz" for folder in ("imagesTr", "labelsTr") for name in "ab"),
        content={
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "2": "tumour", "1": "liver"},
            "training": training,
        },
    )
    dataset = read_dataset(root)
    assert dataset.labels.organs == (Organ("liver", 1), Organ("tumour", 2))
    assert dataset.channel_names == ("MRI",)
    assert [case.image_paths for case in dataset.cases] == [
        (root / "imagesTr/a.nii.gz",),
        (root / "imagesTr/b.nii.gz",),
    ]
    assert dataset.cases[0].patient_id == "a"


def test_read_dataset_msd_4d_image_gives_a_volume_a_channel(make: Make) -> None:
    root = make(
        "labelsTr/a.nii.gz",
        content={
            "modality": {"0": "FLAIR", "1": "T1"},
            "labels": LABELS,
            "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}],
        },
    )
    (root / "imagesTr").mkdir()
    both = np.stack([VOLUME.transpose() + 3, VOLUME.transpose() + 8], axis=-1)
    nib.save(nib.Nifti1Image(both, np.eye(4)), root / "imagesTr/a.nii.gz")
    case = read_dataset(root).cases[0]
    assert case.image_paths == (root / "imagesTr/a.nii.gz",) * 2
    assert case.volumes == (0, 1)
    assert [(scan.array_zyx.shape, scan.array_zyx.max()) for scan in read_channels(case)] == [
        ((2, 3, 4), 3),
        ((2, 3, 4), 8),
    ]


def test_read_dataset_4d_image_with_other_number_of_volumes_is_refused(make: Make) -> None:
    root = make("images/a.nii.gz", "labels/a.nii.gz", content=nnunet(channel_names={"0": "FLAIR", "1": "T1"}))
    with pytest.raises(DatasetError) as caught:
        read_dataset(root)
    assert "holds 1 volumes; expected 2 channels (FLAIR, T1)" in messages(caught.value.problems, "a")


def test_read_dataset_first_nnunet_list_finds_numbered_files(make: Make) -> None:
    root = make(
        *("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"),
        content={
            "modality": {"0": "T1", "1": "T2"},
            "labels": LABELS,
            "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        },
    )
    assert [path.name for path in read_dataset(root).cases[0].image_paths] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_read_dataset_plain_layout_takes_any_names(make: Make) -> None:
    names = ("scan 1", "scan_0001", "日本")
    root = make(
        *(f"{folder}/{name}.nii" for folder in ("images", "labels") for name in names),
        content={"liver": 1},
        file="labels.json",
    )
    dataset = read_dataset(root)
    assert [case.case_id for case in dataset.cases] == sorted(names)
    assert dataset.labels.organs == (Organ("liver", 1),)
    assert dataset.channel_names == ("unknown",)
    assert [problem.is_error for problem in dataset.problems] == [False]  # the channel has no name


def test_read_dataset_plain_layout_with_numbered_channels(make: Make) -> None:
    root = make(
        "images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz", content={"liver": 1}, file="labels.json"
    )
    dataset = read_dataset(root)
    assert dataset.channel_names == ("unknown", "unknown")
    assert len(dataset.cases[0].image_paths) == 2


def test_read_dataset_without_names_finds_the_values(tmp_path: Path, save_scan: Callable[..., Path]) -> None:
    for name, values in (("a", [0, 7]), ("b", [0, 300])):
        labels = np.array(values, dtype=np.int16).reshape(1, 1, 2)
        save_scan(tmp_path / f"images/{name}.nii.gz", labels)
        save_scan(tmp_path / f"labels/{name}.nii.gz", labels)
    dataset = read_dataset(tmp_path)
    assert dataset.labels.organs == (Organ("label 7", 7), Organ("label 300", 300))
    assert any("no names of labels" in problem.message and not problem.is_error for problem in dataset.problems)


# problems of cases


def test_read_dataset_collects_every_problem_and_keeps_the_good_cases(make: Make) -> None:
    root = make(
        *("imagesTr/good_0000.nii.gz", "imagesTr/good_0001.nii.gz", "labelsTr/good.nii.gz"),
        *("imagesTr/one_0001.nii.gz", "labelsTr/one.nii.gz"),
        *(
            "imagesTr/three_0000.nii.gz",
            "imagesTr/three_0001.nii.gz",
            "imagesTr/three_0002.nii.gz",
            "labelsTr/three.nii.gz",
        ),
        *("imagesTr/nolabel_0000.nii.gz", "imagesTr/nolabel_0001.nii.gz"),
        "labelsTr/noimage.nii.gz",
        *("imagesTr/Twin_0000.nii.gz", "imagesTr/Twin_0001.nii.gz", "labelsTr/Twin.nii.gz"),
        *("imagesTr/twin_0000.nii.gz", "imagesTr/twin_0001.nii.gz", "labelsTr/twin.nii.gz"),
        *("imagesTr/mixed.nii.gz", "imagesTr/mixed_0001.nii.gz", "labelsTr/mixed.nii.gz"),
        *("imagesTr/link_0001.nii.gz", "labelsTr/link.nii.gz", "imagesTr/folder_0001.nii.gz", "labelsTr/folder.nii.gz"),
        *("imagesTr/._hidden_0000.nii.gz", "imagesTr/old.nii"),
        content=nnunet(channel_names={"0": "T1", "1": "T2"}),
    )
    (root / "imagesTr/link_0000.nii.gz").symlink_to("nowhere.nii.gz")
    (root / "imagesTr/folder_0000.nii.gz").mkdir()
    (root / "imagesTr/notes.txt").write_text("x")

    dataset = read_dataset(root)
    found = dataset.problems
    assert [case.case_id for case in dataset.cases] == ["good"]
    assert messages(found, "good") == ""
    assert messages(found, "one") == "channel 0000 (T1) is missing. Add it, or take it out of channel_names."
    assert messages(found, "three") == "channel 0002 is there, but channel_names has only 2. Add its name."
    assert "an image but no label" in messages(found, "nolabel")
    assert "a label but no image" in messages(found, "noimage")
    assert "'twin' only in upper and lower case" in messages(found, "Twin")
    assert "'Twin' only in upper and lower case" in messages(found, "twin")
    assert "with and without a channel number" in messages(found, "mixed")
    assert "link_0000.nii.gz is a link to a file that does not exist" in messages(found, "link")
    assert "folder_0000.nii.gz is a folder" in messages(found, "folder")
    assert "notes.txt" in messages(found, "")
    assert {problem.case_id for problem in found if problem.is_error} == {
        *("one", "three", "nolabel", "noimage", "Twin", "twin", "mixed", "link", "folder")
    }


def test_read_dataset_two_files_of_one_channel_or_label_are_named(make: Make) -> None:
    content = nnunet()
    del content["file_ending"]
    root = make(
        *("imagesTr/a_0000.nii.gz", "imagesTr/a_0000.nii", "labelsTr/a.nii.gz"),
        *("imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz", "labelsTr/b.nii"),
        *("imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz"),
        content=content,
    )
    dataset = read_dataset(root)
    assert [case.case_id for case in dataset.cases] == ["c"]
    assert "2 files for channel 0000: a_0000.nii, a_0000.nii.gz" in messages(dataset.problems, "a")
    assert "2 label files" in messages(dataset.problems, "b")


@pytest.mark.parametrize(
    "path",
    ["../out.nii.gz", "/etc/a.nii.gz", "imagesTr/../../a.nii.gz", "..\\a.nii.gz", "C:\\a.nii.gz", "\\\\host\\a.nii.gz"],
)
def test_read_dataset_path_out_of_the_folder_is_refused(make: Make, path: str) -> None:
    good = {"image": "imagesTr/good.nii.gz", "label": "labelsTr/good.nii.gz"}
    root = make(
        *good.values(),
        content=nnunet(
            training=[good, {"image": path, "label": good["label"]}, {"image": "imagesTr/x.nii.gz", "label": path}]
        ),
    )
    dataset = read_dataset(root)
    assert [case.case_id for case in dataset.cases] == ["good"]
    assert sum("leads out of the dataset's folder" in problem.message for problem in dataset.problems) == 2


def test_read_dataset_msd_missing_and_double_entries(make: Make) -> None:
    good = {"image": "imagesTr/good.nii.gz", "label": "labelsTr/good.nii.gz"}
    twice = {"image": "imagesTr/twice.nii.gz", "label": "labelsTr/twice.nii.gz"}
    absent = {"image": "imagesTr/absent.nii.gz", "label": "labelsTr/good.nii.gz"}
    root = make(*good.values(), *twice.values(), content=nnunet(training=[good, twice, twice, absent]))
    dataset = read_dataset(root)
    assert [case.case_id for case in dataset.cases] == ["good"]
    assert "2 files for its image" in messages(dataset.problems, "twice")
    assert "absent.nii.gz does not exist" in messages(dataset.problems, "absent")


def test_read_dataset_pipe_among_the_images_does_not_hang(make: Make) -> None:
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz", content=nnunet())
    os.mkfifo(root / "imagesTr/b_0000.nii.gz")
    assert "is a pipe" in messages(read_dataset(root).problems, "b")


# names


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            {"background": 0, "whole": [1, 2]},
            "the values 1 and 2 lie in the same regions (whole), so nothing tells them",
        ),
        ({"liver": 1, "spleen": 1}, "share the value 1"),
        ({"liver": 1, "ignore": 1}, "share the value 1"),
        ({"liver": 1, "ignore": 2, "Ignore": 3}, "the values 2 and 3 are both called ignore"),
        ({"liver": 1, "Liver": 2}, "'Liver' occurs twice"),
        ({"0": "background", "1": "liver", "2": "liver"}, "'liver' occurs twice"),
        ({"": 1}, "value 1 has the name ''"),
        ({"1": " "}, "value 1 has the name ' '"),
        ({"liver": -1}, "expected 0 to 65535"),
        ({"liver": 65536}, "expected 0 to 65535"),
        ({"liver": 1.5}, "expected 0 to 65535"),
        ({"liver": True}, "expected 0 to 65535"),
        ({"liver": None}, "expected 0 to 65535"),
        ({"background": 1}, "background has the value 1"),
        (["liver"], "expected an object"),
    ],
)
def test_read_dataset_labels_that_cannot_be_are_refused_with_all_problems(make: Make, labels: Any, words: str) -> None:
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz", content=nnunet(labels=labels))
    with pytest.raises(DatasetError) as caught:
        read_dataset(root)
    assert words in messages(caught.value.problems, "")
    assert "a label but no image" in messages(caught.value.problems, "b")


def test_read_dataset_region_of_one_value_is_that_value(make: Make) -> None:
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", content=nnunet(labels={"liver": [1], "spleen": 2}))
    assert [organ.value for organ in read_dataset(root).labels.organs] == [1, 2]


def test_read_dataset_unusual_names_give_warnings(make: Make) -> None:
    labels = {"liver": 0, "kidney left": 1, "left_kidney": 2, "x" * 300: 3, "ignore": 9}
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", content=nnunet(labels=labels))
    dataset = read_dataset(root)
    text = messages(dataset.problems, "")
    assert not any(problem.is_error for problem in dataset.problems)
    assert "value 0 is called 'liver'" in text
    assert "'kidney left' and 'left_kidney' read as the same organ" in text
    assert "has 300 characters" in text
    assert dataset.labels.ignore_value == 9
    assert [len(organ.name) for organ in dataset.labels.organs] == [11, 11, 200]


def test_read_dataset_descriptions_reach_their_organ(make: Make) -> None:
    texts = {"Liver": " The liver lies on the right. ", "splen": "?"}
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", content=nnunet(descriptions=texts))
    dataset = read_dataset(root)
    assert dataset.labels.organs == (Organ("liver", 1, "The liver lies on the right."), Organ("spleen", 2))
    assert "'splen', which is not a label. Did you mean 'spleen'?" in messages(dataset.problems, "")


@pytest.mark.parametrize("names", [{"0": "CT", "2": "PET"}, {}, {"0": ""}, 7, {str(i): "a" for i in range(33)}])
def test_read_dataset_channel_names_that_cannot_be_are_refused(make: Make, names: Any) -> None:
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", content=nnunet(channel_names=names))
    with pytest.raises(DatasetError, match="channel_names"):
        read_dataset(root)


# nothing usable


def test_read_dataset_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="absent does not exist"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match="holds no dataset: expected imagesTr/ and labelsTr/"):
        read_dataset(tmp_path)


def test_read_dataset_parent_folder_names_the_dataset_inside(make: Make) -> None:
    root = make("Task04/imagesTr/a.nii.gz", "Task04/labelsTr/a.nii.gz")
    with pytest.raises(DatasetError, match="Did you mean the folder 'Task04' inside it"):
        read_dataset(root)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"labels": {"a": 1, "a": 2}}', '{"labels": {"a": NaN}}', "\xff", "[" * 100000]
)
def test_read_dataset_damaged_json_is_refused(make: Make, text: str) -> None:
    root = make("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (root / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"dataset\.json|recursion"):
        read_dataset(root)


def test_read_dataset_no_usable_case_carries_all_problems(make: Make) -> None:
    root = make("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/c.nii.gz", content=nnunet())
    with pytest.raises(DatasetError, match="0 of 3 cases can be used") as caught:
        read_dataset(root)
    assert [problem.case_id for problem in caught.value.problems] == ["a", "b", "c"]


def test_read_dataset_no_label_folder_other_ending_or_no_organ_is_refused(make: Make) -> None:
    root = make("imagesTr/a_0000.nii.gz", content=nnunet())
    with pytest.raises(DatasetError, match="labelsTr cannot be listed"):
        read_dataset(root)
    make("labelsTr/a.nii.gz", content=nnunet(labels={"background": 0}))
    with pytest.raises(DatasetError, match="no labels but the background"):
        read_dataset(root)
    make(content=nnunet(file_ending=".png"))
    with pytest.raises(DatasetError, match=r"file_ending is '\.png'; expected one of \.nii\.gz, \.nii"):
        read_dataset(root)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num_cases", "num_channels", "num_organs"),
    [("hippocampus_mri", 200, 1, 2), ("left_atrium_mri", 20, 1, 1), ("brain_tumour_mri", 4, 2, 4)],
)
def test_read_dataset_real_sets_have_no_problem(
    real_data: Path, name: str, num_cases: int, num_channels: int, num_organs: int
) -> None:
    dataset = read_dataset(real_data / name)
    assert dataset.problems == ()
    assert (len(dataset.cases), len(dataset.channel_names), len(dataset.labels.organs)) == (
        num_cases,
        num_channels,
        num_organs,
    )
