import itertools

import numpy as np
import pytest

from autoseg.planning.fingerprint import case_statistics
from autoseg.planning.fingerprint.case_statistics import (
    digest_voxels,
    measure_intensities,
    measure_organs,
    measure_slice_correlation,
    sample_voxels,
    thin_out,
)


def test_measure_intensities_of_0_to_200_gives_their_statistics():
    facts = measure_intensities(np.arange(201, dtype=np.float32).reshape(3, 67))
    assert (facts.num_voxels, facts.minimum, facts.maximum) == (201, 0.0, 200.0)
    assert (facts.percentile_00_5, facts.median, facts.percentile_99_5) == (1.0, 100.0, 199.0)
    assert facts.mean == 100.0
    assert facts.std == pytest.approx(np.sqrt((201**2 - 1) / 12))


def test_measure_intensities_of_large_float32_values_keeps_precision():
    facts = measure_intensities(np.full(3_000_000, 1_000_003.0, dtype=np.float32))
    assert facts.mean == 1_000_003.0
    assert facts.num_voxels == 3_000_000


def test_thin_out_keeps_at_most_the_asked_number():
    assert thin_out(np.arange(10), at_most=4).tolist() == [0, 3, 6, 9]
    assert thin_out(np.arange(4), at_most=4).tolist() == [0, 1, 2, 3]


def test_sample_voxels_of_a_case_is_the_same_every_time_and_keeps_channels_together():
    voxels = np.stack([np.arange(50_000), np.arange(50_000) * 2])
    one, again, other = (sample_voxels(voxels, case_id=name) for name in ("a", "a", "b"))
    assert one.shape == (2, case_statistics.MAX_SAMPLE_PER_CASE)
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert np.array_equal(one[0] * 2, one[1])
    assert sample_voxels(voxels[:, :7], case_id="a").shape == (2, 7)


def test_slice_correlation_of_equal_slices_is_1_and_of_opposite_slices_minus_1(rng):
    plane = rng.normal(size=(8, 9))
    assert measure_slice_correlation(np.stack([plane, plane, plane]), axis=0) == pytest.approx(1.0)
    assert measure_slice_correlation(np.stack([plane, -plane, plane]), axis=0) == pytest.approx(-1.0)


def test_slice_correlation_along_each_axis_equals_numpy(rng):
    image = np.cumsum(rng.normal(size=(5, 6, 7)), axis=1)
    for axis in range(3):
        slices = np.moveaxis(image, axis, 0)
        expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in itertools.pairwise(slices)]
        assert measure_slice_correlation(image, axis=axis) == pytest.approx(np.mean(expected))


def test_slice_correlation_of_one_slice_or_constant_slices_is_0():
    assert measure_slice_correlation(np.ones((1, 4, 4)), axis=0) == 0.0
    assert measure_slice_correlation(np.ones((3, 4, 4)), axis=0) == 0.0


def test_measure_organs_of_two_boxes_gives_volume_width_and_components():
    labels = np.zeros((10, 20, 20), dtype=np.uint8)
    labels[2:4, 5:9, 5:15] = 3  # 2 x 4 x 10 voxels
    labels[8, 19, 19] = 3
    labels[0, 0, 0] = 1  # not asked for
    (organ,) = measure_organs(
        labels, names={3: "liver", 7: "absent"}, spacing_zyx_mm=(2.0, 1.0, 0.5), cropped_size_zyx=(10, 20, 20)
    )
    assert (organ.name, organ.num_voxels, organ.num_components) == ("liver", 81, 2)
    assert organ.volume_ml == pytest.approx(81 * 1.0 / 1000)
    assert organ.slices_zyx == (3, 5, 11)
    assert organ.slice_fraction_zyx == pytest.approx((0.3, 0.25, 0.55))
    area_mm2 = 81 * 1.0 * 0.5 / 3  # voxels of a mean axial slice, each 1.0 x 0.5 mm
    assert np.pi * (organ.width_zyx_mm[0] / 2) ** 2 == pytest.approx(area_mm2)


def test_measure_organs_joins_voxels_that_touch_by_a_corner():
    labels = np.zeros((2, 2, 2), dtype=np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    (organ,) = measure_organs(labels, names={1: "a"}, spacing_zyx_mm=(1, 1, 1), cropped_size_zyx=(2, 2, 2))
    assert organ.num_components == 1


def test_digest_is_the_same_for_the_same_voxels_in_another_type():
    voxels = np.arange(24).reshape(2, 3, 4)
    assert digest_voxels([voxels.astype(np.uint8)]) == digest_voxels([voxels.astype(np.float32)]) != ""
    assert digest_voxels([voxels]) != digest_voxels([voxels.reshape(4, 3, 2)])
    changed = voxels.copy()
    changed[1, 2, 3] += 1
    assert digest_voxels([voxels]) != digest_voxels([changed])


def test_digest_of_a_constant_scan_is_empty():
    assert digest_voxels([np.ones((2, 3, 4)), np.zeros((2, 3, 4))]) == ""
