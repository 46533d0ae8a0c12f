import tracemalloc

import numpy as np
import pytest

from autoseg.errors import ScanFileError
from autoseg.io.voxels import (
    BLOCK_VOXELS,
    describe_odd_values,
    replace_not_finite,
    round_labels,
    scale_values,
)


def test_scale_values_without_a_slope_keeps_the_array_itself() -> None:
    array = np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4)
    assert scale_values(array, slope=None, intercept=0.0) is array
    swapped = scale_values(array.astype(">i2"), slope=None, intercept=0.0)
    assert swapped.dtype == np.int16 and swapped.dtype.isnative
    np.testing.assert_array_equal(swapped, array)


def test_scale_values_large_integers_are_scaled_before_they_lose_digits() -> None:
    array = np.array([[[[2**24 + 1]]]], np.int32)  # float32 holds no such number
    assert scale_values(array, slope=0.5, intercept=-(2.0**23)).item() == 0.5


def test_scale_values_what_is_too_large_is_infinite() -> None:
    assert scale_values(np.full((1, 1, 1, 1), 1e300), slope=None, intercept=0.0).item() == np.inf
    assert scale_values(np.full((1, 1, 1, 1), 2, np.uint8), slope=3e38, intercept=0.0).item() == np.inf


def test_values_of_several_blocks_are_all_scaled_replaced_and_rounded() -> None:
    size = 2 * BLOCK_VOXELS + 5
    array = np.arange(size, dtype=np.int32).reshape(1, 1, 1, size)
    scaled = scale_values(array, slope=2.0, intercept=1.0)
    np.testing.assert_array_equal(scaled.ravel()[[0, BLOCK_VOXELS, size - 1]], [1, 2 * BLOCK_VOXELS + 1, 2 * size - 1])
    scaled[..., -1] = np.nan
    clean, warnings = replace_not_finite(scaled[0], name="a", in_place=True)
    assert clean.ravel()[-1] == 1 and warnings == ("1 NaN or infinite voxels were replaced.",)
    assert np.shares_memory(clean, scaled)
    rounded, near = round_labels(clean, name="a")
    np.testing.assert_array_equal(rounded.ravel()[[BLOCK_VOXELS, -1]], [2 * BLOCK_VOXELS + 1, 1])
    assert near == ()


def test_replace_not_finite_leaves_the_array_of_another_program_alone() -> None:
    array = np.ones((10, 10, 10), np.float32)
    array[0, 0, 0] = np.nan
    clean, _ = replace_not_finite(array, name="a")
    assert np.isnan(array[0, 0, 0]) and clean[0, 0, 0] == 1


def test_round_labels_tells_of_values_that_are_nearly_integers() -> None:
    rounded, warnings = round_labels(np.array([1.00004578, 2, 3.0001]), name="a")
    assert rounded.tolist() == [1, 2, 3]
    assert warnings == ("2 label values are not integers, such as 1.00004578, and were rounded.",)


def test_round_labels_counts_over_all_blocks() -> None:
    array = np.zeros(BLOCK_VOXELS + 2, np.float32)
    array[[5, -1]] = 1.5, 2.5
    with pytest.raises(ScanFileError, match=r"^a holds 1\.5 \(and 2 such voxels in all\)"):
        round_labels(array, name="a")
    with pytest.raises(ScanFileError, match=r"label value of 3e\+09"):
        round_labels(np.array([-3e9]), name="a")


@pytest.mark.parametrize("work", ["scale", "replace", "round"])
def test_no_second_array_is_made_beside_the_result(work) -> None:
    array = np.zeros((1, 64, 256, 256), np.float32 if work != "scale" else np.int32)  # 16 MiB
    array[0, 0, 0, 0] = np.nan if work == "replace" else 1
    tracemalloc.start()
    if work == "scale":
        scale_values(array, slope=2.0, intercept=0.0)
    elif work == "replace":
        replace_not_finite(array[0], name="a", in_place=True)
    else:
        round_labels(array[0], name="a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = array.nbytes // 4 if work == "replace" else array.nbytes  # a truth value for each voxel
    assert peak < result + (8 << 20)


@pytest.mark.parametrize(
    ("low", "high", "is_ct", "words"),
    [
        (3, 3, False, "is constant (3)"),
        (0, 1, True, "0 to 1, scaled to 0..1"),
        (0, 255, True, "windowed to 0..255"),
        (0, 2000, True, "1024 may have been added"),
        (-1024, 2000, True, None),
        (0, 1, False, None),
    ],
)
def test_describe_odd_values(low, high, is_ct, words) -> None:
    text = describe_odd_values(low, high, channel="CT", is_ct=is_ct)
    assert text is None if words is None else words in text
