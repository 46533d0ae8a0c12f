import numpy as np
import pytest

from autoseg.network.context_slices import context_slice_numbers


@pytest.mark.parametrize(
    ("position", "reach", "expected"),
    [
        (5, 1, [4, 5, 6]),
        (0, 2, [0, 0, 0, 1, 2]),
        (8, 3, [5, 6, 7, 8, 9, 9, 9]),
    ],
)
def test_the_last_slice_repeats_beyond_an_end(position, reach, expected):
    assert context_slice_numbers(position, num_slices=10, reach=reach).tolist() == expected


def test_neighbors_of_several_positions_are_a_row_each():
    found = context_slice_numbers(np.array([0, 3]), num_slices=4, reach=1)
    assert found.tolist() == [[0, 0, 1], [2, 3, 3]]
