"""ACDC in miniature."""

import pytest
from miniatures import described

from dataset_conversion import acdc

FRAMES = {"training/patient001": (1, 12), "training/patient002": (1, 9), "testing/patient101": (1, 14)}


@pytest.fixture
def source(tmp_path, save_image, save_labels, monkeypatch):
    monkeypatch.setattr(acdc, "NUMBERS", {"training": (1, 2), "testing": (101,)})
    root = tmp_path / "database"
    for place, frames in FRAMES.items():
        folder = root / place
        patient = folder.name
        for frame in frames:
            save_image(folder / f"{patient}_frame{frame:02d}.nii.gz", begin=frame)
            save_labels(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", (0, 1, 2, 3))
        save_image(folder / f"{patient}_4d.nii.gz", num_volumes=3)
        info = f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
        (folder / "Info.cfg").write_text(info)
        (folder / "MANDATORY_CITATION.md").write_text("Please cite")
    return root


def test_both_frames_of_a_patient_become_cases_of_one_patient(source, convert_here, read_back, read_values):
    (done,) = convert_here(acdc, source)
    training = ("patient001_frame01", "patient001_frame12", "patient002_frame01", "patient002_frame09")
    assert (done.cases, done.problems) == (training, ())
    assert done.others == ("patient101_frame01", "patient101_frame14")
    dataset = read_back(done.folder)
    assert [case.patient_id for case in dataset.cases] == ["patient001", "patient001", "patient002", "patient002"]
    assert [(organ.value, organ.name) for organ in dataset.labels.organs] == [
        (1, "right ventricle"),
        (2, "myocardium"),
        (3, "left ventricle"),
    ]
    assert read_values(done.folder / "labelsTs" / "patient101_frame14.nii.gz", 4) == [0, 1, 2, 3]
    assert set(described(done.folder)["patients"]) == set(training)


def test_missing_labels_frames_and_patients_are_named(source, convert_here, monkeypatch):
    monkeypatch.setattr(acdc, "NUMBERS", {"training": range(1, 5), "testing": (101,)})
    (source / "training" / "patient001" / "patient001_frame01_gt.nii.gz").unlink()
    for path in (source / "training" / "patient002").glob("*_frame09*"):
        path.unlink()
    (done,) = convert_here(acdc, source)
    assert done.cases == ("patient001_frame12", "patient002_frame01")
    reported = [(problem.case_id, problem.message[:60]) for problem in done.problems]
    assert reported == [
        ("patient001_frame01", "training/*/patient001_frame01_gt.nii.gz is missing. Copy or "),
        ("patient002", "patient002_frame09: not there, though Info.cfg names it. Dow"),
        ("", "2 of 4 cases are missing: patient003 to patient004. Download"),
    ]
