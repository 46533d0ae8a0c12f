import itertools

import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import GeometryError
from autoseg.evaluation.surface import boundary_mask, measure_surfaces

TWO_MM = (2.0, 2.0, 2.0)


def cube(start, *, side=4, grid=12):
    mask = np.zeros((grid,) * 3, dtype=bool)
    mask[tuple(slice(s, s + side) for s in start)] = True
    return mask


def boundary_by_hand(mask):
    """Walk over every voxel and look at its neighbors."""
    boundary = set()
    for index in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(3), (-1, 1)):
            if mask.shape[axis] == 1:
                continue
            neighbor = list(index)
            neighbor[axis] += step
            is_inside_grid = 0 <= neighbor[axis] < mask.shape[axis]
            if not is_inside_grid or not mask[tuple(neighbor)]:
                boundary.add(tuple(int(i) for i in index))
    return boundary


def distances_by_hand(mask, other, spacing):
    points = np.array(sorted(boundary_by_hand(mask))) * spacing
    others = np.array(sorted(boundary_by_hand(other))) * spacing
    return np.sqrt(((points[:, None] - others[None]) ** 2).sum(axis=2)).min(axis=1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_measure_surfaces_cube_shifted_by_one_voxel_is_its_spacing(axis):
    spacing = (5.0, 2.0, 1.0)
    shifted = tuple(4 + (1 if a == axis else 0) for a in range(3))
    distances = measure_surfaces(cube((4, 4, 4)), reference_mask=cube(shifted), spacing_zyx_mm=spacing)
    # The leading face (16 of 56 boundary voxels) is one voxel ahead and nothing is nearer within its plane's middle.
    assert distances.hd95_mm == pytest.approx(spacing[axis])


def test_nsd_cube_shifted_by_one_voxel_of_two_mm_depends_on_the_tolerance():
    distances = measure_surfaces(cube((4, 4, 4)), reference_mask=cube((4, 4, 5)), spacing_zyx_mm=TWO_MM)
    # A cube of 4 has 56 boundary voxels. Of the trailing face 16 lie outside the other cube, 2 mm off; of the leading
    # face the inner 4 are inside the other cube's hollow, 2 mm off; the other 36 are on both boundaries.
    assert distances.nsd(tolerance_mm=1.0) == pytest.approx(36 / 56)
    assert distances.nsd(tolerance_mm=2.0) == 1.0


def test_nsd_spacing_rounded_by_float32_does_not_fail_its_own_tolerance():
    spacing = float(np.float32(1.1)) + 1e-6
    distances = measure_surfaces(cube((4, 4, 4)), reference_mask=cube((4, 4, 5)), spacing_zyx_mm=(spacing,) * 3)
    assert distances.nsd(tolerance_mm=1.1) == 1.0


def test_measure_surfaces_identical_masks_are_perfect():
    distances = measure_surfaces(cube((1, 2, 3)), reference_mask=cube((1, 2, 3)), spacing_zyx_mm=TWO_MM)
    assert distances.hd95_mm == 0.0
    assert distances.nsd(tolerance_mm=0.0) == 1.0


def test_hd95_two_single_voxels_is_their_distance():
    one, other = np.zeros((2, 9, 9), bool), np.zeros((2, 9, 9), bool)
    one[0, 0, 0] = other[0, 3, 4] = True
    distances = measure_surfaces(one, reference_mask=other, spacing_zyx_mm=(7.0, 1.0, 1.0))
    assert distances.hd95_mm == pytest.approx(5.0)


def test_hd95_far_speck_counts_only_in_the_larger_direction():
    reference = cube((1, 1, 1), side=3, grid=30)
    prediction = reference.copy()
    prediction[1:3, 1:3, 28] = True  # 4 of its 30 boundary voxels: more than 5 %
    distances = measure_surfaces(prediction, reference_mask=reference, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert np.percentile(distances.reference_mm, 95) == 0.0
    assert distances.hd95_mm == pytest.approx(25.0)
    swapped = measure_surfaces(reference, reference_mask=prediction, spacing_zyx_mm=(1.0, 1.0, 1.0))
    assert swapped.hd95_mm == pytest.approx(25.0)


@pytest.mark.parametrize("seed", range(8))
def test_measure_surfaces_random_masks_equal_all_pairs(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 8, size=3))
    spacing = tuple(rng.uniform(0.4, 5.0, size=3))
    one, other = rng.random(shape) < 0.5, rng.random(shape) < 0.6
    one.flat[0] = other.flat[-1] = True
    distances = measure_surfaces(one, reference_mask=other, spacing_zyx_mm=spacing)
    np.testing.assert_allclose(distances.prediction_mm, distances_by_hand(one, other, spacing), atol=1e-9)
    np.testing.assert_allclose(distances.reference_mm, distances_by_hand(other, one, spacing), atol=1e-9)


def test_measure_surfaces_blobs_equal_a_distance_transform():
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, 24, 32, 40)), sigma=(0, 3, 3, 3))
    one, other = noise[0] > 0, noise[1] > 0.02
    spacing = (3.0, 0.8, 1.2)
    distances = measure_surfaces(one, reference_mask=other, spacing_zyx_mm=spacing)
    expected = ndimage.distance_transform_edt(~boundary_mask(other), sampling=spacing)[boundary_mask(one)]
    np.testing.assert_allclose(distances.prediction_mm, expected, atol=1e-9)
    assert expected.max() > 0


def test_measure_surfaces_empty_mask_is_none():
    empty = np.zeros((12, 12, 12), dtype=bool)
    assert measure_surfaces(empty, reference_mask=cube((4, 4, 4)), spacing_zyx_mm=TWO_MM) is None
    assert measure_surfaces(cube((4, 4, 4)), reference_mask=empty, spacing_zyx_mm=TWO_MM) is None


def test_measure_surfaces_shapes_differ_raises():
    with pytest.raises(GeometryError, match="one grid"):
        measure_surfaces(np.ones((2, 2, 2), bool), reference_mask=np.ones((2, 2, 3), bool), spacing_zyx_mm=TWO_MM)


def test_boundary_mask_single_slice_is_its_outline():
    mask = np.ones((1, 5, 5), dtype=bool)
    boundary = boundary_mask(mask)
    assert boundary.sum() == 16
    assert not boundary[0, 1:4, 1:4].any()


def test_boundary_mask_full_grid_has_its_border():
    assert boundary_mask(np.ones((3, 3, 3), dtype=bool)).sum() == 26
