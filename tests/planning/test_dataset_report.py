import os

from autoseg.dataset import read_dataset
from autoseg.errors import Problem
from autoseg.files import read_json
from autoseg.planning.report import read_problems, stamp_files, write_report

BAD = Problem("case_001", "is bad.")
ODD = Problem("case_002", "is odd.", is_error=False)


def test_report_holds_the_state_of_each_case_and_gives_problems_back(make_dataset, tmp_path):
    dataset = read_dataset(make_dataset(3))
    path = tmp_path / "report.json"
    write_report(path, dataset=dataset, stamp="s", used=["case_000"], problems={"layout": [BAD], "contents": [ODD]})
    content = read_json(path)
    assert content["cases"] == {"case_000": "good", "case_001": "error", "case_002": "warning"}
    assert (content["num_cases"], content["num_used"]) == (3, 1)
    assert read_problems(path, stamp="s", stage="contents") == (ODD,)
    assert read_problems(path, stamp="s", stage="preprocessing") == ()


def test_problems_of_other_files_or_of_no_report_are_none(make_dataset, tmp_path):
    dataset = read_dataset(make_dataset(1))
    path = tmp_path / "report.json"
    assert read_problems(path, stamp="s", stage="contents") is None
    write_report(path, dataset=dataset, stamp="s", used=[], problems={})
    assert read_problems(path, stamp="t", stage="contents") is None
    path.write_text("[]")
    assert read_problems(path, stamp="s", stage="contents") is None


def test_stamp_changes_with_a_file_and_with_the_labels(make_dataset):
    root = make_dataset(2)
    first = stamp_files(read_dataset(root))
    assert stamp_files(read_dataset(root)) == first
    os.utime(root / "labelsTr" / "case_001.nii.gz", ns=(1, 1))
    second = stamp_files(read_dataset(root))
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace("liver", "spleen"))
    assert len({first, second, stamp_files(read_dataset(root))}) == 3
