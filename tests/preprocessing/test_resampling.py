import numpy as np
import pytest
from scipy import ndimage

from autoseg.errors import PlanError
from autoseg.preprocessing import resampling
from autoseg.preprocessing.resampling import (
    apply_taps,
    axis_taps,
    cubic_taps,
    linear_taps,
    resample_image,
    resample_labels,
    resampled_shape,
    spline_orders,
    taps_between,
)


def resample(image: np.ndarray, shape: tuple[int, int, int], *, orders: tuple[int, int, int]) -> np.ndarray:
    sizes = zip(image.shape, shape, orders, strict=True)
    return resample_image(image, [axis_taps(old, new, order=order) for old, new, order in sizes])


def scipy_positions(shape: tuple[int, ...], new_shape: tuple[int, ...]) -> np.ndarray:
    axes = [np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1) for n, m in zip(shape, new_shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def test_resampled_shape_keeps_the_extent_and_at_least_one_sample() -> None:
    assert resampled_shape((10, 100, 3), spacing_mm=(5.0, 0.5, 1.0), target_mm=(2.5, 1.0, 50.0)) == (20, 50, 1)


@pytest.mark.parametrize(
    ("spacings", "expected"),
    [
        ([(1.0, 1.0, 1.0)], (3, 3, 3)),
        ([(3.0, 1.0, 1.0)], (3, 3, 3)),
        ([(3.1, 1.0, 1.0)], (1, 3, 3)),
        ([(1.0, 1.0, 1.0), (1.0, 5.0, 1.0)], (3, 1, 3)),
    ],
)
def test_spline_orders_is_linear_along_coarse_axes(spacings: list, expected: tuple) -> None:
    assert spline_orders(*spacings) == expected


def test_linear_taps_doubling_two_samples_aligns_the_borders() -> None:
    # output centers at -0.25, 0.25, 0.75, 1.25 of the input; the outer two are held at the ends
    result = apply_taps(np.array([0.0, 8.0]), linear_taps(2, 4), axis=0)
    np.testing.assert_allclose(result, [0, 2, 6, 8])


def test_linear_taps_halving_averages_pairs() -> None:
    np.testing.assert_allclose(apply_taps(np.array([1.0, 3, 5, 9]), linear_taps(4, 2), axis=0), [2, 7])


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 5), (5, 1), (2, 7), (7, 2), (3, 3), (1, 1)])
def test_taps_of_a_constant_give_the_constant(n_in: int, n_out: int) -> None:
    constant = np.full((2, n_in), 4.5, np.float32)
    for taps in (linear_taps(n_in, n_out), cubic_taps(n_in, n_out)):
        np.testing.assert_allclose(apply_taps(constant, taps, axis=1), np.full((2, n_out), 4.5), rtol=1e-6)


@pytest.mark.parametrize("new_shape", [(9, 14, 5), (4, 6, 20), (6, 9, 11)])
def test_resample_image_cubic_equals_scipy(new_shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "BLOCK_VALUES", 50)  # several blocks, of unequal size
    image = np.random.default_rng(0).normal(size=(6, 9, 11)).astype(np.float32)
    expected = ndimage.map_coordinates(image, scipy_positions(image.shape, new_shape), order=3, mode="mirror")
    np.testing.assert_allclose(resample(image, new_shape, orders=(3, 3, 3)), expected, atol=2e-5)


def test_resample_image_linear_along_a_coarse_axis_does_not_mix_beyond_neighbors() -> None:
    image = np.zeros((5, 4, 4), np.float32)
    image[2] = 1
    result = resample(image, (10, 4, 4), orders=(1, 3, 3))
    np.testing.assert_allclose(result[:, 0, 0], [0, 0, 0, 0.25, 0.75, 0.75, 0.25, 0, 0, 0], atol=1e-6)


def test_resample_image_of_unchanged_shape_is_the_image() -> None:
    image = np.ones((2, 3, 4), np.float32)
    assert resample(image, (2, 3, 4), orders=(3, 3, 3)) is image


def test_resample_image_reads_flipped_integer_views() -> None:
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[::-1, :, ::-1]
    expected = resample(np.ascontiguousarray(image), (4, 5, 4), orders=(3, 3, 3))
    np.testing.assert_array_equal(resample(image, (4, 5, 4), orders=(3, 3, 3)), expected)


@pytest.mark.parametrize("new_shape", [(12, 9, 16), (4, 5, 6), (7, 20, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resample_labels_equals_argmax_of_linear_maps(new_shape: tuple[int, int, int], dtype: type) -> None:
    rng = np.random.default_rng(1)
    blobs = ndimage.gaussian_filter(rng.normal(size=(5, 8, 9, 11)), (0, 1, 1, 1))
    values = np.array([0, 1, 3, 200, np.iinfo(dtype).max], dtype)
    labels = values[blobs.argmax(0)]
    positions = scipy_positions(labels.shape, new_shape)
    maps = np.stack([ndimage.map_coordinates((labels == v).astype(np.float64), positions, order=1) for v in values])
    top = np.sort(maps, axis=0)
    clear = top[-1] - top[-2] > 1e-5  # elsewhere a tie, which rounding decides
    result = resample_labels(labels, new_shape)
    assert result.dtype == dtype
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(result[clear], values[maps.argmax(0)][clear])


@pytest.mark.parametrize("n_out", [150, 70, 33])
@pytest.mark.parametrize("order", [1, 3])
def test_taps_between_give_some_slices_of_the_whole(n_out: int, order: int) -> None:
    image = np.random.default_rng(0).normal(size=(100, 3, 4)).astype(np.float32)
    taps = axis_taps(100, n_out, order=order)
    assert taps is not None
    whole = apply_taps(image, taps, axis=0)
    for start, stop in ((0, 5), (n_out // 2, n_out // 2 + 1), (n_out - 7, n_out), (0, n_out)):
        part, first, last = taps_between(taps, start, stop, n_in=100)
        np.testing.assert_allclose(apply_taps(image[first:last], part, axis=0), whole[start:stop], atol=1e-6)


def test_taps_between_reads_no_more_of_a_long_axis_than_the_margin() -> None:
    taps = axis_taps(1000, 2000, order=3)
    assert taps is not None
    _, first, last = taps_between(taps, 1000, 1010, n_in=1000)
    assert 480 <= first < 500 and 505 < last <= 525


def test_resample_labels_on_a_tie_takes_the_smaller_value() -> None:
    labels = np.array([5, 2], np.uint8).reshape(1, 1, 2)
    assert resample_labels(labels, (1, 1, 1)).item() == 2


def test_resample_labels_of_unchanged_shape_is_the_map() -> None:
    labels = np.ones((2, 3, 4), np.uint8)
    assert resample_labels(labels, (2, 3, 4)) is labels


def test_resample_to_an_impossible_size_names_the_spacing() -> None:
    with pytest.raises(PlanError, match=r"target_spacing_zyx_mm.*100000 x 100000 x 100000"):
        resample(np.zeros((2, 2, 2), np.float32), (100_000,) * 3, orders=(3, 3, 3))
