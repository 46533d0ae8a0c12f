import dataclasses

import numpy as np
import pytest

from autoseg.datasets.dataset import CaseFiles
from autoseg.errors import ScanFileError
from autoseg.export.statistics import OrganStatistics
from autoseg.inference.organ_prompts import OrganPrompts
from autoseg.pipelines.resume_log import LOG_NAME, FinishedCase, ResumeLog, case_key
from autoseg.system.atomic_files import file_sha256

LIVER = OrganStatistics("liver", 1, 6, 0.006, 25.0, ((3, 3), (2, 4), (1, 2)), touches_border=False)
SPLEEN = OrganStatistics("spleen", 3, 0, 0.0, None, None, touches_border=False)


@pytest.fixture
def finished(tmp_path):
    """Write a label map and give its record."""

    def make(case_id: str = "one", content: bytes = b"labels") -> FinishedCase:
        (tmp_path / f"{case_id}.nii.gz").write_bytes(content)
        files = {f"{case_id}.nii.gz": file_sha256(tmp_path / f"{case_id}.nii.gz")}
        return FinishedCase(case_id, "key", files, seconds=1.5, message="odd", organs=(LIVER, SPLEEN))

    return make


def test_a_finished_case_is_found_again_by_another_run(finished, tmp_path):
    for case_id in ("one", "two", "not utf-8 \udcff"):
        ResumeLog(tmp_path).add(finished(case_id))
    for case_id in ("one", "two", "not utf-8 \udcff"):
        assert ResumeLog(tmp_path).find(case_id, key="key") == finished(case_id)
    assert ResumeLog(tmp_path).find("three", key="key") is None


def test_a_scan_that_cannot_be_read_is_named_without_the_folders_above(tmp_path):
    case = CaseFiles("a", (tmp_path / "scans" / "a.nii.gz",), None, "a")
    with pytest.raises(ScanFileError, match=r"^scans/a\.nii\.gz cannot be read: No such file.*Check its permissions"):
        case_key(case, "recipe")


def test_another_key_or_a_changed_or_missing_file_makes_a_case_due(finished, tmp_path):
    ResumeLog(tmp_path).add(finished())
    assert ResumeLog(tmp_path).find("two", key="key") is None and (tmp_path / "one.nii.gz").exists()
    (tmp_path / "one.nii.gz").write_bytes(b"Labels")
    assert ResumeLog(tmp_path).find("one", key="key") is None
    assert not (tmp_path / "one.nii.gz").exists(), "a case that fails now must not leave its old files"
    assert ResumeLog(tmp_path).find("one", key="key") is None
    ResumeLog(tmp_path).add(finished())
    assert ResumeLog(tmp_path).find("one", key="other") is None and not (tmp_path / "one.nii.gz").exists()


def test_a_resume_log_that_names_files_elsewhere_removes_none_of_them(finished, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    files = {"../mine.txt": "0", str(tmp_path / "mine.txt"): "0"}
    ResumeLog(tmp_path / "out").add(dataclasses.replace(finished(), files=files))
    assert ResumeLog(tmp_path / "out").find("one", key="other") is None
    assert (tmp_path / "mine.txt").exists()


def test_points_of_arrays_and_of_numbers_are_told_apart(tmp_path):
    (tmp_path / "x.nii").write_bytes(b"1")
    case = CaseFiles(case_id="c", image_paths=(tmp_path / "x.nii",), label_path=None, patient_id="c")
    points = np.arange(3000).reshape(-1, 3)
    moved = points.copy()
    moved[500, 1] += 1
    one, same, other = (
        case_key(case, "r", point_prompts={"liver": OrganPrompts(inside=inside)})
        for inside in (points, [tuple(point) for point in points.tolist()], moved)
    )
    assert one == same != other


def test_the_last_record_of_a_case_counts(finished, tmp_path):
    ResumeLog(tmp_path).add(finished())
    ResumeLog(tmp_path).add(finished(content=b"later"))
    assert ResumeLog(tmp_path).find("one", key="key") == finished(content=b"later")


@pytest.mark.parametrize("kept", [0, 1, 20, -2, -1])
def test_a_line_that_was_cut_off_costs_its_case_alone(finished, tmp_path, kept):
    ResumeLog(tmp_path).add(finished("one"))
    path = tmp_path / LOG_NAME
    whole = path.read_bytes()
    ResumeLog(tmp_path).add(finished("two"))
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept])
    log = ResumeLog(tmp_path)
    assert log.find("one", key="key") == finished("one")
    is_whole = kept == -1  # all but the end of the line
    assert (log.find("two", key="key") is not None) == is_whole
    log.add(finished("three"))
    for case_id in ("one", "three"):
        assert ResumeLog(tmp_path).find(case_id, key="key") == finished(case_id)


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"organs": [], "more": 1}', b'{"organs": 3}', b"\xff"])
def test_a_line_that_means_nothing_is_passed_over(finished, tmp_path, line):
    (tmp_path / LOG_NAME).write_bytes(line + b"\n")
    ResumeLog(tmp_path).add(finished())
    assert ResumeLog(tmp_path).find("one", key="key") == finished()


def test_the_key_goes_by_content_and_not_by_place(tmp_path):
    for name, content in (("a/x.nii", b"1"), ("b/y.nii", b"1"), ("b/z.nii", b"2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    one, same, other = (
        CaseFiles(case_id="c", image_paths=(tmp_path / name,), label_path=None, patient_id="c")
        for name in ("a/x.nii", "b/y.nii", "b/z.nii")
    )
    assert case_key(one, "recipe") == case_key(same, "recipe")
    assert len({case_key(one, "recipe"), case_key(other, "recipe"), case_key(one, "another")}) == 3
    assert case_key(one, "recipe", point_prompts={"liver": OrganPrompts(inside=((1, 2, 3),))}) != case_key(
        one, "recipe"
    )
