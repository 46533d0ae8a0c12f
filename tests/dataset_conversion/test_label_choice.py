import json

import pytest

from autoseg.errors import UsageError
from dataset_conversion.label_choice import choose_all, match_names, read_choice, report_lacking


def test_names_that_differ_in_case_and_white_space_are_one_label_in_its_usual_spelling():
    choice = choose_all(["Liver", "LIVER", " liver", "liver ", "Kidney  L", "kidney l", "", "Aorta"])
    assert choice.labels == {"Aorta": 1, "Kidney L": 2, "liver": 3}
    assert choice.label_of("LIVER  ") == "liver" and choice.label_of("kidney") is None


def test_a_file_chooses_renames_and_unites(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"right lung": ["Lung_R", "lung r"], "heart": "Cor"}))
    choice = read_choice(tmp_path / "labels.json")
    assert choice.labels == {"right lung": 1, "heart": 2}
    values, problems = match_names(choice, ["LUNG_R", "lung  R", "Spleen"])
    assert values == {"LUNG_R": 1, "lung  R": 1}
    assert [(problem.is_error, problem.message) for problem in problems] == [
        (True, "nothing in the source is called as the label 'heart' says. Check its names in the file."),
        (False, "left out, since no label takes them: Spleen."),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "expected an object such as"),
        ("{}", "expected an object such as"),
        ('{"liver": 3}', "expected one name or several"),
        ('{"liver": []}', "expected one name or several"),
        ('{" ": "a"}', "expected one name or several"),
        ('{"a": "x", "b": ["y", "X "]}', "'x' stands for two labels"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, content, words):
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(UsageError, match=words):
        read_choice(tmp_path / "labels.json")


def test_labels_that_some_cases_lack_are_reported_once():
    choice = choose_all(["a", "b", "c"])
    (problem,) = report_lacking(choice, {"1": {"a", "b"}, "2": {"a"}, "3": {"a", "b"}})
    assert problem.message.startswith("1 of 3 cases lack 'b': it counts as not there.") and not problem.is_error
