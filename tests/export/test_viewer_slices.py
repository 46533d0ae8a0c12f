import base64
import io

import numpy as np
import pytest
from PIL import Image

from autoseg.export.viewer_slices import MOST_PX, MOST_SLICES, choose_slices, pack_slices
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan


def picture_of(url: str) -> np.ndarray:
    head, _, content = url.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("slice_axis", ["z", "y", "x"])
def test_slices_are_stacked_with_the_place_of_each_organ(slice_axis, rng):
    labels = np.zeros((6, 8, 10), np.uint16)
    labels[2, 3, 4], labels[4, 6, 8] = 300, 7
    spacing = (2.0, 1.0, 1.0)
    scan = Scan(rng.normal(size=labels.shape).astype(np.float32), ImageGeometry.from_spacing(labels.shape, spacing))
    packed = pack_slices(scan, labels, values=[7, 300], slice_axis=slice_axis)
    axis = "zyx".index(slice_axis)
    assert packed["axis"] == slice_axis
    organs, grey = picture_of(packed["organs"]), picture_of(packed["grey"])
    count, height, width = len(packed["numbers"]), packed["height"], packed["width"]
    assert organs.shape == grey.shape == (count * height, width) and max(height, width) == MOST_PX
    for index, number in enumerate(packed["numbers"]):
        plane = np.take(labels, number, axis=axis)
        shown = organs[index * height : (index + 1) * height]
        assert set(np.unique(shown)) == {0} | ({1} if (plane == 7).any() else set()) | (
            {2} if (plane == 300).any() else set()
        )
        if (plane == 300).any():
            row, column = np.argwhere(plane == 300)[0]
            rows, columns = np.nonzero(shown == 2)
            assert rows.mean() == pytest.approx(height - (row + 0.5) * height / plane.shape[0], abs=1)
            assert columns.mean() == pytest.approx(width - (column + 0.5) * width / plane.shape[1], abs=1)


def test_slices_are_chosen_around_the_organs():
    marked = [False] * 200
    marked[50:60] = [True] * 10
    assert choose_slices(marked) == list(range(40, 70))
    assert choose_slices([False, False, False]) == [0, 1, 2]
    many = choose_slices([True] * 1000)
    assert len(many) == MOST_SLICES and many[0] == 0 and many[-1] == 999
