from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoseg.datasets.prediction_inputs import find_cases
from autoseg.errors import DatasetError, Problem

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, save_scan: Callable[..., Path]) -> Make:
    """Give a maker of small scans at some paths; it returns the folder that they count from."""

    def make_scans(*scans: str) -> Path:
        for name in scans:
            save_scan(tmp_path / name, np.zeros((2, 3, 4), dtype=np.uint8))
        return tmp_path

    return make_scans


def messages(problems: tuple[Problem, ...], case_id: str) -> str:
    return " | ".join(problem.message for problem in problems if problem.case_id == case_id)


def ids(path: Path, *channels: str) -> dict[str, list[str]]:
    cases, problems = find_cases(path, channel_names=channels)
    assert not any(problem.is_error for problem in problems)
    assert all(case.label_path is None for case in cases)
    return {case.case_id: [image.name for image in case.image_paths] for case in cases}


def test_find_cases_one_channel_takes_any_name(make: Make) -> None:
    root = make("in/b.nii", "in/a_0000.nii.gz", "in/._a.nii.gz")
    assert ids(root / "in", "CT") == {"a": ["a_0000.nii.gz"], "b": ["b.nii"]}
    assert ids(root / "in/b.nii", "CT") == {"b": ["b.nii"]}
    assert ids(root / "in/a_0000.nii.gz", "CT") == {"a": ["a_0000.nii.gz"]}


def test_find_cases_one_channel_numbers_that_count_scans_stay(make: Make) -> None:
    root = make("in/scan_0000.nii.gz", "in/scan_0001.nii.gz")
    assert list(ids(root / "in", "CT")) == ["scan_0000", "scan_0001"]


def test_find_cases_channels_belong_together_from_folder_and_from_one_file(make: Make) -> None:
    root = make(*(f"in/{case}_000{channel}.nii.gz" for case in "ab" for channel in (1, 0)))
    expected = ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert ids(root / "in", "T1", "T2") == {"a": expected, "b": ["b_0000.nii.gz", "b_0001.nii.gz"]}
    assert ids(root / "in/a_0001.nii.gz", "T1", "T2") == {"a": expected}


def test_find_cases_bad_case_is_a_problem_and_the_others_stay(make: Make) -> None:
    root = make("in/a_0000.nii.gz", "in/a_0001.nii.gz", "in/b_0000.nii.gz", "in/c.nii.gz")
    cases, problems = find_cases(root / "in", channel_names=("T1", "T2"))
    assert [case.case_id for case in cases] == ["a"]
    assert messages(problems, "b") == "channel 0001 (T2) is missing. Add it, or take it out of channel_names."
    assert "holds 1 volumes; expected 2 channels" in messages(problems, "c")


def test_find_cases_nothing_to_predict_is_refused(make: Make) -> None:
    root = make("scan.nii.gz")
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("x")
    for name, words in (
        ("empty", "holds no .nii.gz"),
        ("absent", "does not exist"),
        ("notes.txt", "does not have the name of a scan"),
    ):
        with pytest.raises(DatasetError, match=words):
            find_cases(root / name, channel_names=("CT",))


def test_find_cases_several_inputs_are_one_run(make: Make) -> None:
    root = make("in/a.nii.gz", "other/b.nii.gz", "other/c.nii.gz")
    cases, _ = find_cases([root / "in" / "a.nii.gz", root / "other"], channel_names=("CT",))
    assert [case.case_id for case in cases] == ["a", "b", "c"]
    make("more/A.nii.gz")
    with pytest.raises(DatasetError, match="two of the inputs hold a case 'a'"):
        find_cases([root / "in", root / "more"], channel_names=("CT",))


def test_find_cases_every_file_of_a_case_is_that_case_once(make: Make) -> None:
    root = make("in/a_0000.nii.gz", "in/a_0001.nii.gz", "in/b_0000.nii.gz", "in/b_0001.nii.gz")
    cases, problems = find_cases(sorted((root / "in").iterdir()), channel_names=("T1", "T2"))
    assert [case.case_id for case in cases] == ["a", "b"] and not problems


def test_find_cases_a_table_names_the_channels_of_each_case(make: Make) -> None:
    root = make("x/one.nii.gz", "y/two.nii.gz", "z.nii.gz")
    for header in ("case,T1,T2", "T2,case,T1", "case,0,1", "\ufeffcase,0000,0001"):
        order = {"T1": "x/one.nii.gz", "T2": "y/two.nii.gz", "case": "p"}
        order |= {"0": order["T1"], "1": order["T2"], "0000": order["T1"], "0001": order["T2"]}
        row = ",".join(order[name] for name in header.strip("\ufeff").split(","))
        (root / "cases.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
        cases, problems = find_cases(root / "cases.csv", channel_names=("T1", "T2"))
        assert not problems and [case.case_id for case in cases] == ["p"]
        assert [path.relative_to(root).as_posix() for path in cases[0].image_paths] == ["x/one.nii.gz", "y/two.nii.gz"]


def test_find_cases_a_file_that_a_table_names_in_vain_is_that_cases_problem(make: Make) -> None:
    root = make("one.nii.gz")
    (root / "cases.csv").write_text("case,CT\np,one.nii.gz\nq,gone.nii.gz\n")
    cases, problems = find_cases(root / "cases.csv", channel_names=("CT",))
    assert [case.case_id for case in cases] == ["p"] and "does not exist" in messages(problems, "q")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one row"),
        ("case,CT\n", "at least one row"),
        ("name,CT\np,one.nii.gz\n", r"its columns are \['name', 'CT'\]; expected 'case'"),
        ("case,T1\np,one.nii.gz\n", "here 'CT' or 0"),
        ("case,CT\np\n", "row 2: expected a name of a case and a path"),
        ("case,CT\n,one.nii.gz\n", "row 2: expected a name"),
        ("case,CT\n../../p,one.nii.gz\n", "row 2: expected a name"),
        ("case,CT\n..,one.nii.gz\n", "row 2: expected a name"),
        ("case,CT\np,one.nii.gz\np,one.nii.gz\n", "row 3: the case 'p' occurs twice"),
        ('case,CT\n"p,one.nii.gz\n', "cannot be read as a table"),
    ],
)
def test_find_cases_a_table_that_cannot_be_used_says_why(make: Make, text: str, message: str) -> None:
    root = make("one.nii.gz")
    (root / "cases.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        find_cases(root / "cases.csv", channel_names=("CT",))
