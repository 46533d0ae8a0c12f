"""Regression tests: each input once caused a crash, a hang, a lost file or a wrong grid."""

import json
import os

import numpy as np
import pytest
from commands import run_command

from autoseg.errors import ScanFileError
from autoseg.inference.model_loading import find_model_files
from autoseg.io.image import read_scan
from autoseg.pipelines.resume_log import ResumeLog
from autoseg.training.logging.metrics_log import read_metrics


@pytest.mark.fault("unusual-names")
def test_a_name_too_long_for_what_is_made_of_it_is_a_bad_case(make_dataset, command, model_file, tmp_path):
    root, name = make_dataset(), "y" * 240
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (root / folder / f"{name}{ending}").write_bytes((root / folder / f"good_1{ending}").read_bytes())
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1, "--on-bad", "skip")
    assert planned.code == 3 and "its name has 240 bytes; expected at most 200" in planned.text
    predicted = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 3 and "Rename its files." in predicted.text
    assert len(list((tmp_path / "out").glob("good_*.nii.gz"))) == 3


@pytest.mark.fault("read-only-input")
def test_no_prediction_is_written_over_files_that_are_not_its_own(make_dataset, command, model_file, tmp_path):
    root = make_dataset()
    before = {path.name: path.read_bytes() for path in (root / "labelsTr").iterdir()}
    refused = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", root / "labelsTr")
    assert refused.code == 2 and "no prediction of autoseg's wrote it. Choose another folder." in refused.text
    assert {path.name: path.read_bytes() for path in (root / "labelsTr").iterdir()} == before
    arguments = ("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out", "--also", "uncertainty")
    assert command(*arguments).code == 0
    inputs = tmp_path / "out" / "uncertainty"
    refused = command("predict", "-m", model_file, "-i", inputs, "-o", tmp_path / "out")
    assert refused.code == 2 and "inputs are never overwritten" in refused.text and len(list(inputs.iterdir())) == 3
    assert command(*arguments).code == 0


@pytest.mark.fault("read-only-input")
def test_an_evaluation_is_written_over_an_evaluation_alone(make_dataset, tmp_path):
    labels = make_dataset() / "labelsTr"
    mine = tmp_path / "mine.json"
    mine.write_text('{"labels": {"background": 0, "liver": 1}}')
    refused = run_command("evaluate", labels, labels, "--names", mine, "-o", mine)
    assert refused.code == 2 and "it is not overwritten. Choose another name." in refused.text
    assert json.loads(mine.read_text())["labels"]["liver"] == 1
    for _ in range(2):
        assert run_command("evaluate", labels, labels, "-o", tmp_path / "evaluation.json").code == 0


MHA = "NDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n{}ElementDataFile = LOCAL\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nspacings: 1 1 2\nencoding: raw\nendian: little\n{}\n"


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (MHA.format("HeaderSize = -1\n"), "do not begin after the header"),
        (MHA.format("DimSize = 2 2 2\n"), "occurs twice"),
        (MHA.format("").replace("NDims = 3", "NDims = 2"), "NDims is not the number of its sizes, 3"),
        (MHA.format("").replace("1 1 2", "-1 1 2"), "a spacing is -1; expected positive numbers"),
        (NRRD.format("sizes: 2 2 2\n"), "occurs twice"),
        (NRRD.format("").replace("dimension: 3", "dimension: 4"), "dimension is not the number of its sizes, 3"),
        (NRRD.format("").replace("1 1 2", "1 -1 2"), "a spacing is -1; expected positive numbers"),
    ],
)
def test_a_header_of_text_that_contradicts_itself_is_refused(tmp_path, text, fault):
    path = tmp_path / ("a.nrrd" if text.startswith("NRRD") else "a.mha")
    path.write_bytes(text.encode() + bytes(48))
    with pytest.raises(ScanFileError, match=fault):
        read_scan(path)


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize("text", [MHA.format(""), NRRD.format(""), NRRD.format("a:=b: 1\na:=b: 2\n")])
def test_the_same_header_without_the_contradiction_is_read(tmp_path, text):
    path = tmp_path / ("a.nrrd" if text.startswith("NRRD") else "a.mha")
    path.write_bytes(text.encode() + bytes(48))
    assert read_scan(path).array_zyx.shape == (4, 3, 2)


@pytest.mark.fault("truncated-scan")
def test_slices_of_two_resolutions_are_no_series(save_dicom, command, model_file, tmp_path):
    save_dicom(tmp_path / "series", np.zeros((4, 12, 10), np.int16))
    save_dicom(tmp_path / "other", np.zeros((4, 12, 10), np.int16), spacing_xyz_mm=(9.0, 9.0, 4.0))
    (tmp_path / "other" / "1.2.3_002.dcm").replace(tmp_path / "series" / "1.2.3_002.dcm")
    refused = command("predict", "-m", model_file, "-i", tmp_path / "series", "-o", tmp_path / "out")
    assert refused.code == 4 and "differ in the spacing of their pixels. Export the series again." in refused.text


@pytest.mark.fault("no-regular-file")
def test_a_pipe_in_the_place_of_a_file_of_ours_is_not_waited_for(tmp_path):
    for name in ("cases.jsonl", "metrics.jsonl", "fold_0/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    assert ResumeLog(tmp_path).find("a", key="b") is None
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    with pytest.raises(Exception, match="Train first"):
        find_model_files(tmp_path)


@pytest.mark.fault("no-regular-file")
def test_a_pipe_in_a_series_is_named_and_no_slice_is(save_dicom, command, model_file, tmp_path):
    save_dicom(tmp_path / "series", np.zeros((4, 12, 10), np.int16))
    os.mkfifo(tmp_path / "series" / "pipe")
    refused = command("predict", "-m", model_file, "-i", tmp_path / "series", "-o", tmp_path / "out")
    assert refused.code == 4 and "series/pipe is a pipe" in refused.text and "Take it out of the folder" in refused.text


@pytest.mark.fault("channels-and-ids")
def test_a_case_that_ends_in_seg_is_measured_like_any_other(make_dataset, tmp_path):
    labels = make_dataset(1) / "labelsTr"
    (labels / "good_0.seg.nii.gz").write_bytes((labels / "good_0.nii.gz").read_bytes())
    run_command("evaluate", labels, labels, "-o", tmp_path / "evaluation.json")
    assert len(json.loads((tmp_path / "evaluation.json").read_text())["cases"]) == 2
