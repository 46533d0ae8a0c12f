from pathlib import Path

import blosc2
import numpy as np
import pytest

from autoseg.geometry import ImageGeometry
from autoseg.preprocessing.case_record import holds_plain_array, read_record
from autoseg.preprocessing.transform import CaseTransform

GEOMETRY = ImageGeometry.from_spacing((4, 5, 6), (3.0, 1.0, 1.0))
TRANSFORM = CaseTransform(GEOMETRY, crop_box=((0, 4), (1, 5), (0, 6)), slice_axis="z", resampled_shape=(4, 8, 6))
RECORD = {
    "version": 1,
    "data_hash": "abc",
    "sources": [],
    "bytes": {"image.b2nd": 10, "labels.b2nd": 5},
    "shape": [1, 4, 8, 6],
    "transform": TRANSFORM.to_json(),
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
        {"organ_slices": {"1": [[0, 5]]}},
        {"organ_slices": {"1": [[2, 2]]}},
        {"organ_slices": {"liver": [[0, 1]]}},
        {"organ_slices": []},
        {"transform": {**TRANSFORM.to_json(), "crop_box": [[0, 4], [1, 6], [0, 6]]}},
        {"transform": {**TRANSFORM.to_json(), "slice_axis": "t"}},
        {"transform": None},
    ],
)
def test_a_record_of_another_form_is_none(change):
    assert read_record(RECORD | change) is None
    assert read_record([RECORD]) is None


def test_only_a_plain_array_is_one(tmp_path: Path):
    array = blosc2.asarray(np.zeros((2, 3)), urlpath=str(tmp_path / "a.b2nd"), mode="w")
    assert holds_plain_array(tmp_path / "a.b2nd")
    blosc2.asarray(
        np.zeros((2, 3)), urlpath=str(tmp_path / "b.b2nd"), mode="w", meta={"proxy-source": {"urlpath": "x"}}
    )
    (array + 1).save(str(tmp_path / "c.b2nd"))
    blosc2.SChunk(urlpath=str(tmp_path / "d.b2nd"), data=bytes(10), mode="w")
    (tmp_path / "e.b2nd").write_bytes(b"")
    (tmp_path / "f.b2nd").write_bytes((tmp_path / "a.b2nd").read_bytes()[:97])
    assert [holds_plain_array(tmp_path / f"{name}.b2nd") for name in "bcdef"] == [False] * 5
