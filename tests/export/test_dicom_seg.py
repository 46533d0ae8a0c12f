import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch

from autoseg.errors import DatasetError, ScanFileError, UsageError
from autoseg.export import case_files
from autoseg.export.dicom_seg import write_dicom_seg
from autoseg.inference.model_loading import load_predictor
from autoseg.io.dicom import read_series, series_files
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.pipelines.predict import predict_files

NAMES = {1: "liver", 4: "left kidney", 9: "my organ", 200: "spleen"}


@pytest.fixture
def series(save_dicom, rng, tmp_path):
    save_dicom(tmp_path / "series", rng.integers(-100, 100, (5, 6, 8)))
    return tmp_path / "series"


def frames_of(dataset):
    """Give the mask by segment number and z of the patient, from the file's own words."""
    frames = {}
    for pixels, facts in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        number = facts.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        frames[number, float(facts.PlanePositionSequence[0].ImagePositionPatient[2])] = pixels
    return frames


def test_pydicom_finds_every_voxel_of_every_organ_at_its_place(series, tmp_path, rng):
    scan, _ = read_series(series)
    labels = rng.choice(np.array([0, 0, 1, 4, 200], np.uint8), scan.array_zyx.shape)
    labels[2] = 0
    assert write_dicom_seg(tmp_path / "a.seg.dcm", labels, slices=series_files(series), slice_mm=4.0, names=NAMES)
    dataset = pydicom.dcmread(tmp_path / "a.seg.dcm")
    assert dataset.Modality == "SEG" and dataset.PatientName == "DOE^JANE" and dataset.StudyInstanceUID == "1.2"
    segments = {segment.SegmentNumber: segment for segment in dataset.SegmentSequence}
    assert [segment.SegmentLabel for segment in segments.values()] == ["liver", "left kidney", "spleen"]
    meanings = [one.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for one in segments.values()]
    assert meanings == ["Liver", "Kidney", "Spleen"]
    frames = frames_of(dataset)
    affine = scan.geometry.affine_array
    for number, value in enumerate((1, 4, 200), start=1):
        for z, plane in enumerate(labels):
            height = float(affine[2, 2] * z + affine[2, 3])  # RAS and LPS agree in z
            found = frames.pop((number, height), np.zeros_like(plane))
            np.testing.assert_array_equal(found, plane == value)
    assert not frames
    referred = {
        one.ReferencedSOPInstanceUID
        for group in dataset.PerFrameFunctionalGroupsSequence
        for one in group.DerivationImageSequence[0].SourceImageSequence
    }
    assert referred <= {pydicom.dcmread(path).SOPInstanceUID for path in series.iterdir()}


def test_a_name_without_a_code_and_of_any_letters_is_a_structure(series, tmp_path):
    labels = np.zeros((5, 6, 8), np.uint16)
    labels[1, 2, 3] = 9
    names = {9: "Teil \u00e4\n" + 90 * "x"}
    write_dicom_seg(tmp_path / "a.seg.dcm", labels, slices=series_files(series), slice_mm=4.0, names=names)
    (segment,) = pydicom.dcmread(tmp_path / "a.seg.dcm").SegmentSequence
    assert segment.SegmentLabel.startswith("Teil \u00e4") and len(segment.SegmentLabel) <= 64
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Anatomical Structure"


def test_a_case_whose_segmentation_cannot_be_written_leaves_no_label_map(series, model, tmp_path, monkeypatch):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    monkeypatch.setattr(case_files, "measure_organs", lambda *_args, **_facts: pytest.fail("it comes first"))
    bright = lambda images, organs, **_rest: SimpleNamespace(  # noqa: E731
        logits=torch.ones(len(images), 1 + len(organs), 32, 32).cumsum(dim=1)
    )
    predictor = replace(load_predictor(model, device="cpu"), networks=(bright,))
    monkeypatch.setattr("autoseg.pipelines.prediction_request.load_predictor", lambda *_args, **_facts: predictor)
    with pytest.raises(DatasetError, match="Frame Of Reference UID"):
        predict_files(series, model, tmp_path / "out", device="cpu", also=["seg.dcm"])
    assert not list((tmp_path / "out").glob("series*"))


def test_no_organ_is_no_file(series, tmp_path):
    labels = np.zeros((5, 6, 8), np.uint8)
    assert not write_dicom_seg(tmp_path / "a.seg.dcm", labels, slices=series_files(series), slice_mm=4.0, names=NAMES)
    assert not (tmp_path / "a.seg.dcm").exists()


def test_a_series_that_lacks_what_is_repeated_of_it_is_named(series, tmp_path):
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    labels = np.ones((5, 6, 8), np.uint8)
    with pytest.raises(ScanFileError, match=r"series: no DICOM segmentation can refer to this series: .*Export"):
        write_dicom_seg(tmp_path / "a.seg.dcm", labels, slices=series_files(series), slice_mm=4.0, names=NAMES)
    assert not (tmp_path / "a.seg.dcm").exists()


@pytest.fixture
def model(tiny_plans, tmp_path):
    plans = tiny_plans(2)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_series_is_predicted_with_its_segmentation(series, model, tmp_path):
    run = predict_files(series, model, tmp_path / "out", device="cpu", also=["seg.dcm"])
    found = any(organ.num_voxels for organ in run.cases[0].organs)
    assert (tmp_path / "out" / "series.seg.dcm").exists() == found


def test_scans_that_are_no_series_and_a_missing_package_are_refused_before_the_work(
    series, model, save_scan, rng, tmp_path, monkeypatch
):
    scan = save_scan(tmp_path / "a.nii.gz", rng.normal(size=(4, 5, 6)).astype(np.float32))
    with pytest.raises(UsageError, match=r"a\.nii\.gz is not a DICOM series.*seg\.nrrd"):
        predict_files([series, scan], model, tmp_path / "out", device="cpu", also=["seg.dcm"])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"pip install highdicom"):
        predict_files(series, model, tmp_path / "out", device="cpu", also=["seg.dcm"])
    assert not (tmp_path / "out").exists()
