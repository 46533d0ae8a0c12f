import json

import pytest

from autoseg.datasets.annotations import parse_annotated
from autoseg.datasets.dataset import read_dataset
from autoseg.datasets.labels import parse_labels

LABELS = parse_labels({"tumour": [2, 3], "liver": 1, "core": 3}, None, [])


def parse(content, cases=("a", "b", "c"), labels=LABELS):
    problems = []
    return parse_annotated(content, labels=labels, case_ids=set(cases), problems=problems), problems


def test_parse_annotated_gives_the_organs_of_the_cases_in_which_not_all_were():
    everything = ["core", "liver", "tumour"]
    found, problems = parse({"a": ["Liver "], "b": everything})
    assert found == {"a": ("liver",)} and problems == []


def test_parse_annotated_takes_a_region_for_its_parts():
    assert parse({"a": ["tumour"]})[0] == {"a": ("tumour without core", "core")}


def test_parse_annotated_of_a_list_speaks_of_all_cases():
    assert parse(["core"])[0] == dict.fromkeys("abc", ("core",))
    assert parse(None) == ({}, [])


def test_parse_annotated_of_nothing_is_said_case_by_case():
    found, problems = parse({"b": []})
    assert found == {"b": ()}
    assert [(one.case_id, one.is_error) for one in problems] == [("b", False)]
    assert "no label was annotated, so nothing is learnt from it" in problems[0].message


def test_parse_annotated_unknown_name_is_one_error_of_the_dataset():
    """Were it one of the case, the others with it would be taken for unannotated."""
    for content in ({"a": ["livr"], "b": ["livr", "core"]}, {"b": ["livr"], "c": ["livr"]}):
        _, (problem,) = parse(content)
        assert problem.case_id == "" and problem.is_error
        assert " and 1 more cases holds 'livr', which is not a label. Did you mean 'liver'?" in problem.message
    _, problems = parse(["livr", "x"])
    assert [problem.message[:46] for problem in problems] == ["annotated_labels of 'a' and 2 more cases holds"] * 2


@pytest.mark.parametrize(
    ("content", "case_id", "words"),
    [
        (7, "", "annotated_labels is 7; expected"),
        ("liver", "", "annotated_labels is 'liver'; expected"),
        ([], "", "annotated_labels is []; expected"),
        ({"a": "liver"}, "a", "annotated_labels holds 'liver'; expected a list of label names"),
        ({"a": [1]}, "a", "annotated_labels holds [1]"),
        ({"a": None}, "a", "annotated_labels holds None"),
        ({"a": ["\ud800"]}, "", "holds '\\ud800', which is not a label"),
    ],
)
def test_parse_annotated_of_another_form_is_an_error(content, case_id, words):
    _, (problem,) = parse(content)
    assert problem.is_error and problem.case_id == case_id and words in problem.message


def test_parse_annotated_of_cases_that_are_not_there_is_a_warning():
    found, (problem,) = parse({"z": ["liver"], "a": ["core"]})
    assert found == {"a": ("core",)}
    assert not problem.is_error and "names 1 cases that are not there, as 'z'" in problem.message


def test_parse_annotated_of_very_many_wrong_names_reports_some():
    _, problems = parse({"a": [f"name {number}" for number in range(50_000)]})
    assert len(problems) == 21 and "49980 more names" in problems[-1].message


def test_read_dataset_gives_each_case_what_was_annotated_in_it(tmp_path):
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    content = {"channel_names": {"0": "CT"}, "labels": {"liver": 1, "spleen": 2}, "annotated_labels": {"b": ["spleen"]}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert {case.case_id: case.annotated for case in read_dataset(tmp_path).cases} == {"a": None, "b": ("spleen",)}
