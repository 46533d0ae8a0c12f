import numpy as np
import pytest
from scipy import ndimage

from autoseg.config.plans import ChannelPlan
from autoseg.preprocessing.normalization import fill_holes, measure_scaling, scale

ZSCORE = ChannelPlan(name="T1", normalization="zscore")
MASKED = ChannelPlan(name="T1", normalization="zscore", nonzero_only=True)
CT = ChannelPlan(name="CT", normalization="ct", clip_low=-100, clip_high=300, mean=50, std=25)


def normalize(image: np.ndarray, *, plan: ChannelPlan, mask: np.ndarray | None = None) -> np.ndarray:
    return scale(image, measure_scaling(image, plan=plan, mask=mask), mask=mask)


def test_normalize_ct_clips_then_scales() -> None:
    image = np.array([-1000, -100, 50, 75, 2000], np.int16)
    np.testing.assert_allclose(normalize(image, plan=CT), [-6, -6, 0, 1, 10])
    assert image[0] == -1000


def test_normalize_zscore_has_mean_zero_and_deviation_one() -> None:
    result = normalize(np.array([1, 1, 3, 3], np.uint8), plan=ZSCORE)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [-1, -1, 1, 1])


def test_normalize_zscore_inside_mask_ignores_and_zeroes_the_outside() -> None:
    image = np.array([0, 0, 10, 14, 500], np.float32)
    mask = np.array([False, False, True, True, False])
    np.testing.assert_allclose(normalize(image, plan=MASKED, mask=mask), [0, 0, -1, 1, 0])


def test_normalize_zscore_without_only_inside_mask_ignores_the_mask() -> None:
    mask = np.array([True, False, False, False])
    np.testing.assert_allclose(normalize(np.array([1, 1, 3, 3]), plan=ZSCORE, mask=mask), [-1, -1, 1, 1])


@pytest.mark.parametrize("value", [0.0, 0.1, 1.7e6, -3.3])
@pytest.mark.parametrize("plan", [ZSCORE, MASKED])
def test_normalize_constant_image_is_zero_everywhere(value: float, plan: ChannelPlan) -> None:
    result = normalize(np.full(1001, value, np.float32), plan=plan, mask=np.full(1001, value != 0))
    np.testing.assert_array_equal(result, 0)


def test_normalize_large_intensities_keep_precision() -> None:
    image = np.random.default_rng(0).uniform(1.0e6, 1.7e6, 100_000).astype(np.float32)
    result = normalize(image, plan=ZSCORE)
    expected = (image.astype(np.float64) - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_measure_scaling_takes_every_part_of_a_large_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.preprocessing.normalization.PART_VALUES", 24)
    image = np.random.default_rng(0).integers(0, 900, (7, 3, 4)).astype(np.int16)  # parts of two slices, and one left
    scaling = measure_scaling(image, plan=ZSCORE)
    np.testing.assert_allclose([scaling.mean, scaling.deviation], [image.mean(), image.std()], rtol=1e-6)


def test_scale_of_some_slices_is_that_of_the_whole_image() -> None:
    image = np.random.default_rng(0).normal(50, 9, (6, 4, 4)).astype(np.float32)
    mask = image > 45
    scaling = measure_scaling(image, plan=MASKED, mask=mask)
    whole = scale(image, scaling, mask=mask)
    np.testing.assert_array_equal(scale(image[2:4], scaling, mask=mask[2:4]), whole[2:4])


def test_fill_holes_equals_scipy_and_leaves_bays_open() -> None:
    mask = np.random.default_rng(0).random((7, 8, 9)) > 0.35
    filled = fill_holes(mask)
    np.testing.assert_array_equal(filled, ndimage.binary_fill_holes(mask))
    assert filled.sum() > mask.sum()


@pytest.mark.parametrize("value", [True, False])
def test_fill_holes_of_a_uniform_mask_is_the_mask(value: bool) -> None:
    np.testing.assert_array_equal(fill_holes(np.full((2, 3, 1), value)), value)
