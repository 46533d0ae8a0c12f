import pytest

from autoseg.io.geometry import ImageGeometry
from autoseg.preprocessing.case_record import read_record
from autoseg.preprocessing.transform import CaseTransform

GEOMETRY = ImageGeometry.from_spacing((4, 5, 6), (3.0, 1.0, 1.0))
TRANSFORM = CaseTransform(GEOMETRY, crop_box=((0, 4), (1, 5), (0, 6)), slice_axis="z", resampled_shape=(4, 8, 6))
RECORD = {
    "version": 1,
    "data_hash": "abc",
    "sources": [],
    "bytes": {"image.b2nd": 10, "labels.b2nd": 5},
    "sha256": {"image.b2nd": "ab" * 32, "labels.b2nd": "cd" * 32},
    "shape": [1, 4, 8, 6],
    "transform": TRANSFORM.to_json(),
    "dataset": None,
    "annotated": [1, 3],
    "organ_slices": {"1": [[0, 2], [3, 4]]},
}


def test_a_record_of_its_form_is_read_as_it_is():
    assert read_record(RECORD) == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"data_hash": None},
        {"shape": [1, 4, 8]},
        {"shape": [1, 4, 8, 6.0]},
        {"shape": [1, 4, 8, 7]},  # another than the transform's
        {"bytes": {"labels.b2nd": 5}},
        {"bytes": {"image.b2nd": 5, "../x": 5}},
        {"bytes": {"image.b2nd": -1}},
        {"bytes": {"image.b2nd": True}},
        {"sha256": {"image.b2nd": "ab" * 32}},
        {"sha256": {"image.b2nd": 1, "labels.b2nd": 2}},
        {"organ_slices": {"1": [[0, 5]]}},
        {"organ_slices": {"1": [[2, 2]]}},
        {"organ_slices": {"liver": [[0, 1]]}},
        {"organ_slices": []},
        {"dataset": 3},
        {"annotated": [0]},
        {"annotated": ["liver"]},
        {"transform": {**TRANSFORM.to_json(), "crop_box": [[0, 4], [1, 6], [0, 6]]}},
        {"transform": {**TRANSFORM.to_json(), "slice_axis": "t"}},
        {"transform": None},
    ],
)
def test_a_record_of_another_form_is_none(change):
    assert read_record(RECORD | change) is None
    assert read_record([RECORD]) is None
