import json

import pytest

from autoseg.errors import UsageError
from autoseg.evaluation.label_names import read_dataset_labels


def write(tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "labels",
    [{"background": 0, "liver": 1, "tumour": 2}, {"0": "background", "1": "liver", "2": "tumour"}],
    ids=["nnunet", "msd"],
)
def test_read_dataset_labels_both_layouts_agree(tmp_path, labels):
    found = read_dataset_labels(write(tmp_path, {"labels": labels}))
    assert found.names == {1: "liver", 2: "tumour"}
    assert found.ignore_value is None


def test_read_dataset_labels_ignore_is_no_organ(tmp_path):
    found = read_dataset_labels(write(tmp_path, {"labels": {"background": 0, "liver": [1], "ignore": 7}}))
    assert (found.names, found.ignore_value) == ({1: "liver"}, 7)


def test_read_dataset_labels_regions_are_unions_and_their_parts_have_the_names_of_planning(tmp_path):
    labels = {"background": 0, "whole": [3, 1, 2], "core": ["3", 2], "x": [3], "ignore": 9}
    found = read_dataset_labels(write(tmp_path, {"labels": labels}))
    assert (found.names, found.ignore_value, found.dataset) == ({3: "x"}, 9, tmp_path.name)
    assert found.regions == {"whole": (1, 2, 3), "core": (2, 3)}
    assert found.all_names == {1: "whole without core", 2: "core without x", 3: "x"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"whole": [1, "x"]}, "the label 'whole' is .*; expected a whole number .* or for a region a list"),
        ({"whole": [0, 1]}, "the label 'whole' is"),
        ({"whole": []}, "the label 'whole' is"),
        ({"liver": -1}, "liver.*-1"),
        ({"liver": 1.5}, "1.5"),
        ({"liver": True}, "True"),
        ({"1": "liver", "01": "spleen"}, "value 1 has two names"),
        ({"x": "liver"}, "liver"),
        ({"background": 0}, "no organ"),
        ({}, "labels"),
        ([1], "labels"),
    ],
)
def test_read_dataset_labels_bad_labels_are_named(tmp_path, labels, message):
    with pytest.raises(UsageError, match=message):
        read_dataset_labels(write(tmp_path, {"labels": labels}))


@pytest.mark.parametrize("content", ["", "[1, 2]", "not json"])
def test_read_dataset_labels_other_files_are_refused(tmp_path, content):
    with pytest.raises(UsageError, match="dataset"):
        read_dataset_labels(write(tmp_path, content))
