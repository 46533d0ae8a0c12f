import numpy as np
import pytest

from dataset_conversion.organ_masks import describe_overlaps, merge_masks

ROW = (1, 1, 8)


def row(*columns: int) -> np.ndarray:
    mask = np.zeros(ROW, dtype=bool)
    mask[0, 0, list(columns)] = True
    return mask


def merged(*masks, highest=9):
    result = merge_masks(masks, shape_zyx=ROW, highest=highest)
    return result.labels_zyx[0, 0].tolist(), result.overlaps


def test_masks_beside_each_other_keep_all_their_voxels():
    labels, overlaps = merged((4, row(0, 1)), (2, row(5)))
    assert labels == [4, 4, 0, 0, 0, 2, 0, 0] and overlaps == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_common_voxels_go_to_the_smallest_in_any_order(order):
    masks = [(1, row(0, 1, 2, 3, 4, 5)), (2, row(2, 3, 4)), (3, row(4, 7))]
    labels, overlaps = merged(*(masks[index] for index in order))
    assert labels == [1, 1, 2, 2, 3, 1, 0, 3]
    assert sum(overlaps.values()) >= 4 and overlaps[1, 2] >= 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_common_voxels_of_equal_organs_go_to_the_lower_value(order):
    masks = [(5, row(1, 2)), (7, row(2, 3))]
    labels, overlaps = merged(*(masks[index] for index in order))
    assert labels == [0, 5, 5, 7, 0, 0, 0, 0] and overlaps == {(5, 7): 1}


def test_an_empty_mask_changes_nothing_and_high_values_fit():
    labels, _ = merged((300, row(1)), (2, row()), highest=300)
    assert labels == [0, 300, 0, 0, 0, 0, 0, 0]


def test_overlaps_are_reported_by_name_the_largest_first():
    names = {number: f"organ {number}" for number in range(10)}
    assert describe_overlaps({}, names) == ()
    assert describe_overlaps({(1, 2): 5, (1, 3): 70}, names) == (
        "voxels that two organs hold go to the smaller one: organ 1 and organ 3 (70), organ 1 and organ 2 (5).",
    )
    many = describe_overlaps({(0, number): number for number in range(1, 9)}, names)
    assert many[0].endswith("organ 0 and organ 3 (3) and 2 more pairs.")
