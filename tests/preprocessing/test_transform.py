import itertools

import numpy as np
import pytest

from autoseg.io.geometry import ImageGeometry, canonical_axis_map, nonzero_box
from autoseg.preprocessing.transform import canonical_box, filled_box


def test_filled_box_holds_what_is_not_zero_in_any_array() -> None:
    first, second = np.zeros((5, 6, 7)), np.zeros((5, 6, 7), np.int16)
    first[1, 2, 3], second[3, 2, 5] = 1, -4
    assert filled_box([first]) == ((1, 2), (2, 3), (3, 4))
    assert filled_box([first, second]) == ((1, 4), (2, 3), (3, 6))
    assert filled_box([np.zeros((2, 3, 4))]) == ((0, 2), (0, 3), (0, 4))


@pytest.mark.parametrize("permutation", itertools.permutations(range(3)))
@pytest.mark.parametrize("signs", itertools.product((1, -1), repeat=3))
def test_canonical_box_is_the_box_of_the_turned_array(permutation, signs) -> None:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(permutation, signs, strict=True)):
        affine[world, axis] = sign
    array = np.zeros((5, 6, 7))
    array[1:3, 2:6, 0:4] = 1
    geometry = ImageGeometry.from_affine(array.shape, affine)
    axis_map = canonical_axis_map(geometry)
    assert canonical_box(filled_box([array]), geometry, axis_map) == nonzero_box(axis_map.apply(array) > 0)
