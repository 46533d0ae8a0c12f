import numpy as np
import pytest
from scipy import ndimage

from autoseg.inference import connected_components
from autoseg.inference.connected_components import Least, remove_specks


def make_labels():
    """Organ 1: 20, 4 and 1 voxels apart; organ 3: 6 and 1 voxels, the one beside organ 1's largest piece."""
    labels = np.zeros((3, 8, 10), np.uint8)
    labels[0, 0:4, 0:5] = 1
    labels[0, 6:8, 0:2] = 1
    labels[2, 7, 9] = 1
    labels[2, 0:2, 7:10] = 3
    labels[1, 0, 0] = 3
    return labels


@pytest.mark.parametrize(
    ("values", "share", "gone"),
    [
        ([1], 0.1, [(2, 7, 9)]),  # 1 of 20
        ([1], 0.2, [(2, 7, 9)]),  # 4 of 20 is a fifth
        ([1], 0.21, [(2, 7, 9), (0, 6, 0), (0, 6, 1), (0, 7, 0), (0, 7, 1)]),
        ([3], 0.1, []),  # 1 of 6
        ([1, 3], 0.18, [(2, 7, 9), (1, 0, 0)]),
        ([2], 1.0, []),  # an organ that is not there
        ([], 1.0, []),
    ],
)
def test_small_pieces_of_the_named_organs_become_background(values, share, gone):
    labels, expected = make_labels(), make_labels()
    for voxel in gone:
        expected[voxel] = 0
    assert remove_specks(labels, dict.fromkeys(values, Least(share=share))) == len(gone)
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ({1: Least(voxels=4)}, [(2, 7, 9)]),
        ({1: Least(voxels=2), 3: Least(voxels=2)}, [(2, 7, 9), (1, 0, 0)]),
        ({1: Least(share=0.1), 3: Least(voxels=1)}, [(2, 7, 9)]),
        (
            {3: Least(voxels=7)},
            [(1, 0, 0), *((2, row, column) for row in (0, 1) for column in (7, 8, 9))],
        ),  # the largest too
    ],
)
def test_a_piece_needs_voxels_too_where_the_rule_says_so(rules, gone):
    labels, expected = make_labels(), make_labels()
    for voxel in gone:
        expected[voxel] = 0
    assert remove_specks(labels, rules) == len(gone)
    assert np.array_equal(labels, expected)


def test_pieces_that_touch_by_a_corner_are_one():
    labels = np.zeros((2, 4, 4), np.uint8)
    labels[0, 0:2, 0:2], labels[1, 2, 2] = 1, 1
    assert remove_specks(labels, {1: Least(share=1.0)}) == 0


def test_a_label_map_that_is_a_reversed_view_is_changed_in_place():
    stored = np.zeros((1, 5, 5), np.uint16)
    stored[0, 0, 0], stored[0, 2:5, 2:5] = 300, 300
    assert remove_specks(stored[:, ::-1], {300: Least(share=0.5)}) == 1
    assert stored[0, 0, 0] == 0 and (stored == 300).sum() == 9


@pytest.mark.parametrize("slab_voxels", [1, 3 * 144, 10_000])
def test_pieces_are_joined_across_slabs_as_in_the_whole_map(slab_voxels, monkeypatch, rng):
    monkeypatch.setattr(connected_components, "SLAB_VOXELS", slab_voxels)  # single planes; three planes; all ten
    monkeypatch.setattr(connected_components, "PARTS_PIECES", 3)
    noise = ndimage.gaussian_filter(rng.normal(size=(3, 10, 12, 12)), (0, 1, 1, 1))
    labels = np.where(noise.max(0) > 0.1, np.array([2, 5, 300])[noise.argmax(0)], 0).astype(np.uint16)
    expected = labels.copy()
    for value in (2, 300):
        pieces, count = ndimage.label(labels == value, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        assert count > 2
        for number, size in enumerate(sizes, start=1):
            if size < 0.3 * sizes.max():
                expected[pieces == number] = 0
    removed = remove_specks(labels, dict.fromkeys((2, 300), Least(share=0.3)))
    assert removed == (labels == 0).sum() - (noise.max(0) <= 0.1).sum() > 0
    assert np.array_equal(labels, expected)


def test_a_rule_for_a_value_that_the_maps_type_cannot_hold_asks_for_nothing():
    labels = make_labels()
    assert remove_specks(labels, {300: Least(share=1.0), 1: Least(voxels=2)}) == 1
