"""The Medical Segmentation Decathlon in miniature."""

import json
from pathlib import Path

import numpy as np
import pytest
from miniatures import described

from autoseg.errors import DatasetError
from autoseg.io.image import read_scan
from dataset_conversion import msd

PUBLISHED = {  # as the ten dataset.json have them: channels, labels from 1 on, name of a case
    "Task01_BrainTumour": (
        ["FLAIR", "T1w", "t1gd", "T2w"],
        ["edema", "non-enhancing tumor", "enhancing tumour"],
        "BRATS_001",
    ),
    "Task02_Heart": (["MRI"], ["left atrium"], "la_003"),
    "Task03_Liver": (["CT"], ["liver", "cancer"], "liver_0"),
    "Task04_Hippocampus": (["MRI"], ["Anterior", "Posterior"], "hippocampus_001"),
    "Task05_Prostate": (["T2", "ADC"], ["PZ", "TZ"], "prostate_00"),
    "Task06_Lung": (["CT"], ["cancer"], "lung_001"),
    "Task07_Pancreas": (["CT"], ["pancreas", "cancer"], "pancreas_001"),
    "Task08_HepaticVessel": (["CT"], ["Vessel", "Tumour"], "hepaticvessel_001"),
    "Task09_Spleen": (["CT"], ["spleen"], "spleen_10"),
    "Task10_Colon": (["CT"], ["colon cancer primaries"], "colon_001"),
}


@pytest.fixture
def write_task(tmp_path, save_image, save_labels):
    """Give a writer of one task with one case, one test scan, and macOS's files beside them."""

    def write(name: str) -> Path:
        channels, labels, case = PUBLISHED[name]
        folder = tmp_path / "msd" / name
        save_image(folder / "imagesTr" / f"{case}.nii.gz", num_volumes=len(channels))
        save_labels(folder / "labelsTr" / f"{case}.nii.gz", range(len(labels) + 1))
        save_image(folder / "imagesTs" / f"{case}9.nii.gz", num_volumes=len(channels))
        for place in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / place / f"._{case}.nii.gz").write_bytes(b"\0\5\x16\7Mac OS X")
        content = {
            "name": name,
            "modality": {str(index): channel for index, channel in enumerate(channels)},
            "labels": {"0": "background", **{str(index): label for index, label in enumerate(labels, start=1)}},
            "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}],
            "test": [f"./imagesTs/{case}9.nii.gz"],
        }
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_task_becomes_a_dataset(name, write_task, convert_here, read_back, read_values, tmp_path):
    (done,) = convert_here(msd, write_task(name))
    channels, labels, case = PUBLISHED[name]
    assert (done.folder, done.cases, done.others, done.problems) == (tmp_path / "out", (case,), (f"{case}9",), ())
    dataset = read_back(done.folder)
    assert (dataset.name, dataset.channel_names) == (name, tuple(channels))
    assert [organ.value for organ in dataset.labels.organs] == list(range(1, len(labels) + 1))
    assert read_values(done.folder / "labelsTr" / f"{case}.nii.gz", 4)[: len(labels) + 1] == list(
        range(len(labels) + 1)
    )
    assert len(dataset.cases[0].image_paths) == len(channels)


def test_4d_file_becomes_a_file_a_channel(write_task, convert_here, tmp_path):
    folder = write_task("Task05_Prostate")
    (done,) = convert_here(msd, folder)
    for channel in (0, 1):
        scan = read_scan(tmp_path / "out" / "imagesTr" / f"prostate_00_{channel:04d}.nii.gz")
        np.testing.assert_array_equal(scan.array_zyx.reshape(-1), np.arange(480) + 1000 * channel)
        assert scan.geometry.spacing_zyx_mm == pytest.approx((3.0, 0.8, 0.8))
    assert (tmp_path / "out" / "labelsTr" / "prostate_00.nii.gz").samefile(folder / "labelsTr" / "prostate_00.nii.gz")
    assert done.num_links == 1


def test_folder_of_tasks_becomes_a_dataset_each(write_task, convert_here, read_back, tmp_path):
    write_task("Task03_Liver"), write_task("Task09_Spleen")
    done = convert_here(msd, tmp_path / "msd")
    assert [one.folder.name for one in done] == ["Task03_Liver", "Task09_Spleen"]
    assert [organ.name for organ in read_back(done[0].folder).labels.organs] == ["liver", "liver tumour"]


@pytest.mark.parametrize(
    ("key", "table", "reported"),
    [
        ("labels", {"0": "background", "1": "liver"}, "labels of its dataset.json is"),
        ("labels", {"0": "background", "1": "cancer", "2": "liver"}, "labels of its dataset.json is"),
        ("modality", {"0": "MRI"}, "modality of its dataset.json is {'0': 'MRI'}; expected {'0': 'CT'}"),
    ],
)
def test_another_table_than_the_published_one_is_refused(write_task, convert_here, key, table, reported):
    folder = write_task("Task03_Liver")
    content = described(folder)
    (folder / "dataset.json").write_text(json.dumps({**content, key: table}))
    with pytest.raises(DatasetError) as caught:
        convert_here(msd, folder)
    (problem,) = caught.value.problems
    assert problem.case_id == "Task03_Liver" and reported in problem.message


def test_cases_that_the_list_names_and_nobody_has_are_reported(write_task, convert_here):
    folder = write_task("Task09_Spleen")
    content = described(folder)
    content["training"] += [{"image": f"./imagesTr/spleen_{k}.nii.gz", "label": ""} for k in (12, 13)]
    (folder / "dataset.json").write_text(json.dumps(content))
    (done,) = convert_here(msd, folder)
    assert done.cases == ("spleen_10",)
    assert "2 of 4 cases are missing: spleen_12 to spleen_13. Download" in done.problems[0].message


def test_missing_label_and_missing_folder_are_named(write_task, convert_here):
    folder = write_task("Task09_Spleen")
    (folder / "labelsTr" / "spleen_10.nii.gz").unlink()
    (done,) = convert_here(msd, folder)
    assert [(problem.case_id, problem.message[:39]) for problem in done.problems] == [
        ("spleen_10", "labelsTr/spleen_10.nii.gz is missing. C")
    ]
    (folder / "dataset.json").unlink()
    with pytest.raises(DatasetError) as caught:
        convert_here(msd, folder)
    assert [problem.case_id for problem in caught.value.problems] == ["dataset.json"]


def test_a_renamed_task_gets_a_hint(write_task, convert_here, tmp_path):
    write_task("Task09_Spleen").rename(tmp_path / "my_spleens")
    with pytest.raises(DatasetError, match=r"Was the task's folder renamed\?"):
        convert_here(msd, tmp_path / "my_spleens")


def test_a_broken_task_stops_no_other(write_task, convert_here, tmp_path):
    for name in ("Task03_Liver", "Task06_Lung", "Task09_Spleen"):
        write_task(name)
    (tmp_path / "msd" / "Task03_Liver" / "dataset.json").write_text("{")
    (tmp_path / "msd" / "Task06_Lung" / "labelsTr").rename(tmp_path / "msd" / "Task06_Lung" / "labels")
    liver, lung, spleen = convert_here(msd, tmp_path / "msd")
    assert (spleen.cases, spleen.problems) == (("spleen_10",), ())
    assert (liver.problems[0].case_id, "cannot be read as JSON" in liver.problems[0].message) == ("Task03_Liver", True)
    assert [problem.case_id for problem in lung.problems] == ["Task06_Lung/labelsTr"]
